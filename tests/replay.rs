//! `pollgate replay`: captures in, captures out, the same bytes every time; and what it says when it cannot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use etherparse::PacketBuilder;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::pcap::{self, Record, Writer};
use serde_json::{Value, json};
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
    assert_eq!(counters["drops"], json!({ "ip_length": 1 }), "zero reasons are left out");
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
    assert_eq!((&counters["originated"], &counters["drops"]), (&1.into(), &json!({ "reject_no_endpoints": 1 })));
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
    assert_eq!(counters["drops"], json!({ "reject_undefined_port": 1 }));
    assert_eq!((counters["rx"].as_u64(), counters["tx"].as_u64()), (Some(2), Some(2)));
}

// Changes of objects: `--then`.

/// A Pod of the Service, with further metadata.
fn pod(name: &str, last: u8, metadata: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}{metadata}}}
spec: {{containers: [{{name: web, image: web}}]}}
status: {{podIP: 10.244.1.{last}, podIPs: [{{ip: 10.244.1.{last}}}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}
"
    )
}

const SECOND: u64 = 1_000_000_000;
const ETH1_ONLY: [&str; 6] = ["--in", "eth1=in.pcap", "--out", "eth1=out.pcap", "--counters", "counters.json"];

impl Bench {
    /// With a second endpoint's neighbour, and its Pod in a file.
    fn with_replica() -> Bench {
        let bench = Bench::new();
        let more = "10.244.1.11: \"02:00:00:00:01:0b\", 10.244.1.5:";
        bench.write("gateway.yaml", CONFIG.replace("10.244.1.5:", more));
        bench.write("replica.yaml", pod("web-2", 11, ""));
        bench
    }

    /// Replays these frames of eth1 with these changes, twice: the same each time. Returns the destinations of the frames sent.
    fn changed(&self, frames: &[Record], changes: &[&str]) -> Vec<[u8; 4]> {
        self.capture("in.pcap", frames);
        let then: Vec<&str> = changes.iter().flat_map(|change| ["--then", change]).collect();
        let both = || {
            self.succeeds(&[&ETH1_ONLY[..], &then].concat());
            ["out.pcap", "counters.json"].map(|name| fs::read(self.path(name)).expect("written"))
        };
        assert_eq!(both(), both());
        self.records("out.pcap").iter().map(|record| destination(&record.bytes)).collect()
    }

    /// Asserts every counter: those named have these values, all others are zero; the frames add up.
    fn counted(&self, expected: &[(&str, u64)], services: &Value) {
        let counters = self.counters("counters.json");
        let fields = counters.as_object().expect("an object");
        let number = |name: &str| fields[name].as_u64().expect(name);
        let bytes = |name: &str| self.records(name).iter().map(|record| record.bytes.len() as u64).sum::<u64>();
        assert_eq!((number("rx_bytes"), number("tx_bytes")), (bytes("in.pcap"), bytes("out.pcap")));
        let plain =
            fields.iter().filter(|(name, _)| !["rx_bytes", "tx_bytes", "bursts", "polls"].contains(&name.as_str()));
        let plain = plain.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
        let by_reason = ["drops", "passes"].into_iter().flat_map(|kind| fields[kind].as_object().expect(kind));
        let by_reason = by_reason.map(|(name, value)| (name.clone(), value.as_u64().expect("a number")));
        let found: BTreeMap<String, u64> = plain.chain(by_reason).filter(|(_, count)| *count > 0).collect();
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(found, expected);
        let drops: u64 = fields["drops"].as_object().expect("drops").values().filter_map(Value::as_u64).sum();
        let accounted = number("tx") + number("passed") + number("consumed") + drops + number("held");
        assert_eq!(number("rx") + number("originated"), accounted, "frames that came, frames accounted for");
        let mut whole = fields["services"].clone();
        for service in whole.as_object_mut().expect("services").values_mut().filter_map(Value::as_object_mut) {
            let parts = [service.remove("backends"), service.remove("others").map(|others| json!({"others": others}))];
            for name in ["packets", "bytes", "flows"] {
                let values = parts.iter().flatten().filter_map(Value::as_object).flatten();
                let sum: u64 = values.map(|(_, part)| part[name].as_u64().expect("a number")).sum();
                assert_eq!(service[name], sum, "{name} of the endpoints");
            }
        }
        assert_eq!(&whole, services);
    }
}

fn destination(frame: &[u8]) -> [u8; 4] {
    frame[30..34].try_into().expect("IPv4")
}

/// SYNs of a Pod from consecutive ports, `each` ns apart.
fn syns(first: u16, count: u16, each: u64) -> Vec<Record> {
    (0..count).map(|n| record(u64::from(n) * each, syn(first + n))).collect()
}

const WEB_1: [u8; 4] = [10, 244, 1, 10];
const WEB_2: [u8; 4] = [10, 244, 1, 11];

#[test]
fn objects_that_are_applied_later_count_from_then_on() {
    let bench = Bench::with_replica();
    // Frames at 0, 1, … 19 s; the change at 10 s comes before the frame of that time.
    let sent = bench.changed(&syns(40000, 20, SECOND), &["10=replica.yaml"]);
    assert_eq!(sent[..10], [WEB_1; 10]);
    assert!(sent[10..].contains(&WEB_2) && sent[10..].contains(&WEB_1), "{sent:?}");
    let packets: u64 = sent.len() as u64;
    let bytes = bench.records("out.pcap").iter().map(|record| record.bytes.len() as u64).sum::<u64>();
    // The network, the start state, the first objects, the change: each is a generation.
    let counters =
        [("rx", 20), ("tx", 20), ("flows_opened", 20), ("flows_live", 20), ("flows_half_open", 20), ("generation", 4)];
    bench.counted(&counters, &served("default/web:80", packets, bytes, 20));
    let each = |address: [u8; 4]| sent.iter().filter(|to| **to == address).count();
    let values = |address| json!({"packets": each(address), "bytes": 54 * each(address), "flows": each(address)});
    let backends = json!({"10.244.1.10:8080": values(WEB_1), "10.244.1.11:8080": values(WEB_2)});
    assert_eq!(bench.counters("counters.json")["services"]["default/web:80"]["backends"], backends);
}

/// What `--counters` says of the Service port, beside the one that is always there.
fn served(name: &str, packets: u64, bytes: u64, flows: u64) -> Value {
    let idle = json!({"packets": 0, "bytes": 0, "flows": 0});
    json!({name: {"packets": packets, "bytes": bytes, "flows": flows}, "default/kubernetes:https": idle})
}

/// An acknowledgement of a Pod in the middle of a connection to the ClusterIP.
fn ack(port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_POD, ETH1).ipv4([10, 244, 1, 5], [10, 96, 0, 50], 64);
    let mut frame = Vec::new();
    builder.tcp(port, 80, 2, 64240).ack(2).write(&mut frame, b"").expect("memory");
    frame
}

/// A terminating endpoint keeps its flows and gets no new ones while another is ready; when it is gone, TCP flows stay where they are.
#[test]
fn an_endpoint_is_drained() {
    let bench = Bench::with_replica();
    let leaving = ", deletionTimestamp: \"2023-11-14T22:14:00Z\", deletionGracePeriodSeconds: 30";
    bench.write("leaving.yaml", pod("web-1", 10, leaving));
    let before = syns(40000, 5, SECOND);
    let kept = (0..5).map(|n| record(10 * SECOND + u64::from(n), ack(40000 + n)));
    let new = (0..5).map(|n| record(11 * SECOND + u64::from(n), syn(41000 + n)));
    let orphans = (0..5).map(|n| record(13 * SECOND + u64::from(n), ack(40000 + n)));
    let frames: Vec<Record> = before.into_iter().chain(kept).chain(new).chain(orphans).collect();
    let changes = ["12=-pod/default/web-1", "5=replica.yaml", "5=leaving.yaml"];
    let sent = bench.changed(&frames, &changes);
    assert_eq!((&sent[..10], &sent[10..15], &sent[15..]), (&[WEB_1; 10][..], &[WEB_2; 5][..], &[WEB_1; 5][..]));
    let counters =
        [("rx", 20), ("tx", 20), ("flows_opened", 10), ("flows_live", 10), ("flows_half_open", 10), ("generation", 6)];
    bench.counted(&counters, &served("default/web:80", 20, 20 * 54, 10));
}

/// A grace period ends by the virtual time: control's clock is the capture's.
#[test]
fn a_grace_period_ends_in_virtual_time() {
    let bench = Bench::with_replica();
    // As the gateway writes it when a Pod is deleted with a grace period.
    let ends = ", deletionTimestamp: \"2023-11-14T22:13:30Z\", deletionGracePeriodSeconds: 10, annotations: {pollgate.io/ends-at: \"2023-11-14T22:13:30Z\"}";
    bench.write("ends.yaml", pod("web-1", 10, ends));
    // The first frame is of 22:13:20: the Pod is the last endpoint, so it serves until its time is over.
    let frames: Vec<Record> = [0u16, 9, 10, 11].map(|at| record(u64::from(at) * SECOND, syn(40000 + at))).to_vec();
    let sent = bench.changed(&frames, &["1=ends.yaml"]);
    assert_eq!(sent[..2], [WEB_1; 2]);
    assert_eq!(sent[2..], [[10, 244, 1, 5]; 2], "resets");
    let counters = [
        ("rx", 4),
        ("tx", 4),
        ("originated", 2),
        ("reject_no_endpoints", 2),
        ("flows_opened", 2),
        ("flows_live", 2),
        ("flows_half_open", 2),
        ("generation", 5),
    ];
    bench.counted(&counters, &served("default/web:80", 2, 108, 2));
}

/// A client keeps its endpoint through changes of others until the time-out of its Service, counted from its last connection.
#[test]
fn affinity_times_out_in_virtual_time() {
    let bench = Bench::with_replica();
    let sticky = "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n  selector";
    bench.write("objects.yaml", MANIFESTS.replace("  selector", sticky) + "---" + &pod("web-2", 11, ""));
    let frames = [record(0, syn(40000)), record(50 * SECOND, syn(40001)), record(180 * SECOND, syn(40002))];
    let first = bench.changed(&frames[..1], &[])[0];
    let (chosen, other) = if first == WEB_1 { ("web-1", "web-2") } else { ("web-2", "web-1") };
    let last = if chosen == "web-1" { 10 } else { 11 };
    // The endpoint goes and comes back: it is forgotten, so the other one is remembered, and kept while it is.
    bench.write("back.yaml", pod(chosen, last, ""));
    let gone = format!("1=-pod/default/{chosen}");
    let frames = [
        record(0, syn(40000)),
        record(2 * SECOND, syn(40001)),
        record(50 * SECOND, syn(40002)),
        record(180 * SECOND, syn(40003)),
    ];
    let sent = bench.changed(&frames, &[&gone, "3=back.yaml"]);
    let second = if other == "web-1" { WEB_1 } else { WEB_2 };
    assert_eq!(sent, [first, second, second, first], "remembered until the time-out, then the ring's choice");
    let counters = [
        ("rx", 4),
        ("tx", 4),
        ("flows_opened", 4),
        ("flows_live", 1),
        ("flows_half_open", 1),
        ("flows_expired", 3),
        ("affinity_remembered", 2),
        ("generation", 5),
    ];
    bench.counted(&counters, &served("default/web:80", 4, 4 * 54, 4));
}

#[test]
fn a_deleted_service_is_gone_and_its_connections_stay() {
    let bench = Bench::with_replica();
    let frames = [
        record(0, syn(40000)),
        record(SECOND, syn(40001)),
        record(2 * SECOND, ack(40000)),
        record(3 * SECOND, syn(40002)),
    ];
    // At one time, the first on the command line is the first: the Service is applied, then deleted.
    bench.write(
        "other.yaml",
        MANIFESTS
            .split("---")
            .next()
            .expect("the Service")
            .replace("name: web", "name: other")
            .replace("clusterIP: 10.96.0.50", "clusterIP: 10.96.0.51")
            .replace(", nodePort: 30080", ""),
    );
    let changes = ["1.5=-svc/default/web", "2=other.yaml", "2=-service/default/other"];
    let sent = bench.changed(&frames, &changes);
    // The ClusterIP is in a Service CIDR: nobody has it.
    assert_eq!(sent, [WEB_1; 3]);
    let counters = [
        ("rx", 4),
        ("tx", 3),
        ("no_such_cluster_ip", 1),
        ("flows_opened", 2),
        ("flows_live", 2),
        ("flows_half_open", 2),
        ("generation", 6),
    ];
    let idle = json!({"default/kubernetes:https": {"packets": 0, "bytes": 0, "flows": 0}});
    bench.counted(&counters, &idle);
}

#[test]
fn changes_outside_the_frames_are_made_too() {
    let bench = Bench::with_replica();
    // A time stamp of the capture, before its first frame; and a change after the last one.
    let changes = ["1699999999.5=-pod/default/web-1", "100=replica.yaml"];
    assert_eq!(bench.changed(&[record(0, syn(40000))], &changes), [[10, 244, 1, 5]]);
    let counters = [("rx", 1), ("tx", 1), ("originated", 1), ("reject_no_endpoints", 1), ("generation", 5)];
    bench.counted(&counters, &served("default/web:80", 0, 0, 0));
    assert_eq!(bench.changed(&[], &["0=replica.yaml"]), [[0; 4]; 0]);
    bench.counted(&[("generation", 4)], &served("default/web:80", 0, 0, 0));
}

#[test]
fn a_change_that_cannot_be_made_is_told_before_anything_is_replayed() {
    let bench = Bench::with_replica();
    bench.capture("in.pcap", &[record(0, syn(40000))]);
    bench.write("broken.yaml", "kind: [\n");
    bench.write("shapeless.yaml", "kind: Pod\nmetadata: {name: x}\n");
    bench.write(
        "taken.yaml",
        "# a comment\n".to_owned()
            + MANIFESTS.trim_start().split("---").next().expect("the Service").replace("name: web", "name: b").as_str(),
    );
    bench.write("empty.yaml", "");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["5=nowhere.yaml"], &["--then 5=nowhere.yaml: nowhere.yaml: cannot be read"]),
        (&["5=broken.yaml"], &["--then 5=broken.yaml: broken.yaml:"]),
        (&["5=empty.yaml"], &["--then 5=empty.yaml: empty.yaml: no objects found"]),
        (&["5=shapeless.yaml"], &["--then 5=shapeless.yaml: shapeless.yaml:1: apiVersion: Required value"]),
        (
            &["5=taken.yaml"],
            &["--then 5=taken.yaml: taken.yaml:7: spec.clusterIPs: ", "provided IP is already allocated"],
        ),
        (&["5=-svc/default/b"], &["--then 5=-svc/default/b: services \"b\" not found"]),
        (&["5=-svc/default/web", "6=-svc/default/web"], &["--then 6=-svc/default/web: services \"web\" not found"]),
        // Every file is read, and each fault is told.
        (&["5=nowhere.yaml", "1=broken.yaml"], &["--then 1=broken.yaml: broken.yaml:", "--then 5=nowhere.yaml: "]),
    ];
    for (changes, told) in cases {
        let then: Vec<&str> = changes.iter().flat_map(|change| ["--then", change]).collect();
        let (code, stderr) = bench.fails(&[&ETH1_ONLY[..], &then].concat());
        assert_eq!(code, Some(1), "{changes:?}: {stderr}");
        told.iter().for_each(|text| assert!(stderr.contains(text), "{changes:?} says {stderr:?}, not {text:?}"));
        assert!(!bench.path("out.pcap").exists(), "{changes:?}: nothing is written");
    }
    for wrong in ["5", "x=replica.yaml", "5=", "5=-web", "5=-gizmo/default/web"] {
        let (code, stderr) = bench.fails(&["--in", "eth1=in.pcap", "--then", wrong]);
        assert_eq!(code, Some(2), "{wrong}: {stderr}");
    }
}

/// A datagram of so many bytes from outside, which no router may fragment.
fn whole_datagram(port: u16, len: usize) -> Vec<u8> {
    let mut header =
        etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [198, 51, 100, 9], [192, 168, 0, 10])
            .expect("fits");
    header.dont_fragment = true;
    let builder = PacketBuilder::ethernet2(ROUTER, ETH0).ip(etherparse::IpHeaders::Ipv4(header, Default::default()));
    let mut frame = Vec::new();
    builder.udp(port, 30053).write(&mut frame, &vec![7; len - 28]).expect("memory");
    frame
}

/// The MTU of the interface towards the endpoint decides: a packet that is longer is dropped, and its sender learns the MTU (RFC 1191 §4).
#[test]
fn an_interface_has_the_mtu_of_the_configuration() {
    let bench = Bench::new();
    bench.write("gateway.yaml", CONFIG.replace("  - name: eth1\n", "  - name: eth1\n    mtu: 1300\n"));
    bench.write(
        "objects.yaml",
        MANIFESTS.replace("port: 80, targetPort: 8080, nodePort: 30080", "port: 53, protocol: UDP, nodePort: 30053"),
    );
    bench.capture("in.pcap", &[record(0, whole_datagram(40000, 1300)), record(SECOND, whole_datagram(40000, 1301))]);
    bench.succeeds(&[
        "--in",
        "eth0=in.pcap",
        "--out",
        "eth0=back.pcap",
        "--out",
        "eth1=on.pcap",
        "--counters",
        "counters.json",
    ]);
    let (on, back) = (bench.records("on.pcap"), bench.records("back.pcap"));
    assert_eq!((on.len(), back.len(), on[0].bytes.len()), (1, 1, 14 + 1300));
    let error = &back[0].bytes[14..];
    assert_eq!(
        (error[9], &error[12..20]),
        (1, &[192, 168, 0, 10, 198, 51, 100, 9][..]),
        "ICMP, from the gateway's address"
    );
    assert_eq!(
        (&error[20..22], &error[26..28]),
        (&[3, 4][..], &1300u16.to_be_bytes()[..]),
        "fragmentation needed, the MTU"
    );
    let counters = bench.counters("counters.json");
    assert_eq!(counters["drops"], json!({"tx_too_long": 1}));
    let numbers =
        ["rx", "originated", "tx", "passed", "consumed", "held", "flows_opened"].map(|name| counters[name].as_u64());
    assert_eq!(numbers, [2, 1, 2, 0, 0, 0, 1].map(Some));
    let mut once = json!({"packets": 1, "bytes": 1314, "flows": 1});
    once["backends"] = json!({"10.244.1.10:53": once});
    assert_eq!(counters["services"]["default/web:53"], once);
}
