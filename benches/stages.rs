//! Two stages of the pipeline separately: parsing a burst, and rewriting it.
//!
//! The same run measures the **floor**: the cache lines of the same headers are read, or read and written, and nothing else is
//! done. The frames stay in the cache, so this measures code, not memory.
//!
//! One iteration is a burst of 64 frames of 64 bytes.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench are small")]

mod support;

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pollgate_common::flow::{V4, V6};
use pollgate_common::net::{Facts, Link, Mac, Net, NextHop, PortId};
use pollgate_dataplane::flow::Translation;
use pollgate_dataplane::flow::entry::Tuple;
use pollgate_dataplane::port::{BURST, Frame, Origin};
use pollgate_dataplane::stages::Parsed;
use pollgate_dataplane::wire::checksum;
use support::site::MAC;
use support::{Mix, Source};

/// Sixty-four frames and their memory.
struct Burst {
    frames: Vec<Frame>,
    _buffers: Box<[[u8; 128]]>,
}

impl Burst {
    fn new(mix: Mix, change: impl Fn(&mut [u8])) -> Burst {
        Burst::of(Source::new(MAC, mix, BURST as u32, 1), change)
    }

    /// IPv6 frames.
    fn v6(mix: Mix) -> Burst {
        Burst::of(Source::new(MAC, mix, BURST as u32, 1).v6(), |_| {})
    }

    fn of(mut source: Source, change: impl Fn(&mut [u8])) -> Burst {
        let mut buffers: Box<[[u8; 128]]> = vec![[0; 128]; BURST].into();
        let frames = buffers.iter_mut().enumerate().map(|(flow, buffer)| {
            let len = source.write(flow as u32, &mut buffer[..]) as u32;
            change(&mut buffer[..]);
            let (ptr, port) = (NonNull::from(&mut buffer[..]).cast(), PortId(0));
            // SAFETY: 128 bytes that do not move and are accessed only through this frame.
            unsafe { Frame::new(ptr, len, 128, Origin::Port(port), port, 0) }
        });
        Burst { frames: frames.collect(), _buffers: buffers }
    }
}

/// Makes the IP header one word longer, with an empty option.
fn with_option(frame: &mut [u8]) {
    frame.copy_within(34..60, 38);
    frame[14] = 0x46;
    frame[34..38].fill(1);
    frame[24..26].fill(0);
    let sum = !checksum::fold(checksum::sum(&frame[14..38]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    // The datagram became shorter by the same length.
    if frame[23] == 17 {
        frame[42..44].copy_from_slice(&26u16.to_be_bytes());
    }
}

fn net() -> Net {
    let link = Link {
        index: 1,
        name: "eth0".to_owned(),
        port: Some(PortId(0)),
        mac: Mac(MAC),
        mtu: 1500,
        up: true,
        ups: 1,
        deletions: 0,
    };
    Net::new(1, Facts { links: vec![link], ..Facts::default() })
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let (net, plain) = (net(), |_: &mut [u8]| {});
    group.bench_function("floor", |b| {
        let burst = Burst::new(Mix::Both, plain);
        b.iter(|| burst.frames.iter().map(|frame| line(frame.bytes())).fold(0u64, u64::wrapping_add));
    });
    let udp = || Burst::new(Mix::Udp, plain);
    let tcp = || Burst::new(Mix::Tcp, plain);
    let options = || Burst::new(Mix::Both, with_option);
    let (udp6, tcp6) = (|| Burst::v6(Mix::Udp), || Burst::v6(Mix::Tcp));
    let bursts: [(&str, &dyn Fn() -> Burst); 5] =
        [("udp", &udp), ("tcp", &tcp), ("options", &options), ("udp6", &udp6), ("tcp6", &tcp6)];
    for (name, burst) in bursts {
        group.bench_function(name, |b| {
            let (burst, mut parsed) = (burst(), Parsed::default());
            assert_eq!(parsed.parse(&burst.frames, &net), BURST, "all can belong to flows");
            b.iter(|| black_box(parsed.parse(black_box(&burst.frames), &net)));
        });
    }
    group.finish();
}

fn rewrite(c: &mut Criterion) {
    let mut group = c.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let to = Tuple {
        src: V4(Ipv4Addr::new(10, 248, 0, 0)),
        dst: V4(Ipv4Addr::new(10, 240, 0, 1)),
        src_port: 1024,
        dst_port: 8080,
    };
    let translation = Translation { to, addresses: 0x1234, whole: 0x4321 };
    let next_hop = NextHop { port: PortId(0), src: Mac(MAC), dst: Mac([2, 0, 0, 0, 0, 9]), mtu: 1500 };
    group.bench_function("floor", |b| {
        let mut burst = Burst::new(Mix::Both, |_| {});
        b.iter(|| burst.frames.iter_mut().for_each(|frame| touch(black_box(frame.bytes_mut()))));
    });
    for (name, mix) in [("udp", Mix::Udp), ("tcp", Mix::Tcp)] {
        group.bench_function(name, |b| {
            let (mut burst, mut parsed) = (Burst::new(mix, |_| {}), Parsed::default());
            assert_eq!(parsed.parse(&burst.frames, &net()), BURST);
            b.iter(|| parsed.rewrite(black_box(&mut burst.frames), &translation, &next_hop));
            assert!(burst.frames.iter().all(|frame| frame.bytes()[30..34] == [10, 240, 0, 1]), "rewritten");
        });
    }
    let to = Tuple {
        src: V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x0af8, 0)),
        dst: V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x0af0, 1)),
        src_port: 1024,
        dst_port: 8080,
    };
    let translation = Translation { to, addresses: 0x1234, whole: 0x4321 };
    for (name, mix) in [("udp6", Mix::Udp), ("tcp6", Mix::Tcp)] {
        group.bench_function(name, |b| {
            let (mut burst, mut parsed) = (Burst::v6(mix), Parsed::default());
            assert_eq!(parsed.parse(&burst.frames, &net()), BURST);
            b.iter(|| parsed.rewrite_v6(black_box(&mut burst.frames), &translation, &next_hop));
            assert!(burst.frames.iter().all(|frame| frame.bytes()[50..54] == [10, 240, 0, 1]), "rewritten");
        });
    }
    group.finish();
}

/// Reads a frame's first cache line.
fn line(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_ne_bytes(*word)).fold(0, u64::wrapping_add)
}

/// Reads and writes the fields of a translation: MACs, addresses, ports, sums.
fn touch(bytes: &mut [u8]) {
    for at in [0, 4, 8, 22, 26, 30, 34, 40] {
        if let Some(word) = bytes.get_mut(at..at + 4) {
            word.reverse();
        }
    }
}

criterion_group!(benches, parse, rewrite);
criterion_main!(benches);
