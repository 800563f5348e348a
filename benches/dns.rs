//! Cluster DNS in memory: queries in, answers out, through the whole pipeline, for 10 000 Services.
//!
//! The same run measures the **floor**: the same queries made in the same way. Their cache lines and a random line of as many
//! names are accessed with the same prefetching, and nothing else is done.
//!
//! Over UDP/IPv4 and, as `a6` and so on, over UDP/IPv6, of Services of the same family.
//!
//! One iteration is a burst of 64 queries.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep};
use pollgate_common::dns::name::to_wire;
use pollgate_common::dns::records::rr;
use pollgate_dataplane::port::BURST;
use support::cluster::Family;
use support::site::MAC;
use support::{Make, Random, Site, cluster, prefetch};

/// The default address of cluster DNS.
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Room for the longest answer.
const STRIDE: usize = 512;
const NXDOMAIN: u8 = 3;

/// A query, and the expected response code and number of answers.
struct Question {
    name: &'static str,
    /// Asked of an IPv4 Service.
    rtype: u16,
    /// Asked of an IPv6 Service.
    other: u16,
    wire: fn(u32) -> String,
    rcode: u8,
    answers: u8,
}

const QUESTIONS: [Question; 4] = [
    Question { name: "a", rtype: rr::A, other: rr::AAAA, wire: existing, rcode: 0, answers: 1 },
    Question { name: "nodata", rtype: rr::AAAA, other: rr::A, wire: existing, rcode: 0, answers: 0 },
    Question { name: "nxdomain", rtype: rr::A, other: rr::AAAA, wire: missing, rcode: NXDOMAIN, answers: 0 },
    Question { name: "search", rtype: rr::A, other: rr::AAAA, wire: searched, rcode: NXDOMAIN, answers: 0 },
];

fn existing(at: u32) -> String {
    format!("{}.default.svc.cluster.local", cluster::name(at))
}

fn missing(at: u32) -> String {
    format!("{}.nowhere.svc.cluster.local", cluster::name(at))
}

/// What a resolver with `ndots:5` asks first of a name outside the cluster.
fn searched(at: u32) -> String {
    format!("{}.example.com.default.svc.cluster.local", cluster::name(at))
}

fn answers(c: &mut Criterion) {
    let names = if support::is_trial() { 100 } else { 10_000 };
    let mut group = c.benchmark_group("dns");
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    let mut floor = None;
    group.bench_function(BenchmarkId::new("floor", names), |b| {
        let floor = floor.get_or_insert_with(|| Floor::new(names));
        b.iter(|| black_box(floor.touch()));
    });
    for family in [Family::V4, Family::V6] {
        for question in &QUESTIONS {
            let name = if family == Family::V4 { question.name.to_owned() } else { format!("{}6", question.name) };
            let mut site = None;
            group.bench_function(BenchmarkId::new(name, names), |b| {
                let make = || Site::of(family, Queries::new(question, family, names), STRIDE, names, 1024);
                let site = site.get_or_insert_with(make);
                b.iter(|| site.poll());
            });
            if let Some(site) = &mut site {
                check(site, question, family);
            }
        }
    }
    group.finish();
}

/// Offset of the message: after Ethernet, IP and UDP.
fn message(family: Family) -> usize {
    match family {
        Family::V4 => 14 + 20 + 8,
        Family::V6 => 14 + 40 + 8,
    }
}

/// Checks that every query gets the correct answer, without an allocation.
fn check(site: &mut Site, question: &Question, family: Family) {
    let message = message(family);
    site.check();
    assert_eq!(site.totals().flows_live, 0, "DNS opens no flows");
    let remote = std::sync::Arc::clone(&site.remote);
    let sent = remote.sent(|| site.poll());
    assert_eq!(sent.len(), BURST);
    for frame in sent {
        let found = (frame[message + 3] & 0x0f, frame[message + 7]);
        assert_eq!(found, (question.rcode, question.answers), "{}: code and answers", question.name);
    }
}

/// Queries for random names, made in advance.
struct Queries {
    frames: Vec<Box<[u8]>>,
    random: Random,
}

impl Queries {
    fn new(question: &Question, family: Family, names: u32) -> Queries {
        let rtype = if family == Family::V4 { question.rtype } else { question.other };
        let frame = |at| query(family, (question.wire)(at).as_str(), rtype, at);
        Queries { frames: (0..names).map(frame).collect(), random: Random::new() }
    }
}

impl Make for Queries {
    #[inline]
    fn make(&mut self, buffer: &mut [u8]) -> usize {
        let frame = &self.frames[self.random.below(self.frames.len() as u32) as usize];
        buffer[..frame.len()].copy_from_slice(frame);
        frame.len()
    }
}

/// A query as glibc's resolver sends it to the gateway.
fn query(family: Family, name: &str, rtype: u16, client: u32) -> Box<[u8]> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(to_wire(name).expect("a name"));
    message.extend(rtype.to_be_bytes());
    message.extend(1u16.to_be_bytes());
    let client = family.address(Ipv4Addr::from(0x0af8_0000 + client));
    let builder = match (client, family.address(DNS)) {
        (IpAddr::V4(client), IpAddr::V4(dns)) => ethernet().ipv4(client.octets(), dns.octets(), 64),
        (IpAddr::V6(client), IpAddr::V6(dns)) => ethernet().ipv6(client.octets(), dns.octets(), 64),
        _ => unreachable!("both are of one family"),
    };
    let builder = builder.udp(40_000, 53);
    let mut frame = Vec::with_capacity(builder.size(message.len()));
    builder.write(&mut frame, &message).expect("written to memory");
    frame.into()
}

fn ethernet() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0xfe], MAC)
}

/// Makes the queries, accesses their cache lines and a random line of as many names, and does nothing else.
struct Floor {
    queries: Queries,
    names: Vec<[u8; 64]>,
    buffers: Vec<[u8; STRIDE]>,
    random: Random,
    chosen: [usize; BURST],
}

impl Floor {
    fn new(names: u32) -> Floor {
        let lines = vec![[1; 64]; names as usize];
        let queries = Queries::new(&QUESTIONS[0], Family::V4, names);
        Floor { queries, names: lines, buffers: vec![[0; STRIDE]; BURST], random: Random::new(), chosen: [0; BURST] }
    }

    fn touch(&mut self) -> u32 {
        for (buffer, chosen) in self.buffers.iter_mut().zip(&mut self.chosen) {
            self.queries.make(buffer);
            *chosen = self.random.below(self.names.len() as u32) as usize;
            prefetch(&self.names[*chosen]);
        }
        let touch = |(buffer, &at): (&[u8; STRIDE], &usize)| {
            u32::from(buffer[message(Family::V4)]) + u32::from(self.names[at][0])
        };
        self.buffers.iter().zip(&self.chosen).map(touch).sum()
    }
}

criterion_group!(benches, answers);
criterion_main!(benches);
