//! What may leave the gateway, said a second time: by the rules of Kubernetes and the RFCs, with no code of the gateway.
//!
//! Every frame that leaves must follow from one that came, and from each at most one: as
//!
//! * the same packet with another source and destination, both of them those of one flow: one that is known, or one that the rules
//!   of Kubernetes allow a new client ([`super::site::Frontend::expected`]). One hop less, sums off by as much as they were, all other bytes the same;
//! * an ICMP error about a packet of a known flow, translated inside and outside;
//! * a reply to its sender: echo, DNS, ARP, neighbour advertisement, or a refusal.
//!
//! The counters must say the same as the frames, after every step.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketHeaders;
use pollgate_dataplane::port::memory::Packet;

use super::site::{DNS, Expected, Frontend, MTU, OWN, STATES, Sums, dns, gateway, is_owned, link};
use super::view::{ETHERNET, ICMP, Out, SCTP, TCP, UDP, View};

/// A flow that has been seen: what the client sends becomes what the backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) protocol: u8,
    pub(super) client: SocketAddr,
    pub(super) frontend: SocketAddr,
    /// What the backend sees as the source.
    pub(super) source: SocketAddr,
    pub(super) backend: SocketAddr,
}

/// A frame that came.
struct Came {
    port: usize,
    packet: Packet,
    /// The state of the cluster at that time.
    state: usize,
    /// Whether something has left because of it.
    is_used: bool,
}

/// What a frame that left is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// One that came, changed.
    Passed,
    /// Made by the gateway: the one that came counts as dropped.
    Originated,
}

/// Why something cannot be.
type Fault = String;

/// What has been seen.
#[derive(Default)]
pub(super) struct Checker {
    came: Vec<Came>,
    flows: Vec<Flow>,
    /// Whether the flow, while it lasts, must stay as it is; beside `flows`.
    is_firm: Vec<bool>,
    removed: u64,
    came_bytes: u64,
    left: u64,
    left_bytes: u64,
    originated: u64,
}

fn require(holds: bool, otherwise: impl FnOnce() -> Fault) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Checker {
    pub(super) fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Notes a frame that comes by an interface.
    pub(super) fn comes(&mut self, port: usize, packet: &Packet, state: usize) {
        self.came_bytes += packet.bytes.len() as u64;
        self.loosen_by(&packet.bytes);
        self.came.push(Came { port, packet: packet.clone(), state, is_used: false });
    }

    /// From now on any flow may have ended: time has passed, or the cluster has changed.
    pub(super) fn loosen(&mut self) {
        self.is_firm.fill(false);
    }

    /// A packet that begins or ends a connection: what follows may be another one.
    fn loosen_by(&mut self, bytes: &[u8]) {
        let Some(view) = View::of_frame(bytes) else { return };
        let byte = |at: usize| bytes.get(view.l4 + at).copied().unwrap_or(0);
        let may_end = match view.protocol {
            // FIN, SYN, RST.
            TCP => byte(13) & 7 != 0,
            // All but the chunks of an association that lasts: any of them may be behind the first.
            SCTP => true,
            _ => false,
        };
        let Some((source, destination)) = view.ends(bytes).filter(|_| may_end) else { return };
        for (flow, is_firm) in self.flows.iter().zip(&mut self.is_firm) {
            let is_of = (flow.client, flow.frontend) == (source, destination)
                || (flow.backend, flow.source) == (source, destination);
            *is_firm &= !is_of;
        }
    }

    /// Checks what has left since the last call, and what the counters say then.
    pub(super) fn check(&mut self, out: &[Out], sums: &Sums, state: usize) -> Result<(), Fault> {
        if sums.removed != self.removed {
            self.removed = sums.removed;
            self.loosen();
        }
        // A reset or ABORT says less than other frames of what it follows from: they come last.
        let (made, others): (Vec<&Out>, Vec<&Out>) = out.iter().partition(|out| is_made(&out.packet.bytes));
        for out in others.into_iter().chain(made) {
            self.left += 1;
            self.left_bytes += out.packet.bytes.len() as u64;
            match self
                .explain(out, state)
                .map_err(|fault| format!("{fault}\nleft by {}: {:02x?}", out.port, out.packet))?
            {
                Is::Passed => {}
                Is::Originated => self.originated += 1,
            }
        }
        self.count(sums)
    }

    fn count(&self, sums: &Sums) -> Result<(), Fault> {
        let Sums { rx, rx_bytes, originated, tx, tx_bytes, passed, consumed, dropped, waiting, .. } = *sums;
        let came = (self.came.len() as u64, self.came_bytes);
        require((rx, rx_bytes) == came, || format!("{came:?} came: {sums:?}"))?;
        let left = (self.left, self.left_bytes);
        require((tx, tx_bytes) == left, || format!("{left:?} left: {sums:?}"))?;
        require(originated == self.originated, || format!("{} were originated: {sums:?}", self.originated))?;
        let accounted = tx + passed + consumed + dropped + waiting;
        require(rx + originated == accounted, || format!("frames are not accounted for: {sums:?}"))
    }

    /// Finds the frame that `out` follows from.
    fn explain(&mut self, out: &Out, state: usize) -> Result<Is, Fault> {
        let mut why = vec!["nothing that came explains it".to_owned()];
        for at in (0..self.came.len()).rev() {
            let came = &self.came[at];
            if came.is_used {
                continue;
            }
            match self.follows(came, out, state) {
                Ok((is, new)) => {
                    self.came[at].is_used = true;
                    if let Some(flow) = new {
                        self.flows.push(flow);
                        self.is_firm.push(flow.protocol != SCTP);
                    }
                    return Ok(is);
                }
                Err(fault) if !fault.is_empty() => {
                    why.push(format!("{fault}\ncame by {}: {:02x?}", came.port, came.packet))
                }
                Err(_) => {}
            }
        }
        why.truncate(6);
        Err(why.join("\n"))
    }

    /// Whether `out` follows from `came`, and the flow that this opens. An empty fault: they have nothing in common.
    fn follows(&self, came: &Came, out: &Out, state: usize) -> Result<(Is, Option<Flow>), Fault> {
        let (before, after) = (&came.packet.bytes, &out.packet.bytes);
        let Some(q) = View::of_frame(after) else {
            return is_arp_reply(came, out).map(|()| (Is::Passed, None));
        };
        let p = View::of_frame(before).ok_or_else(Fault::new)?;
        require(p.is_v4() == q.is_v4(), Fault::new)?;
        require(q.end <= after.len() && q.header_is_right(after), || format!("the IP header of {q:?} is wrong"))?;
        if q.is_icmp() && p.is_icmp() && after.get(q.l4) == Some(&136) && !q.is_v4() {
            return is_advertisement(came, out, &p, &q).map(|()| (Is::Passed, None));
        }
        if is_refusal(before, &p, after, &q) {
            is_sent_back(came, out)?;
            return refusal(before, &p, after, &q).map(|()| (Is::Originated, None));
        }
        let is_asked =
            p.is_icmp() && !p.is_error(before) || p.protocol == UDP && p.destination == dns(usize::from(!p.is_v4()));
        if is_asked && q.source == p.destination && q.destination == p.source {
            is_sent_back(came, out)?;
            return reply(before, &p, after, &q).map(|()| (Is::Passed, None));
        }
        let new = self.translated(came, &p, out, &q, state)?;
        goes_on(out, &q)?;
        Ok((Is::Passed, new))
    }

    fn translated(&self, came: &Came, p: &View, out: &Out, q: &View, state: usize) -> Result<Option<Flow>, Fault> {
        let (before, after) = (&came.packet.bytes, &out.packet.bytes);
        require((p.protocol, p.l4, p.end) == (q.protocol, q.l4, q.end), Fault::new)?;
        let is_error = p.is_error(before) && q.is_error(after);
        // With what is behind the packet.
        require(before.len() == after.len(), || "it has another length".to_owned())?;
        let mut expected = before.clone();
        let (from, to) = q.ends(after).ok_or("no ports")?;
        expected[..12].copy_from_slice(&after[..12]);
        q.set_ends(&mut expected, from, to);
        expected[p.hops_at()] = p.hops.checked_sub(1).ok_or("no hops are left")?;
        keep(&mut expected, after, p, q);
        if is_error {
            keep_quoted(&mut expected, after, p, q);
        }
        if p.is_fragment
            && let Some((at, size)) = p.identification
        {
            expected[at..at + size].copy_from_slice(&after[at..at + size]);
        }
        require(expected == *after, || difference(&expected, after))?;
        if is_error {
            sums_are_kept(came, p, out, q)?;
            return self.error_is_translated(before, p, after, q).map(|()| None);
        }
        let mine = p.ends(before).ok_or("no ports")?;
        let new = if p.has_ports() {
            self.flow_of(p.protocol, mine, (from, to), [state, came.state])?
        } else {
            require(self.is_later(p, q), || format!("no flow translates the fragment {p:?} to {q:?}"))?;
            None
        };
        sums_are_kept(came, p, out, q)?;
        Ok(new)
    }

    /// The new flow, if the packet is not of a known one.
    fn flow_of(
        &self,
        protocol: u8,
        (source, destination): (SocketAddr, SocketAddr),
        (from, to): (SocketAddr, SocketAddr),
        states: [usize; 2],
    ) -> Result<Option<Flow>, Fault> {
        let reply = Flow { protocol, client: to, frontend: from, source: destination, backend: source };
        if self.flows.contains(&reply) {
            return Ok(None);
        }
        if self.may_be_there(&reply) {
            return Ok(Some(reply));
        }
        let flow = Flow { protocol, client: source, frontend: destination, source: from, backend: to };
        // One that waited for a MAC had its endpoint before the cluster changed.
        let [now, then] = states.map(|state| self.allows(&flow, state));
        let allowed = now.or(then);
        // A UDP flow leaves an endpoint that is gone; connections stay.
        if self.flows.contains(&flow) && (protocol != UDP || allowed.is_ok()) {
            return Ok(None);
        }
        let is_same = |known: &Flow| (known.protocol, known.client, known.frontend) == (protocol, source, destination);
        let mut firm = self.flows.iter().zip(&self.is_firm).filter(|(known, is_firm)| is_same(known) && **is_firm);
        match firm.next() {
            Some((known, _)) => Err(format!("{flow:?}, although there is {known:?}")),
            None => allowed.map(|()| Some(flow)),
        }
    }

    /// Whether the rules allow a new client this flow.
    fn allows(&self, flow: &Flow, state: usize) -> Result<(), Fault> {
        let Flow { protocol, client, frontend: at, source, backend } = *flow;
        let frontend = Frontend::all().iter().find(|it| it.at == at && it.service.protocol == protocol);
        let frontend = frontend.ok_or_else(|| format!("no flow, and no Service: {flow:?}"))?;
        let Expected { backends, is_translated } = frontend.expected(state, client.ip());
        require(backends.contains(&backend), || format!("{flow:?}, and the endpoints are {backends:?}"))?;
        // A Pod that reaches itself would answer itself.
        if is_translated || client.ip() == backend.ip() {
            let is_gateway = source.ip() == gateway(usize::from(source.is_ipv6()));
            return require(is_gateway && (1024..=29_999).contains(&source.port()), || format!("the source: {flow:?}"));
        }
        // The endpoint may know the client's address and port from another Service already: the replies would look alike.
        let is_taken = self.came.iter().any(|came| is_to_another(&came.packet.bytes, protocol, client, at));
        let is_renamed = is_taken && source.ip() == client.ip() && source.port() >= 1024;
        require(source == client || is_renamed, || format!("the source is not to be translated: {flow:?}"))
    }

    /// Whether the flow may be there although no packet of it has left, since they were too long, or wait for a MAC.
    fn may_be_there(&self, flow: &Flow) -> bool {
        let is_of = |came: &Came| {
            let bytes = &came.packet.bytes;
            let view = View::of_frame(bytes).filter(|view| view.protocol == flow.protocol);
            view.and_then(|view| view.ends(bytes)) == Some((flow.client, flow.frontend))
        };
        (0..STATES).any(|state| self.allows(flow, state).is_ok()) && self.came.iter().any(is_of)
    }

    /// Whether a known flow translates these addresses so.
    fn is_later(&self, p: &View, q: &View) -> bool {
        let (came, left) = ((p.source, p.destination), (q.source, q.destination));
        let of_icmp = p.is_icmp();
        self.flows.iter().any(|flow| {
            let Flow { protocol, client, frontend, source, backend } = *flow;
            let [client, frontend, source, backend] = [client, frontend, source, backend].map(|end| end.ip());
            let there = came == (client, frontend) && left == (source, backend);
            let back = came == (backend, source) && left == (frontend, client);
            if of_icmp {
                let outer = |known: IpAddr, shown: IpAddr| if p.source == known { shown } else { p.source };
                let to_client = p.destination == source && left == (outer(backend, frontend), client);
                let to_backend = p.destination == frontend && left == (outer(client, source), backend);
                return to_client || to_backend;
            }
            // Behind an extension header, the protocol is in the first fragment alone.
            (protocol == p.protocol || !p.is_v4()) && (there || back)
        }) || self.may_be_later((p.source, p.destination), (q.source, q.destination))
    }

    /// The same for a flow of which no packet with ports has left.
    fn may_be_later(&self, came: (IpAddr, IpAddr), left: (IpAddr, IpAddr)) -> bool {
        let is_of = |client: IpAddr, frontend: IpAddr, source: IpAddr, backend: IpAddr| {
            let has_come = |it: &Frontend| {
                self.came.iter().any(|came| {
                    let bytes = &came.packet.bytes;
                    let ends = View::of_frame(bytes).and_then(|view| view.ends(bytes));
                    ends.is_some_and(|(from, to)| from.ip() == client && to == it.at)
                })
            };
            let serves = |it: &Frontend| {
                (0..STATES).any(|state| it.expected(state, client).backends.iter().any(|end| end.ip() == backend))
            };
            let is_source = source == client || source == gateway(usize::from(source.is_ipv6()));
            is_source && Frontend::all().iter().any(|it| it.at.ip() == frontend && serves(it) && has_come(it))
        };
        is_of(came.0, came.1, left.0, left.1) || is_of(left.1, left.0, came.1, came.0)
    }

    /// RFC 5508 §4.2: what is quoted is what the receiver has sent.
    fn error_is_translated(&self, before: &[u8], p: &View, after: &[u8], q: &View) -> Result<(), Fault> {
        let (quoted, shown) =
            (p.quoted(before).ok_or("nothing is quoted")?, q.quoted(after).ok_or("nothing is quoted")?);
        let (is, was) = (shown.ends(after).ok_or("no ports")?, quoted.ends(before).ok_or("no ports")?);
        let protocol = quoted.protocol;
        let outer = |known: SocketAddr, shown: SocketAddr| if p.source == known.ip() { shown.ip() } else { p.source };
        let is_known = |flow: &Flow| self.flows.contains(flow) || self.may_be_there(flow);
        let to_client = Flow { protocol, client: is.0, frontend: is.1, source: was.0, backend: was.1 };
        let to_backend = Flow { protocol, client: was.1, frontend: was.0, source: is.1, backend: is.0 };
        let holds = match (is_known(&to_client), is_known(&to_backend)) {
            (true, _) => {
                let Flow { client, frontend, source, backend, .. } = to_client;
                p.destination == source.ip() && (q.source, q.destination) == (outer(backend, frontend), client.ip())
            }
            (_, true) => {
                let Flow { client, frontend, source, backend, .. } = to_backend;
                p.destination == frontend.ip() && (q.source, q.destination) == (outer(client, source), backend.ip())
            }
            (false, false) => false,
        };
        require(holds, || format!("no flow: the quoted {was:?} has become {is:?}"))
    }
}

/// Whether the frame is of the same client, to another destination.
fn is_to_another(frame: &[u8], protocol: u8, source: SocketAddr, destination: SocketAddr) -> bool {
    let view = View::of_frame(frame).filter(|view| view.protocol == protocol);
    let ends = view.and_then(|view| view.ends(frame));
    ends.is_some_and(|(from, to)| from == source && to != destination)
}

/// Whether the gateway has written the frame itself, to refuse a packet of TCP or SCTP.
fn is_made(frame: &[u8]) -> bool {
    let view = View::of_frame(frame).filter(|view| view.hops == 64 && [TCP, SCTP].contains(&view.protocol));
    view.is_some_and(|view| is_owned(view.source))
}

/// Takes over the sums, which are checked by themselves.
fn keep(expected: &mut [u8], after: &[u8], p: &View, q: &View) {
    if p.is_v4() {
        let sum = p.start + 10..p.start + 12;
        expected[sum.clone()].copy_from_slice(&after[sum]);
    }
    if let Some(sum) = q.sum()
        && let (Some(to), Some(from)) = (expected.get_mut(sum.clone()), after.get(sum))
    {
        to.copy_from_slice(from);
    }
}

/// The same inside an ICMP error, with the addresses and ports.
fn keep_quoted(expected: &mut [u8], after: &[u8], p: &View, q: &View) {
    let (Some(quoted), Some(shown)) = (p.quoted(expected), q.quoted(after)) else { return };
    if let Some((from, to)) = shown.ends(after)
        && quoted.l4 == shown.l4
    {
        shown.set_ends(expected, from, to);
        keep(expected, after, &quoted, &shown);
    }
}

/// All sums are off by as much as they were: those that were right are right.
fn sums_are_kept(came: &Came, p: &View, out: &Out, q: &View) -> Result<(), Fault> {
    let (before, after) = (&came.packet.bytes, &out.packet.bytes);
    let (left, right) = (came.packet.offload, out.packet.offload);
    if p.is_later {
        return Ok(());
    }
    let off = |kind: &str| format!("the {kind} of {q:?} is off");
    if p.protocol == SCTP {
        if p.is_fragment || p.end > before.len() {
            return Ok(());
        }
        if left.is_partial() {
            return require(!right.is_partial() && q.crc_residue(after) == Some(0), || off("CRC32c"));
        }
        let is_none = |bytes: &[u8], view: &View| view.sum().is_some_and(|at| bytes[at].iter().all(|byte| *byte == 0));
        let (was, is) = (p.crc_residue(before), q.crc_residue(after));
        // A sender that has computed none has set it to zero (RFC 9653).
        let stays_none = is_none(before, p) && is_none(after, q) && was != Some(0);
        return require(stays_none || was == is, || off("CRC32c"));
    }
    require(left == right, || format!("the work left to offload has become {right:?}"))?;
    if left.is_partial() && !p.is_icmp() {
        return require(p.partial_residue(before) == q.partial_residue(after), || off("partial sum"));
    }
    let is_none = |bytes: &[u8], view: &View| view.sum().and_then(|at| bytes.get(at)) == Some(&[0, 0]);
    if p.protocol == UDP && is_none(before, p) {
        return require(is_none(after, q), || "a UDP sum has come from nothing".to_owned());
    }
    require(p.protocol != UDP || !is_none(after, q), || "a UDP sum has gone".to_owned())?;
    require(p.residue(before) == q.residue(after), || off("sum"))?;
    let (Some(quoted), Some(shown)) = (p.quoted(before), q.quoted(after)) else { return Ok(()) };
    if !p.is_error(before) {
        return Ok(());
    }
    require(quoted.header_is_right(before) == shown.header_is_right(after), || off("quoted header's sum"))?;
    let end = p.end.min(before.len());
    let has_sum = quoted.sum().is_some_and(|at| at.end <= end);
    let inner = |bytes: &[u8], view: &View| view.residue(&bytes[..end]);
    let is_zero = quoted.protocol == UDP && is_none(before, &quoted);
    let is_internet = [TCP, UDP].contains(&quoted.protocol);
    require(!has_sum || is_zero || !is_internet || inner(before, &quoted) == inner(after, &shown), || off("quoted sum"))
}

/// It goes to the next hop of its destination, and is not longer than the link allows.
fn goes_on(out: &Out, q: &View) -> Result<(), Fault> {
    let (port, mac) = link(q.destination);
    let bytes = &out.packet.bytes;
    require(out.port == port, || format!("it belongs to interface {port}"))?;
    require(bytes[..6] == mac && bytes[6..12] == OWN[port], || {
        format!("the MACs: expected {mac:02x?} and the interface's")
    })?;
    let is_short = q.end - ETHERNET <= MTU[port] || out.packet.offload.is_gso();
    require(is_short, || "it is longer than the link's MTU".to_owned())
}

/// It goes where the frame came from, with the interface's own MAC.
fn is_sent_back(came: &Came, out: &Out) -> Result<(), Fault> {
    let (before, after) = (&came.packet.bytes, &out.packet.bytes);
    let is_back = out.port == came.port && after[..6] == before[6..12] && after[6..12] == OWN[out.port];
    require(is_back, || "a reply leaves by the interface that the packet came by, to its sender".to_owned())
}

/// RFC 826, for an owned address.
fn is_arp_reply(came: &Came, out: &Out) -> Result<(), Fault> {
    let (p, q) = (&came.packet.bytes, &out.packet.bytes);
    require(p.len() >= 42 && q.len() >= 42 && p[12..14] == [8, 6] && q[12..14] == [8, 6], Fault::new)?;
    let asked = IpAddr::from(<[u8; 4]>::try_from(&p[38..42]).expect("four"));
    require(is_owned(asked), Fault::new)?;
    is_sent_back(came, out)?;
    let own = OWN[out.port];
    let reply = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &own, &p[38..42], &p[22..32]].concat();
    require(q[14..42] == reply, || format!("an ARP reply that is not {reply:02x?}"))?;
    require(q.len() == p.len(), || "it has another length".to_owned())
}

/// RFC 4861 §4.4, for an owned address.
fn is_advertisement(came: &Came, out: &Out, p: &View, q: &View) -> Result<(), Fault> {
    let (before, after) = (&came.packet.bytes, &out.packet.bytes);
    require(before.get(p.l4) == Some(&135) && p.hops == 255, Fault::new)?;
    let (asked, told) = (before.get(p.l4 + 8..p.l4 + 24), after.get(q.l4 + 8..q.l4 + 24));
    require(asked == told, Fault::new)?;
    let target = asked.and_then(|asked| <[u8; 16]>::try_from(asked).ok()).ok_or("no target")?;
    require(is_owned(IpAddr::from(target)), || "an advertisement of an address that is not owned".to_owned())?;
    let option = [&[2, 1][..], &OWN[out.port]].concat();
    let is_right = q.hops == 255 && q.residue(after) == 0 && after.get(q.l4 + 24..q.end) == Some(&option);
    require(is_right && out.port == came.port, || "an advertisement that is wrong".to_owned())
}

/// Whether the packet that left refuses the one that came.
fn is_refusal(before: &[u8], p: &View, after: &[u8], q: &View) -> bool {
    if q.destination != p.source || !sound(after) {
        return false;
    }
    // Addresses alone do not tell: those of a Pod that reaches itself by a gateway address are the same on both sides of the gateway.
    let is_back = q.protocol == p.protocol && q.ends(after) == p.ends(before).map(|(from, to)| (to, from));
    match q.protocol {
        TCP => is_back && after.get(q.l4 + 13).is_some_and(|flags| flags & 4 != 0) && q.end - q.l4 == 20,
        // ABORT, or SHUTDOWN COMPLETE for one that has shut down (RFC 9260 §8.4).
        SCTP => is_back && after.get(q.l4 + 12).is_some_and(|kind| [6, 14].contains(kind)) && q.end - q.l4 == 16,
        protocol if ICMP.contains(&protocol) => {
            q.is_error(after) && !p.is_error(before) && q.source == gateway(usize::from(!q.is_v4()))
        }
        _ => false,
    }
}

fn refusal(before: &[u8], p: &View, after: &[u8], q: &View) -> Result<(), Fault> {
    match q.protocol {
        TCP | SCTP => {
            let right = match q.protocol {
                TCP => q.residue(after) == 0 && resets(&before[p.l4..p.end], &after[q.l4..]),
                _ => q.crc_residue(after) == Some(0),
            };
            require(right, || "a refusal with a wrong sum".to_owned())
        }
        _ => {
            require(q.residue(after) == 0, || "an ICMP error with a wrong sum".to_owned())?;
            let quoted = &after[q.l4 + 8..q.end];
            require(before[ETHERNET..].starts_with(quoted), || "it does not quote the packet that came".to_owned())?;
            let most = if q.is_v4() { 576 } else { 1280 };
            require(q.end - ETHERNET <= most && !quoted.is_empty(), || "it quotes too much, or nothing".to_owned())
        }
    }
}

/// RFC 9293 §3.10.7.1: the numbers of a reset are those that the segment's sender expects.
fn resets(segment: &[u8], reset: &[u8]) -> bool {
    // A first fragment may be shorter: nothing is sent back for one that does not hold its header.
    if segment.len() < 20 {
        return false;
    }
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"));
    let (flags, header) = (segment[13], usize::from(segment[12] >> 4) * 4);
    if flags & 16 != 0 {
        return word(reset, 4) == word(segment, 8) && reset[13] == 4;
    }
    let length = segment.len() - header.min(segment.len()) + usize::from(flags & 1) + usize::from(flags >> 1 & 1);
    let next = word(segment, 4).wrapping_add(u32::try_from(length).expect("short"));
    word(reset, 4) == 0 && word(reset, 8) == next && reset[13] == 20
}

/// Echo replies and DNS responses.
fn reply(before: &[u8], p: &View, after: &[u8], q: &View) -> Result<(), Fault> {
    require(p.protocol == q.protocol && is_owned(q.source), || "a reply from an address that is not owned".to_owned())?;
    if p.protocol == UDP {
        return response(before, p, after, q);
    }
    require(p.is_icmp(), || "a reply of a protocol that has none".to_owned())?;
    require((p.l4, p.end) == (q.l4, q.end), || "an echo reply of another length".to_owned())?;
    let mut expected = before.get(..after.len()).ok_or("it has become longer")?.to_vec();
    expected[..12].copy_from_slice(&after[..12]);
    let none = |address| SocketAddr::new(address, 0);
    q.set_ends(&mut expected, none(q.source), none(q.destination));
    expected[p.hops_at()] = 64;
    if !p.is_later {
        let is_request = before.get(p.l4) == Some(&if p.is_v4() { 8 } else { 128 });
        require(is_request, || "a reply to something else than an echo request".to_owned())?;
        expected[q.l4] = if p.is_v4() { 0 } else { 129 };
        require(p.residue(before) == q.residue(after), || "the sum of an echo reply is off".to_owned())?;
    }
    keep(&mut expected, after, p, q);
    require(expected == *after, || difference(&expected, after))
}

/// The message itself is checked by [`super::super::dns`].
fn response(before: &[u8], p: &View, after: &[u8], q: &View) -> Result<(), Fault> {
    let (is, was) = (q.ends(after).ok_or("no ports")?, p.ends(before).ok_or("no ports")?);
    let server = SocketAddr::new(dns(usize::from(!q.is_v4())), DNS);
    require(is == (was.1, was.0) && is.0 == server, || format!("a response from {is:?}"))?;
    require(sound(after) && q.residue(after) == 0, || "a response with a wrong sum".to_owned())?;
    let (query, response) = (&before[p.l4 + 8..p.end], &after[q.l4 + 8..q.end]);
    require(response.len() <= 1232, || "a response that is too long".to_owned())?;
    require(response.get(..2) == query.get(..2) && response[2] & 0x80 != 0, || "no response to this query".to_owned())
}

/// Whether `etherparse` reads the frame to its end.
fn sound(frame: &[u8]) -> bool {
    PacketHeaders::from_ethernet_slice(frame).is_ok_and(|headers| headers.net.is_some())
}

fn difference(expected: &[u8], found: &[u8]) -> Fault {
    let at = expected.iter().zip(found).position(|(a, b)| a != b);
    // Packets that have little in common are no explanation for each other.
    let others = expected.iter().zip(found).filter(|(a, b)| a != b).count();
    if others > 12 { Fault::new() } else { format!("byte {at:?} is not as expected") }
}
