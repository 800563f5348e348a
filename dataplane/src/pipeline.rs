//! The packet's life, on one screen.
//!
//! A burst goes through in passes, so that the cache misses of its packets overlap instead of adding up: all headers are
//! asked for before the first is read, all buckets before the first is searched, all entries before the first is compared.

use pollgate_common::flow::{Address, FlowKey, Protocol};
use pollgate_common::net::{NextHop, NoNextHop};
use pollgate_common::reasons::DropReason;
use pollgate_common::tables::Tables;
use pollgate_common::time::{Instant, Ticks};

use crate::affinity::{Client, Endpoint};
use crate::burst::{Burst, Family, Indexes};
use crate::classify::{self, Destination};
use crate::egress::pending;
use crate::flow::life::{Life, Side, Signal};
use crate::flow::room::Room;
use crate::flow::{Entry, FlowTable};
use crate::fragment::{self, Fate, Step};
use crate::overload::Class;
use crate::owned::may_go_on;
use crate::packet::{Account, Action, Outcome, Packet, Refusal, Transport, Verdict};
use crate::port::{BURST, Frame};
use crate::reply::{self, arp, dns, nd, reject};
use crate::select::Choice;
use crate::state::{Lane, Shared, State};
use crate::wire::control::{Control, Kind};
use crate::wire::{Ip, Piece, ethernet};
use crate::{open, parse, rewrite, select};

/// Decides what becomes of every frame of a burst, and rewrites those that go on.
pub(crate) fn run(state: &mut State, frames: &mut [Frame], burst: &mut Burst, tables: &Tables, now: Instant) {
    parse::all(frames, burst, tables.net(), &tables.settings().dns);
    let Burst { v4, v6, arp, nd, outcomes } = burst;
    let mut work = Work { frames, outcomes };
    let State { shared, v4: lane_v4, v6: lane_v6 } = state;
    work.each(arp, |frame| arp::reply(frame, shared, tables));
    work.each(nd, |frame| nd::reply(frame, shared, tables));
    lane(shared, lane_v4, &mut lane_v6.flows, &mut work, v4, tables, now);
    if !v6.is_empty() {
        lane(shared, lane_v6, &mut lane_v4.flows, &mut work, v6, tables, now);
    }
}

/// The frames of a burst, and what becomes of each.
struct Work<'a> {
    frames: &'a mut [Frame],
    outcomes: &'a mut [Outcome; BURST],
}

impl Work<'_> {
    /// Lets `reply` decide about these frames.
    #[inline]
    fn each(&mut self, indexes: &Indexes, mut reply: impl FnMut(&mut Frame) -> Action) {
        for index in indexes.as_ref().iter().map(|&index| usize::from(index) % BURST) {
            if let Some(frame) = self.frames.get_mut(index) {
                self.outcomes[index] = Outcome::of(reply(frame));
            }
        }
    }
}

/// The packets of one family. `other`: the flows of the other one.
#[inline]
fn lane<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    other: &mut dyn Room,
    work: &mut Work<'_>,
    packets: &mut Family<I::Address>,
    tables: &Tables,
    now: Instant,
) {
    let Work { frames, outcomes } = work;
    let flows = packets.flows.as_mut();
    lane.flows.hash_all(flows.iter_mut().map(|packet| (&packet.key, &mut packet.hash)));
    for packet in flows.iter_mut() {
        packet.candidate = lane.flows.probe(packet.hash);
    }
    for packet in &*flows {
        let index = usize::from(packet.frame) % BURST;
        if let Some(frame) = frames.get_mut(index) {
            let (verdict, account) = decide(shared, lane, other, frame, packet, tables, now);
            outcomes[index] = Outcome { action: reply::act::<I>(frame, packet, verdict, tables), account };
        }
    }
    if !packets.queries.as_ref().is_empty() {
        dns::answer::<I>(&mut shared.dns, frames, packets.queries.as_ref(), outcomes, tables, now);
    }
    for packet in packets.others.as_ref() {
        let index = usize::from(packet.frame) % BURST;
        if let Some(frame) = frames.get_mut(index) {
            let (verdict, account) = match packet.piece {
                Piece::Whole => (classify::without_flow(packet, tables), Account::NONE),
                Piece::First | Piece::Later => fragment(shared, lane, other, frame, packet, tables, now),
            };
            outcomes[index] = Outcome { action: reply::act::<I>(frame, packet, verdict, tables), account };
        }
    }
}

#[inline]
fn decide<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    other: &mut dyn Room,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> (Verdict, Account) {
    if packet.transport == Transport::Icmp(Kind::Error) {
        return (about_flow(shared, lane, frame, packet, tables, now), Account::NONE);
    }
    match flow(shared, lane, other, packet, tables, now) {
        Ok(flow) => translate(shared, lane, frame, packet, flow, tables, now),
        Err(verdict) => (shared.refusals.limit(verdict, packet.key.src, now), Account::NONE),
    }
}

/// A first fragment is a packet like others. What becomes of it becomes of those that follow.
#[cold]
fn fragment<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    other: &mut dyn Room,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> (Verdict, Account) {
    match fragment::arrive::<I>(shared, &mut lane.fragments, frame, packet, tables, now) {
        Err(verdict) => (verdict, Account::NONE),
        Ok(Step::First(meeting)) => {
            let mut packet = Packet { whole_len: meeting.whole_len, ..*packet };
            look_up(&lane.flows, &mut packet);
            let (verdict, account) = match (classify::dns(&packet, tables), packet.has_ports()) {
                (Some(verdict), _) => (verdict, Account::NONE),
                (None, true) => decide(shared, lane, other, frame, &packet, tables, now),
                (None, false) => (classify::without_flow(&packet, tables), Account::NONE),
            };
            let verdict = fragment::decided::<I>(shared, &mut lane.fragments, frame, &packet, &meeting, verdict);
            (verdict, account)
        }
        Ok(Step::Later(mut packet, first)) => {
            look_up(&lane.flows, &mut packet);
            let source = fragment::source::<I>(frame);
            let outcome = later(shared, lane, frame, &packet, first.fate, tables, now);
            fragment::identify::<I>(frame, source, first.identification);
            outcome
        }
    }
}

/// A later fragment, of a datagram with this fate. It opens no flow, changes none, and is not replied to (RFC 1812 §4.3.2.7).
fn later<I: Ip>(
    shared: &Shared,
    lane: &mut Lane<I>,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    fate: Fate,
    tables: &Tables,
    now: Instant,
) -> (Verdict, Account) {
    let none = |verdict| (verdict, Account::NONE);
    match fate {
        Fate::Translate => {}
        Fate::Echo => return none(Verdict::EchoReply),
        Fate::HandOn(worker) => return none(Verdict::HandOn(worker)),
        Fate::Pass(reason) => return none(Verdict::Pass(reason)),
        Fate::Drop(reason) => return none(Verdict::Drop(reason)),
    }
    if within_hop_limit(packet).is_err() {
        return none(Verdict::Drop(DropReason::TtlExpired));
    }
    if packet.transport == Transport::Icmp(Kind::Error) {
        return none(about_flow(shared, lane, frame, packet, tables, now));
    }
    let Some(index) = known(&mut lane.flows, packet, tables, now) else {
        return none(Verdict::Drop(DropReason::FragmentsFull));
    };
    let entry = lane.flows.entry_mut(index);
    let next = lane.next_hops.of(entry, tables.net());
    if next.is_ok_and(|next| rewrite::is_too_long(packet.ip_len(), frame, next)) {
        return none(Verdict::Drop(DropReason::TxTooLong));
    }
    rewrite::later::<I>(frame, &entry.translation);
    (send(frame, next), Account::of(entry, 1, 0))
}

/// Searches the packet's flow.
fn look_up<A: Address>(flows: &FlowTable<A>, packet: &mut Packet<A>) {
    packet.hash = flows.hash(&packet.key);
    packet.candidate = flows.probe(packet.hash);
}

/// An ICMP error about a packet of a flow goes to the end that sent the packet. It changes nothing of the flow, since any host can
/// send one (RFC 5927 §4): the end that gets it checks the numbers that it quotes.
#[cold]
fn about_flow<I: Ip>(
    shared: &Shared,
    lane: &mut Lane<I>,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Verdict {
    let Some(ip) = I::at(frame.bytes(), ethernet::LEN) else { return Verdict::Drop(DropReason::IpHeader) };
    let key = FlowKey { src: ip.src(), dst: ip.dst(), src_port: 0, dst_port: 0, protocol: I::Control::PROTOCOL };
    let found = lane.flows.confirm(packet.candidate, packet.hash, &packet.key);
    let Some(index) = found.filter(|&index| !lane.flows.is_expired(index, now.ticks())) else {
        return about_no_flow(shared, packet, key, tables);
    };
    if !may_go_on(key.src.into(), tables.net().is_pair(packet.own), tables) {
        return Verdict::Drop(DropReason::BadSource);
    }
    // No error is sent about an error (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)).
    if within_hop_limit(packet).is_err() {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let entry = lane.flows.entry_mut(index);
    let next = lane.next_hops.of(entry, tables.net());
    if let Ok(next) = next
        && rewrite::is_too_long(packet.ip_len(), frame, next)
    {
        return Verdict::Drop(DropReason::TxTooLong);
    }
    rewrite::quoted::<I>(frame, packet, &entry.translation);
    send(frame, next)
}

/// An ICMP error about a flow that this worker does not have: another one may have it. `key` is the error's own.
fn about_no_flow<A: Address>(shared: &Shared, packet: &Packet<A>, key: FlowKey<A>, tables: &Tables) -> Verdict {
    if let Ok(destination) = Destination::of(packet, tables)
        && let Err(hand_over) = here(shared, packet, destination, tables)
    {
        return hand_over;
    }
    classify::without_flow(&Packet { key, ..*packet }, tables)
}

/// Whether this worker owns the flow that the packet belongs to or would open; the verdict if another one does.
fn here<A: Address>(shared: &Shared, packet: &Packet<A>, to: Destination, tables: &Tables) -> Result<(), Verdict> {
    let owner = shared.steering.owner(&packet.key, to.towards(), tables.settings());
    if owner == shared.worker { Ok(()) } else { Err(Verdict::HandOver(owner)) }
}

/// The index of the packet's flow, and whether it is a new one.
#[inline]
fn flow<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    other: &mut dyn Room,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Result<(u32, bool), Verdict> {
    match known(&mut lane.flows, packet, tables, now) {
        Some(index) => within_hop_limit(packet).map(|()| (index, false)),
        None => new_flow(shared, lane, other, packet, tables, now).map(|index| (index, true)),
    }
}

/// Whether the packet may go one hop further (RFC 1812 §5.3.1, RFC 8200 §3).
#[inline]
fn within_hop_limit<A>(packet: &Packet<A>) -> Result<(), Verdict> {
    match packet.hop_limit {
        0 | 1 => Err(Verdict::Refuse(DropReason::TtlExpired, Refusal::TimeExceeded)),
        2.. => Ok(()),
    }
}

/// The index of the flow that the packet belongs to, if there is one and it still holds.
#[inline]
fn known<A: Address>(flows: &mut FlowTable<A>, packet: &Packet<A>, tables: &Tables, now: Instant) -> Option<u32> {
    let index = flows.confirm(packet.candidate, packet.hash, &packet.key)?;
    // The sweeper may not have come by: a worker that slept wakes up with this very packet.
    if flows.expire(index, now.ticks()) {
        return None;
    }
    let is_syn = !packet.is_ordinary() && packet.signal() == Signal::Syn;
    let holds = match is_syn {
        true => holds_after_syn(flows, index, tables),
        false => is_checked(flows.entry(index), tables) || open::still_serves(flows, index, tables),
    };
    if holds {
        return Some(index);
    }
    flows.close(index);
    None
}

/// Whether the flow goes on after a SYN; if not, the SYN opens another one. Its backend decides what becomes of the SYN, as long as
/// it serves: a connection that was reset may still be alive, since a blind RST may have hit. If the backend neither
/// replies nor serves, the SYN opens a new flow.
#[cold]
fn holds_after_syn<A: Address>(flows: &mut FlowTable<A>, index: u32, tables: &Tables) -> bool {
    let state = flows.entry(index).state;
    match (state.side(), state.life()) {
        (Side::Client, Life::Closing) => false,
        (Side::Client, Life::Opening { replied: false, .. } | Life::Reset { .. }) => {
            open::still_serves(flows, index, tables)
        }
        (Side::Client, Life::Established { .. }) => !flows.is_silent(index) || open::still_serves(flows, index, tables),
        (Side::Backend, _) | (_, Life::Opening { .. }) => true,
    }
}

/// Whether the flow's backend need not be looked up again: a TCP connection keeps it for as long as it lasts, a UDP flow for as
/// long as the tables are the same. Only the client's packets ask.
#[inline]
pub(crate) fn is_checked<A: Address>(entry: &Entry<A>, tables: &Tables) -> bool {
    match entry.protocol() {
        Some(Protocol::Tcp | Protocol::Sctp) | None => true,
        Some(Protocol::Udp) => entry.state.side() == Side::Backend || entry.mark == open::low(tables.generation()),
    }
}

/// Classify, steer, select: what the flow that the packet opens gets. Changes nothing; a trace asks the same.
#[inline]
pub(crate) fn choose<A: Address>(
    shared: &Shared,
    packet: &Packet<A>,
    tables: &Tables,
    now: Instant,
) -> Result<Choice, Verdict> {
    let destination = Destination::of(packet, tables)?;
    here(shared, packet, destination, tables)?;
    choose_for(destination, shared, packet, tables, now)
}

/// The same for a packet to this destination, which is this worker's.
#[inline]
fn choose_for<A: Address>(
    destination: Destination,
    shared: &Shared,
    packet: &Packet<A>,
    tables: &Tables,
    now: Instant,
) -> Result<Choice, Verdict> {
    let frontend = classify::new_flow(packet, destination, tables)?;
    let choice = select::choose(packet, frontend, tables, &shared.affinity, now.ticks())?;
    within_hop_limit(packet)?;
    Ok(choice)
}

/// Choose, then open, unless new flows are shed. Returns the index of the new flow.
#[cold]
fn new_flow<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    other: &mut dyn Room,
    packet: &Packet<I::Address>,
    tables: &Tables,
    now: Instant,
) -> Result<u32, Verdict> {
    let destination = Destination::of(packet, tables)?;
    here(shared, packet, destination, tables)?;
    let class = Class::of(packet.transport);
    if destination != Destination::Unowned && shared.shedding.sheds(class, packet.hash.value(), now) {
        return Err(Verdict::Drop(DropReason::Overload));
    }
    let choice = choose_for(destination, shared, packet, tables, now)?;
    let index = open::flow(shared, &mut lane.flows, other, packet, &choice, tables, now)?;
    if let Some(timeout) = choice.affinity {
        let client = Client { service: choice.service, address: packet.key.src.into() };
        shared.note(client, Endpoint::new(choice.slot, &choice.backend), timeout, false, now.ticks());
    }
    Ok(index)
}

/// Finds the next hop and applies the flow's translation.
#[inline]
fn translate<I: Ip>(
    shared: &mut Shared,
    lane: &mut Lane<I>,
    frame: &mut Frame,
    packet: &Packet<I::Address>,
    (index, is_new): (u32, bool),
    tables: &Tables,
    now: Instant,
) -> (Verdict, Account) {
    let opened = Account::of(lane.flows.entry(index), 0, u8::from(is_new));
    let was_opening = lane.flows.entry(index).state.life().is_opening();
    let entry = match packet.transport {
        Transport::Sctp(message) => lane.flows.touch_association(index, now.ticks(), &message),
        Transport::Tcp | Transport::Udp | Transport::Icmp(_) | Transport::Other => {
            lane.flows.touch(index, now.ticks(), &packet.segment)
        }
    };
    if was_opening && shared.affinity.is_used() {
        confirmed(shared, entry, tables, now.ticks());
    }
    let next = lane.next_hops.of(entry, tables.net());
    if let Ok(next) = next
        && rewrite::is_too_long(packet.ip_len(), frame, next)
    {
        return (shared.refusals.limit(reject::too_big::<I>(frame, next.mtu), packet.key.src, now), opened);
    }
    rewrite::translate::<I>(frame, packet, &entry.translation);
    (send(frame, next), Account { packets: 1, ..opened })
}

/// The verdict on a translated packet; addresses its frame if the next hop is known.
#[inline]
fn send(frame: &mut Frame, next: Result<&NextHop, NoNextHop>) -> Verdict {
    if let Ok(next) = next {
        rewrite::address(frame, next);
    }
    towards(next)
}

/// The verdict on a packet with this next hop.
#[inline]
pub(crate) fn towards(next: Result<&NextHop, NoNextHop>) -> Verdict {
    match next {
        Ok(next) => Verdict::Send(next.port),
        Err(NoNextHop::Neighbour(_)) => Verdict::Pend,
        Err(error) => Verdict::Drop(pending::reason(error)),
    }
}

/// Notes which endpoint the client keeps, if its packet has confirmed the flow: only a client that exists can do that.
#[cold]
fn confirmed<A: Address>(shared: &mut Shared, entry: &Entry<A>, tables: &Tables, now: Ticks) {
    match (entry.state.side(), entry.state.life()) {
        (Side::Client, Life::Established { .. }) => {}
        (Side::Client, Life::Opening { .. } | Life::Reset { .. } | Life::Closing) | (Side::Backend, _) => return,
    }
    let service = tables.service_by_id(entry.service_id());
    if let Some(timeout) = service.and_then(|service| service.client_ip_affinity) {
        let client = Client { service: entry.service_id(), address: entry.key.src.into() };
        let endpoint = Endpoint { slot: entry.backend, incarnation: entry.backend_incarnation };
        shared.note(client, endpoint, timeout, true, now);
    }
}
