//! A share of something, from none to all, in millionths: no float decides which packet is what.

/// From 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    millionths: u32,
}

const WHOLE: u32 = 1_000_000;

impl Share {
    /// 0.
    pub const NONE: Share = Share { millionths: 0 };
    /// 1.
    pub const ALL: Share = Share { millionths: WHOLE };

    /// So many millionths, if they are not more than all.
    pub fn new(millionths: u32) -> Option<Share> {
        (millionths <= WHOLE).then_some(Share { millionths })
    }

    /// Whether `n` is among those chosen: the same for the same `n`, and spread evenly over neighbouring numbers by a
    /// multiplicative hash.
    pub fn picks(self, n: u32) -> bool {
        let place = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (place * u64::from(WHOLE)) >> 32 < u64::from(self.millionths)
    }
}

/// Chooses a share of what goes by, evenly all along and not only on average.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    share: Share,
    credit: u32,
}

impl Chooser {
    /// With nothing owed yet.
    pub(super) fn new(share: Share) -> Chooser {
        Chooser { share, credit: 0 }
    }

    /// Whether the next one is chosen.
    pub(super) fn next(&mut self) -> bool {
        self.credit += self.share.millionths;
        let chosen = self.credit >= WHOLE;
        self.credit -= if chosen { WHOLE } else { 0 };
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_kept_by_number_and_all_along() {
        let third = Share::new(300_000).expect("a share");
        let picked = (0..10_000).filter(|n| third.picks(*n)).count();
        assert!((2900..3100).contains(&picked), "{picked}");
        let mut chooser = Chooser::new(third);
        let chosen: Vec<_> = (0..20).map(|_| chooser.next()).collect();
        assert_eq!(chosen.chunks(10).map(|ten| ten.iter().filter(|c| **c).count()).collect::<Vec<_>>(), [3, 3]);
        assert!((0..100).all(|n| Share::ALL.picks(n) && !Share::NONE.picks(n)));
        assert_eq!(Share::new(1_000_001), None);
    }
}
