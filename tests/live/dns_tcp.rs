//! DNS over TCP, asked by dig and by hand.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::connect;
use pollgate_common::counters::WorkerCounters;
use pollgate_common::reasons::DropReason as Reason;
use serde_json::json;

use crate::live::dual_stack;
use crate::live::process::Place;
use crate::live::support::{DNS, PATIENCE, SHORT, Site, apply_object, at, ip, servers};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};
use crate::shared::until;

tests! {
    [Lab] =>
        queries_are_pipelined_and_may_come_in_pieces,
        what_is_no_query_ends_the_connection,
        an_idle_connection_is_closed_and_a_slow_query_does_not_keep_it,
        a_client_that_does_not_read_is_left,
        a_client_with_too_many_connections_loses_its_own_oldest,
        the_search_list_is_that_of_the_client_behind_the_pair,
        dns_over_tcp_is_served_again_after_a_kill,
        an_answer_that_no_message_holds_is_marked,
        without_the_pair_dns_over_tcp_is_refused;
    [Lab, Program("dig")] =>
        dig_asks_by_tcp_over_both_families,
        dig_gets_a_truncated_answer_whole_by_tcp;
}

pub(crate) const A: u16 = 1;
const NAME: &str = "backend-service.default.svc.cluster.local";
// RFC 1035 §4.1.1.
const OK: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;

pub(crate) fn query(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).expect("a label"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([rtype.to_be_bytes(), [0, 1]].concat());
    [&u16::try_from(message.len()).expect("short").to_be_bytes()[..], &message].concat()
}

/// A response: id, code, number of answers, whether it is truncated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) id: u16,
    code: u8,
    answers: u16,
    truncated: bool,
    length: usize,
}

pub(crate) fn read(stream: &mut TcpStream) -> io::Result<Response> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let (flags, length) = (word(2), message.len());
    assert!(flags & 0x8000 != 0, "a response");
    Ok(Response {
        id: word(0),
        code: (flags & 15).to_be_bytes()[1],
        answers: word(6),
        truncated: flags & 0x200 != 0,
        length,
    })
}

fn ask(site: &Site, host: &str, name: &str, rtype: u16) -> (u8, u16) {
    let mut stream = connect(site.host(host), at(DNS), PATIENCE).expect("connected");
    stream.write_all(&query(7, name, rtype)).expect("sent");
    let response = read(&mut stream).expect("a response");
    (response.code, response.answers)
}

/// How it ended: 0 bytes, or a reset.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    match stream.read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

fn counted(site: &Site, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
    counter(site.gateway().counters().dns())
}

/// Waits until no connection is left.
fn at_rest(site: &Site, expected: &[Reason]) {
    until("the connections are closed", || counted(site, |dns| dns.dns_tcp_open.value()) == 0);
    site.at_rest(expected);
}

/// RFC 7766 §6.2.1.1, §8.
fn queries_are_pipelined_and_may_come_in_pieces() {
    let site = Site::new();
    let mut stream = connect(site.host("frontend-app"), at(DNS), PATIENCE).expect("connected");
    stream.set_nodelay(true).expect("set");
    // Several in one segment.
    let names = [NAME, "no-such.default.svc.cluster.local", "example.com", "cluster.local"];
    let expected = [(OK, 1), (NO_SUCH_NAME, 0), (REFUSED, 0), (OK, 0)];
    let all: Vec<u8> = (0u16..).zip(names).flat_map(|(id, name)| query(id, name, A)).collect();
    stream.write_all(&all).expect("sent");
    for (id, expected) in (0u16..).zip(expected) {
        let response = read(&mut stream).expect("a response");
        assert_eq!((response.id, (response.code, response.answers)), (id, expected));
    }
    // Byte by byte, each a segment; the second query begins in the first one's last.
    let two = [query(8, NAME, A), query(9, NAME, A)].concat();
    for piece in two.chunks(7) {
        stream.write_all(piece).expect("sent");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!([8, 9], [0; 2].map(|_| read(&mut stream).expect("a response").id));
    // Thousands, read only later than they are sent: neither side waits for the other for ever.
    let mut writer = stream.try_clone().expect("the socket again");
    let sender = std::thread::spawn(move || {
        (0..5000).try_for_each(|id| writer.write_all(&query(id, NAME, A))).expect("sent");
        writer.shutdown(std::net::Shutdown::Write).expect("shut");
    });
    for id in 0..5000 {
        let response = read(&mut stream).expect("a response");
        assert_eq!((response.id, response.code, response.answers), (id, OK, 1));
    }
    sender.join().expect("no panic");
    assert!(is_closed(&mut stream), "the client had no more");
    let dns = site.gateway().counters().dns();
    assert_eq!((dns.dns_tcp.value(), dns.dns_tcp_accepted.value(), dns.dns_tcp_malformed.value()), (5006, 1, 0));
    assert_eq!((dns.dns_a.value(), dns.dns_nxdomain.value(), dns.dns_refused.value()), (5006, 1, 1));
    at_rest(&site, &[]);
}

/// RFC 7766 §8: a length and what follows; RFC 1035 §4.1.1: a query has a header, and is no response.
fn what_is_no_query_ends_the_connection() {
    let site = Site::new();
    let response = {
        let mut message = query(1, NAME, A);
        message[4] |= 0x80;
        message
    };
    let bad = [&b"\0\0"[..], b"\0\x0bshort.query", b"\xff\xff", &response];
    for (number, message) in (1..).zip(bad) {
        let mut stream = connect(site.host("frontend-app"), at(DNS), PATIENCE).expect("connected");
        // What came before it is answered.
        stream.write_all(&[&query(5, NAME, A), message].concat()).expect("sent");
        assert_eq!(read(&mut stream).expect("a response").id, 5);
        assert!(is_closed(&mut stream), "{message:?}");
        until("it is counted", || counted(&site, |dns| dns.dns_tcp_malformed.value()) == number);
    }
    // A query that can be read so far gets its error.
    let mut stream = connect(site.host("frontend-app"), at(DNS), PATIENCE).expect("connected");
    let mut trailing = [&query(6, NAME, A)[..], b"x"].concat();
    trailing[1] += 1;
    stream.write_all(&[trailing, query(7, NAME, 252)].concat()).expect("sent");
    let (malformed, transfer) = (read(&mut stream).expect("a response"), read(&mut stream).expect("a response"));
    assert_eq!((malformed.id, malformed.code), (6, 1), "FORMERR");
    assert_eq!((transfer.id, transfer.code, transfer.answers), (7, REFUSED, 0), "AXFR");
    drop(stream);
    at_rest(&site, &[]);
}

fn an_idle_connection_is_closed_and_a_slow_query_does_not_keep_it() {
    let site = Site::new();
    let connected = || connect(site.host("frontend-app"), at(DNS), PATIENCE).expect("connected");
    let (mut idle, mut slow, mut used) = (connected(), connected(), connected());
    let start = Instant::now();
    idle.write_all(&query(1, NAME, A)).expect("sent");
    assert_eq!(read(&mut idle).expect("a response").id, 1);
    // One of them sends a byte at a time, and never a whole query.
    let long = query(2, &format!("{}{NAME}", "x.".repeat(80)), A);
    let mut bytes = long[..long.len() - 1].iter();
    let mut is_open = true;
    while is_open {
        assert!(start.elapsed() < PATIENCE, "it is kept open");
        is_open = bytes.next().is_none_or(|byte| slow.write_all(&[*byte]).is_ok());
        used.write_all(&query(3, NAME, A)).expect("one that is used stays open");
        assert_eq!(read(&mut used).expect("a response").id, 3);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(is_closed(&mut idle) && start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    until("both are counted", || counted(&site, |dns| dns.dns_tcp_timed_out.value()) == 2);
    drop((slow, used));
    at_rest(&site, &[]);
}

/// A headless Service of so many endpoints, whose records need 16 bytes each.
pub(crate) fn big(site: &Site, endpoints: u16) -> Vec<Ipv4Addr> {
    let address = |n: u16| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 16, 0)) + u32::from(n));
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "big" },
        "spec": { "clusterIP": "None", "ports": [{ "name": "p", "port": 80 }] } });
    apply_object(&site.client(), &service);
    let addresses: Vec<Ipv4Addr> = (0..endpoints).map(address).collect();
    for (number, chunk) in addresses.chunks(1000).enumerate() {
        let endpoints: Vec<_> = chunk.iter().map(|address| json!({ "addresses": [address] })).collect();
        let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": format!("big-{number}"), "labels": { "kubernetes.io/service-name": "big" } },
            "ports": [{ "name": "p", "port": 80 }], "endpoints": endpoints });
        apply_object(&site.client(), &slice);
    }
    addresses
}

pub(crate) const BIG: &str = "big.default.svc.cluster.local";

/// RFC 2181 §9: a part is not to be taken for the whole.
fn an_answer_that_no_message_holds_is_marked() {
    let site = Site::new();
    big(&site, 4500);
    let mut stream = connect(site.host("frontend-app"), at(DNS), PATIENCE).expect("connected");
    stream.write_all(&query(7, BIG, A)).expect("sent");
    let response = read(&mut stream).expect("a response");
    assert_eq!((response.code, response.answers, response.truncated), (OK, 4061, true));
    at_rest(&site, &[]);
}

fn a_client_that_does_not_read_is_left() {
    let site = Site::new();
    big(&site, 3000);
    let mut greedy = connect(site.host("frontend-app"), at(DNS), PATIENCE).expect("connected");
    greedy.set_write_timeout(Some(SHORT)).expect("set");
    let message = query(1, BIG, A);
    // Until the server takes no more, since the client takes nothing.
    while greedy.write_all(&message).is_ok() {}
    let asked = Instant::now();
    assert_eq!(ask(&site, "frontend-app", NAME, A), (OK, 1), "another connection is served");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    until("it is given up", || counted(&site, |dns| dns.dns_tcp_timed_out.value()) == 1);
    until("it is closed", || counted(&site, |dns| dns.dns_tcp_open.value()) == 0);
    drop(greedy);
    at_rest(&site, &[]);
}

fn a_client_with_too_many_connections_loses_its_own_oldest() {
    let site = Site::new();
    let connected = |host: &str| connect(site.host(host), at(DNS), PATIENCE).expect("connected");
    let mut other = connected("frontend-app");
    let mut own: Vec<TcpStream> = (0..128).map(|_| connected("outside-client")).collect();
    until("all are accepted", || counted(&site, |dns| dns.dns_tcp_open.value()) == 129);
    // The first is used later than the others.
    own[0].write_all(&query(1, NAME, A)).expect("sent");
    assert_eq!(read(&mut own[0]).expect("a response").id, 1);
    own.extend((0..2).map(|_| connected("outside-client")));
    assert!(own[1..3].iter_mut().all(is_closed), "the two that were used least recently");
    let rest = own.iter_mut().enumerate().filter(|(at, _)| ![1, 2].contains(at)).map(|(_, stream)| stream);
    for stream in rest.chain([&mut other]) {
        stream.write_all(&query(9, NAME, A)).expect("sent");
        assert_eq!(read(stream).expect("a response").id, 9);
    }
    let dns = site.gateway().counters().dns();
    assert_eq!((dns.dns_tcp_displaced.value(), dns.dns_tcp_open.value(), dns.dns_tcp_accepted.value()), (2, 129, 131));
    drop((own, other));
    at_rest(&site, &[]);
}

fn the_search_list_is_that_of_the_client_behind_the_pair() {
    let network = Network::new(&guide(), 1).expect("a network");
    let site = Site::configured(network, |text| format!("{text}dns: {{ autopath: true, upstreams: [] }}\n"));
    site.resolve_neighbours();
    // A Pod of namespace `default` types `backend-service.default`.
    let typed = "backend-service.default.default.svc.cluster.local";
    // The alias and the address.
    assert_eq!(ask(&site, "frontend-app", typed, A), (OK, 2));
    assert_eq!(ask(&site, "outside-client", typed, A), (NO_SUCH_NAME, 0), "no Pod");
    assert_eq!(counted(&site, |dns| dns.dns_search_list.value()), 1);
    at_rest(&site, &[]);
}

fn dns_over_tcp_is_served_again_after_a_kill() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let client = &place.network.host("frontend-app").namespace;
    let process = place.start();
    place.apply_guide();
    let ask = || {
        let mut stream = connect(client, at(DNS), SHORT)?;
        stream.write_all(&query(7, NAME, A))?;
        read(&mut stream).map(|response| (response.code, response.answers))
    };
    assert_eq!(ask().expect("a response"), (OK, 1));
    process.signal(libc::SIGKILL);
    process.wait();
    ask().expect_err("no gateway");
    let process = place.start();
    until("it is served", || ask().is_ok_and(|response| response == (OK, 1)));
    process.signal(libc::SIGTERM);
    assert!(process.wait().success(), "{}", place.log());
}

fn without_the_pair_dns_over_tcp_is_refused() {
    let network = Network::new(&guide(), 1).expect("a network");
    let site = Site::configured(network, |text| format!("{text}host: {{ pair: false }}\n"));
    site.resolve_neighbours();
    let refused = connect(site.host("frontend-app"), at(DNS), PATIENCE).expect_err("nothing listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    site.at_rest(&[Reason::RejectUndefinedPort]);
}

fn dig(site: &Site, host: &str, words: &[&str]) -> String {
    let common = ["+tries=1", "+time=5"];
    let output = site.host(host).command("dig").args(common).args(words).output().expect("started");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

fn dig_asks_by_tcp_over_both_families() {
    let (site, _servers) = dual_stack::site("packet", 1);
    for host in ["frontend-app", "outside-client"] {
        for server in [DNS, "[fd00:10:96::10]:53"] {
            let server: SocketAddr = at(server);
            let server = format!("@{}", server.ip());
            let answer = dig(&site, host, &[&server, "+tcp", NAME]);
            assert!(answer.contains("status: NOERROR") && answer.contains(" qr aa rd"), "{answer}");
            assert!(answer.contains("(TCP)") && answer.contains("10.96.0.50"), "{answer}");
            let unknown = dig(&site, host, &[&server, "+tcp", "no-such.default.svc.cluster.local"]);
            assert!(unknown.contains("status: NXDOMAIN") && unknown.contains("SOA"), "{unknown}");
            let transfer = dig(&site, host, &[&server, "AXFR", "cluster.local"]);
            assert!(transfer.contains("Transfer failed"), "{transfer}");
        }
    }
    // Several queries on one connection.
    let both = dig(&site, "frontend-app", &["@10.96.0.10", "+tcp", "+keepopen", "+short", NAME, "-x", "10.96.0.50"]);
    assert_eq!(both, format!("10.96.0.50\n{NAME}.\n"));
    at_rest(&site, &[]);
}

fn dig_gets_a_truncated_answer_whole_by_tcp() {
    let site = Site::new();
    let addresses: BTreeSet<IpAddr> = big(&site, 3000).into_iter().map(IpAddr::V4).collect();
    let truncated = dig(&site, "frontend-app", &["@10.96.0.10", "+ignore", BIG]);
    assert!(truncated.contains(" qr aa tc rd") && truncated.contains("ANSWER: 0"), "{truncated}");
    let whole = dig(&site, "frontend-app", &["@10.96.0.10", "+short", BIG]);
    let found: BTreeSet<IpAddr> = whole.lines().filter(|line| !line.starts_with(';')).map(ip).collect();
    assert_eq!(found, addresses);
    let dns = site.gateway().counters().dns();
    assert_eq!((dns.dns_tcp.value(), dns.dns_answered.value(), dns.dns_truncated.value()), (1, 1, 0));
    at_rest(&site, &[]);
}
