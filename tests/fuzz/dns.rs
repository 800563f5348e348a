//! The target of DNS queries: whatever bytes ask the zone, its response is sound and no larger than the query allows.
//!
//! ```text
//!  bit 0           the client is the zone's Pod
//!  bits 1 and 2    0, 1: the message follows · 2: it is made of labels that the zone has · 3: the same, with little room
//! ```
//!
//! Responses are read by the library `domain`, apart from the gateway's code.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use domain::base::Message;
use pollgate_common::dns::answer::{Answered, NoAnswer, answer};
use pollgate_common::dns::name::{MAX_NAME, to_wire};
use pollgate_common::dns::records::{Node, Set, rr};
use pollgate_common::dns::zone::{Owner, PodRecords, Resident, Zone, ZoneSettings, address_sets, label};

use super::choices::Choices;
use super::whole::{Whole, read_whole};

/// The most bytes that any response has (DNS flag day 2020), and one to a query without EDNS (RFC 1035 §2.3.4).
const MOST: usize = 1232;
const PLAIN: usize = 512;
/// More than any response needs.
const ROOM: usize = 2000;
/// The only Pod of the zone.
const POD: &str = "10.244.0.1";

/// The target.
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let head = choices.byte();
    let client = (head & 1 == 1).then(|| POD.parse().expect("an address"));
    let (message, room) = match head >> 1 & 3 {
        0 | 1 => (choices.rest().to_vec(), ROOM),
        2 => (damaged(message(&mut choices), &mut choices), ROOM),
        _ => {
            let room = usize::from(choices.half()) % 700;
            (damaged(message(&mut choices), &mut choices), room)
        }
    };
    let _ = ask(&ZONE, &message, room, client);
    let _ = ask(&EMPTY, &message, room, client);
}

/// Asks the zone in a buffer with `room` bytes behind the query.
fn ask(zone: &Zone, query: &[u8], room: usize, client: Option<IpAddr>) -> Result<Answered, NoAnswer> {
    let [(result, buffer), other] = [0x00, 0xff].map(|stale| {
        let mut buffer = query.to_vec();
        buffer.resize(query.len() + room, stale);
        let result = answer(&mut buffer, query.len(), zone, client);
        buffer.truncate(result.map_or(query.len(), |answered| answered.len));
        (result, buffer)
    });
    assert_eq!(result, other.0, "bytes behind the query matter: {query:02x?}");
    match result {
        Ok(answered) => {
            assert_eq!(buffer, other.1, "bytes behind the query are in the response: {query:02x?}");
            assert_eq!(answered.len, buffer.len());
            check(query, &buffer);
        }
        Err(NoAnswer::NotAQuery) => {
            assert!(!is_query(query), "a query without a response: {query:02x?}");
            assert_eq!(buffer, query);
        }
        Err(NoAnswer::Forward) => panic!("there is no resolver: {query:02x?}"),
        Err(NoAnswer::NoRoom) => assert!(buffer.len() + room < MOST, "{room} bytes are room enough: {query:02x?}"),
    }
    result
}

/// Long enough for a header, and no response (RFC 1035 §4.1.1).
pub(crate) fn is_query(bytes: &[u8]) -> bool {
    bytes.len() >= 12 && bytes[2] & 0x80 == 0
}

/// Checks that `response` is a message from its first byte to its last, and one that `query` may get.
pub(crate) fn check(query: &[u8], response: &[u8]) {
    let shown = || format!("query {query:02x?}\nresponse {response:02x?}");
    assert!(is_query(query), "an answer to a response: {}", shown());
    let message = Message::from_slice(response).expect("a header");
    assert!(message.header().qr() && response[..2] == query[..2], "{}", shown());
    let Whole { question, opts } = read_whole(response, shown);
    assert_eq!(response[12..question], query[12..question], "{}", shown());
    // The client's size: OPT comes back only to a query that has one.
    let size = Message::from_slice(query).ok().and_then(Message::opt).map(|opt| usize::from(opt.udp_payload_size()));
    let most = if opts == 0 { PLAIN } else { size.map_or(MOST, |size| size.clamp(PLAIN, MOST)) };
    assert!(opts <= 1 && response.len() <= most, "{} bytes, {opts} OPT: {}", response.len(), shown());
}

/// A zone with names of every kind, of sizes at which responses are cut, and with aliases that lead nowhere or in circles.
fn zone() -> Zone {
    let reverse = ["10.96.0.0/16", "10.240.0.0/12", "fd00::/16"].map(|net| net.parse().expect("a range")).to_vec();
    let servers = ["10.96.0.10", "fd00::a"].map(|address| address.parse().expect("an address")).to_vec();
    let origin = wire("cluster.local");
    let settings = ZoneSettings {
        origin,
        ttl: 5,
        pods: PodRecords::Verified,
        autopath: true,
        reverse,
        servers,
        forward: Vec::new(),
    };
    let mut zone = Zone::new(Arc::new(settings));
    zone.services_are_loaded();
    zone.pods_are_loaded();
    let _ = zone.insert(Node::new(&wire("default.svc.cluster.local"), &[]));
    [1, 2, 20, 70, 80, 4000].into_iter().for_each(|endpoints| add_service(&mut zone, endpoints));
    aliases().into_iter().for_each(|[name, target]| {
        let _ = zone.insert(Node::new(&name, &[Set::of(rr::CNAME, 5, [&*target])]));
    });
    let pod = Resident { namespace: (*b"default").into(), name: "p".into(), on_host_network: false };
    zone.set_resident(POD.parse().expect("an address"), &pod, true);
    zone
}

fn wire(name: &str) -> Box<[u8]> {
    to_wire(name).expect("a name")
}

/// The headless Service `hN` of N endpoints, every third with one and the same hostname.
fn add_service(zone: &mut Zone, endpoints: u32) {
    let name = wire(&format!("h{endpoints}.default.svc.cluster.local"));
    let addresses: Vec<IpAddr> = (0..endpoints).map(|at| IpAddr::from((0x0af4_0000 + at).to_be_bytes())).collect();
    let mut srv = Set::new(rr::SRV);
    for address in addresses.iter().take(200) {
        let target = [&*label(&address.to_string().replace('.', "-")).expect("a label"), &name].concat();
        if let Some(at) = srv.push(5, &[&[0, 0, 0, 1, 0, 80][..], &target].concat()) {
            srv.push_extra(5, &target, (at + 6, name.len()), address);
        }
    }
    let [a, aaaa] = address_sets(&addresses, 5);
    let _ = zone.insert(Node::new(&name, &[a, aaaa, srv.clone()]));
    let _ = zone.insert(Node::new(&[b"\x02_a\x04_tcp", &*name].concat(), &[srv]));
    let service: Arc<[u8]> = name.into();
    for (at, address) in addresses.into_iter().enumerate() {
        let hostname = at.is_multiple_of(3).then(|| label("host-x").expect("a label"));
        zone.set_owners(
            address,
            &service,
            vec![Owner { is_endpoint: true, service: Arc::clone(&service), hostname, ports: [53, 53, 80].into() }],
        );
    }
}

/// Names and what they are aliases of.
fn aliases() -> Vec<[Box<[u8]>; 2]> {
    let long = |at| {
        let [x, y, z] = ["x", "y", "z"].map(|label| label.repeat(60));
        wire(&format!("{x}.{y}.{z}.c{at}.default.svc.cluster.local"))
    };
    let outside = [("a", 63), ("b", 63), ("c", 63), ("d", 60)].map(|(label, times)| label.repeat(times)).join(".");
    let short = [
        ("loop1.default.svc.cluster.local", "loop2.default.svc.cluster.local"),
        ("loop2.default.svc.cluster.local", "loop1.default.svc.cluster.local"),
        ("out.default.svc.cluster.local", &outside),
        ("h.default.svc.cluster.local", "h80.default.svc.cluster.local"),
        // The search list leads to these two.
        ("h1a.svc.cluster.local", "h1.default.svc.cluster.local"),
        ("h.cluster.local", "h20.default.svc.cluster.local"),
        ("pod.default.svc.cluster.local", "10-244-0-1.default.pod.cluster.local"),
    ];
    let short = short.map(|(name, target)| [wire(name), wire(target)]);
    let into = [0, 15].map(|at| [wire(&format!("c{at}.default.svc.cluster.local")), long(at)]);
    short.into_iter().chain(into).chain((0..20).map(|at| [long(at), long(at + 1)])).collect()
}

static ZONE: LazyLock<Zone> = LazyLock::new(zone);
/// The same name, before any object is loaded.
static EMPTY: LazyLock<Zone> =
    LazyLock::new(|| Zone::new(Arc::new(ZoneSettings { origin: wire("cluster.local"), ..ZoneSettings::default() })));

/// The messages of the saved corpus that stand for themselves.
pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/__fuzz__/dns/corpus");
    let files = std::fs::read_dir(directory).expect("the corpus");
    let inputs = files.map(|file| std::fs::read(file.expect("a file").path()).expect("an input"));
    inputs
        .filter(|input| input.first().is_some_and(|head| head >> 1 & 3 < 2))
        .map(|input| input[1..].to_vec())
        .collect()
}

#[test]
fn the_corpus_reaches_every_rule() {
    let mut rules = BTreeSet::new();
    for query in corpus() {
        for zone in [&*ZONE, &*EMPTY] {
            let answered = ask(zone, &query, ROOM, POD.parse().ok());
            rules.extend(answered.map(|answered| format!("{:?}", answered.rule)));
        }
    }
    let expected = [
        "Above",
        "Alias",
        "Class",
        "EdnsVersion",
        "Endpoint",
        "Malformed(Counts)",
        "Malformed(Name)",
        "Malformed(Opt)",
        "Malformed(Trailing)",
        "Missing",
        "NotLoaded",
        "Opcode",
        "Outside",
        "Pod",
        "Records",
        "Reverse",
        "SearchList",
        "Transfer",
    ];
    assert_eq!(rules.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// Labels that names of the zone have, or nearly.
const LABELS: &str = "h1 h2 h20 h70 h80 h4000 loop1 out h h1a pod _ _a a _tcp tcp 10-244-0-1 10-244-0-3 fd00--1 x default SVC \
                      c0 c15 host-x 1 0 244 10 f 0a";

/// What names end with.
const ENDS: &str = "default.svc.cluster.local svc.cluster.local cluster.local default.pod.cluster.local pod.cluster.local \
                    h1.default.svc.cluster.local h20.default.svc.cluster.local h70.default.svc.cluster.local \
                    h80.default.svc.cluster.local h.default.svc.cluster.local h.cluster.local loop1.default.svc.cluster.local \
                    c0.default.svc.cluster.local c15.default.svc.cluster.local h.default.svc.default.svc.cluster.local \
                    96.10.in-addr.arpa 0.244.10.in-addr.arpa in-addr.arpa 0.0.d.f.ip6.arpa ip6.arpa arpa local .";

fn words(list: &'static str, choices: &mut Choices<'_>) -> &'static str {
    let words: Vec<&str> = list.split_whitespace().collect();
    choices.of_list(&words)
}

fn rtype(choices: &mut Choices<'_>) -> u16 {
    let usual = [rr::A, rr::AAAA, rr::SRV, rr::PTR];
    let other = [rr::CNAME, rr::SOA, rr::NS, rr::TXT, rr::ANY, rr::AXFR, rr::IXFR, rr::OPT, 0, 65535];
    if choices.one_in(3) { choices.of_list(&other) } else { choices.of_list(&usual) }
}

fn name(choices: &mut Choices<'_>) -> Vec<u8> {
    if choices.one_in(10) {
        return longest(words(ENDS, choices));
    }
    let count = match choices.below(10) {
        0..3 => 0,
        3..9 => 1 + choices.below(3),
        _ => choices.below(130),
    };
    let label = |choices: &mut Choices<'_>| match choices.one_in(20) {
        true => {
            let len = 1 + choices.below(62);
            [b"x", choices.bytes(len)].concat()
        }
        false => words(LABELS, choices).as_bytes().to_vec(),
    };
    let labels: Vec<Vec<u8>> = (0..count).map(|_| label(choices)).collect();
    below(words(ENDS, choices), labels.iter().map(Vec::as_slice))
}

fn below<'a>(end: &str, labels: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let length = |label: &[u8]| u8::try_from(label.len()).expect("a label");
    let mut name: Vec<u8> = labels.flat_map(|label| [&[length(label)], label].concat()).collect();
    name.extend(wire(end));
    name
}

/// A name of as many bytes as a name can have.
fn longest(end: &str) -> Vec<u8> {
    let mut room = MAX_NAME - wire(end).len();
    let mut labels = Vec::new();
    while room > 1 {
        // None of one byte is left over.
        let len = if room == 65 { 62 } else { (room - 1).min(63) };
        labels.push(vec![b'a'; len]);
        room -= len + 1;
    }
    below(end, labels.iter().map(Vec::as_slice))
}

/// An OPT record: a size around those that matter, now and then another version, and options that may lie.
fn opt(choices: &mut Choices<'_>) -> Vec<u8> {
    let size = match choices.one_in(2) {
        true => 512 + choices.half() % 800,
        false => choices.of_list(&[0, 511, 1231, 1232, 1233, 4096, 65535]),
    };
    let version = if choices.one_in(30) { choices.byte() } else { 0 };
    let options: Vec<u8> =
        if choices.one_in(4) { choices.bytes(40).iter().map(|byte| byte % 3).collect() } else { vec![] };
    let len = u16::try_from(options.len()).expect("short");
    [&[0, 0, 41][..], &size.to_be_bytes(), &[0, version, 0x80, 0], &len.to_be_bytes(), &options].concat()
}

/// A message as clients send it: one question, and mostly one OPT record.
fn message(choices: &mut Choices<'_>) -> Vec<u8> {
    let id = choices.half();
    let flags = if choices.one_in(30) { choices.half() } else { 0x0100 };
    let (name, rtype) = (name(choices), rtype(choices));
    let class = if choices.one_in(40) { choices.half() } else { 1 };
    let opts: Vec<Vec<u8>> = (0..choices.of_list(&[0, 0, 0, 1, 1, 1, 1, 2])).map(|_| opt(choices)).collect();
    let count = u8::try_from(opts.len()).expect("few");
    let header = [&id.to_be_bytes()[..], &flags.to_be_bytes(), &[0, 1, 0, 0, 0, 0, 0, count]].concat();
    [&header, &name, &rtype.to_be_bytes()[..], &class.to_be_bytes(), &opts.concat()].concat()
}

/// What happens to one message in three on its way.
fn damaged(mut message: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    if !choices.one_in(3) {
        return message;
    }
    match choices.below(10) {
        0..6 => {}
        6..9 => message.extend(choices.bytes(20)),
        // As many records as fit, of pointers.
        _ => message.extend([0, 0xc0, 12, 1].repeat(350)),
    }
    if choices.one_in(10)
        && let Some(counts) = message.get_mut(4..12)
    {
        counts.copy_from_slice(&[choices.word().to_be_bytes(), choices.word().to_be_bytes()].concat());
    }
    for _ in 0..choices.below(4) {
        let at = usize::from(choices.half()) % message.len();
        message[at] = choices.byte();
    }
    if choices.one_in(5) {
        message.truncate(usize::from(choices.half()) % (message.len() + 1));
    }
    message
}
