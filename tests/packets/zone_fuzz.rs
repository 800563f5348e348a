//! A fuzz target: whatever bytes ask the zone, its response is sound and no larger than the query allows.
//!
//! [`ask`] is the target, a plain function over bytes. It runs over a saved corpus (`queries.hex`), over what proptest makes of
//! that, and over messages made from labels that the zone has. `PROPTEST_CASES` is the number of rounds.
//!
//! Responses are read by the library `domain`, apart from the gateway's code.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use domain::base::iana::Rtype;
use domain::base::{Message, ParsedRecord};
use domain::rdata::AllRecordData;
use pollgate_common::dns::answer::{Answered, NoAnswer, answer};
use pollgate_common::dns::name::{MAX_NAME, to_wire};
use pollgate_common::dns::records::{Node, Set, rr};
use pollgate_common::dns::zone::{Owner, PodRecords, Resident, Zone, ZoneSettings, address_sets, label};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::support::builder::udp;
use super::support::lab::{Lab, PODS};
use super::zone::objects;

/// The most bytes that any response has (DNS flag day 2020), and one to a query without EDNS (RFC 1035 §2.3.4).
const MOST: usize = 1232;
const PLAIN: usize = 512;
/// The only Pod of the zone.
const POD: &str = "10.244.0.1";

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
fn is_query(bytes: &[u8]) -> bool {
    bytes.len() >= 12 && bytes[2] & 0x80 == 0
}

/// Checks that `response` is a message from its first byte to its last, and one that `query` may get.
fn check(query: &[u8], response: &[u8]) {
    let shown = || format!("query {query:02x?}\nresponse {response:02x?}");
    assert!(is_query(query), "an answer to a response: {}", shown());
    let message = Message::from_slice(response).expect("a header");
    assert!(message.header().qr() && response[..2] == query[..2], "{}", shown());
    let mut section = message.question();
    for question in &mut section {
        let _ = question.unwrap_or_else(|error| panic!("{error}: {}", shown()));
    }
    assert_eq!(response[12..section.pos()], query[12..section.pos()], "{}", shown());
    let mut next = Some(section.answer().expect("counted"));
    let (mut end, mut opts) = (0, 0);
    while let Some(mut section) = next {
        for record in &mut section {
            let record: ParsedRecord<'_, [u8]> = record.unwrap_or_else(|error| panic!("{error}: {}", shown()));
            opts += usize::from(record.rtype() == Rtype::OPT);
            let data = record.to_any_record::<AllRecordData<_, _>>();
            let _ = data.unwrap_or_else(|error| panic!("{error}: {}", shown()));
        }
        end = section.pos();
        next = section.next_section().expect("counted");
    }
    assert_eq!(end, response.len(), "trailing bytes: {}", shown());
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

/// One message per line in hexadecimal digits; `#` starts a comment.
fn corpus() -> Vec<Vec<u8>> {
    let lines = include_str!("queries.hex").lines().filter(|line| !line.starts_with('#'));
    let byte = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).expect("ASCII"), 16).expect("digits");
    lines.map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

#[test]
fn the_corpus_reaches_every_rule() {
    let mut rules = BTreeSet::new();
    for query in corpus() {
        for zone in [&*ZONE, &*EMPTY] {
            let answered = ask(zone, &query, 2000, POD.parse().ok());
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

#[test]
fn the_corpus_is_survived() {
    let mut lab = Lab::new(&objects());
    corpus().iter().for_each(|query| through(&mut lab, query));
    lab.balance();
}

/// The same by way of a worker: what gets no response is counted.
fn through(lab: &mut Lab, query: &[u8]) {
    let before = lab.totals();
    lab.send(PODS, udp("10.244.1.5:40000", "10.96.0.10:53").payload(query));
    let seen = lab.take(PODS);
    assert_eq!(seen.len(), usize::from(is_query(query)), "{query:02x?}");
    assert_eq!(lab.totals().dropped() - before.dropped(), u64::from(seen.is_empty()), "{query:02x?}");
    seen.iter().for_each(|seen| check(query, &seen.payload));
}

thread_local! {
    static LAB: std::cell::RefCell<Lab> = std::cell::RefCell::new(Lab::new(&objects()));
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn what_is_nearly_in_the_corpus_is_survived(seed in select(corpus()), damage in damage()) {
        LAB.with_borrow_mut(|lab| through(lab, &damage.done_to(seed)));
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn any_query_gets_a_sound_response(
        query in message(),
        damage in proptest::option::weighted(0.3, damage()),
        room in prop_oneof![9 => Just(2000usize), 1 => 0..700usize],
        is_pod in any::<bool>(),
    ) {
        let query = match damage {
            Some(damage) => damage.done_to(query),
            None => query,
        };
        let client = is_pod.then(|| POD.parse().expect("an address"));
        let _ = ask(&ZONE, &query, room, client);
    }
}

/// What happens to a message on its way.
#[derive(Clone, Debug)]
struct Damage {
    tail: Vec<u8>,
    counts: Option<[u8; 8]>,
    bytes: Vec<(Index, u8)>,
    end: Option<Index>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let few = proptest::collection::vec(any::<u8>(), 0..20);
    // As many records as fit, of pointers.
    let many = proptest::collection::vec(select(&[0, 0xc0, 12, 1][..]), 1400);
    let tail = prop_oneof![6 => Just(vec![]), 3 => few, 1 => many];
    let counts = proptest::option::weighted(0.1, any::<[u8; 8]>());
    let bytes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    let end = proptest::option::weighted(0.2, any::<Index>());
    (tail, counts, bytes, end).prop_map(|(tail, counts, bytes, end)| Damage { tail, counts, bytes, end })
}

impl Damage {
    fn done_to(self, mut message: Vec<u8>) -> Vec<u8> {
        message.extend(self.tail);
        if let Some((counts, to)) = self.counts.zip(message.get_mut(4..12)) {
            to.copy_from_slice(&counts);
        }
        for (at, value) in self.bytes {
            if !message.is_empty() {
                let at = at.index(message.len());
                message[at] = value;
            }
        }
        if let Some(end) = self.end {
            message.truncate(end.index(message.len() + 1));
        }
        message
    }
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

fn one_of(words: &'static str) -> impl Strategy<Value = &'static str> + Clone {
    select(words.split(' ').collect::<Vec<_>>())
}

fn rtype() -> impl Strategy<Value = u16> {
    let other = [rr::CNAME, rr::SOA, rr::NS, rr::TXT, rr::ANY, rr::AXFR, rr::IXFR, rr::OPT, 0, 65535];
    prop_oneof![2 => select(vec![rr::A, rr::AAAA, rr::SRV, rr::PTR]), 1 => select(other.to_vec())]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..64);
    let label = prop_oneof![19 => one_of(LABELS).prop_map(|label| label.as_bytes().to_vec()), 1 => bytes];
    let count = prop_oneof![3 => Just(0), 6 => 1..4usize, 1 => 4..34usize, 1 => 34..130usize];
    let labels = count.prop_flat_map(move |count| proptest::collection::vec(label.clone(), count));
    prop_oneof![
        9 => (labels, one_of(ENDS)).prop_map(|(labels, end)| below(end, labels.iter().map(Vec::as_slice))),
        1 => one_of(ENDS).prop_map(longest),
    ]
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
fn opt() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![select(vec![0, 511, 1231, 1232, 1233, 4096, 65535]), 512..1300u16];
    let version = prop_oneof![29 => Just(0u8), 1 => any::<u8>()];
    let options = prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(0..3u8, 0..40)];
    (size, version, options).prop_map(|(size, version, options)| {
        let len = u16::try_from(options.len()).expect("short");
        [&[0, 0, 41][..], &size.to_be_bytes(), &[0, version, 0x80, 0], &len.to_be_bytes(), &options].concat()
    })
}

/// A message as clients send it: one question, and mostly one OPT record.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![29 => Just(0x0100u16), 1 => any::<u16>()];
    let class = prop_oneof![39 => Just(1u16), 1 => any::<u16>()];
    let count = prop_oneof![3 => Just(0usize), 4 => Just(1), 1 => Just(2)];
    let opts = count.prop_flat_map(|count| proptest::collection::vec(opt(), count));
    (any::<u16>(), flags, name(), rtype(), class, opts).prop_map(|(id, flags, name, rtype, class, opts)| {
        let count = u8::try_from(opts.len()).expect("few");
        let header = [&id.to_be_bytes()[..], &flags.to_be_bytes(), &[0, 1, 0, 0, 0, 0, 0, count]].concat();
        [&header, &name, &rtype.to_be_bytes()[..], &class.to_be_bytes(), &opts.concat()].concat()
    })
}
