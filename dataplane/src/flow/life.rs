//! The life of a flow: what each packet changes.
//!
//! ```text
//!                 reply                client confirms            FIN both ways
//!   Opening ─────────────▶ Opening ─────────────────▶ Established ─────────────▶ Closing
//!   (client only)          (replied)                    │      ▲                    ▲
//!                             │                     RST ▼      │ both sides go on   │
//!                             │                        Reset ──┘                    │
//!                             └────────────── RST ──────────────────────────────────┘
//! ```
//!
//! A flow is **unconfirmed** while it is opening: its source address may be spoofed. A reply proves nothing about the client,
//! since the backend sends it to the address in the packet. Only the client's packet after the reply does: for TCP it must
//! acknowledge the reply, which takes the reply's sequence number ([`super::sequence`] checks that before it reports
//! [`Signal::Segment`]). So a flood of spoofed SYNs makes only unconfirmed flows, which have a short time-out and are evicted
//! first, whatever the backends reply.
//!
//! An SCTP association goes the same way: the reply is the INIT ACK, and the client confirms it with the COOKIE ECHO, which has the tag
//! that the INIT ACK brought ([`super::tags`]). SHUTDOWN is its FIN, ABORT its RST.
//!
//! The function [`next`] is pure. Clauses are of RFC 9293 (TCP), RFC 5382 and RFC 7857 (TCP through NAT), RFC 4787 (UDP
//! through NAT), RFC 5961 (blind attacks), RFC 9260 (SCTP).

/// Which end sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client: it opened the flow.
    Client,
    /// The backend: it replies.
    Backend,
}

/// How far a flow has come. `fin` is the side that has sent FIN, if only one has.
///
/// `Reset` is not the end at once: the RST may be a blind one whose number fitted by chance (RFC 5961 §3). Then both sides go on,
/// and so does the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The client has not confirmed the flow.
    Opening {
        /// The backend has replied.
        replied: bool,
        /// The side that has sent FIN.
        fin: Option<Side>,
    },
    /// The client has acknowledged a reply.
    Established {
        /// The side that has sent FIN.
        fin: Option<Side>,
    },
    /// An established connection that one side has reset. `spoken` is the side that has sent an ordinary segment since.
    Reset {
        /// The side that goes on.
        spoken: Option<Side>,
    },
    /// The connection is over: FIN both ways, RST while it was opening, or the end of SCTP's shutdown.
    Closing,
}

/// What a packet means to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A UDP datagram.
    Datagram,
    /// TCP: SYN without ACK. SCTP: INIT.
    Syn,
    /// TCP: SYN and ACK. SCTP: INIT ACK.
    SynAck,
    /// TCP: an ordinary segment that acknowledges. SCTP: COOKIE ECHO, COOKIE ACK, DATA and what comes with it.
    Segment,
    /// TCP: FIN and ACK. SCTP: SHUTDOWN.
    Fin,
    /// SCTP: SHUTDOWN ACK or SHUTDOWN COMPLETE, which come only after everything else.
    End,
    /// TCP: RST. SCTP: ABORT.
    Reset,
    /// TCP: a SYN-ACK of another connection between the same ports. SCTP: the COOKIE ACK of another association, after an ABORT. The
    /// backend has lost or ended the one before.
    Restart,
    /// TCP: no RST, SYN or ACK; or numbers that do not fit the connection. SCTP: a tag that does not. It changes nothing.
    Nothing,
}

impl Life {
    /// The life of a flow whose first packet has just come.
    pub const NEW: Life = Life::Opening { replied: false, fin: None };
    /// The life of most flows.
    pub const ESTABLISHED: Life = Life::Established { fin: None };

    /// Whether the client has yet to confirm the flow.
    #[inline]
    pub fn is_opening(self) -> bool {
        matches!(self, Life::Opening { .. })
    }

    /// Whether the connection is over, or seems to be.
    #[inline]
    pub fn is_over(self) -> bool {
        matches!(self, Life::Reset { .. } | Life::Closing)
    }
}

/// The life after a packet from `side`.
pub fn next(life: Life, side: Side, signal: Signal) -> Life {
    use Signal::{Datagram, End, Fin, Nothing, Reset, Restart, Segment, Syn, SynAck};
    match (life, side, signal) {
        // RFC 9293 §3.10.7.4, fifth: a segment without ACK is dropped by its receiver. RFC 9260 §8.5: so is a wrong tag.
        (life, _, Nothing) => life,
        // Only the backend replies to a SYN.
        (life, Side::Client, Restart) => life,
        // RFC 9293 §3.3.2: nothing leads back from the closing states. RFC 7857 §2.2: late segments and a repeated RST are
        // still translated. RFC 9260 §9.2: a lost SHUTDOWN COMPLETE is sent again. (A SYN or INIT opens a new flow, which is not
        // this flow's next state: RFC 9293 §3.10.7.4, RFC 6191.)
        (Life::Closing, _, Datagram | Syn | SynAck | Segment | Fin | End | Reset | Restart) => Life::Closing,

        // RFC 9293 §3.5.1, figure 9: a client in SYN-SENT resets what is left of an older connection, and goes on. RFC 9260
        // §8.5.1 (E): one that waits for the INIT ACK ends an older association with SHUTDOWN COMPLETE, and goes on.
        (Life::Opening { replied: false, .. }, Side::Client, Reset | End) => life,
        // RFC 9293 §3.10.7.3 and .4, second: the receiver aborts the connection. RFC 7857 §2.2: the flow stays for a while. RFC
        // 9260 §3.3.7, §9.1: so does the receiver of an ABORT.
        (Life::Opening { .. }, _, Reset) => Life::Closing,
        // RFC 9260 §9.2: SHUTDOWN ACK and SHUTDOWN COMPLETE are the last two packets of an association.
        (Life::Opening { .. } | Life::Established { .. }, _, End) => Life::Closing,
        (Life::Established { .. } | Life::Reset { .. }, _, Reset) => Life::Reset { spoken: None },

        // RFC 9293 §3.3.2, SYN-SENT; RFC 4787 REQ-5; RFC 9260 §5.1 (A), T1-init: the client repeats itself.
        (Life::Opening { replied: false, .. }, Side::Client, Datagram | Syn | SynAck | Segment) => life,
        // RFC 9293 §3.10.7.4, eighth: FIN may come with the first segment seen, of a connection taken over from another
        // gateway.
        (Life::Opening { replied: false, fin }, Side::Client, Fin) => {
            finish(fin, Side::Client, |fin| Life::Opening { replied: false, fin })
        }
        // RFC 9293 §3.5, figure 6, line 3 (SYN-ACK) and figure 7 (SYN from both: RFC 5382 REQ-2); RFC 4787 REQ-5; RFC 9260 §5.1
        // (B), INIT ACK, and §5.2.1, INIT from both.
        (Life::Opening { fin, .. }, Side::Backend, Datagram | Syn | SynAck | Segment) => {
            Life::Opening { replied: true, fin }
        }
        // RFC 9293 §3.5.1: the client has begun anew before it confirmed the connection before.
        (Life::Opening { .. }, Side::Backend, Restart) => Life::Opening { replied: true, fin: None },
        // RFC 9293 §3.10.4, RFC 9260 §9.2: a server may close as soon as it has the connection.
        (Life::Opening { fin, .. }, Side::Backend, Fin) => {
            finish(fin, Side::Backend, |fin| Life::Opening { replied: true, fin })
        }
        // RFC 9293 §3.10.7.4, second; RFC 9260 §5.2.2: SYN or INIT again, since the reply was lost.
        (Life::Opening { replied: true, .. }, Side::Client, Syn) => life,
        // RFC 9293 §3.5, figure 6, line 4: the client acknowledges the reply. RFC 5382 REQ-5: only from here on does the
        // long time-out hold. RFC 4787 REQ-6: a UDP flow is refreshed from the inside; the second packet after a reply is
        // all that tells a client from a spoofed source. RFC 9260 §5.1 (C): COOKIE ECHO.
        (Life::Opening { replied: true, fin }, Side::Client, Datagram | SynAck | Segment) => Life::Established { fin },
        // RFC 9293 §3.3.2: CLOSE in ESTABLISHED, its FIN together with the acknowledgement. RFC 9260 §9.2.
        (Life::Opening { replied: true, fin }, Side::Client, Fin) => {
            finish(fin, Side::Client, |fin| Life::Established { fin })
        }

        // RFC 9293 §3.3.2: ESTABLISHED. RFC 5961 §4: a SYN does not change a synchronised connection, whatever its number. RFC
        // 9260 §5.2.2, §5.2.3: neither do INIT and INIT ACK.
        (Life::Established { .. }, _, Datagram | Syn | SynAck | Segment) => life,
        // RFC 9293 §3.5.1: the client lost its end and connects from the same port; the backend no longer has its own. (SCTP:
        // only after an ABORT.)
        (Life::Established { .. }, Side::Backend, Restart) => Life::ESTABLISHED,
        // RFC 9293 §3.3.2: FIN-WAIT and CLOSE-WAIT after the first FIN, which may last (RFC 5382 REQ-5: transitory only
        // once both have closed); LAST-ACK, CLOSING and TIME-WAIT after the second. RFC 9260 §9.2: after SHUTDOWN the other side
        // sends what is left; SHUTDOWN from both is as good as SHUTDOWN ACK.
        (Life::Established { fin }, side, Fin) => finish(fin, side, |fin| Life::Established { fin }),

        // RFC 5961 §3.2: the receiver of a blind RST sends a challenge and both go on. After a real one, its sender has no
        // connection left to send for.
        (Life::Reset { spoken: Some(first) }, side, Segment) if first != side => Life::ESTABLISHED,
        (Life::Reset { .. }, side, Segment) => Life::Reset { spoken: Some(side) },
        // A blind RST and a blind FIN together end no more than one of them does.
        (Life::Reset { .. }, _, Datagram | Syn | SynAck | Fin | End) => life,
        // The client connects again from the same port. RFC 9260 §5.2.4: the backend has accepted its cookie.
        (Life::Reset { .. }, Side::Backend, Restart) => Life::Opening { replied: true, fin: None },
    }
}

/// After a FIN from `side`: [`Life::Closing`] if the other side had sent one, `open` otherwise.
fn finish(before: Option<Side>, side: Side, open: impl FnOnce(Option<Side>) -> Life) -> Life {
    match before {
        Some(first) if first != side => Life::Closing,
        Some(_) | None => open(Some(side)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The obvious model: it keeps every packet of the present connection and reads that whole history for each question.
    #[derive(Debug, Default)]
    struct History {
        packets: Vec<(Side, Signal)>,
        /// What follows was replied to, and confirmed, before.
        replied: bool,
        confirmed: bool,
    }

    impl History {
        fn add(&mut self, side: Side, signal: Signal) {
            let begins = side == Side::Backend && signal == Signal::Restart && !self.is_over();
            if begins {
                let confirmed = self.is_confirmed() && self.reset().is_none();
                *self = History { packets: Vec::new(), replied: true, confirmed };
                return;
            }
            self.packets.push((side, signal));
            let since = self.reset().map(|reset| &self.packets[reset + 1..]).unwrap_or_default();
            let both = [Side::Client, Side::Backend].iter().all(|&by| since.contains(&(by, Signal::Segment)));
            if both {
                *self = History { packets: Vec::new(), replied: true, confirmed: true };
            }
        }

        fn before(&self, at: usize) -> History {
            History { packets: self.packets[..at].to_vec(), ..*self }
        }

        /// What came after the reply; `None`: it has not come.
        fn after_reply(&self) -> Option<&[(Side, Signal)]> {
            let is_reply = |&(side, signal): &(Side, Signal)| side == Side::Backend && signal != Signal::Nothing;
            let reply = if self.replied { Some(0) } else { self.packets.iter().position(is_reply) };
            reply.map(|reply| &self.packets[reply..])
        }

        fn acknowledges(side: Side, signal: Signal) -> bool {
            let acknowledges = match signal {
                Signal::Datagram | Signal::SynAck | Signal::Segment | Signal::Fin => true,
                Signal::Syn | Signal::End | Signal::Reset | Signal::Restart | Signal::Nothing => false,
            };
            side == Side::Client && acknowledges
        }

        /// The client has sent something that acknowledges, after the backend has sent anything of meaning.
        fn is_confirmed(&self) -> bool {
            let after = self.after_reply().unwrap_or_default();
            self.confirmed || after.iter().any(|&(side, signal)| History::acknowledges(side, signal))
        }

        /// Who has sent FIN, in order.
        fn finished(&self) -> Vec<Side> {
            let fins = self.packets.iter().filter(|(_, signal)| *signal == Signal::Fin);
            let mut sides: Vec<Side> = fins.map(|&(side, _)| side).collect();
            sides.dedup();
            sides
        }

        fn has_finished(&self) -> bool {
            self.finished().len() > 1 || self.real(Signal::End).next().is_some()
        }

        /// Where the packets with this signal are, except those with which the client just ended an older connection.
        fn real(&self, wanted: Signal) -> impl Iterator<Item = usize> {
            let all = self.packets.iter().enumerate().filter(move |(_, (_, signal))| *signal == wanted);
            let real = all.filter(|&(at, &(side, _))| side == Side::Backend || self.before(at).after_reply().is_some());
            real.map(|(at, _)| at)
        }

        /// Where the RSTs are.
        fn resets(&self) -> impl Iterator<Item = usize> {
            self.real(Signal::Reset)
        }

        /// The last RST of a connection that was confirmed and not over when the first one came.
        fn reset(&self) -> Option<usize> {
            let first = self.before(self.resets().next()?);
            if first.is_confirmed() && !first.has_finished() { self.resets().last() } else { None }
        }

        fn is_over(&self) -> bool {
            match self.resets().next() {
                Some(_) => self.reset().is_none(),
                None => self.has_finished(),
            }
        }

        fn agrees(&self, life: Life) -> bool {
            let fin = self.finished().first().copied();
            match life {
                Life::Closing => self.is_over(),
                Life::Reset { spoken } => {
                    let since = self.reset().map(|reset| &self.packets[reset + 1..]);
                    let first = since.map(|since| since.iter().find(|(_, signal)| *signal == Signal::Segment));
                    !self.is_over() && first.is_some_and(|first| first.map(|&(side, _)| side) == spoken)
                }
                Life::Established { fin: by } => {
                    !self.is_over() && self.reset().is_none() && self.is_confirmed() && by == fin
                }
                Life::Opening { replied, fin: by } => {
                    !self.is_over() && !self.is_confirmed() && replied == self.after_reply().is_some() && by == fin
                }
            }
        }
    }

    fn side() -> impl Strategy<Value = Side> {
        prop_oneof![Just(Side::Client), Just(Side::Backend)]
    }

    fn signal() -> impl Strategy<Value = Signal> {
        // RST and FIN seldom, or nothing would ever be established.
        prop_oneof![
            8 => Just(Signal::Segment),
            4 => Just(Signal::Syn),
            4 => Just(Signal::SynAck),
            4 => Just(Signal::Datagram),
            4 => Just(Signal::Nothing),
            2 => Just(Signal::Fin),
            2 => Just(Signal::Reset),
            1 => Just(Signal::End),
            1 => Just(Signal::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_says_what_the_whole_history_says(packets in proptest::collection::vec((side(), signal()), 0..16)) {
            let (mut life, mut history) = (Life::NEW, History::default());
            for (side, signal) in packets {
                life = next(life, side, signal);
                history.add(side, signal);
                prop_assert!(history.agrees(life), "{life:?} after {history:?}");
            }
        }
    }

    /// The life after these packets: `>` from the client, `<` from the backend.
    fn after(packets: &[(char, Signal)]) -> Life {
        packets.iter().fold(Life::NEW, |life, &(arrow, signal)| {
            next(life, if arrow == '>' { Side::Client } else { Side::Backend }, signal)
        })
    }

    #[test]
    fn a_reply_alone_establishes_nothing() {
        let replied = Life::Opening { replied: true, fin: None };
        assert_eq!(after(&[('>', Signal::Syn), ('<', Signal::SynAck), ('<', Signal::SynAck)]), replied);
        assert_eq!(after(&[('>', Signal::Syn), ('<', Signal::SynAck), ('>', Signal::Syn)]), replied);
        assert_eq!(after(&[('>', Signal::Datagram), ('<', Signal::Datagram)]), replied);
        assert_eq!(after(&[('>', Signal::Segment), ('<', Signal::Segment)]), replied, "taken over in the middle");
    }

    #[test]
    fn the_clients_answer_to_it_does() {
        assert_eq!(after(&[('>', Signal::Syn), ('<', Signal::SynAck), ('>', Signal::Segment)]), Life::ESTABLISHED);
        assert_eq!(
            after(&[('>', Signal::Datagram), ('<', Signal::Datagram), ('>', Signal::Datagram)]),
            Life::ESTABLISHED
        );
        let closed = after(&[('>', Signal::Syn), ('<', Signal::SynAck), ('>', Signal::Fin)]);
        assert_eq!(closed, Life::Established { fin: Some(Side::Client) });
    }

    #[test]
    fn fin_ends_it_once_it_has_come_from_both() {
        let open = [('>', Signal::Syn), ('<', Signal::SynAck), ('>', Signal::Segment)];
        let after = |more: &[(char, Signal)]| after(&[&open, more].concat());
        let half = Life::Established { fin: Some(Side::Backend) };
        assert_eq!(after(&[('<', Signal::Fin), ('<', Signal::Fin), ('>', Signal::Segment)]), half);
        assert_eq!(after(&[('<', Signal::Fin), ('>', Signal::Fin)]), Life::Closing);
        assert_eq!(after(&[('>', Signal::Fin), ('<', Signal::Reset)]), Life::Reset { spoken: None });
    }

    #[test]
    fn a_reset_ends_a_connection_unless_both_sides_go_on() {
        let reset = [('>', Signal::Syn), ('<', Signal::SynAck), ('>', Signal::Segment), ('>', Signal::Reset)];
        let after = |more: &[(char, Signal)]| after(&[&reset, more].concat());
        assert_eq!(after(&[]), Life::Reset { spoken: None });
        assert_eq!(
            after(&[('<', Signal::Segment), ('<', Signal::Segment)]),
            Life::Reset { spoken: Some(Side::Backend) }
        );
        assert_eq!(after(&[('<', Signal::Segment), ('>', Signal::Segment)]), Life::ESTABLISHED);
        for signal in [Signal::Syn, Signal::Fin] {
            assert_eq!(after(&[('>', signal)]), Life::Reset { spoken: None }, "{signal:?} changes nothing");
        }
        assert_eq!(after(&[('>', Signal::Syn), ('<', Signal::Restart)]), Life::Opening { replied: true, fin: None });
    }

    #[test]
    fn the_last_packets_of_an_association_end_it_whatever_was_seen_before() {
        let open = [('>', Signal::Syn), ('<', Signal::SynAck), ('>', Signal::Segment), ('<', Signal::Segment)];
        let after = |more: &[(char, Signal)]| after(&[&open, more].concat());
        let shutdown = [('>', Signal::Fin), ('<', Signal::Segment)];
        assert_eq!(
            after(&shutdown),
            Life::Established { fin: Some(Side::Client) },
            "the other side sends what is left"
        );
        assert_eq!(after(&[&shutdown[..], &[('<', Signal::End)]].concat()), Life::Closing);
        assert_eq!(after(&[('>', Signal::End)]), Life::Closing, "another gateway has seen the SHUTDOWN");
        assert_eq!(after(&[('>', Signal::Fin), ('<', Signal::Fin)]), Life::Closing);
    }

    #[test]
    fn a_client_may_reset_what_is_left_of_another_connection() {
        for ends in [Signal::Reset, Signal::End] {
            assert_eq!(after(&[('>', Signal::Syn), ('<', Signal::Nothing), ('>', ends)]), Life::NEW);
        }
        assert_eq!(after(&[('>', Signal::Syn), ('<', Signal::Reset)]), Life::Closing);
    }
}
