//! Copies flows and traces packets for an asker outside the worker: see [`pollgate_common::inspect`].
//!
//! A request for flows counts the entries of the IPv4 table, then those of the IPv6 table.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pollgate_common::flow::{Address, V4, V6};
use pollgate_common::inspect::{FlowRecord, FlowRequest, Letter, Mailbox, Request};
use pollgate_common::time::Ticks;
use pollgate_common::trace::{PacketTrace, TracedPacket};

use crate::flow::table::peer;
use crate::flow::{Entry, FlowTable, Life};

/// Flows looked at in one poll: some microseconds.
const LOOKED_AT: u32 = 128;

/// The worker's side of its mailbox.
pub(crate) struct Inspector {
    mailbox: Arc<Mailbox>,
    /// The request being answered.
    letter: Option<Box<Letter>>,
}

impl Inspector {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Inspector {
        Inspector { mailbox, letter: None }
    }

    /// Once per poll. Without a request it reads one flag.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        flows: (&FlowTable<V4>, &FlowTable<V6>),
        now: Ticks,
        trace: impl FnOnce(&TracedPacket) -> PacketTrace,
    ) {
        if let Some(letter) = self.letter.take().or_else(|| self.mailbox.take()) {
            self.go_on(letter, flows, now, trace);
        }
    }

    /// Whether a request is being answered, so that the worker must not sleep.
    pub(crate) fn is_busy(&self) -> bool {
        self.letter.is_some()
    }

    #[cold]
    fn go_on(
        &mut self,
        mut letter: Box<Letter>,
        (v4, v6): (&FlowTable<V4>, &FlowTable<V6>),
        now: Ticks,
        trace: impl FnOnce(&TracedPacket) -> PacketTrace,
    ) {
        let is_done = match &mut letter.request {
            Request::Flows(request) => {
                copy_both(request, v4, v6, now);
                request.is_full() || request.rest().is_none() || self.mailbox.is_hurried()
            }
            Request::Trace(request) => {
                request.fill(trace(request.packet()));
                true
            }
        };
        self.letter = match is_done {
            // If an earlier answer is still there, this one waits until the next poll.
            true => self.mailbox.give(letter).err(),
            false => Some(letter),
        };
    }
}

/// Offers the next flows of the two tables.
fn copy_both(request: &mut FlowRequest, v4: &FlowTable<V4>, v6: &FlowTable<V6>, now: Ticks) {
    if request.next() < v4.entries() {
        copy(request, v4, 0, now);
        if request.rest().is_none() {
            request.advance(v4.entries(), false);
        }
    }
    if request.next() >= v4.entries() {
        copy(request, v6, v4.entries(), now);
    }
}

/// Offers the next flows of the table to the request, until it is full. The request counts from `first` in this table.
fn copy<A: Address>(request: &mut FlowRequest, flows: &FlowTable<A>, first: u32, now: Ticks) {
    let (end, mut next) = (flows.used(), (request.next() - first).next_multiple_of(2));
    for _ in 0..LOOKED_AT {
        if next >= end || request.is_full() {
            break;
        }
        let (client, backend) = (flows.entry(next), flows.entry(peer(next)));
        if client.state.is_used() {
            request.offer(record(client, backend, now));
        }
        next += 2;
    }
    request.advance(first.saturating_add(next), next >= end);
}

/// The flow with these two entries.
pub(crate) fn record<A: Address>(client: &Entry<A>, backend: &Entry<A>, now: Ticks) -> FlowRecord {
    let (key, to) = (&client.key, &client.translation.to);
    let at = |address: A, port: u16| SocketAddr::new(address.into(), port);
    FlowRecord {
        protocol: client.protocol(),
        client: at(key.src, key.src_port),
        frontend: at(key.dst, key.dst_port),
        source: at(to.src, to.src_port),
        backend: at(to.dst, to.dst_port),
        service: client.service_id(),
        state: name(client.state.life()),
        client_idle: idle(client, now),
        backend_idle: idle(backend, now),
    }
}

fn idle<A: Address>(entry: &Entry<A>, now: Ticks) -> Duration {
    Duration::from_nanos(u64::from(now.since(entry.last_seen)) << Ticks::SHIFT)
}

fn name(life: Life) -> &'static str {
    match life {
        Life::Opening { replied: false, .. } => "opening",
        Life::Opening { replied: true, .. } => "replied",
        Life::Established { fin: None } => "established",
        Life::Established { fin: Some(_) } => "half-closed",
        Life::Reset { .. } => "reset",
        Life::Closing => "closing",
    }
}

#[cfg(test)]
mod tests {
    use pollgate_common::flow::{FlowKey, Protocol};
    use pollgate_common::inspect::FlowFilter;
    use pollgate_common::tables::ServiceId;

    use super::*;
    use crate::flow::sequence::Numbers;
    use crate::flow::table::FlowOrigin;
    use crate::flow::{Limits, Timeouts};

    const SERVICE: ServiceId = ServiceId { index: 5, incarnation: 2 };
    const LONG: Duration = Duration::from_secs(3600);

    /// The addresses of the flows: client, frontend, source, backend.
    trait Ends: Address {
        const ENDS: [&str; 4];
    }

    impl Ends for V4 {
        const ENDS: [&str; 4] = ["10.0.0.1", "10.96.0.1", "192.0.2.1", "10.244.0.1"];
    }

    impl Ends for V6 {
        const ENDS: [&str; 4] = ["2001:db8::1", "2001:db8:96::1", "2001:db8:50::1", "2001:db8:244::1"];
    }

    /// A table with so many UDP flows; flow `n` has client port `n + 1`.
    fn table<A: Ends>(flows: u16) -> FlowTable<A> {
        let timeouts =
            Timeouts { tcp_established: LONG, tcp_opening: LONG, tcp_closing: LONG, udp: LONG, udp_stream: LONG };
        let connections = usize::from(flows) + 1;
        let limits = Limits { connections, unconfirmed: connections, new_per_second: 1, timeouts };
        let mut table = FlowTable::new(&limits, [1, 2, 3, 4]).expect("memory");
        let [client, frontend, source, backend] =
            A::ENDS.map(|ip| A::from_ip(ip.parse().expect("an address")).expect("of the family"));
        for n in 0..flows {
            let protocol = Protocol::Udp.number();
            let key = FlowKey { src: client, dst: frontend, src_port: n + 1, dst_port: 53, protocol };
            let to = FlowKey { src: source, dst: backend, dst_port: 5353, ..key };
            let origin = FlowOrigin { service: SERVICE, backend: 0, backend_incarnation: 0, generation: 1 };
            table.open(key, to, origin, Numbers::default(), Ticks(1)).expect("room");
        }
        table
    }

    fn polled(mailbox: &Arc<Mailbox>, table: &FlowTable<V4>, request: FlowRequest) -> (FlowRequest, u32) {
        polled_both(mailbox, table, &self::table(0), request)
    }

    fn flows(letter: Letter) -> FlowRequest {
        match letter.request {
            Request::Flows(request) => request,
            Request::Trace(request) => panic!("{request:?}"),
        }
    }

    fn polled_both(
        mailbox: &Arc<Mailbox>,
        v4: &FlowTable<V4>,
        v6: &FlowTable<V6>,
        request: FlowRequest,
    ) -> (FlowRequest, u32) {
        let mut inspector = Inspector::new(Arc::clone(mailbox));
        let number = mailbox.ask(Letter::new(Request::Flows(request))).expect("no other request");
        for polls in 1.. {
            inspector.poll((v4, v6), Ticks(3), |_| panic!("no packet is traced"));
            if let Some(answer) = mailbox.answer(number) {
                assert!(!inspector.is_busy());
                return (flows(*answer), polls);
            }
            assert!(inspector.is_busy());
        }
        unreachable!("the table ends")
    }

    #[test]
    fn a_flow_is_copied_whole() {
        let (answer, _) = polled(&Arc::default(), &table(1), FlowRequest::new(FlowFilter::default(), 0, 9));
        let at = |text: &str| text.parse().expect("an address");
        let expected = FlowRecord {
            protocol: Some(Protocol::Udp),
            client: at("10.0.0.1:1"),
            frontend: at("10.96.0.1:53"),
            source: at("192.0.2.1:1"),
            backend: at("10.244.0.1:5353"),
            service: SERVICE,
            state: "opening",
            client_idle: Duration::from_nanos(2 << 30),
            backend_idle: Duration::from_nanos(2 << 30),
        };
        assert_eq!((answer.flows(), answer.rest()), (&[expected][..], None));
    }

    #[test]
    fn the_flows_of_both_families_are_copied_one_after_the_other() {
        for (v4, v6) in [(1000, 500), (0, 7), (300, 600), (7, 0)] {
            let (tables, mailbox) = ((table(v4), table(v6)), Arc::default());
            let (mut seen, mut from) = (Vec::new(), Some(0));
            while let Some(next) = from {
                let request = FlowRequest::new(FlowFilter::default(), next, 300);
                let (answer, _) = polled_both(&mailbox, &tables.0, &tables.1, request);
                seen.extend(answer.flows().iter().map(|flow| (flow.client.is_ipv6(), flow.client.port())));
                from = answer.rest();
            }
            let of = |flows: u16, family: bool| (1..=flows).map(move |port| (family, port));
            assert_eq!(seen, of(v4, false).chain(of(v6, true)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pages_hold_every_flow_once_and_a_poll_looks_at_few() {
        let (table, mailbox) = (table(1000), Arc::default());
        let (mut ports, mut from) = (Vec::new(), Some(0));
        while let Some(next) = from {
            let (answer, polls) = polled(&mailbox, &table, FlowRequest::new(FlowFilter::default(), next, 300));
            assert!(answer.flows().len() <= 300 && polls >= 1);
            ports.extend(answer.flows().iter().map(|flow| flow.client.port()));
            from = answer.rest();
        }
        assert_eq!(ports, (1..=1000).collect::<Vec<u16>>());
        let rare = FlowFilter { port: Some(1000), ..FlowFilter::default() };
        let (answer, polls) = polled(&mailbox, &table, FlowRequest::new(rare, 0, 300));
        assert_eq!((answer.flows().len(), answer.rest(), polls), (1, None, 1000 / LOOKED_AT + 1));
    }

    #[test]
    fn a_request_in_a_hurry_is_answered_with_what_there_is() {
        let (table, mailbox) = (table(1000), Arc::new(Mailbox::default()));
        let mut inspector = Inspector::new(Arc::clone(&mailbox));
        let request = Request::Flows(FlowRequest::new(FlowFilter::default(), 0, 900));
        let number = mailbox.ask(Letter::new(request)).expect("no other request");
        let mut poll = || inspector.poll((&table, &self::table(0)), Ticks(3), |_| panic!("no packet is traced"));
        poll();
        mailbox.hurry();
        poll();
        let answer = flows(*mailbox.answer(number).expect("an answer"));
        let looked_at = LOOKED_AT * 2;
        assert_eq!((answer.flows().len(), answer.rest()), (looked_at as usize, Some(looked_at * 2)));
    }
}
