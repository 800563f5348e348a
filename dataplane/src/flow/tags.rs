//! Whether an SCTP packet's verification tag fits its association, by one word per direction.
//!
//! Each end of an association chooses a random tag at its beginning, and discards packets without it (RFC 9260 §5.3.1, §8.5). So the
//! word of each direction's entry, which is a sequence number for TCP, is the tag that its sender expects of the other side:
//!
//! ```text
//!   client ──INIT, initiate tag C──────────▶ backend       the client expects C
//!          ◀──tag C, INIT ACK, initiate B───                the backend expects B
//!          ──tag B, COOKIE ECHO────────────▶                who has seen B exists
//!          ◀──tag C, COOKIE ACK─────────────
//! ```
//!
//! A blind ABORT or SHUTDOWN hits with one chance in 2³². One that does not fit is sent on, since its receiver knows the tag; it
//! only changes nothing here. The T bit of ABORT and SHUTDOWN COMPLETE says that the tag is the one of the packet that is answered:
//! the one that the *sender* expects (RFC 9260 §8.5.1 (B), (C)).
//!
//! A client that restarts gets new tags by INIT, INIT ACK, COOKIE ECHO and COOKIE ACK (RFC 9260 §5.2.2, §5.2.4 (A)). None of them shows a tag
//! of the association before, so strangers can forge all four in the name of both ends. Therefore the tags of an established association stay
//! as they are until one that fits has reset it. The packets of a client that restarted are sent on; their end is not followed.
//!
//! A tag that is not known is learned from the next packet that has it: of an association that was taken over in the middle, and after
//! a COOKIE ACK for a cookie that was not seen to fit. The backend sends COOKIE ACK only for a cookie that it has made itself, so it
//! shows what the tag of the client is. A repeated INIT has another INIT ACK with another tag, and the client may use either.

use super::life::{Life, Side, Signal};
use super::sequence::{Expected, Numbers};
use crate::wire::sctp::{Kind, Message};

/// What both sides of an association expect that the client's packet opens.
pub fn opened_by(message: &Message) -> Numbers {
    let mut numbers = Numbers::default();
    match message.kind {
        Kind::Init(tag) => numbers.client.set(tag),
        Kind::Nothing
        | Kind::Ordinary
        | Kind::Error
        | Kind::CookieAck
        | Kind::InitAck(_)
        | Kind::Shutdown
        | Kind::ShutdownAck
        | Kind::ShutdownComplete { .. }
        | Kind::Abort { .. } => numbers.backend.set(message.tag),
    }
    numbers
}

/// What a packet from `side` says to an association in `life`; `None`: it would end the association, and has a tag that its receiver
/// would not take. Follows the tags.
pub fn read(numbers: &mut Numbers, life: Life, side: Side, message: &Message) -> Option<Signal> {
    let signal = message.signal();
    let (is_opening, is_new) = match life {
        Life::Closing => return Some(signal),
        Life::Opening { replied, .. } => (true, !replied),
        Life::Established { .. } | Life::Reset { .. } => (false, false),
    };
    match message.kind {
        Kind::Nothing => Some(signal),
        Kind::Init(tag) => {
            init(numbers, is_opening, is_new, side, tag);
            Some(signal)
        }
        Kind::InitAck(tag) => Some(init_ack(numbers, is_opening, side, message.tag, tag)),
        Kind::CookieAck if side == Side::Backend => Some(cookie_ack(numbers, life, message.tag)),
        Kind::Ordinary | Kind::Error | Kind::CookieAck => {
            // What a new client sends confirms nothing: the last tag counts.
            let expected = of(numbers, other(side));
            if is_new && side == Side::Client {
                expected.set(message.tag);
            }
            Some(if takes(expected, message.tag) { signal } else { Signal::Nothing })
        }
        // It ends nothing: the client goes on.
        Kind::Abort { .. } | Kind::ShutdownComplete { .. } if is_new && side == Side::Client => Some(signal),
        Kind::Abort { reflected: true } | Kind::ShutdownComplete { reflected: true } => {
            (of(numbers, side).known() == Some(message.tag)).then_some(signal)
        }
        Kind::Shutdown | Kind::ShutdownAck | Kind::Abort { .. } | Kind::ShutdownComplete { .. } => {
            (of(numbers, other(side)).known() == Some(message.tag)).then_some(signal)
        }
    }
}

/// INIT: from here on its sender expects `tag`, unless the association has been confirmed. Then it counts only if the association is
/// reset, and the backend sends COOKIE ACK.
fn init(numbers: &mut Numbers, is_opening: bool, is_new: bool, side: Side, tag: u32) {
    match (is_opening, side) {
        (true, _) => of(numbers, side).set(tag),
        (false, Side::Client) => numbers.syn = tag,
        (false, Side::Backend) => {}
    }
    if is_new && side == Side::Client {
        numbers.backend = Expected::default();
    }
}

/// INIT ACK: the reply, if it has the tag of the INIT. What comes after confirmation changes nothing (RFC 9260 §5.2.3).
fn init_ack(numbers: &mut Numbers, is_opening: bool, side: Side, tag: u32, initiate: u32) -> Signal {
    if !is_opening {
        return Signal::SynAck;
    }
    if of(numbers, other(side)).known() != Some(tag) {
        return Signal::Nothing;
    }
    of(numbers, side).set(initiate);
    Signal::SynAck
}

/// The backend's COOKIE ACK (RFC 9260 §5.2.4): of this association, or of another one that the client's last INIT has begun. One that is not
/// reset goes on, whatever tag comes: a receiver discards what has another one (RFC 9260 §8.5).
fn cookie_ack(numbers: &mut Numbers, life: Life, tag: u32) -> Signal {
    let is_reset = matches!(life, Life::Reset { .. });
    let is_other = is_reset && numbers.syn == tag && numbers.client.known() != Some(tag);
    if life.is_opening() || is_other {
        numbers.client.set(tag);
        numbers.backend = Expected::default();
    }
    match (is_other, takes(&mut numbers.client, tag)) {
        (true, _) => Signal::Restart,
        (false, true) => Signal::Segment,
        (false, false) => Signal::Nothing,
    }
}

/// Whether this tag is expected; one that is not known is learned.
fn takes(expected: &mut Expected, tag: u32) -> bool {
    if expected.known().is_none() {
        expected.set(tag);
    }
    expected.known() == Some(tag)
}

fn of(numbers: &mut Numbers, side: Side) -> &mut Expected {
    match side {
        Side::Client => &mut numbers.client,
        Side::Backend => &mut numbers.backend,
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::life;
    use super::*;

    const CLIENT: u32 = 100;
    const BACKEND: u32 = 900;

    /// An association, as the flow table follows it.
    struct Seen {
        numbers: Numbers,
        life: Life,
        wrong: u32,
    }

    impl Seen {
        fn opened(kind: Kind, tag: u32) -> Seen {
            Seen { numbers: opened_by(&Message { tag, kind }), life: Life::NEW, wrong: 0 }
        }

        /// `>` from the client, `<` from the backend.
        fn then(mut self, packets: &[(char, u32, Kind)]) -> Seen {
            for &(arrow, tag, kind) in packets {
                let side = if arrow == '>' { Side::Client } else { Side::Backend };
                match read(&mut self.numbers, self.life, side, &Message { tag, kind }) {
                    Some(signal) => self.life = life::next(self.life, side, signal),
                    None => self.wrong += 1,
                }
            }
            self
        }

        fn connected() -> Seen {
            Seen::opened(Kind::Init(CLIENT), 0).then(&HANDSHAKE)
        }
    }

    const HANDSHAKE: [(char, u32, Kind); 3] =
        [('<', CLIENT, Kind::InitAck(BACKEND)), ('>', BACKEND, Kind::Ordinary), ('<', CLIENT, Kind::CookieAck)];
    const ABORT: Kind = Kind::Abort { reflected: false };
    const REPLIED: Life = Life::Opening { replied: true, fin: None };

    #[test]
    fn the_cookie_with_the_backends_tag_confirms_and_nothing_before_it() {
        let seen = Seen::opened(Kind::Init(CLIENT), 0);
        let seen = seen.then(&[('>', 0, Kind::Init(CLIENT)), ('<', 7, Kind::InitAck(BACKEND))]);
        assert_eq!(seen.life, Life::NEW, "an INIT ACK with another tag is of another association");
        let seen = seen.then(&[HANDSHAKE[0], ('<', CLIENT, Kind::InitAck(BACKEND))]);
        assert_eq!(seen.life, REPLIED);
        let seen = seen.then(&[('>', 7, Kind::Ordinary), ('>', 0, Kind::Init(CLIENT))]);
        assert_eq!(seen.life, REPLIED, "a guessed tag confirms nothing");
        assert_eq!(seen.then(&HANDSHAKE[1..2]).life, Life::ESTABLISHED);
    }

    #[test]
    fn the_client_may_use_either_of_two_replies() {
        let twice = [HANDSHAKE[0], ('>', 0, Kind::Init(CLIENT)), ('<', CLIENT, Kind::InitAck(901))];
        let cookie = |tag| Seen::opened(Kind::Init(CLIENT), 0).then(&twice).then(&[('>', tag, Kind::Ordinary)]);
        assert_eq!(cookie(901).life, Life::ESTABLISHED);
        let first = cookie(BACKEND);
        assert_eq!(first.life, REPLIED);
        let seen = first.then(&[('<', CLIENT, Kind::CookieAck), ('>', BACKEND, Kind::Ordinary), ('>', 901, ABORT)]);
        assert_eq!((seen.life, seen.wrong), (Life::ESTABLISHED, 1));
        assert_eq!(seen.then(&[('>', BACKEND, ABORT)]).life, Life::Reset { spoken: None });
    }

    #[test]
    fn what_ends_an_association_must_have_its_tag() {
        let complete = |reflected| Kind::ShutdownComplete { reflected };
        for kind in [ABORT, Kind::Shutdown, Kind::ShutdownAck, complete(false)] {
            for (arrow, right, wrong) in [('>', BACKEND, CLIENT), ('<', CLIENT, BACKEND)] {
                let seen = Seen::connected().then(&[(arrow, wrong, kind), (arrow, 0, kind)]);
                assert_eq!((seen.life, seen.wrong), (Life::ESTABLISHED, 2), "{kind:?} {arrow}");
                assert_ne!(Seen::connected().then(&[(arrow, right, kind)]).life, Life::ESTABLISHED, "{kind:?} {arrow}");
            }
        }
        for kind in [Kind::Abort { reflected: true }, complete(true)] {
            for (arrow, right, wrong) in [('>', CLIENT, BACKEND), ('<', BACKEND, CLIENT)] {
                let seen = Seen::connected().then(&[(arrow, wrong, kind)]);
                assert_eq!((seen.life, seen.wrong), (Life::ESTABLISHED, 1), "{kind:?} {arrow}");
                assert_ne!(Seen::connected().then(&[(arrow, right, kind)]).life, Life::ESTABLISHED, "{kind:?} {arrow}");
            }
        }
    }

    #[test]
    fn a_backend_refuses_with_the_tag_of_the_init() {
        let seen = Seen::opened(Kind::Init(CLIENT), 0).then(&[('<', 0, ABORT), ('<', BACKEND, ABORT)]);
        assert_eq!((seen.life, seen.wrong), (Life::NEW, 2));
        assert_eq!(seen.then(&[('<', CLIENT, ABORT)]).life, Life::Closing);
    }

    #[test]
    fn a_client_ends_what_is_left_of_an_older_association_and_goes_on() {
        let leftover = [('<', 5, Kind::ShutdownAck), ('>', 5, Kind::ShutdownComplete { reflected: true })];
        let seen = Seen::opened(Kind::Init(CLIENT), 0).then(&leftover);
        assert_eq!((seen.life, seen.wrong), (Life::NEW, 1));
        assert_eq!(seen.then(&HANDSHAKE).life, Life::ESTABLISHED);
    }

    #[test]
    fn a_shutdown_closes() {
        let seen = Seen::connected().then(&[('>', BACKEND, Kind::Shutdown), ('<', CLIENT, Kind::Ordinary)]);
        assert_eq!(seen.life, Life::Established { fin: Some(Side::Client) });
        assert_eq!(seen.then(&[('<', CLIENT, Kind::ShutdownAck)]).life, Life::Closing);
    }

    #[test]
    fn a_restart_may_be_forged_and_ends_nothing() {
        let again = [
            ('>', 0, Kind::Init(200)),
            ('<', 200, Kind::InitAck(800)),
            ('>', 800, Kind::Ordinary),
            ('<', 200, Kind::CookieAck),
            ('>', 800, Kind::Ordinary),
        ];
        for end in [ABORT, Kind::Shutdown, Kind::ShutdownAck, Kind::ShutdownComplete { reflected: false }] {
            let seen = Seen::connected().then(&again).then(&[('<', 200, end), ('>', 800, end)]);
            assert_eq!((seen.life, seen.wrong), (Life::ESTABLISHED, 2), "{end:?}");
            assert_ne!(seen.then(&[('>', BACKEND, end)]).life, Life::ESTABLISHED, "{end:?}");
        }
    }

    #[test]
    fn a_client_that_begins_again_after_an_abort_is_followed() {
        let again = [('>', BACKEND, ABORT), ('>', 0, Kind::Init(200)), ('<', 200, Kind::InitAck(800))];
        let seen = Seen::connected().then(&again).then(&[('>', 800, Kind::Ordinary), ('<', 200, Kind::CookieAck)]);
        assert_eq!(seen.life, REPLIED);
        let seen = seen.then(&[('>', 800, Kind::Ordinary), ('>', BACKEND, ABORT), ('<', CLIENT, ABORT)]);
        assert_eq!((seen.life, seen.wrong), (Life::ESTABLISHED, 2));
        assert_eq!(seen.then(&[('<', 200, ABORT)]).life, Life::Reset { spoken: None });
    }

    #[test]
    fn an_association_taken_over_in_the_middle_is_confirmed_by_the_same_tag_again() {
        let seen =
            Seen::opened(Kind::Ordinary, BACKEND).then(&[('<', CLIENT, Kind::Ordinary), ('>', 7, Kind::Ordinary)]);
        assert_eq!(seen.life, REPLIED);
        let seen = seen.then(&[('>', BACKEND, Kind::Ordinary), ('<', 7, ABORT)]);
        assert_eq!((seen.life, seen.wrong), (Life::ESTABLISHED, 1));
        assert_eq!(seen.then(&[('<', CLIENT, ABORT)]).life, Life::Reset { spoken: None });
        // A backend that does not know it says so with the tag that it was sent.
        let unknown = [('<', BACKEND, Kind::Abort { reflected: true })];
        assert_eq!(Seen::opened(Kind::Ordinary, BACKEND).then(&unknown).life, Life::Closing);
    }

    /// Few of them, so that packets of one false association meet.
    fn tag() -> impl Strategy<Value = u32> {
        prop_oneof![3 => 0..4u32, 1 => any::<u32>()]
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Nothing),
            Just(Kind::Ordinary),
            Just(Kind::Error),
            Just(Kind::CookieAck),
            tag().prop_map(Kind::Init),
            tag().prop_map(Kind::InitAck),
            Just(Kind::Shutdown),
            Just(Kind::ShutdownAck),
            any::<bool>().prop_map(|reflected| Kind::ShutdownComplete { reflected }),
            any::<bool>().prop_map(|reflected| Kind::Abort { reflected }),
        ]
    }

    proptest! {
        /// Whatever strangers send who know neither tag, in the name of either end: the association stays established, and its own
        /// ABORT still ends it.
        #[test]
        fn blind_packets_change_nothing(
            packets in proptest::collection::vec((any::<bool>(), tag(), kind()), 0..30), by_client in any::<bool>(),
        ) {
            let known = |tag: u32| [CLIENT, BACKEND].contains(&tag);
            prop_assume!(!packets.iter().any(|&(_, tag, _)| known(tag)));
            let packets: Vec<_> = packets.into_iter().map(|(client, tag, kind)| (if client { '>' } else { '<' }, tag, kind)).collect();
            let seen = Seen::connected().then(&packets);
            prop_assert_eq!(seen.life, Life::ESTABLISHED);
            let abort = if by_client { ('>', BACKEND, ABORT) } else { ('<', CLIENT, ABORT) };
            prop_assert_eq!(seen.then(&[abort]).life, Life::Reset { spoken: None });
        }
    }
}
