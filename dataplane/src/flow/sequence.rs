//! Whether a TCP segment's numbers fit its connection, by one word per direction.
//!
//! Each direction's entry keeps the sequence number its sender expects next from the other side (RCV.NXT of RFC 9293
//! §3.3.1), as its last acknowledgement said, and how far its window can be scaled (RFC 7323 §2). What the other side sends
//! must lie between that number and the end of the largest window:
//!
//! ```text
//!        SLACK │            largest window               │ SLACK
//!   ───────────┼──────────────────────────────────────────┼───────────▶ sequence numbers
//!           expects                          expects + 65535 << scale
//! ```
//!
//! Why acknowledgements and not the sender's own numbers: a RST that answers a segment carries exactly the number that
//! segment acknowledged (RFC 9293 §3.10.7.1), and an end that aborts with data on the way has its RST answered by the other
//! end's next acknowledgement. So the bound may be one window and still refuses no real RST (RFC 5961 §3 wants the exact
//! number; an end that keeps to it sends a challenge, and the RST that answers it has it). A RST or FIN that does not fit is
//! sent on, since its receiver knows the numbers better; it only changes nothing here.
//!
//! A blind RST hits with one in 13 000 without window scaling, one in 500 with Linux' usual scale of 7, one in 4 where the
//! scale is not known (a connection taken over in the middle). The word is written when it has moved by more than [`STEP`],
//! not with each segment, so that the line of an ordinary segment's entry stays clean.

use super::life::{Life, Side, Signal};
use crate::wire::tcp::Segment;

/// How far the word may lag behind before it is written.
pub const STEP: u32 = 1 << 16;

/// Room at both ends of the window: what the word lags behind, the length of a super-frame, and segments out of order.
const SLACK: u32 = 2 * STEP;

/// The most data sent before the handshake is over: an initial window of ten segments (RFC 7413 §4.2, RFC 6928).
const EARLY: u32 = 1 << 14;

/// The largest window without scaling.
const WINDOW: u32 = 65535;

/// The largest scale (RFC 7323 §2.3).
const MOST_SCALE: u8 = 14;

/// What a direction's sender expects from the other side: of an SCTP association, the tag ([`super::tags`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The next sequence number.
    pub next: u32,
    /// The largest window, and whether `next` is known.
    pub scale: Scale,
}

/// A window's scale, and what is known of a direction. One byte; all zero: nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Scale(u8);

impl Scale {
    /// The number beside it is known.
    const KNOWN: u8 = 1 << 7;
    /// The scale is not: the connection was taken over in the middle.
    const GUESSED: u8 = 1 << 6;
    /// The scale itself.
    const SHIFT: u8 = 0xf;

    fn new(scale: u8) -> Scale {
        Scale(scale.min(MOST_SCALE))
    }

    /// The larger of this scale and another one that is offered.
    fn or_more(self, scale: u8) -> Scale {
        Scale::new(scale.max(self.0 & Scale::SHIFT))
    }

    fn guessed() -> Scale {
        Scale(MOST_SCALE | Scale::GUESSED)
    }

    fn window(self) -> u32 {
        WINDOW << (self.0 & Scale::SHIFT).min(MOST_SCALE)
    }

    fn is_known(self) -> bool {
        self.0 & Scale::KNOWN != 0
    }

    fn is_guessed(self) -> bool {
        self.0 & Scale::GUESSED != 0
    }
}

impl Expected {
    /// Notes the next number, or the tag.
    pub(super) fn set(&mut self, next: u32) {
        *self = Expected { next, scale: Scale(self.scale.0 | Scale::KNOWN) };
    }

    /// The next number, or the tag, if it is known.
    pub(super) fn known(self) -> Option<u32> {
        self.scale.is_known().then_some(self.next)
    }

    /// Whether `number` is at most `back` before and `ahead` after what is expected.
    fn is_within(self, number: u32, back: u32, ahead: u32) -> bool {
        number.wrapping_sub(self.next.wrapping_sub(back)) <= back + ahead
    }

    /// Whether a segment with this sequence number may come next.
    fn takes(self, number: u32) -> bool {
        self.is_within(number, SLACK, self.scale.window() + SLACK)
    }

    /// Whether `ack` acknowledges what has just been expected: a SYN, and what its sender may have sent with it (RFC 7413), or
    /// anything in the window if the connection was taken over in the middle.
    fn is_acknowledged_by(self, ack: u32) -> bool {
        self.scale.is_known() && if self.scale.is_guessed() { self.takes(ack) } else { self.is_within(ack, 0, EARLY) }
    }

    /// Whether `ack` can be the next acknowledgement. One that is more than a window away from the last belongs to no segment
    /// of this connection (RFC 5961 §5).
    fn is_near(self, ack: u32) -> bool {
        let most = self.scale.window() + SLACK;
        !self.scale.is_known() || self.is_within(ack, most, most)
    }
}

/// What both sides of a connection expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The client, of the backend.
    pub client: Expected,
    /// The backend, of the client.
    pub backend: Expected,
    /// The number after the client's last SYN to a connection that was confirmed before, or the tag of such an INIT.
    pub syn: u32,
}

impl Numbers {
    /// Those of a connection that the client's `segment` opens.
    pub fn opened_by(segment: &Segment) -> Numbers {
        let mut numbers = Numbers::default();
        match segment.signal() {
            Signal::Syn => numbers.syn(segment),
            Signal::Datagram
            | Signal::SynAck
            | Signal::Segment
            | Signal::Fin
            | Signal::End
            | Signal::Reset
            | Signal::Restart
            | Signal::Nothing => {
                numbers.client.scale = Scale::guessed();
                numbers.client.set(segment.ack);
                numbers.backend.scale = Scale::guessed();
            }
        }
        numbers
    }

    /// What a segment from `side` says to a connection in `life`; `None`: it would end the connection, and has a number
    /// that its receiver would not take. Follows the numbers.
    pub fn read(&mut self, life: Life, side: Side, segment: &Segment) -> Option<Signal> {
        let signal = segment.signal();
        let is_connected = match life {
            Life::Closing => return Some(signal),
            Life::Opening { .. } => false,
            Life::Established { .. } | Life::Reset { .. } => true,
        };
        match signal {
            Signal::Datagram | Signal::Nothing | Signal::Restart | Signal::End => Some(signal),
            Signal::Reset => self.may_end(life, side, segment).then_some(signal),
            // Both numbers must fit: a FIN is easier to send blindly than a RST, since nothing challenges it.
            Signal::Fin if !self.may_end(life, side, segment) => None,
            Signal::Fin if is_connected && !self.of(side).is_near(segment.ack) => None,
            Signal::Syn | Signal::SynAck | Signal::Segment | Signal::Fin if !is_connected => {
                Some(self.opening(life, side, signal, segment))
            }
            Signal::Segment | Signal::Fin => Some(self.connected(side, signal, segment)),
            Signal::SynAck => Some(self.syn_ack_again(side, segment)),
            Signal::Syn => {
                if side == Side::Client {
                    self.syn = segment.seq.wrapping_add(1);
                }
                Some(signal)
            }
        }
    }

    fn of(&mut self, side: Side) -> &mut Expected {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }

    /// What the receiver of a segment from `side` expects.
    fn of_receiver(&self, side: Side) -> Expected {
        match side {
            Side::Client => self.backend,
            Side::Backend => self.client,
        }
    }

    /// The client's SYN: the backend will expect the number after it. The client's largest window is not known to be smaller
    /// than an earlier SYN said.
    fn syn(&mut self, segment: &Segment) {
        self.client = Expected { next: 0, scale: self.client.scale.or_more(segment.scale) };
        self.backend = Expected::default();
        self.backend.set(segment.seq.wrapping_add(1));
    }

    /// The backend's SYN-ACK: from here on, both numbers are known.
    fn syn_ack(&mut self, segment: &Segment) {
        self.backend.scale = self.backend.scale.or_more(segment.scale);
        self.backend.set(segment.ack);
        self.client.set(segment.seq.wrapping_add(1));
    }

    /// What a segment says while the client has not confirmed the flow: nothing, if it does not fit what was seen before.
    fn opening(&mut self, life: Life, side: Side, signal: Signal, segment: &Segment) -> Signal {
        let is_replied = !matches!(life, Life::Opening { replied: false, .. });
        let fits = match (side, signal) {
            (Side::Client, Signal::Syn) => {
                if !is_replied {
                    self.syn(segment);
                }
                true
            }
            (Side::Backend, Signal::Syn) => {
                self.client.set(segment.seq.wrapping_add(1));
                true
            }
            (Side::Backend, Signal::SynAck) => {
                let fits = self.backend.is_acknowledged_by(segment.ack);
                if fits || is_replied {
                    self.syn_ack(segment);
                }
                if is_replied && !fits {
                    return Signal::Restart;
                }
                fits
            }
            (Side::Client, _) if !is_replied => {
                if self.client.is_near(segment.ack) {
                    self.client.set(segment.ack);
                }
                true
            }
            (Side::Client, _) => {
                let fits = self.client.is_acknowledged_by(segment.ack);
                if fits {
                    self.client.set(segment.ack);
                }
                fits
            }
            (Side::Backend, _) => {
                // A challenge from an older connection of these addresses does not fit (RFC 9293 §3.5.1, RFC 5961 §4).
                let fits = self.client.scale.is_known() && self.client.takes(segment.seq);
                if fits {
                    self.backend.set(segment.ack);
                }
                fits
            }
        };
        if fits { signal } else { Signal::Nothing }
    }

    /// What an ordinary segment or FIN says to a confirmed connection: nothing, unless both its numbers fit. Its acknowledgement
    /// is followed if either fits: the connection may have moved on where its packets were not seen here, by another gateway.
    fn connected(&mut self, side: Side, signal: Signal, segment: &Segment) -> Signal {
        let receiver = self.of_receiver(side);
        let is_expected = receiver.scale.is_known() && receiver.takes(segment.seq);
        let is_near = self.of(side).is_near(segment.ack);
        if is_expected || is_near {
            self.of(side).set(segment.ack);
        }
        match signal {
            Signal::Fin => Signal::Fin,
            _ if is_expected && is_near => signal,
            _ => Signal::Nothing,
        }
    }

    /// What a SYN-ACK says to a confirmed connection: nothing if it is this connection's own, repeated. If it acknowledges the
    /// client's last SYN, the backend has accepted another connection from the client's port.
    fn syn_ack_again(&mut self, side: Side, segment: &Segment) -> Signal {
        let is_own = self.client.takes(segment.seq) && self.backend.is_near(segment.ack);
        let accepts = segment.ack.wrapping_sub(self.syn) <= EARLY;
        if side == Side::Client || is_own || !accepts {
            return Signal::SynAck;
        }
        self.syn_ack(segment);
        Signal::Restart
    }

    /// Whether a RST or FIN from `side` has a number that the other side would take (RFC 9293 §3.10.7, RFC 5961 §3).
    fn may_end(&self, life: Life, side: Side, segment: &Segment) -> bool {
        let receiver = self.of_receiver(side);
        let is_expected = receiver.scale.is_known() && receiver.takes(segment.seq);
        // RFC 9293 §3.10.7.3: in SYN-SENT, a RST must acknowledge the SYN.
        let refuses = segment.has_ack() && self.backend.is_acknowledged_by(segment.ack);
        match (life, side) {
            (Life::Opening { .. }, Side::Backend) => is_expected || refuses,
            // It ends nothing: the client goes on.
            (Life::Opening { replied: false, .. }, Side::Client) => true,
            (Life::Opening { .. } | Life::Established { .. } | Life::Reset { .. } | Life::Closing, _) => is_expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::tcp::{ACK, FIN, RST, SYN};

    const OPENING: Life = Life::NEW;
    const REPLIED: Life = Life::Opening { replied: true, fin: None };
    const SCALE: u8 = 7;
    /// The largest window with that scale, and the slack.
    const FAR: u32 = (65535 << SCALE) + SLACK;

    fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
        Segment { seq, ack, flags, scale: if flags & SYN != 0 { SCALE } else { 0 } }
    }

    /// After a handshake from these initial numbers.
    fn connected(client: u32, backend: u32) -> Numbers {
        let mut numbers = Numbers::opened_by(&segment(SYN, client, 0));
        let syn_ack = segment(SYN | ACK, backend, client.wrapping_add(1));
        assert_eq!(numbers.read(OPENING, Side::Backend, &syn_ack), Some(Signal::SynAck));
        let ack = segment(ACK, client.wrapping_add(1), backend.wrapping_add(1));
        assert_eq!(numbers.read(REPLIED, Side::Client, &ack), Some(Signal::Segment));
        numbers
    }

    #[test]
    fn only_what_acknowledges_the_syn_ack_confirms() {
        let mut numbers = Numbers::opened_by(&segment(SYN, 5_000_000, 0));
        assert_eq!(numbers.read(OPENING, Side::Backend, &segment(SYN | ACK, 9, 900)), Some(Signal::Nothing));
        numbers.read(OPENING, Side::Backend, &segment(SYN | ACK, 7_000_000, 5_000_001));
        for blind in [0, 6_900_000, 7_000_000, 7_020_000, 7_100_000, 0x8000_0000] {
            let ack = segment(ACK, 5_000_001, blind);
            assert_eq!(numbers.read(REPLIED, Side::Client, &ack), Some(Signal::Nothing), "{blind}");
        }
        let ack = segment(ACK, 5_000_001, 7_000_001);
        assert_eq!(numbers.read(REPLIED, Side::Client, &ack), Some(Signal::Segment));
    }

    #[test]
    fn a_refused_syn_is_refused_and_a_blind_refusal_is_not() {
        let mut numbers = Numbers::opened_by(&segment(SYN, 5_000_000, 0));
        let refusal = segment(RST | ACK, 0, 5_000_001);
        assert_eq!(numbers.read(OPENING, Side::Backend, &refusal), Some(Signal::Reset));
        let mut replied = numbers;
        replied.read(OPENING, Side::Backend, &segment(SYN | ACK, 7_000_000, 5_000_001));
        assert_eq!(replied.read(REPLIED, Side::Backend, &refusal), Some(Signal::Reset), "of a repeated SYN");
        for blind in [segment(RST, 0, 0), segment(RST | ACK, 0, 1), segment(RST, 5_000_001, 0)] {
            assert_eq!(numbers.read(OPENING, Side::Backend, &blind), None, "{blind:?}");
        }
        // The client changes its mind: its RST has the next number.
        assert_eq!(replied.read(REPLIED, Side::Client, &segment(RST, 5_000_001, 0)), Some(Signal::Reset));
        assert_eq!(replied.read(REPLIED, Side::Client, &segment(RST, 0x9000_0000, 0)), None);
    }

    #[test]
    fn a_challenge_is_no_reply_and_the_syn_can_still_be_accepted() {
        let mut numbers = Numbers::opened_by(&segment(SYN, 5_000_000, 0));
        let challenge = segment(ACK, 70, 3_000_000_000);
        assert_eq!(numbers.read(OPENING, Side::Backend, &challenge), Some(Signal::Nothing));
        let reset = segment(RST, 3_000_000_000, 0);
        assert_eq!(numbers.read(OPENING, Side::Client, &reset), Some(Signal::Reset), "it resets the older connection");
        let syn_ack = segment(SYN | ACK, 7_000_000, 5_000_001);
        assert_eq!(numbers.read(OPENING, Side::Backend, &syn_ack), Some(Signal::SynAck));
    }

    #[test]
    fn taken_over_in_the_middle_nothing_is_known_until_each_side_has_spoken() {
        let mut numbers = Numbers::opened_by(&segment(ACK, 5_000_000, 900_000_000));
        assert_eq!(numbers.read(OPENING, Side::Client, &segment(RST, 77, 0)), Some(Signal::Reset), "it ends nothing");
        let reply = segment(ACK, 900_000_000, 4_999_000);
        assert_eq!(numbers.read(OPENING, Side::Backend, &reply), Some(Signal::Segment));
        assert_eq!(numbers.read(REPLIED, Side::Client, &segment(ACK, 5_000_000, 930_000_000)), Some(Signal::Segment));
        assert_eq!(numbers.read(Life::ESTABLISHED, Side::Client, &segment(RST, 3_000_000_000, 0)), None);
    }

    proptest! {
        /// A connection as its ends see it: each sends within the other's window, everything passes by here in order, and
        /// acknowledgements are followed as seldom as the table follows them. Whatever either end sends as RST or FIN, at
        /// any moment, is taken.
        #[test]
        fn no_real_end_of_a_connection_is_refused(
            client in any::<u32>(), backend in any::<u32>(),
            steps in proptest::collection::vec((any::<bool>(), 0u32..65535 << SCALE, 0u32..=100), 0..60),
        ) {
            let mut numbers = connected(client, backend);
            // By side: the next number to send, and how far the other side has acknowledged.
            let (mut sent, mut acked) = ([client.wrapping_add(1), backend.wrapping_add(1)], [0; 2]);
            acked.copy_from_slice(&sent);
            for (by_client, bytes, percent) in steps {
                let (own, other) = if by_client { (0, 1) } else { (1, 0) };
                let side = if by_client { Side::Client } else { Side::Backend };
                // Acknowledges some of what has come, and sends as much as the other's window has room for.
                let outstanding = sent[other].wrapping_sub(acked[other]);
                acked[other] = acked[other].wrapping_add(outstanding / 100 * percent);
                let room = (65535u32 << SCALE) - sent[own].wrapping_sub(acked[own]);
                let start = sent[own];
                sent[own] = start.wrapping_add(bytes.min(room));
                let ordinary = segment(ACK, start, acked[other]);
                let word = if by_client { numbers.client.next } else { numbers.backend.next };
                if ordinary.ack.wrapping_sub(word) > STEP {
                    numbers.read(Life::ESTABLISHED, side, &ordinary);
                }
                for (flags, signal) in [(RST, Signal::Reset), (FIN | ACK, Signal::Fin)] {
                    // An abort has the next number to send; a RST that answers has the number acknowledged to it.
                    for seq in [sent[own], acked[own]] {
                        let mut now = numbers;
                        prop_assert_eq!(now.read(Life::ESTABLISHED, side, &segment(flags, seq, acked[other])), Some(signal));
                    }
                }
            }
        }

        #[test]
        fn a_blind_one_hits_within_the_window_only(client in any::<u32>(), backend in any::<u32>(), blind in any::<u32>()) {
            let numbers = connected(client, backend);
            for (side, own) in [(Side::Client, client), (Side::Backend, backend)] {
                let away = blind.wrapping_sub(own.wrapping_add(1));
                let hits = away <= FAR || away >= SLACK.wrapping_neg();
                let mut now = numbers;
                let read = now.read(Life::ESTABLISHED, side, &segment(RST, blind, 0));
                prop_assert_eq!(read, hits.then_some(Signal::Reset));
                // A FIN must guess both numbers.
                let other = if side == Side::Client { backend } else { client };
                for ack in [other.wrapping_add(1), other.wrapping_add(1 << 31)] {
                    let read = now.read(Life::ESTABLISHED, side, &segment(FIN | ACK, blind, ack));
                    prop_assert_eq!(read, (hits && ack == other.wrapping_add(1)).then_some(Signal::Fin));
                    now = numbers;
                }
            }
        }

        #[test]
        fn a_spoofed_acknowledgement_is_undone_by_the_next_real_one(ack in any::<u32>(), seq in any::<u32>()) {
            let mut numbers = connected(0, 0);
            numbers.read(Life::ESTABLISHED, Side::Client, &segment(ACK, seq, ack));
            numbers.read(Life::ESTABLISHED, Side::Client, &segment(ACK, 1, 1));
            prop_assert_eq!(numbers.client.next, 1);
            prop_assert_eq!(numbers.read(Life::ESTABLISHED, Side::Backend, &segment(RST, 1, 0)), Some(Signal::Reset));
        }

        /// The connection is carried by another gateway for a while, and comes back.
        #[test]
        fn what_one_side_sent_elsewhere_is_caught_up_with(by_client in any::<bool>(), sent in any::<u32>()) {
            let mut numbers = connected(0, 0);
            let (sender, receiver) = if by_client { (Side::Client, Side::Backend) } else { (Side::Backend, Side::Client) };
            let next = 1u32.wrapping_add(sent);
            numbers.read(Life::ESTABLISHED, receiver, &segment(ACK, 1, next));
            let fin = segment(FIN | ACK, next, 1);
            prop_assert_eq!(numbers.read(Life::ESTABLISHED, sender, &fin), Some(Signal::Fin));
        }

        /// The client loses its end and connects again from the same port, while the backend has lost its own.
        #[test]
        fn another_connection_from_the_same_port_is_followed(
            client in any::<u32>(), backend in any::<u32>(), life in prop_oneof![
                Just(REPLIED), Just(Life::ESTABLISHED), Just(Life::Reset { spoken: None }),
            ],
        ) {
            let mut numbers = connected(0, 0);
            let far = |number: u32| number > 1 << 30 && number < u32::MAX - (1 << 30);
            prop_assume!(far(client) && far(backend));
            let syn_ack = segment(SYN | ACK, backend, client.wrapping_add(1));
            numbers.read(life, Side::Client, &segment(SYN, client, 0));
            prop_assert_eq!(numbers.read(life, Side::Backend, &syn_ack), Some(Signal::Restart));
            for (side, seq) in [(Side::Client, client + 1), (Side::Backend, backend + 1)] {
                let mut now = numbers;
                prop_assert_eq!(now.read(Life::ESTABLISHED, side, &segment(RST, seq, 0)), Some(Signal::Reset));
            }
        }
    }

    #[test]
    fn a_syn_ack_without_the_syn_changes_nothing() {
        let before = connected(100, 900);
        let mut numbers = before;
        let spoofed = segment(SYN | ACK, 3_000_000_000, 3_000_000_000);
        for life in [Life::ESTABLISHED, Life::Reset { spoken: None }] {
            assert_eq!(numbers.read(life, Side::Backend, &spoofed), Some(Signal::SynAck));
            assert_eq!(numbers, before);
        }
    }

    #[test]
    fn a_repeated_syn_ack_is_no_other_connection() {
        let mut numbers = connected(100, 900);
        let syn_ack = segment(SYN | ACK, 900, 101);
        for life in [REPLIED, Life::ESTABLISHED, Life::Reset { spoken: None }] {
            assert_eq!(numbers.read(life, Side::Backend, &syn_ack), Some(Signal::SynAck), "{life:?}");
        }
    }

    #[test]
    fn a_syn_without_options_does_not_narrow_the_window() {
        let mut numbers = Numbers::opened_by(&segment(SYN, 100, 0));
        numbers.read(OPENING, Side::Client, &Segment { scale: 0, ..segment(SYN, 100, 0) });
        assert_eq!(numbers.client.scale.window(), 65535 << SCALE);
    }
}
