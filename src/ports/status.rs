//! Which interfaces are polled, and why one is not: what the check `interface-NAME` reports.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pollgate_common::net::Link;

/// Of every interface, in the order of the configuration.
#[derive(Debug)]
pub struct Status(Mutex<Vec<Polled>>);

/// An interface as its ports were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Polled {
    /// The kernel's number of it.
    pub(super) index: u32,
    /// How often a link of this name had been deleted then.
    pub(super) deletions: u32,
    /// The largest MTU that they are for.
    pub(super) mtu: u32,
    /// Whether it has been seen to be gone since.
    pub(super) is_gone: bool,
    /// Whether the workers have no ports for it.
    pub(super) is_closed: bool,
    /// Why the interface that is there now could not be opened again, if that was tried.
    pub(super) obstacle: Option<String>,
}

impl Polled {
    /// As opened just now.
    pub(super) fn new(index: u32, mtu: u32) -> Polled {
        Polled { index, deletions: 0, mtu, is_gone: false, is_closed: false, obstacle: None }
    }

    /// Whether the ports are those of this link, and large enough for it.
    pub(super) fn is(&self, link: &Link) -> bool {
        !self.is_closed && self.is_same(link) && link.mtu <= self.mtu
    }

    /// Whether it has not been deleted since, whatever its number.
    fn is_same(&self, link: &Link) -> bool {
        !self.is_gone && self.index == link.index && self.deletions == link.deletions
    }

    fn fault(&self, link: &Link) -> Option<String> {
        if self.is(link) {
            return None;
        }
        let what = if !self.is_same(link) {
            "it was deleted and created again".to_owned()
        } else {
            format!("its MTU was {} and is {}", self.mtu, link.mtu)
        };
        let since = match self.is_closed || !self.is_same(link) {
            true => "and is not polled yet",
            false => "and is still polled with the old one",
        };
        let why = self.obstacle.as_ref().map(|obstacle| format!(": {obstacle}")).unwrap_or_default();
        Some(format!("{what}, {since}{why}"))
    }
}

impl Status {
    pub(super) fn new(polled: Vec<Polled>) -> Status {
        Status(Mutex::new(polled))
    }

    pub(super) fn set(&self, at: usize, polled: &Polled) {
        if let Some(known) = self.lock().get_mut(at) {
            known.clone_from(polled);
        }
    }

    /// Why the interface at this place of the configuration, which is this link now, is not polled as it is.
    pub fn fault(&self, at: usize, link: &Link) -> Option<String> {
        self.lock().get(at)?.fault(link)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Polled>> {
        // Whole between any two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use pollgate_common::net::{Mac, PortId};

    use super::*;

    #[test]
    fn it_says_what_happened_to_the_interface_and_why_it_is_not_polled() {
        let link = |index, mtu| Link {
            index,
            name: "eth1".to_owned(),
            port: Some(PortId(0)),
            mac: Mac([2; 6]),
            mtu,
            up: true,
            ups: 1,
            deletions: 0,
        };
        let mut polled = Polled::new(7, 1500);
        let status = Status::new(vec![polled.clone()]);
        assert_eq!((status.fault(0, &link(7, 1500)), status.fault(0, &link(7, 1400))), (None, None));
        let fault = |polled: &Polled, link: &Link| {
            status.set(0, polled);
            status.fault(0, link).expect("a fault")
        };
        assert_eq!(fault(&polled, &link(8, 1500)), "it was deleted and created again, and is not polled yet");
        assert_eq!(
            fault(&polled, &link(7, 9000)),
            "its MTU was 1500 and is 9000, and is still polled with the old one"
        );
        polled.obstacle = Some("no room".to_owned());
        polled.is_closed = true;
        assert_eq!(fault(&polled, &link(7, 9000)), "its MTU was 1500 and is 9000, and is not polled yet: no room");
        // The kernel may use a number again.
        polled.is_gone = true;
        assert_eq!(fault(&polled, &link(7, 1500)), "it was deleted and created again, and is not polled yet: no room");
        let again = Link { deletions: 1, ..link(7, 1500) };
        assert_eq!(fault(&Polled::new(7, 1500), &again), "it was deleted and created again, and is not polled yet");
    }
}
