//! `pollgate replay`: captures in, captures out, the same bytes every time; and what it says when it cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use etherparse::PacketBuilder;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::pcap::{self, Record, Writer};
use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = r#"
interfaces:
  - name: eth0
    mac: 02:00:00:00:00:01
    ip: [192.168.0.1/24, "2001:db8::fe/64"]
    neighbours: { 192.168.0.254: "02:00:00:00:00:fe" }
    routes: [ { to: 0.0.0.0/0, via: 192.168.0.254 } ]
  - name: eth1
    mac: 02:00:00:00:00:02
    ip: 10.244.0.1/16
    neighbours: { 10.244.1.5: "02:00:00:00:01:05", 10.244.1.10: "02:00:00:00:01:0a" }
addresses: 192.168.0.10
"#;

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.50
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {containers: [{name: web, image: web}]}
status: {podIP: 10.244.1.10, podIPs: [{ip: 10.244.1.10}], phase: Running, conditions: [{type: Ready, status: \"True\"}]}
";

const ETH0: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ETH1: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const CLIENT_POD: [u8; 6] = [2, 0, 0, 0, 1, 5];
/// 2023-11-14, in nanoseconds.
const START: u64 = 1_700_000_000_000_000_000;

/// A directory with everything a replay needs.
struct Bench(TempDir);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(TempDir::new().expect("a directory"));
        bench.write("gateway.yaml", CONFIG);
        bench.write("objects.yaml", MANIFESTS);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("writable");
    }

    fn capture(&self, name: &str, records: &[Record]) {
        let mut writer = Writer::new(Vec::new()).expect("memory");
        records.iter().for_each(|record| writer.write(record).expect("memory"));
        self.write(name, writer.finish().expect("memory"));
    }

    /// Runs `pollgate replay` in the directory with these further arguments.
    fn replay(&self, more: &[&str]) -> Output {
        let arguments = ["replay", "--config", "gateway.yaml", "--manifests", "objects.yaml"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_pollgate"));
        command.current_dir(self.0.path()).args(arguments).args(more).output().expect("the binary runs")
    }

    fn succeeds(&self, more: &[&str]) {
        let output = self.replay(more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Exit code and stderr of a replay that must not succeed.
    fn fails(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.replay(more);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn records(&self, name: &str) -> Vec<Record> {
        pcap::read(&fs::read(self.path(name)).expect("written")).expect("a capture")
    }

    fn counters(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).expect("written")).expect("JSON")
    }
}

fn record(nanos: u64, bytes: Vec<u8>) -> Record {
    Record { time: Instant(START + nanos), bytes }
}

fn tcp(macs: ([u8; 6], [u8; 6]), src: ([u8; 4], u16), dst: ([u8; 4], u16), syn_ack: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(src.0, dst.0, 64).tcp(src.1, dst.1, 1, 64240).syn();
    let builder = if syn_ack { builder.ack(2) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").expect("memory");
    frame
}

/// A Pod's SYN to the ClusterIP, from this port.
fn syn(port: u16) -> Vec<u8> {
    tcp((CLIENT_POD, ETH1), ([10, 244, 1, 5], port), ([10, 96, 0, 50], 80), false)
}

fn from_outside(port: u16) -> Vec<u8> {
    tcp((ROUTER, ETH0), ([198, 51, 100, 9], port), ([192, 168, 0, 10], 30080), false)
}

/// Source port of a TCP frame.
fn source_port(record: &Record) -> u16 {
    u16::from_be_bytes([record.bytes[34], record.bytes[35]])
}

const ALL: [&str; 10] = [
    "--in",
    "eth0=eth0.pcap",
    "--in",
    "eth1=eth1.pcap",
    "--out",
    "eth0=eth0.out",
    "--out",
    "eth1=eth1.out",
    "--counters",
    "counters.json",
];

fn traffic(bench: &Bench) {
    let outside: Vec<Record> = (0..50u16).map(|n| record(u64::from(n) * 2_000_000, from_outside(40000 + n))).collect();
    let mut inside: Vec<Record> =
        (0..50u16).map(|n| record(u64::from(n) * 2_000_000 + 1_000_000, syn(40000 + n))).collect();
    inside.push(record(200_000_000, syn(50000)[..40].to_vec()));
    let reply = tcp(([2, 0, 0, 0, 1, 10], ETH1), ([10, 244, 1, 10], 8080), ([10, 244, 1, 5], 40000), true);
    inside.push(record(300_000_000, reply));
    bench.capture("eth0.pcap", &outside);
    bench.capture("eth1.pcap", &inside);
}

#[test]
fn the_same_captures_give_the_same_bytes_and_counters() {
    let bench = Bench::new();
    traffic(&bench);
    bench.succeeds(&ALL);
    let files = ["eth0.out", "eth1.out", "counters.json"].map(|name| bench.path(name));
    let read = |files: &[PathBuf; 3]| files.clone().map(|path| fs::read(path).expect("written"));
    let first = read(&files);
    bench.succeeds(&ALL);
    assert_eq!(read(&files), first);
    assert_eq!(bench.records("eth1.out").len(), 101);
    let counters = bench.counters("counters.json");
    let number = |name: &str| counters[name].as_u64().expect("a number");
    assert_eq!((number("rx"), number("tx"), number("originated")), (102, 101, 0));
    assert_eq!((number("passed"), number("consumed"), number("held")), (0, 0, 0));
    assert_eq!(counters["drops"], serde_json::json!({ "ip_length": 1 }), "zero reasons are left out");
    assert_eq!(counters["services"]["default/web:80"]["flows"], 100);
}

#[test]
fn the_service_kubernetes_is_there_before_any_object_and_refuses() {
    let bench = Bench::new();
    let ask = tcp((CLIENT_POD, ETH1), ([10, 244, 1, 5], 40000), ([10, 96, 0, 1], 443), false);
    bench.capture("eth1.pcap", &[record(0, ask)]);
    bench.succeeds(&["--in", "eth1=eth1.pcap", "--out", "eth1=eth1.out", "--counters", "counters.json"]);
    let answers = bench.records("eth1.out");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].bytes[47] & 0x04, 0x04, "RST");
    let counters = bench.counters("counters.json");
    assert_eq!(
        (&counters["originated"], &counters["drops"]),
        (&1.into(), &serde_json::json!({ "reject_no_endpoints": 1 }))
    );
}

#[test]
fn a_frame_out_carries_the_time_and_the_translation_of_the_frame_in() {
    let bench = Bench::new();
    traffic(&bench);
    bench.succeeds(&ALL);
    let last = bench.records("eth1.out").pop().expect("the reply");
    assert_eq!(last.time, Instant(START + 300_000_000));
    let expected = tcp((ETH1, CLIENT_POD), ([10, 96, 0, 50], 80), ([10, 244, 1, 5], 40000), true);
    // All but TTL and IP sum, which differ by the hop.
    assert_eq!((&last.bytes[..22], &last.bytes[26..]), (&expected[..22], &expected[26..]));
    assert_eq!(last.bytes[22], 63);
}

#[test]
fn frames_are_taken_by_time_and_then_by_the_order_of_in() {
    let bench = Bench::new();
    bench.capture("a.pcap", &[record(5000, from_outside(1)), record(1000, from_outside(2))]);
    bench.capture("b.pcap", &[record(5000, syn(3)), record(9000, syn(4)), record(5000, syn(5))]);
    let source_of = |records: Vec<Record>| -> Vec<(u64, bool)> {
        // SNAT changes the outside client's port: what is left is when, and from which side.
        records.iter().map(|record| (record.time.0 - START, source_port(record) > 1023)).collect()
    };
    let (a, b) = (["--in", "eth0=a.pcap"], ["--in", "eth1=b.pcap"]);
    bench.succeeds(&[&a[..], &b, &["--out", "eth1=out.pcap"]].concat());
    let outside_first = [(1000, true), (5000, true), (5000, false), (5000, false), (9000, false)];
    assert_eq!(source_of(bench.records("out.pcap")), outside_first);
    bench.succeeds(&[&b[..], &a, &["--out", "eth1=out.pcap"]].concat());
    let inside_first = [(1000, true), (5000, false), (5000, false), (5000, true), (9000, false)];
    assert_eq!(source_of(bench.records("out.pcap")), inside_first);
}

#[test]
fn virtual_time_ends_flows() {
    let bench = Bench::new();
    let reply = || tcp(([2, 0, 0, 0, 1, 10], ETH1), ([10, 244, 1, 10], 8080), ([10, 244, 1, 5], 40000), true);
    // A SYN is remembered for a minute.
    for (seconds, (sent, passed)) in [(59, (2, 0)), (70, (1, 1))] {
        bench.capture("in.pcap", &[record(0, syn(40000)), record(seconds * 1_000_000_000, reply())]);
        bench.succeeds(&["--in", "eth1=in.pcap", "--counters", "counters.json"]);
        let counters = bench.counters("counters.json");
        assert_eq!((counters["tx"].as_u64(), counters["passed"].as_u64()), (Some(sent), Some(passed)), "{seconds} s");
    }
}

#[test]
fn an_output_without_frames_is_a_capture_all_the_same() {
    let bench = Bench::new();
    bench.capture("in.pcap", &[]);
    bench.succeeds(&["--in", "eth0=in.pcap", "--out", "eth0=out.pcap"]);
    let file = fs::read(bench.path("out.pcap")).expect("written");
    assert_eq!((file.len(), &file[..4]), (24, &0xa1b2_c3d4u32.to_le_bytes()[..]));
}

/// The frames as nanosecond pcap, or as pcapng whose interface counts in units of 10⁻⁹ s.
fn other_formats(records: &[Record]) -> [(&'static str, Vec<u8>); 2] {
    let mut nano = Vec::new();
    for number in [0xa1b2_3c4du32, 0x0004_0002, 0, 0, 65535, 1] {
        nano.extend(number.to_le_bytes());
    }
    let block = |kind: u32, body: Vec<u8>| {
        let len = u32::try_from(body.len() + 12).expect("small").to_le_bytes();
        [&kind.to_le_bytes()[..], &len, &body, &len].concat()
    };
    let section = [&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut ng = block(0x0a0d_0d0a, section);
    ng.extend(block(1, vec![1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]));
    for record in records {
        let time = record.time.0;
        let low = |number: u64| u32::try_from(number & 0xffff_ffff).expect("cut to 32 bits");
        let len = low(record.bytes.len() as u64);
        for number in [low(time / 1_000_000_000), low(time % 1_000_000_000), len, len] {
            nano.extend(number.to_le_bytes());
        }
        nano.extend(&record.bytes);
        let mut body = Vec::new();
        for number in [0, low(time >> 32), low(time), len, len] {
            body.extend(number.to_le_bytes());
        }
        body.extend(&record.bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        ng.extend(block(6, body));
    }
    [("nanoseconds", nano), ("pcapng", ng)]
}

#[test]
fn nanosecond_pcap_and_pcapng_are_read_and_microsecond_pcap_is_written() {
    let bench = Bench::new();
    let records = [record(1_234, syn(40000)), record(2_345_678, syn(40001))];
    for (what, file) in other_formats(&records) {
        bench.write("in.cap", file);
        bench.succeeds(&["--in", "eth1=in.cap", "--out", "eth1=out.pcap"]);
        let times: Vec<u64> = bench.records("out.pcap").iter().map(|record| record.time.0 - START).collect();
        assert_eq!(times, [1_000, 2_345_000], "{what}");
        assert_eq!(fs::read(bench.path("out.pcap")).expect("written")[..4], 0xa1b2_c3d4u32.to_le_bytes(), "{what}");
    }
}

#[test]
fn what_is_wrong_with_captures_and_interfaces_is_told_and_fails_with_1() {
    let bench = Bench::new();
    bench.capture("in.pcap", &[record(0, syn(40000))]);
    bench.write("notes.txt", "not a capture");
    let whole = fs::read(bench.path("in.pcap")).expect("written");
    bench.write("cut.pcap", &whole[..whole.len() - 1]);
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--in", "eth7=in.pcap"], &["--in eth7", "eth0, eth1"]),
        (&["--in", "eth0=in.pcap", "--out", "eth7=out.pcap"], &["--out eth7", "eth0, eth1"]),
        (&["--in", "eth0=nowhere.pcap"], &["nowhere.pcap"]),
        (&["--in", "eth0=notes.txt"], &["notes.txt", "not a capture file"]),
        (&["--in", "eth0=cut.pcap"], &["cut.pcap", "ends inside"]),
        (&["--in", "eth0=in.pcap", "--out", "eth0=nowhere/out.pcap"], &["nowhere/out.pcap"]),
    ];
    for (arguments, told) in cases {
        let (code, stderr) = bench.fails(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        told.iter().for_each(|text| assert!(stderr.contains(text), "{arguments:?} says {stderr:?}, not {text:?}"));
    }
}

#[test]
fn a_broken_manifest_is_told_by_file_line_and_field() {
    let bench = Bench::new();
    bench.capture("in.pcap", &[]);
    // As guides print it: neither version nor name.
    bench.write(
        "objects.yaml",
        "kind: Service\nspec:\n  selector:\n    app: backend\n  ports:\n    - protocol: TCP\n      port: 8080\n      targetPort: 8080\n",
    );
    let (code, stderr) = bench.fails(&["--in", "eth0=in.pcap", "--out", "eth0=out.pcap"]);
    assert_eq!(code, Some(1), "{stderr}");
    for told in ["objects.yaml:1: apiVersion: ", "objects.yaml:1: metadata.name: "] {
        assert!(stderr.contains(told), "{stderr:?} does not say {told:?}");
    }
    assert!(!Path::exists(&bench.path("out.pcap")), "nothing is written");

    bench.write("objects.yaml", MANIFESTS.replace("nodePort: 30080", "nodePort: 80").trim_start());
    let (code, stderr) = bench.fails(&["--in", "eth0=in.pcap"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("objects.yaml:8: spec.ports[0].nodePort: "), "{stderr}");
}

#[test]
fn a_broken_configuration_is_told_and_fails_with_1() {
    let bench = Bench::new();
    bench.capture("in.pcap", &[]);
    bench.write("gateway.yaml", format!("{}nat: {{masqueradeAl: true}}\n", CONFIG.trim_start()));
    let (code, stderr) = bench.fails(&["--in", "eth0=in.pcap"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("gateway.yaml:12: nat.masqueradeAl: unknown key; did you mean masqueradeAll?"), "{stderr}");
}

#[test]
fn wrong_usage_fails_with_2() {
    let bench = Bench::new();
    for arguments in [&[][..], &["--in", "eth0"], &["--in", "=x.pcap"], &["--nonsense"]] {
        assert_eq!(bench.fails(arguments).0, Some(2), "{arguments:?}");
    }
}

/// A dual-stack gateway: a Pod's SYN to an IPv6 ClusterIP is translated, or refused.
#[test]
fn ipv6_is_replayed_like_ipv4() {
    let bench = Bench::new();
    bench.write(
        "gateway.yaml",
        CONFIG.replace("ip: 10.244.0.1/16", "ip: [10.244.0.1/16, \"fd00:244::1/64\"]").replace(
            "10.244.1.10: \"02:00:00:00:01:0a\"",
            "10.244.1.10: \"02:00:00:00:01:0a\", \"fd00:244::a\": \"02:00:00:00:01:0b\"",
        ) + "cluster: { serviceCIDRs: [10.96.0.0/16, \"fd00:96::/112\"], podCIDRs: [10.244.0.0/16, \"fd00:244::/64\"] }\n",
    );
    bench.write(
        "objects.yaml",
        "apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ipFamilies: [IPv6], clusterIP: \"fd00:96::50\", ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv6
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
ports: [{port: 8080}]
endpoints: [{addresses: [\"fd00:244::a\"]}]
",
    );
    let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let syn = |dst: &str, port: u16| {
        let builder = PacketBuilder::ethernet2(CLIENT_POD, ETH1).ipv6(ip("fd00:244::5"), ip(dst), 64);
        let mut frame = Vec::new();
        builder.tcp(40000, port, 1, 64240).syn().write(&mut frame, b"").expect("memory");
        frame
    };
    bench.capture("eth1.pcap", &[record(0, syn("fd00:96::50", 80)), record(1_000_000, syn("fd00:96::50", 81))]);
    bench.succeeds(&["--in", "eth1=eth1.pcap", "--out", "eth1=eth1.out", "--counters", "counters.json"]);
    let sent = bench.records("eth1.out");
    assert_eq!(sent.len(), 2);
    let headers = etherparse::PacketHeaders::from_ethernet_slice(&sent[0].bytes).expect("a sound packet");
    let Some(etherparse::NetHeaders::Ipv6(header, _)) = headers.net else { panic!("not IPv6") };
    let Some(etherparse::TransportHeader::Tcp(tcp)) = headers.transport else { panic!("not TCP") };
    assert_eq!((header.source, header.destination, header.hop_limit), (ip("fd00:244::5"), ip("fd00:244::a"), 63));
    assert_eq!((tcp.destination_port, tcp.checksum), (8080, tcp.calc_checksum_ipv6(&header, &[]).expect("fits")));
    assert_eq!(sent[0].bytes[..6], [2, 0, 0, 0, 1, 0x0b]);
    // The port that the Service does not have: a reset, from the address that was tried.
    assert_eq!((&sent[1].bytes[22..38], &sent[1].bytes[..6]), (&ip("fd00:96::50")[..], &CLIENT_POD[..]));
    let counters = bench.counters("counters.json");
    assert_eq!(counters["drops"], serde_json::json!({ "reject_undefined_port": 1 }));
    assert_eq!((counters["rx"].as_u64(), counters["tx"].as_u64()), (Some(2), Some(2)));
}
