//! The load generator, through the real gateway: what it says arrived is what the gateway says it sent.
//!
//! ```text
//!            ┌ wire ┐                     ┌ gateway ┐
//!   clients  │ left ├─────────────────────┤ left  10.244.1.1/24
//!   backends │ right├─────────────────────┤ right 10.244.2.1/24
//!            └──────┘                     └─────────┘
//! ```
//!
//! `wire` has interfaces without addresses: every ARP answer there is pktgen's.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command as Process, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use pollgate::cli::client::Client;
use pollgate::cli::{Cli, Command, Failure};
use pollgate::config::{Config, Purpose};
use pollgate::gateway::Gateway;
use pollgate::lab::{Namespace, Veth};
use pollgate::pktgen;
use pollgate_common::counters::Totals;
use pollgate_common::reasons::DropReason as Reason;
use pollgate_control::api::APPLY_PATH;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::live::support::socket;
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        what_is_sent_arrives_at_the_endpoints_and_is_told,
        with_reply_each_packet_makes_the_round_trip,
        it_speaks_ipv6,
        it_answers_for_its_endpoints,
        one_interface_can_be_both_sides,
        an_interrupted_run_still_reports_and_tells_each_second_how_it_goes,
        every_packet_can_be_a_new_flow_and_flows_can_be_replaced,
        strays_are_sent_apart_and_dropped_by_the_gateway,
        loss_is_counted_and_nothing_at_all_is_a_failure,
        a_rate_out_of_reach_is_told,
        what_cannot_be_used_is_told_with_what_to_do;
}

const POLLGATE: &str = env!("CARGO_BIN_EXE_pollgate");
/// A rate that a loaded machine keeps up with.
const CALM: &str = "--rate 5k --duration 1 --warmup 0.5 --threads 1";
const SIDES: &str =
    "-i left --sink right --gateway 10.244.1.1 --from 10.244.1.100-10.244.1.109 --answer 10.244.2.11-10.244.2.13";

const BEHIND_RIGHT: [&str; 3] = ["10.244.2.11", "10.244.2.12", "10.244.2.13"];

/// The load generator's side of the wire, and a gateway that knows every neighbour there: while it asks for one, only a few
/// packets wait, and the others would be lost.
struct Bench {
    wire: Namespace,
    gateway: Option<Gateway>,
    space: Namespace,
    _directory: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench::asking();
        let wire = |interface: &str| bench.wire.mac(interface).expect("its MAC");
        let (left, right) = (wire("left"), wire("right"));
        let clients = (100..110).chain([21]).map(|last| ("left", [10, 244, 1, last], left));
        let behind_right = (11..14).map(|last| ("right", [10, 244, 2, last], right));
        for (interface, address, mac) in clients.chain(behind_right) {
            bench.space.add_neighbour(interface, address.into(), mac).expect("added");
            until("the gateway knows the neighbour", || bench.knows(address.into()));
        }
        bench
    }

    /// With a gateway that has to ask for its neighbours.
    fn asking() -> Bench {
        let objects = [("udp", "UDP", "10.96.0.5"), ("tcp", "TCP", "10.96.0.3"), ("other", "UDP", "10.96.0.6")]
            .into_iter()
            .flat_map(|(name, protocol, address)| service(name, protocol, address, &BEHIND_RIGHT))
            .chain(service("near", "UDP", "10.96.0.4", &["10.244.1.21"]))
            .collect::<Vec<_>>();
        Bench::with(["10.244.1.1/24", "10.244.2.1/24"], "addresses: [10.244.1.10]\n", &objects)
    }

    /// The same with IPv6 alone.
    fn asking_v6() -> Bench {
        let more = "addresses: \"fd00:10:244:1::10\"\ndns: { address: \"fd00:10:96::10\", upstreams: [] }\n\
                    cluster: { serviceCIDRs: \"fd00:10:96::/112\", podCIDRs: \"fd00:10:244::/48\" }\n";
        let behind_right = ["fd00:10:244:2::11", "fd00:10:244:2::12", "fd00:10:244:2::13"];
        let objects = [("udp", "UDP", "fd00:10:96::5"), ("tcp", "TCP", "fd00:10:96::3")]
            .into_iter()
            .flat_map(|(name, protocol, address)| service(name, protocol, address, &behind_right))
            .collect::<Vec<_>>();
        Bench::with(["fd00:10:244:1::1/64", "fd00:10:244:2::1/64"], more, &objects)
    }

    /// With these addresses of the gateway's kernel, left and right.
    fn with(addresses: [&str; 2], more: &str, objects: &[Value]) -> Bench {
        let (wire, space) = (Namespace::new("wire").expect("made"), Namespace::new("gateway").expect("made"));
        for (name, address) in ["left", "right"].into_iter().zip(addresses) {
            Veth::new((&wire, name), (&space, name)).make().expect("a veth pair");
            space.add_address(name, address.parse().expect("an address")).expect("given");
        }
        space.discard_unrouted_v6().expect("a route");
        let directory = TempDir::new().expect("a directory");
        let text = configuration(directory.path()) + more;
        let config = Config::parse("gateway.yaml", &text, Purpose::Run).expect("a config");
        let gateway = space.run(|| Gateway::start(&config, Arc::new(AtomicBool::new(false)))).expect("a gateway");
        let client = Client::new(&socket(directory.path())).expect("a client");
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        client.post(&format!("{APPLY_PATH}?namespace=default"), &list).expect("applied");
        Bench { wire, gateway: Some(gateway), space, _directory: directory }
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("only taken by drop")
    }

    fn totals(&self) -> Totals {
        self.gateway().counters().totals()
    }

    fn knows(&self, address: IpAddr) -> bool {
        self.gateway().source().reader().pin().load().net().next_hop(address).is_ok()
    }

    /// What pktgen says, as JSON.
    fn run(&self, line: &str) -> Value {
        let (text, result) = self.try_run(&format!("{line} -o json"));
        result.unwrap_or_else(|error| panic!("{line}: {error}\n{text}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn try_run(&self, line: &str) -> (String, Result<(), Failure>) {
        try_run(&self.wire, line)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

fn try_run(wire: &Namespace, line: &str) -> (String, Result<(), Failure>) {
    let words = "pollgate pktgen ".split_whitespace().chain(line.split_whitespace());
    let Command::Pktgen(args) = Cli::try_parse_from(words).expect(line).command else { panic!("{line}") };
    let mut text = Vec::new();
    let result = wire.run(|| pktgen::run(&args, &mut text));
    (String::from_utf8(text).expect("text"), result)
}

fn configuration(directory: &Path) -> String {
    format!(
        "interfaces: [{{ name: left }}, {{ name: right }}]\n\
         workers: {{ count: 1 }}\n\
         flows: {{ max: 65536 }}\n\
         api: {{ socket: {}, state: {} }}\n",
        socket(directory).display(),
        directory.join("state.db").display()
    )
}

/// Port 80 of `address`, for endpoints at port 8080.
fn service(name: &str, protocol: &str, address: &str, endpoints: &[&str]) -> [Value; 2] {
    let endpoint = |address: &&str| json!({ "addresses": [address], "conditions": { "ready": true } });
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "clusterIP": address, "ports": [{ "protocol": protocol, "port": 80, "targetPort": 8080 }] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "ports": [{ "protocol": protocol, "port": 8080 }],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        }),
    ]
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {path} in {report:#}"))
}

/// Everything that was sent came, once and in order.
fn nothing_lost(report: &Value) {
    for path in ["/lost/packets", "/reordered", "/duplicates", "/missed", "/outdated", "/received/strays"] {
        assert_eq!(number(report, path), 0, "{path}: {report:#}");
    }
    assert_eq!(number(report, "/sent/packets"), number(report, "/received/packets"), "{report:#}");
    assert_eq!(report["not_sent"], json!({}), "{report:#}");
}

fn what_is_sent_arrives_at_the_endpoints_and_is_told() {
    let bench = Bench::new();
    let report = bench.run(&format!("{SIDES} --to 10.96.0.5-10.96.0.6:80 --flows 60 {CALM}"));
    nothing_lost(&report);
    let sent = number(&report, "/sent/packets");
    // On a machine that is busy with other tests it may fall behind; then it says so.
    assert!((500..=5001).contains(&sent), "5 k/s for a second: {sent}");
    assert_eq!(report["shortfall"].is_null(), sent >= 4950, "{report:#}");
    assert_eq!(number(&report, "/sent/bytes"), sent * 64);
    assert_eq!(number(&report, "/rate/asked"), 5000);
    assert_eq!(number(&report, "/endpoints/used"), 3);
    let listed = report["endpoints"]["listed"].as_object().expect("endpoints");
    let packets = listed.values().map(|one| one["packets"].as_u64().expect("a number"));
    assert_eq!(packets.sum::<u64>(), sent, "each packet is some endpoint's");
    assert_eq!(number(&report, "/endpoints/packets"), sent);
    let steady = &report["latency_us"]["steady"];
    let at = |name: &str| steady[name].as_f64().unwrap_or_else(|| panic!("no {name} in {steady}"));
    assert!(0.0 < at("p50") && at("p50") <= at("p90") && at("p99") <= at("p99.9"), "{steady}");
    assert!(at("p99.99") <= at("max"), "{steady}");
    assert_eq!(bench.totals().flows_opened, 60);
}

fn with_reply_each_packet_makes_the_round_trip() {
    let bench = Bench::new();
    for (line, services) in [
        ("--to 10.96.0.5:80 --protocol udp --size imix", 40),
        ("--to 10.96.0.3:80 --protocol tcp --order random", 40),
        ("--to 10.96.0.6:80 --threads 2", 40),
    ] {
        let before = bench.totals();
        let calm = if line.contains("threads") { CALM.replace("--threads 1", "") } else { CALM.to_owned() };
        let report = bench.run(&format!("{SIDES} {line} --reply --flows {services} {calm}"));
        nothing_lost(&report);
        let sent = number(&report, "/sent/packets");
        assert_eq!(number(&report, "/halfway"), sent, "seen at the sink too: {report:#}");
        let after = bench.totals();
        assert_eq!(after.flows_opened - before.flows_opened, services, "{line}: both ways are one flow");
        assert!(after.tx - before.tx >= 2 * sent, "{line}");
        assert_eq!(after.dropped(), before.dropped(), "{line}: {after:?}");
    }
}

/// Neighbours are found by solicitations in both directions, and each packet makes the round trip.
fn it_speaks_ipv6() {
    const SIDES: &str = "-i left --sink right --gateway fd00:10:244:1::1 --from fd00:10:244:1::100-fd00:10:244:1::109 \
                         --answer fd00:10:244:2::11-fd00:10:244:2::13";
    let bench = Bench::asking_v6();
    for (line, least) in [("--to [fd00:10:96::5]:80", 80), ("--to [fd00:10:96::3]:80 --protocol tcp", 92)] {
        let before = bench.totals();
        let report = bench.run(&format!("{SIDES} {line} --reply --flows 40 {CALM}"));
        nothing_lost(&report);
        let sent = number(&report, "/sent/packets");
        assert_eq!((number(&report, "/sent/bytes"), number(&report, "/halfway")), (sent * least, sent), "{report:#}");
        assert_eq!(number(&report, "/endpoints/used"), 3);
        let after = bench.totals();
        assert_eq!(after.flows_opened - before.flows_opened, 40, "{line}: both ways are one flow");
    }
}

fn it_answers_for_its_endpoints() {
    let bench = Bench::asking();
    let report = bench.run(&format!("{SIDES} --to 10.96.0.5-10.96.0.6:80 --flows 60 {CALM}"));
    // The gateway asks for each endpoint; nothing here but pktgen could have answered.
    assert!(number(&report, "/arp_answered") >= 3, "{report:#}");
    assert!(BEHIND_RIGHT.iter().all(|address| bench.knows(address.parse().expect("an address"))));
    assert_eq!(number(&report, "/endpoints/used"), 3);
}

fn one_interface_can_be_both_sides() {
    let bench = Bench::new();
    let line = "-i left --sink left --gateway 10.244.1.1 --from 10.244.1.100-10.244.1.109 --answer 10.244.1.21";
    for reply in ["", "--reply"] {
        let report = bench.run(&format!("{line} --to 10.96.0.4:80 --flows 20 {CALM} {reply}"));
        nothing_lost(&report);
        let halfway = if reply.is_empty() { 0 } else { number(&report, "/sent/packets") };
        assert_eq!(number(&report, "/halfway"), halfway, "{report:#}");
    }
}

fn an_interrupted_run_still_reports_and_tells_each_second_how_it_goes() {
    let bench = Bench::new();
    let mut command: Process = bench.wire.command(POLLGATE);
    command.arg("pktgen").args(SIDES.split_whitespace());
    command.args("--to 10.96.0.5:80 --rate 2k --warmup 0.2 --duration 600 --progress -o json".split_whitespace());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let told = lines.next().expect("a line each second").expect("text");
    assert!(told.contains("packets/s, received "), "{told}");
    let id = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: no pointers; the process is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["interrupted"], true);
    nothing_lost(&report);
    let seconds = report["seconds"].as_f64().expect("a number");
    assert!((0.9..60.0).contains(&seconds), "{seconds}");
}

fn every_packet_can_be_a_new_flow_and_flows_can_be_replaced() {
    let bench = Bench::new();
    let report = bench.run(&format!("{SIDES} --to 10.96.0.5:80 --every-packet-new {CALM}"));
    nothing_lost(&report);
    assert_eq!(report["latency_us"]["steady"], Value::Null, "each packet is a first one");
    assert_eq!(number(&report, "/latency_us/first/count"), number(&report, "/sent/packets"));
    let opened = bench.totals().flows_opened;
    assert_eq!(opened, number(&report, "/flows/opened") - 1000, "1000 were there to be replaced: {report:#}");
    let report = bench.run(&format!("{SIDES} --to 10.96.0.6:80 --flows 100 --new-flows 500 {CALM}"));
    nothing_lost(&report);
    let fresh = number(&report, "/flows/opened") - 100;
    assert!((250..=751).contains(&fresh), "500 a second for 1.5 s, if it keeps up: {fresh}");
}

fn strays_are_sent_apart_and_dropped_by_the_gateway() {
    let bench = Bench::new();
    let report = bench.run(&format!("{SIDES} --to 10.96.0.5:80 --hit-ratio 0.75 {CALM}"));
    nothing_lost(&report);
    let (sent, strays) = (number(&report, "/sent/packets"), number(&report, "/sent/strays"));
    assert!((sent / 3).abs_diff(strays) <= 1, "{sent} and {strays}");
    // Those of the warm-up are refused as well: a quarter of its 2500 packets.
    let refused = bench.totals().drops_of(Reason::RejectUndefinedPort);
    assert!((strays + 1..=strays + 626).contains(&refused), "{strays} counted, {refused} refused in all");
}

fn loss_is_counted_and_nothing_at_all_is_a_failure() {
    let bench = Bench::new();
    // Two of the addresses are no Service's.
    let report = bench.run(&format!("{SIDES} --to 10.96.0.5-10.96.0.6:80,10.96.0.8-10.96.0.9:80 --flows 40 {CALM}"));
    let (sent, lost) = (number(&report, "/sent/packets"), number(&report, "/lost/packets"));
    assert!((sent / 2).abs_diff(lost) <= 1, "{lost} of {sent}");
    assert_eq!(report["lost"]["percent"].as_f64().map(f64::round), Some(50.0));
    let (text, result) = bench.try_run(&format!("{SIDES} --to 10.96.0.8:80 {CALM}"));
    assert!(text.contains("(100.0000 %)"), "the report is told all the same: {text}");
    let told = result.expect_err("nothing came").to_string();
    assert!(told.contains("nothing was received on right"), "{told}");
}

fn a_rate_out_of_reach_is_told() {
    let bench = Bench::new();
    let line = format!("{SIDES} --to 10.96.0.5:80 --rate 900M --duration 0.3 --warmup 0.1");
    let report = bench.run(&line);
    let told = report["shortfall"].as_str().expect("a sentence");
    assert!(told.starts_with("the generator could not keep up: asked 900.00 M/s, sent "), "{told}");
    let (text, _) = bench.try_run(&line);
    assert!(text.contains(&format!("note: {}", &told[..35])), "{text}");
}

fn what_cannot_be_used_is_told_with_what_to_do() {
    let (wire, far) = (Namespace::new("wire").expect("made"), Namespace::new("far").expect("made"));
    Veth::new((&wire, "left"), (&far, "left")).make().expect("a veth pair");
    let told = |line: &str| try_run(&wire, line).1.expect_err(line).to_string();
    let silent = told("-i left --gateway 10.244.1.1 --to 10.96.0.5:80");
    assert!(silent.contains("no reply to ARP from 10.244.1.1 on left within 3 s"), "{silent}");
    assert!(silent.contains("--gateway-mac"), "{silent}");
    let missing = told("-i lefft --gateway 10.244.1.1 --to 10.96.0.5:80");
    assert!(missing.contains("interface \"lefft\" does not exist") && missing.contains("left"), "{missing}");
    wire.down("left").expect("down");
    let down = told("-i left --gateway 10.244.1.1 --to 10.96.0.5:80");
    assert!(down.contains("left is down") && down.contains("ip link set left up"), "{down}");
    wire.up("left").expect("up");
    let output = without_privileges(&wire, "-i left --gateway 10.244.1.1 --to 10.96.0.5:80");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("CAP_NET_RAW") && told.contains("setcap"), "{told}");
}

/// The binary as an ordinary user's process has it.
fn without_privileges(wire: &Namespace, line: &str) -> Output {
    let drop_capabilities = || {
        const NET_RAW: libc::c_ulong = 13;
        // SAFETY: no pointers. After exec, root has what the bounding set leaves (capabilities(7)).
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, NET_RAW, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let mut command: Process = wire.command(POLLGATE);
    command.arg("pktgen").args(line.split_whitespace());
    // SAFETY: between fork and exec the closure makes a system call and allocates nothing.
    unsafe { command.pre_exec(drop_capabilities) };
    command.output().expect("it runs")
}
