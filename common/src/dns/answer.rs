//! The authoritative answer to a query, from the compiled zone.
//!
//! Rules: RFC 1035 §4.3.2 (the algorithm), RFC 2308 (negative answers carry the SOA), RFC 6891 (EDNS), RFC 8482 (ANY), and the
//! Kubernetes DNS specification for what exists. A name outside the zones is REFUSED.
//!
//! The zone holds records in wire format ([`super::records`]). An answer is a look-up, a copy after the question, and a header. It
//! is written over the query. Every DNS server calls the same functions: the worker in the query's own frame, others in their own
//! buffer.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use super::message::{self, Malformed, Opt, Query, Rcode, SOA_POINTERS, Unreadable};
use super::name::Name;
use super::records::{Node, QUESTION, RECORD, Records, address, head, pointer, rr, srv_weight};
use super::reverse::{Label, Place, Reverse};
use super::zone::{Found, Owner, Zone};

/// The most aliases that are followed.
pub const CHAIN: usize = 10;

/// The data of the HINFO record in place of all records (RFC 8482 §4.2).
const ANY_DATA: &[u8] = b"\x07RFC8482\0";

/// Why a message gets no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The message is not a query: it is too short for a header, or a response.
    NotAQuery,
    /// The buffer is too small for the response.
    NoRoom,
    /// It takes a resolver ([`outside_name`], [`super::relay`]). The query is as it was up to the end of its question.
    Forward,
}

/// The rule that an answer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The name has records, or exists without any of this type.
    Records,
    /// The name is an alias: its record comes first, then those of the name it leads to.
    Alias,
    /// The name spells an endpoint of a Service.
    Endpoint,
    /// The name spells a Pod.
    Pod,
    /// The name exists because names below it do.
    Above,
    /// The name does not exist.
    Missing,
    /// Another domain of the search list of the client's Pod has the name.
    SearchList,
    /// The name is in the reverse zone of a Pod or Service range.
    Reverse,
    /// The objects are not loaded yet.
    NotLoaded,
    /// The name is in no zone of the cluster.
    Outside,
    /// The name, or what it is an alias of, is in no zone of the cluster: other servers are asked.
    Forward,
    /// Another server was asked, and this is its answer.
    Upstream,
    /// No other server gave an answer.
    UpstreamFailed,
    /// Other servers are asked as much as may be.
    Busy,
    /// The class is not IN.
    Class,
    /// Zone transfers are not served.
    Transfer,
    /// The EDNS version is not 0.
    EdnsVersion,
    /// The opcode is not QUERY.
    Opcode,
    /// The query is malformed.
    Malformed(Malformed),
}

impl Rule {
    fn took_a_resolver(self) -> bool {
        matches!(self, Rule::Upstream | Rule::UpstreamFailed | Rule::Busy)
    }

    /// What it says.
    pub fn sentence(self) -> &'static str {
        match self {
            Rule::Records => "the name has records, or exists without any of this type",
            Rule::Alias => "the name is an alias (RFC 1034 §3.6.2)",
            Rule::Endpoint => "the name spells the address of an endpoint of the Service",
            Rule::Pod => "the name spells the address of a Pod (`dns.pods`)",
            Rule::Above => "there are names below it (RFC 8020)",
            Rule::Missing => "no object has this name",
            Rule::SearchList => "another domain of the Pod's search list has it (`dns.autopath`)",
            Rule::Reverse => "the address is in a range of Pods or Services",
            Rule::NotLoaded => "the objects are not loaded yet",
            Rule::Outside => "it is in no zone of the cluster",
            Rule::Forward => "it is in no zone of the cluster: other servers are asked",
            Rule::Upstream => "another server was asked, and this is its answer",
            Rule::UpstreamFailed => "no other server gave an answer",
            Rule::Busy => "other servers are asked as much as may be",
            Rule::Class => "its class is not IN",
            Rule::Transfer => "zones are not transferred",
            Rule::EdnsVersion => "its EDNS version is not 0 (RFC 6891 §6.1.3)",
            Rule::Opcode => "its opcode is not QUERY",
            Rule::Malformed(_) => "the query is malformed (RFC 1035 §4.1)",
        }
    }
}

/// A response that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its length in bytes.
    pub len: usize,
    /// Its code.
    pub rcode: Rcode,
    /// Whether records were left out, so that the client asks by TCP.
    pub truncated: bool,
    /// Number of records in its answer section.
    pub answers: u16,
    /// Why it is what it is.
    pub rule: Rule,
}

/// Overwrites the query in the first `len` bytes of `buffer` with its response. `client`, if known, is asked for its search list.
///
/// # Errors
/// If there is no response.
pub fn answer(buffer: &mut [u8], len: usize, zone: &Zone, client: Option<IpAddr>) -> Result<Answered, NoAnswer> {
    let mut query = Query::default();
    query.read(buffer, len, zone.names().seed()).ok_or(NoAnswer::NotAQuery)?;
    respond(&query, buffer, zone, client)
}

/// The same for a query that was read from `buffer`.
///
/// # Errors
/// If there is no room.
#[inline]
pub fn respond(query: &Query, buffer: &mut [u8], zone: &Zone, client: Option<IpAddr>) -> Result<Answered, NoAnswer> {
    let mut writer = Writer::new(query, buffer);
    let result = match query.unreadable {
        None => resolve(query, &mut writer, zone, client),
        Some(Unreadable::Malformed(how)) => Outcome::error(Rcode::FormErr, Rule::Malformed(how)),
        Some(Unreadable::Opcode) => Outcome::error(Rcode::NotImp, Rule::Opcode),
    };
    if result.rule == Rule::Forward {
        return Err(NoAnswer::Forward);
    }
    writer.finish(query, result)
}

/// The same for a query that could not be forwarded, or to no avail: SERVFAIL.
///
/// # Errors
/// If there is no room.
#[cold]
pub fn fail(query: &Query, buffer: &mut [u8], rule: Rule) -> Result<Answered, NoAnswer> {
    Writer::new(query, buffer).finish(query, Outcome::error(Rcode::ServFail, rule))
}

/// The name outside the zones that `name` is, or leads to as an alias, if other servers are to be asked for it, and which
/// ([`super::zone::ZoneSettings::forwarded`]). `alias` gets each name on the way.
#[cold]
pub fn outside_name(zone: &Zone, mut name: Name, mut alias: impl FnMut(&Name)) -> Option<(Name, usize)> {
    for _ in 0..CHAIN {
        if !zone.holds(&name) {
            let is_reverse = Reverse::read(&name).is_some_and(|name| is_ours(zone, &name));
            let at = zone.settings().forwarded(&name).filter(|_| !is_reverse)?;
            return Some((name, at));
        }
        let (Found::Node(node) | Found::Port(node)) = zone.find(&name) else { return None };
        let target = node.answer(rr::CNAME).filter(|records| records.rtype == rr::CNAME)?;
        name = Name::of(&[target.data()?], zone.names().seed())?;
        alias(&name);
    }
    None
}

fn is_ours(zone: &Zone, name: &Reverse) -> bool {
    zone.settings().reverse.iter().any(|net| name.within(net).is_some())
}

/// Overwrites a query that was read from `buffer` with an empty response that is marked as truncated: the client is to ask by TCP.
///
/// # Errors
/// If there is no room.
pub fn slip(query: &Query, buffer: &mut [u8]) -> Result<Answered, NoAnswer> {
    let mut writer = Writer::new(query, buffer);
    writer.truncated = true;
    writer.finish(query, Outcome::of(Rcode::NoError, Rule::Records))
}

/// A response code, and why.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    rcode: Rcode,
    authoritative: bool,
    rule: Rule,
}

impl Outcome {
    pub(super) fn of(rcode: Rcode, rule: Rule) -> Outcome {
        Outcome { rcode, authoritative: true, rule }
    }

    pub(super) fn error(rcode: Rcode, rule: Rule) -> Outcome {
        Outcome { rcode, authoritative: false, rule }
    }
}

#[inline]
fn resolve(query: &Query, writer: &mut Writer<'_>, zone: &Zone, client: Option<IpAddr>) -> Outcome {
    if query.edns.is_some_and(|opt| opt.version() != 0) {
        return Outcome::error(Rcode::BadVers, Rule::EdnsVersion);
    }
    if query.class != message::IN {
        return Outcome::error(Rcode::Refused, Rule::Class);
    }
    if matches!(query.rtype, rr::AXFR | rr::IXFR) {
        return Outcome::error(Rcode::Refused, Rule::Transfer);
    }
    match zone.find(&query.name) {
        Found::Node(node) => prepared(query, writer, zone, node),
        Found::Missing => missing(query, writer, zone, client),
        Found::Port(node) => port(query, writer, zone, node),
        Found::Endpoint(address, ports) => spelled(query, writer, zone, address, ports, Rule::Endpoint),
        Found::Pod(address) => spelled(query, writer, zone, address, &[], Rule::Pod),
        Found::Empty => denied(query, writer, zone, Rcode::NoError, Rule::Above),
        Found::Unknown => denied(query, writer, zone, Rcode::ServFail, Rule::NotLoaded),
        Found::Outside => outside(query, writer, zone),
    }
}

/// The name has a node.
#[inline]
fn prepared(query: &Query, writer: &mut Writer<'_>, zone: &Zone, node: &Node) -> Outcome {
    match node.answer(query.rtype) {
        Some(records) if records.rtype == rr::CNAME => alias(query, writer, zone, &records),
        Some(records) => {
            writer.records(query, &records);
            Outcome::of(Rcode::NoError, Rule::Records)
        }
        None => without_records(query, writer, zone, node.sets().next().is_some()),
    }
}

/// The name exists, and has no set of this type. `has_any`: it has others.
fn without_records(query: &Query, writer: &mut Writer<'_>, zone: &Zone, has_any: bool) -> Outcome {
    let is_apex = query.name.len() == zone.settings().origin.len();
    match query.rtype {
        rr::ANY if has_any => writer.any(zone.settings().ttl),
        rr::SOA if is_apex => writer.soa(ANSWER, zone, message::LEN),
        _ => writer.denial(query, zone),
    }
    Outcome::of(Rcode::NoError, Rule::Records)
}

/// The name does not exist.
#[inline]
fn missing(query: &Query, writer: &mut Writer<'_>, zone: &Zone, client: Option<IpAddr>) -> Outcome {
    if zone.settings().autopath && search(query, writer, zone, client).is_some() {
        return Outcome::of(Rcode::NoError, Rule::SearchList);
    }
    denied(query, writer, zone, Rcode::NxDomain, Rule::Missing)
}

#[inline]
fn denied(query: &Query, writer: &mut Writer<'_>, zone: &Zone, rcode: Rcode, rule: Rule) -> Outcome {
    writer.denial(query, zone);
    Outcome::of(rcode, rule)
}

/// The name is a port's, without underscores.
fn port(query: &Query, writer: &mut Writer<'_>, zone: &Zone, node: &Node) -> Outcome {
    match node.answer(query.rtype) {
        Some(records) => drop(writer.records(query, &Records { extra: 0, extras: &[], ..records })),
        None => return without_records(query, writer, zone, true),
    }
    Outcome::of(Rcode::NoError, Rule::Records)
}

/// The name spells this address.
fn spelled(query: &Query, writer: &mut Writer<'_>, zone: &Zone, address: IpAddr, ports: &[u16], rule: Rule) -> Outcome {
    match query.rtype {
        rr::ANY => writer.any(zone.settings().ttl),
        rr::SRV if writer.ports(zone, QUESTION, &query.name, ports) > 0 => writer.extra(zone, address),
        _ => writer.address(query, zone, QUESTION, address),
    }
    Outcome::of(Rcode::NoError, rule)
}

/// An alias answers every type (RFC 1034 §3.6.2).
fn alias(query: &Query, writer: &mut Writer<'_>, zone: &Zone, records: &Records<'_>) -> Outcome {
    let data = writer.at + RECORD;
    writer.put(ANSWER, 1, &[records.answers]);
    let target = records.data().and_then(|data| Name::of(&[data], zone.names().seed()));
    if let Some(target) = target.filter(|_| !matches!(query.rtype, rr::CNAME | rr::ANY)) {
        if query.can_forward && outside_name(zone, query.name.clone(), |_| {}).is_some() {
            return Outcome::error(Rcode::Refused, Rule::Forward);
        }
        follow(query, writer, zone, data, target);
    }
    Outcome::of(Rcode::NoError, Rule::Alias)
}

/// Writes what `name` leads to, and the aliases on the way. `at` is where the message has the name. One that does not exist has no
/// data (as with CoreDNS): the alias exists. A circle ends where it began.
fn follow(query: &Query, writer: &mut Writer<'_>, zone: &Zone, mut at: usize, mut name: Name) {
    let mut aliases = [query.name.as_bytes(); CHAIN];
    for step in 0..CHAIN {
        let Some(owner) = pointer(at) else { return };
        match zone.find(&name) {
            Found::Node(node) | Found::Port(node) => match node.answer(query.rtype) {
                Some(records) if records.rtype == rr::CNAME => {
                    if aliases.contains(&node.name()) {
                        return;
                    }
                    aliases[step] = node.name();
                    at = writer.at + RECORD;
                    writer.records_of(query, owner, &records);
                    match records.data().and_then(|data| Name::of(&[data], zone.names().seed())) {
                        Some(target) => name = target,
                        None => return,
                    }
                }
                Some(records) => return writer.records_of(query, owner, &records),
                None => return writer.denial(query, zone),
            },
            Found::Endpoint(_, ports) if query.rtype == rr::SRV && !ports.is_empty() => {
                writer.ports(zone, owner, &name, ports);
                return;
            }
            Found::Endpoint(address, _) | Found::Pod(address) => return writer.address(query, zone, owner, address),
            Found::Empty | Found::Missing | Found::Unknown => return writer.denial(query, zone),
            Found::Outside => return,
        }
    }
}

/// Walks the search list of the client's Pod (`NAMESPACE.svc.ZONE`, `svc.ZONE`, `ZONE`, and none) for it, if the query is the first step of
/// that walk and a later one exists: for every type, so that no type says that the name does not exist while another has records.
#[cold]
fn search(query: &Query, writer: &mut Writer<'_>, zone: &Zone, client: Option<IpAddr>) -> Option<()> {
    let above = zone.above(&query.name).filter(|&above| above >= 3)?;
    if query.name.label(above - 1) != b"svc" {
        return None;
    }
    let namespace = query.name.label(above - 2);
    let is_home = |pod: &super::zone::Resident| *pod.namespace == *namespace && !pod.on_host_network;
    zone.residents(client?).iter().find(|pod| is_home(pod))?;
    let typed = query.name.head(above - 2);
    // Last, the name as the client's program gave it.
    [Some(above - 1), Some(above), None].into_iter().find_map(|domain| {
        let parent = domain.map_or(&[0][..], |domain| query.name.parent(domain));
        let name = Name::of(&[typed, parent], zone.names().seed())?;
        // What takes a resolver is left to the client's own walk, for every type.
        let leads_out = || query.can_forward && outside_name(zone, name.clone(), |_| {}).is_some();
        if matches!(zone.find(&name), Found::Missing | Found::Unknown | Found::Outside) || leads_out() {
            return None;
        }
        // The rest of the target is in the question.
        let place = domain.map_or(Some([0; 2]), |domain| pointer(message::LEN + query.name.offset(domain)))?;
        let rest = domain.map_or(&place[..1], |_| &place[..]);
        let alias = head(QUESTION, rr::CNAME, zone.settings().ttl, typed.len() + rest.len());
        let data = writer.at + RECORD;
        writer.put(ANSWER, 1, &[&alias, typed, rest]);
        if !matches!(query.rtype, rr::CNAME | rr::ANY) {
            follow(query, writer, zone, data, name);
        }
        Some(())
    })
}

/// A name that is not in the zone: of a reverse zone, or of somebody else's.
fn outside(query: &Query, writer: &mut Writer<'_>, zone: &Zone) -> Outcome {
    let reverse = Reverse::read(&query.name);
    let place = reverse.and_then(|name| zone.settings().reverse.iter().find_map(|net| name.within(net)));
    let Some((place, apex)) = place else {
        let is_forwarded = query.can_forward && zone.settings().forwarded(&query.name).is_some();
        return Outcome::error(Rcode::Refused, if is_forwarded { Rule::Forward } else { Rule::Outside });
    };
    let apex = message::LEN + query.name.offset(apex);
    let deny = |writer: &mut Writer<'_>, rcode, rule| {
        writer.soa(AUTHORITY, zone, apex);
        Outcome::of(rcode, rule)
    };
    match (place, query.rtype) {
        (Place::Apex, rr::SOA) => writer.soa(ANSWER, zone, apex),
        (Place::Apex, rr::NS) => writer.name_server(zone),
        (Place::Address(address), rtype) => match (zone.owners(address), rtype) {
            ([], _) if zone.knows_services() => return deny(writer, Rcode::NxDomain, Rule::Missing),
            ([], _) => return deny(writer, Rcode::ServFail, Rule::NotLoaded),
            (owners, rr::PTR) => writer.pointers(zone, address, owners),
            (_, rr::ANY) => writer.any(zone.settings().ttl),
            _ => return deny(writer, Rcode::NoError, Rule::Reverse),
        },
        (Place::Apex | Place::Above, _) => return deny(writer, Rcode::NoError, Rule::Above),
        (Place::Nothing, _) => return deny(writer, Rcode::NxDomain, Rule::Missing),
    }
    Outcome::of(Rcode::NoError, Rule::Reverse)
}

pub(super) const ANSWER: usize = 0;
pub(super) const AUTHORITY: usize = 1;
const ADDITIONAL: usize = 2;

/// Writes records behind the question, as many as the client accepts.
pub(super) struct Writer<'a> {
    buffer: &'a mut [u8],
    /// Where the records start.
    start: usize,
    pub(super) at: usize,
    /// Where they must end.
    limit: usize,
    counts: [u16; 3],
    truncated: bool,
    /// There are more records than any message holds.
    is_cut: bool,
    /// The buffer ended before the limit.
    is_short: bool,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn new(query: &Query, buffer: &'a mut [u8]) -> Writer<'a> {
        let start = if query.unreadable.is_none() { query.end } else { message::LEN };
        let (limit, counts) = (query.limit(), [0; 3]);
        Writer { buffer, start, at: start, limit, counts, truncated: false, is_cut: false, is_short: false }
    }

    /// Writes `count` records, all or none. What the client must have and does not accept leaves nothing but a mark, so that no
    /// client takes a part for the whole (RFC 2181 §9); additional records are left out without one. Returns whether they were
    /// written.
    #[inline]
    pub(super) fn put(&mut self, section: usize, count: u16, parts: &[&[u8]]) -> bool {
        let end = self.at + parts.iter().map(|part| part.len()).sum::<usize>();
        if self.truncated || end > self.limit {
            if section != ADDITIONAL && !self.truncated {
                (self.truncated, self.at, self.counts) = (true, self.start, [0; 3]);
            }
            return false;
        }
        for part in parts {
            match self.buffer.get_mut(self.at..self.at + part.len()) {
                Some(to) => to.copy_from_slice(part),
                None => {
                    self.is_short = true;
                    return false;
                }
            }
            self.at += part.len();
        }
        self.counts[section] += count;
        true
    }

    /// Prepared records of the question's name. Addresses start with another one for each query: the query's number, which the
    /// client chose at random, says with which.
    #[inline]
    fn records(&mut self, query: &Query, records: &Records<'_>) -> bool {
        // RFC 2181 §9: what cannot be sent whole is marked, although no other way of asking brings more.
        self.is_cut |= records.is_cut;
        let is_address = matches!(records.rtype, rr::A | rr::AAAA);
        if is_address && records.count > 1 {
            let size = records.answers.len() / usize::from(records.count);
            let first = (usize::from(query.header.id()) * usize::from(records.count)) >> 16;
            let (last, first) = records.answers.split_at_checked(first * size).unwrap_or_default();
            return self.put(ANSWER, records.count, &[first, last]);
        }
        let is_written = self.put(ANSWER, records.count, &[records.answers]);
        if is_written && records.extra > 0 {
            self.put(ADDITIONAL, records.extra, &[records.extras]);
        }
        is_written
    }

    /// The same, of the name that `owner` points to.
    fn records_of(&mut self, query: &Query, owner: [u8; 2], records: &Records<'_>) {
        let mut at = self.at;
        if !self.records(query, &Records { extra: 0, extras: &[], ..*records }) {
            return;
        }
        for _ in 0..records.count {
            let Some(head) = self.buffer.get_mut(at..at + RECORD) else { return };
            head[..2].copy_from_slice(&owner);
            at += RECORD + usize::from(u16::from_be_bytes([head[RECORD - 2], head[RECORD - 1]]));
        }
    }

    /// The name that `owner` points to has this address.
    fn address(&mut self, query: &Query, zone: &Zone, owner: [u8; 2], found: IpAddr) {
        let (rtype, data, len) = address(&found);
        if query.rtype != rtype {
            return self.denial(query, zone);
        }
        self.put(ANSWER, 1, &[&head(owner, rtype, zone.settings().ttl, len), &data[..len]]);
    }

    /// The ports of the endpoint `name`, which `owner` points to; all of the same weight, each number once (CoreDNS
    /// `plugin/backend_lookup.go`). Returns how many.
    fn ports(&mut self, zone: &Zone, owner: [u8; 2], name: &Name, ports: &[u16]) -> usize {
        let weight = srv_weight(ports.len());
        let mut written = 0;
        for at in (0..ports.len()).filter(|&at| at == 0 || ports[at] != ports[at - 1]) {
            let numbers = [0, weight, ports[at]].map(u16::to_be_bytes);
            // No pointer: RFC 2782.
            let head = head(owner, rr::SRV, zone.settings().ttl, size_of_val(&numbers) + name.len());
            written += usize::from(self.put(ANSWER, 1, &[&head, numbers.as_flattened(), name.as_bytes()]));
        }
        written
    }

    /// The address of the question's name, as an additional record.
    fn extra(&mut self, zone: &Zone, found: IpAddr) {
        let (rtype, data, len) = address(&found);
        self.put(ADDITIONAL, 1, &[&head(QUESTION, rtype, zone.settings().ttl, len), &data[..len]]);
    }

    /// The names of an address: the Service that has it as ClusterIP, or else those that have it as endpoint.
    fn pointers(&mut self, zone: &Zone, address: IpAddr, owners: &[Owner]) {
        let label = Label::of(address);
        let cluster_ip = owners.iter().position(|owner| !owner.is_endpoint);
        let owners = cluster_ip.map_or(owners, |at| &owners[at..=at]);
        for owner in owners {
            let label = match (&owner.hostname, owner.is_endpoint) {
                (_, false) => &[],
                (Some(hostname), true) => &**hostname,
                (None, true) => label.as_bytes(),
            };
            let head = head(QUESTION, rr::PTR, zone.settings().ttl, label.len() + owner.service.len());
            self.put(ANSWER, 1, &[&head, label, &owner.service]);
        }
    }

    /// The name server of a reverse zone.
    fn name_server(&mut self, zone: &Zone) {
        let (server, origin) = (b"\x02ns\x03dns", &*zone.settings().origin);
        let head = head(QUESTION, rr::NS, zone.settings().ttl, server.len() + origin.len());
        self.put(ANSWER, 1, &[&head, server, origin]);
    }

    /// In place of all records (RFC 8482 §4.2).
    fn any(&mut self, ttl: u32) {
        self.put(ANSWER, 1, &[&head(QUESTION, rr::HINFO, ttl, ANY_DATA.len()), ANY_DATA]);
    }

    /// What a negative answer says of the zone (RFC 2308 §3).
    #[inline]
    fn denial(&mut self, query: &Query, zone: &Zone) {
        // The question's name ends with the zone's.
        self.soa(AUTHORITY, zone, message::LEN + query.name.len() - zone.settings().origin.len());
    }

    /// The SOA of the zone whose name is at `apex`.
    #[inline]
    fn soa(&mut self, section: usize, zone: &Zone, apex: usize) {
        let mut record = *zone.soa();
        let Some(pointer) = pointer(apex) else { return };
        for place in SOA_POINTERS {
            record[place..place + 2].copy_from_slice(&pointer);
        }
        self.put(section, 1, &[&record]);
    }

    /// Writes OPT and header.
    #[inline]
    pub(super) fn finish(self, query: &Query, outcome: Outcome) -> Result<Answered, NoAnswer> {
        let Writer { buffer, mut at, mut counts, truncated, is_cut, is_short, .. } = self;
        let truncated = truncated || is_cut;
        let Outcome { rcode, authoritative, rule } = outcome;
        if is_short {
            return Err(NoAnswer::NoRoom);
        }
        let is_readable = query.unreadable.is_none();
        if let Some(opt) = query.edns.filter(|_| is_readable) {
            let opt = opt.response(rcode);
            buffer.get_mut(at..at + size_of::<Opt>()).ok_or(NoAnswer::NoRoom)?.copy_from_slice(opt.as_bytes());
            at += size_of::<Opt>();
            counts[ADDITIONAL] += 1;
        }
        let header = query.header.response(rcode, authoritative, truncated, u16::from(is_readable), counts);
        let header = if rule.took_a_resolver() { header.with_recursion() } else { header };
        buffer.get_mut(..message::LEN).ok_or(NoAnswer::NoRoom)?.copy_from_slice(header.as_bytes());
        Ok(Answered { len: at, rcode, truncated, answers: counts[ANSWER], rule })
    }
}
