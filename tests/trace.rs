//! `pollgate trace` offline: what it prints of each decision, and its exit code.

use std::fs;

use clap::Parser;
use pollgate::cli::{Cli, Command};
use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = r#"
node: n1
interfaces:
  - name: eth0
    mac: 02:00:00:00:00:01
    ip: [192.168.0.1/24, "2001:db8::fe/64"]
    neighbours: { 192.168.0.254: "02:00:00:00:00:fe" }
    routes: [ { to: 0.0.0.0/0, via: 192.168.0.254 } ]
  - name: eth1
    mac: 02:00:00:00:00:02
    mtu: 1450
    ip: 10.244.0.1/16
    neighbours: { 10.244.1.5: "02:00:00:00:01:05", 10.244.1.10: "02:00:00:00:01:0a", 10.244.2.11: "02:00:00:00:02:0b" }
addresses: 192.168.0.10
dns: {upstreams: []}
cluster: { loadBalancerPools: 203.0.113.0/24 }
"#;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.50
  loadBalancerIP: 203.0.113.7
  loadBalancerSourceRanges: [198.51.100.0/24]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.96.0.51, selector: {app: none}, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
"#;

fn pod(name: &str, ip: &str, node: &str, ready: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}{more}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: web, image: web}}]}}\n\
         status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}], phase: Running, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
    )
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Bench {
        let bench = Bench(tempfile::tempdir().expect("a directory"));
        let pods = [
            pod("here", "10.244.1.10", "n1", "True", ""),
            pod("there", "10.244.2.11", "n2", "True", ""),
            pod("sick", "10.244.2.12", "n2", "False", ""),
            pod("drained", "10.244.2.13", "n2", "True", ", annotations: {pollgate.io/weight: \"0\"}"),
            pod("leaving", "10.244.1.14", "n1", "True", ", deletionTimestamp: \"2023-11-14T22:14:00Z\""),
            pod("ended", "10.244.1.15", "n1", "True", "").replace("phase: Running", "phase: Failed"),
        ];
        bench.write("gateway.yaml", CONFIG);
        bench.write("objects.yaml", &(OBJECTS.to_owned() + &pods.concat()));
        bench
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("writable");
    }

    /// What `pollgate trace LINE` prints on stdout, and its error, if any.
    fn trace(&self, line: &str) -> (String, Option<String>) {
        let here = self.0.path().display();
        let line = format!("pollgate trace {line} --config {here}/gateway.yaml --manifests {here}/objects.yaml");
        let cli = Cli::try_parse_from(line.split_whitespace()).expect(&line);
        let Command::Client(command) = cli.command else { panic!("{line}") };
        let mut out = Vec::new();
        let result = command.run(&mut out);
        (String::from_utf8(out).expect("text"), result.err().map(|failure| failure.to_string()))
    }

    fn json(&self, line: &str) -> Value {
        let (out, _) = self.trace(&format!("{line} -o json"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }
}

#[test]
fn each_decision_is_printed_with_its_reason() {
    let (out, error) = Bench::new().trace("--from 198.51.100.9:40000 --to 203.0.113.7:80");
    assert_eq!(error, None, "{out}");
    let expected = "\
packet          TCP 198.51.100.9:40000 → 203.0.113.7:80
                  a SYN
dns             no
                  not UDP to port 53 of `dns.address`
flow            none
                  no flow in the table of worker 0 has this packet
destination     load-balancer address of default/web:80
source ranges   allowed
                  198.51.100.9 is in 198.51.100.0/24 of loadBalancerSourceRanges
policy          Local
                  externalTrafficPolicy: Local, for a client outside the cluster
endpoints       1 of 5 may be chosen
affinity        not remembered
                  ClientIP, 10800 s: the first choice is the ring's, by the source address
choice          10.244.1.10:8080
                  a ring of size 1, by the source address
source          kept
                  externalTrafficPolicy Local: the endpoints see the client's own address
next hop        eth1, 02:00:00:00:01:0a, MTU 1450
                  route 10.244.0.0/16, on the link
sent            198.51.100.9:40000 → 10.244.1.10:8080
reply           203.0.113.7:80 → 198.51.100.9:40000, eth0, 02:00:00:00:00:fe, MTU 1500
                  comes back only if the endpoint's route to the client leads here; route 0.0.0.0/0 via 192.168.0.254

Endpoints
  ENDPOINT           POD       USED   SHARE     WHY NOT
  10.244.1.10:8080   here      yes    100.0 %
  10.244.1.14:8080   leaving   no     -         terminating: used only if no ready endpoint is left
  10.244.2.11:8080   there     no     -         on node n2: policy Local uses only those on n1
  10.244.2.12:8080   sick      no     -         its Ready condition is not True
  10.244.2.13:8080   drained   no     -         weight 0: it keeps its flows and gets no new ones
  -                  ended     no     -         no endpoint: phase Failed

SENT: to 10.244.1.10:8080
";
    assert_eq!(out, expected);
}

#[test]
fn a_refusal_says_what_the_client_gets_and_what_to_do() {
    let bench = Bench::new();
    let (out, error) = bench.trace("--from 10.244.1.5 --to 10.96.0.51:53 --proto udp");
    let expected = "\
packet        UDP 10.244.1.5:49152 → 10.96.0.51:53
                a datagram
dns           no
                not UDP to port 53 of `dns.address`
flow          none
                no flow in the table of worker 0 has this packet
destination   ClusterIP of default/empty:53
policy        Cluster
                internalTrafficPolicy: Cluster, for a ClusterIP
endpoints     0 of 0 may be chosen

REFUSED: the client gets ICMP port unreachable
  reject_no_endpoints: The Service has no usable endpoint; the client was refused.
  What to do: Confirm the selector and endpoint membership first: `pollgate explain service NAME`.
";
    assert_eq!(out, expected);
    assert_eq!(error.as_deref(), Some("error: the packet would be refused: reject_no_endpoints"));
}

/// Of each kind of end: what it is, its reason, and whether the exit code is 0.
#[test]
fn the_exit_code_says_whether_the_packet_is_delivered() {
    let bench = Bench::new();
    let cases = [
        ("--from 198.51.100.9 --to 203.0.113.7:80", "sent", "", true),
        ("--from 203.0.113.99 --to 203.0.113.7:80", "dropped", "source_not_allowed", false),
        ("--from 198.51.100.9 --to 203.0.113.7:81", "dropped", "undefined_port", false),
        ("--from 198.51.100.9 --to 10.96.0.50:81", "refused", "reject_undefined_port", false),
        ("--from 198.51.100.9 --to 10.96.7.7:80", "dropped", "no_such_cluster_ip", false),
        ("--from 198.51.100.9 --to 192.168.0.10:2000", "dropped", "stale_reply", false),
        ("--from 127.0.0.1 --to 10.96.0.50:80", "dropped", "bad_source", false),
        ("--from 198.51.100.9 --to 192.168.0.1:22", "passed", "not_owned", false),
        ("--from 198.51.100.9 --to 8.8.8.8:53 --proto udp", "passed", "not_owned", false),
        ("--from 198.51.100.9 --to 10.96.0.10:53 --proto UDP", "answered", "", true),
        ("--from 2001:db8::7 --to [2001:db8::1]:80", "passed", "not_owned", false),
    ];
    for (line, result, reason, delivered) in cases {
        let (out, error) = bench.trace(&format!("{line} -o json"));
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"));
        let found = report["reason"]["name"].as_str().unwrap_or_default();
        assert_eq!(
            (report["result"].as_str(), found, &report["delivered"]),
            (Some(result), reason, &delivered.into()),
            "{line}"
        );
        assert_eq!(error.is_none(), delivered, "{line}: {error:?}");
    }
}

#[test]
fn a_client_outside_is_translated_towards_a_cluster_ip_and_a_pod_is_not() {
    let bench = Bench::new();
    let outside = bench.json("--from 198.51.100.9 --to 10.96.0.50:80");
    let translated = &outside["translated"];
    assert_eq!((&translated["source"], &translated["snat"]), (&"192.168.0.10".into(), &true.into()));
    assert_eq!(translated["sourcePort"], Value::Null, "it is chosen when the flow opens");
    let inside = bench.json("--from 10.244.1.5:40000 --to 10.96.0.50:80");
    let translated = &inside["translated"];
    assert_eq!((&translated["source"], &translated["sourcePort"]), (&"10.244.1.5".into(), &40000.into()));
    let used: Vec<&str> = inside["endpoints"]
        .as_array()
        .expect("endpoints")
        .iter()
        .filter(|item| item["used"] == true)
        .filter_map(|item| item["pod"].as_str())
        .collect();
    assert_eq!(used, ["here", "there"], "policy Cluster");
    let size = &inside["endpoints"][0]["size"];
    let entries: u64 =
        inside["endpoints"].as_array().expect("endpoints").iter().filter_map(|item| item["entries"].as_u64()).sum();
    assert_eq!(size.as_u64(), Some(entries), "the shares are the whole ring");
    // The Pod that is chosen for itself: a hairpin.
    for pod in ["10.244.1.10", "10.244.2.11"] {
        for port in 40000..40010 {
            let report = bench.json(&format!("--from {pod}:{port} --to 10.96.0.50:80"));
            let to = report["translated"]["to"].as_str().expect("sent");
            assert_eq!(report["translated"]["snat"], to.starts_with(pod), "{report}");
        }
    }
}

/// The configuration of a running gateway says nothing of links: everything up to the next hop is traced.
#[test]
fn a_gateways_own_configuration_is_enough() {
    let bench = Bench::new();
    bench.write(
        "gateway.yaml",
        "node: n1\ninterfaces: {name: eth0}\naddresses: 192.168.0.10\n"
            .replace("{name: eth0}", "[{name: eth0}]")
            .as_str(),
    );
    bench.write(
        "objects.yaml",
        &(OBJECTS
            .replace("type: LoadBalancer", "type: NodePort")
            .replace("  loadBalancerIP: 203.0.113.7\n", "")
            .replace("  loadBalancerSourceRanges: [198.51.100.0/24]\n", "")
            + &pod("here", "10.244.1.10", "n1", "True", "")),
    );
    let (out, error) = bench.trace("--from 10.244.1.5:40000 --to 10.96.0.50:80");
    assert_eq!(error, None, "{out}");
    assert!(out.contains("\nnext hop      not known\n") && out.ends_with("\nSENT: to 10.244.1.10:8080\n"), "{out}");
    bench.write("gateway.yaml", "interfaces: [{name: eth0}]\naddresses: 192.168.0.10\nnonsense: 1\n");
    let (_, error) = bench.trace("--from 10.244.1.5:40000 --to 10.96.0.50:80");
    let error = error.expect("a fault");
    assert!(error.contains("gateway.yaml:3: nonsense: unknown key") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_name_is_answered_as_clients_get_it() {
    let bench = Bench::new();
    let (out, error) = bench.trace("--dns Web.default.svc.cluster.local");
    assert_eq!(error, None, "{out}");
    let expected = "\
query    web.default.svc.cluster.local. A
           as a client sends it: one name, without a search list, by UDP without EDNS
server   10.96.0.10, port 53
           `dns.address`: a worker answers in place; by TCP, the gateway's listener gives the same answer
zone     in cluster.local.
name     exists: Service default/web
type     1 of type A

ANSWERED: NOERROR, 10.96.0.50
";
    assert_eq!(out, expected);
    let cases = [
        ("web.default.svc.cluster.local --type AAAA", "NOERROR without records: the name exists, the type does not"),
        ("no.default.svc.cluster.local", "NXDOMAIN"),
        ("web.default", "REFUSED; did you mean web.default.svc.cluster.local.? A Pod's search list adds that"),
        ("web", "REFUSED; did you mean web.default.svc.cluster.local.? A Pod's search list adds that"),
        ("example.org. --type TYPE65", "REFUSED"),
    ];
    for (line, summary) in cases {
        let (out, error) = bench.trace(&format!("--dns {line}"));
        assert!(out.ends_with(&format!("\nANSWERED: {summary}\n")), "{line}: {out}");
        assert_eq!(error, Some(format!("error: no records: {summary}")), "{line}");
    }
    // An endpoint's name is its address, unless it has a hostname, or Pods' names are wanted.
    let (out, error) = bench.trace("--dns 10-244-1-10.web.default.svc.cluster.local");
    assert_eq!(error, None, "{out}");
    let spelled = "exists: an endpoint of Service default/web\n           \
                   the name spells the address of an endpoint of the Service\n";
    assert!(out.contains(spelled), "{out}");
    bench.write("gateway.yaml", &CONFIG.replace("upstreams: []", "upstreams: [], endpointPodNames: true"));
    let (out, error) = bench.trace("--dns here.web.default.svc.cluster.local");
    assert_eq!(error, None, "{out}");
    let named = "exists: an endpoint of Service default/web\n           \
                 an endpoint's hostname, or the name of its Pod (`dns.endpointPodNames`)\n";
    assert!(out.contains(named), "{out}");
    // With upstreams, names outside are theirs.
    bench.write("gateway.yaml", &CONFIG.replace("upstreams: []", "upstreams: [192.0.2.53, 192.0.2.54]"));
    let (out, error) = bench.trace("--dns web.default");
    assert_eq!(error, None, "{out}");
    let expected = "
zone       outside
             the gateway serves only cluster.local. and what is below it
resolver   forwarded to 192.0.2.53:53, 192.0.2.54:53
             `dns.upstreams`: the servers for all names outside, in this order, but those that were silent last, unless the \
                    cache has the answer

FORWARDED: to 192.0.2.53:53, 192.0.2.54:53, which a trace does not ask; did you mean web.default.svc.cluster.local.? \
                    A Pod's search list adds that
";
    assert!(out.ends_with(expected), "{out}");
    let answer = &bench.json("--dns web.default.svc.cluster.local")["answer"];
    assert_eq!(answer["records"][0], serde_json::json!({"type": "A", "ttl": 5, "data": "10.96.0.50"}));
    for wrong in ["--dns a..b", "--dns web --type gizmo"] {
        assert!(bench.trace(wrong).1.is_some(), "{wrong}");
    }
}

/// Names that do not exist, and aliases that lead nowhere.
const NAMES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.50, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: hollow}
spec: {clusterIP: None, selector: {app: none}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: address}
spec: {type: ExternalName, externalName: 10.1.2.3}
---
apiVersion: v1
kind: Service
metadata: {name: itself}
spec: {type: ExternalName, externalName: itself.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: here}
spec: {type: ExternalName, externalName: there.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: there}
spec: {type: ExternalName, externalName: here.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: dangling}
spec: {type: ExternalName, externalName: gone.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.example.org}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.20], hostname: db-0}, {addresses: [10.244.1.21]}]
ports: [{name: sql, port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
"#;

impl Bench {
    /// With [`NAMES`], and this in place of `dns` of the configuration.
    fn names(dns: &str) -> Bench {
        let bench = Bench::new();
        bench.write("objects.yaml", NAMES);
        bench.write("gateway.yaml", &CONFIG.replace("dns: {upstreams: []}", dns));
        bench
    }

    /// What the steps say in the stage, as `DECISION: WHY`.
    fn told(&self, stage: &str, line: &str) -> String {
        let report = self.json(&format!("--dns {line}"));
        let steps = report["steps"].as_array().expect("steps");
        let step = steps.iter().find(|step| step["stage"] == stage).unwrap_or_else(|| panic!("{line}: {report:#}"));
        let text = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", text("decision"), text("why"))
    }
}

#[test]
fn a_name_that_does_not_exist_has_its_own_reason() {
    let bench = Bench::names("dns: {upstreams: []}");
    let cases = [
        ("no.default.svc", "there is no Service default/no"),
        ("web.nowhere.svc", "there is no Namespace nowhere"),
        ("nowhere.svc", "there is no Namespace nowhere"),
        ("hollow.default.svc", "Service default/hollow is headless, and has no ready endpoint"),
        ("_http._tcp.hollow.default.svc", "Service default/hollow is headless, and has no ready endpoint"),
        (
            "address.default.svc",
            "Service default/address has the externalName 10.1.2.3: an address is no name, so there is no record",
        ),
        (
            "x.alias.default.svc",
            "Service default/alias is an alias of web.default.svc.cluster.local, and has no ports or endpoints of its own",
        ),
        ("db-1.db.default.svc", "no ready endpoint of Service default/db has this hostname or address"),
        ("_web._tcp.db.default.svc", "no ready endpoint of Service default/db has a port of this name"),
        ("_web._tcp.web.default.svc", "Service default/web has no port of this name"),
        ("10-244-1-10.default.pod", "`dns.pods` is disabled: Pods have no names"),
        ("gizmo", "Services are SERVICE.NAMESPACE.svc.cluster.local."),
    ];
    for (name, why) in cases {
        let line = format!("{name}.cluster.local");
        assert_eq!(bench.told("name", &line), format!("does not exist: {why}"), "{name}");
        assert_eq!(bench.trace(&format!("--dns {line}")).1.as_deref(), Some("error: no records: NXDOMAIN"), "{name}");
    }
    let verified = Bench::names("dns: {upstreams: [], pods: verified}");
    assert_eq!(
        verified.told("name", "10-244-1-10.default.pod.cluster.local"),
        "does not exist: no Pod of Namespace default has this address (`dns.pods` is verified)"
    );
}

#[test]
fn an_alias_without_records_says_where_it_ends() {
    let bench = Bench::names("dns: {upstreams: []}");
    let (out, error) = bench.trace("--dns alias.default.svc.cluster.local");
    assert_eq!(error, None, "{out}");
    assert!(out.ends_with("\nANSWERED: NOERROR, web.default.svc.cluster.local., 10.96.0.50\n"), "{out}");
    let cases = [
        ("outside", "www.example.org. is outside the cluster, and there is no other server to ask (`dns.upstreams`)"),
        ("dangling", "gone.default.svc.cluster.local. does not exist: there is no Service default/gone"),
        ("here", "the aliases lead back to here.default.svc.cluster.local."),
        ("alias --type AAAA", "web.default.svc.cluster.local. has no records of type AAAA"),
    ];
    for (line, end) in cases {
        let (name, rtype) = line.split_once(' ').unwrap_or((line, ""));
        let line = format!("{name}.default.svc.cluster.local {rtype}");
        let summary = format!("NOERROR, an alias that leads to no records: {end}");
        let (out, error) = bench.trace(&format!("--dns {line}"));
        assert!(out.ends_with(&format!("\nANSWERED: {summary}\n")), "{line}: {out}");
        assert_eq!(error, Some(format!("error: no records: {summary}")), "{line}");
        assert!(bench.told("alias", &line).ends_with(&format!(": {end}")), "{line}");
    }
    // Who asks for the alias itself has it.
    assert_eq!(bench.trace("--dns outside.default.svc.cluster.local --type CNAME").1, None);
    assert_eq!(
        bench.told("type", "itself.default.svc.cluster.local"),
        "no records of this type: its externalName, itself.default.svc.cluster.local, is the Service itself"
    );
    // Of several forwarded zones, none holds the target.
    let zones = Bench::names("dns: {upstreams: [], zones: [{name: corp.example, upstreams: 192.0.2.53}]}");
    let told = zones.told("alias", "outside.default.svc.cluster.local");
    assert!(told.ends_with("is outside the cluster, and no other server is asked for it"), "{told}");
    let (out, error) = zones.trace("--dns www.corp.example");
    assert_eq!(error, None, "{out}");
    assert!(out.contains("`dns.zones`: the servers for corp.example., unless the cache has the answer"), "{out}");
}

#[test]
fn records_of_every_type_are_printed_as_in_a_zone_file() {
    let bench = Bench::names("dns: {upstreams: []}");
    let records = |line: &str| -> Vec<String> {
        let report = bench.json(&format!("--dns {line}"));
        let all = report["answer"]["records"].as_array().expect("records").clone();
        let text = |record: &Value| {
            format!("{} {}", record["type"].as_str().expect("a type"), record["data"].as_str().expect("data"))
        };
        all.iter().map(text).collect()
    };
    let soa = records("cluster.local --type SOA");
    assert!(soa.len() == 1 && soa[0].starts_with("SOA ns.dns.cluster.local. hostmaster.cluster.local. "), "{soa:?}");
    let soa = records("96.10.in-addr.arpa --type SOA");
    assert!(soa.len() == 1 && soa[0].starts_with("SOA ns.dns."), "{soa:?}");
    assert_eq!(bench.told("type", "cluster.local --type SOA"), "1 of type SOA: the zone's own record");
    assert_eq!(records("web.default.svc.cluster.local --type ANY"), ["HINFO \"RFC8482\" \"\""]);
    assert_eq!(
        bench.told("type", "web.default.svc.cluster.local --type ANY"),
        "ANY: one HINFO record in place of all of them (RFC 8482)"
    );
    assert_eq!(
        records("_http._tcp.web.default.svc.cluster.local --type SRV"),
        ["SRV 0 100 80 web.default.svc.cluster.local."]
    );
    assert_eq!(records("dns-version.cluster.local --type TXT"), ["TXT \"1.1.0\""]);
    assert_eq!(bench.told("type", "cluster.local --type TYPE252"), "TYPE252: zones are not transferred");
}

#[test]
fn an_address_is_named_with_its_owner() {
    let bench = Bench::names("dns: {upstreams: []}");
    let name = |address: &str| {
        let digits: Vec<&str> = address.split('.').rev().collect();
        format!("{}.in-addr.arpa --type PTR", digits.join("."))
    };
    let cases = [
        ("10.96.0.50", "10.96.0.50: ClusterIP of Service default/web: "),
        ("10.244.1.20", "10.244.1.20: an endpoint of Service default/db: "),
        ("10.244.9.9", "10.244.9.9: does not exist: no Service has this address as ClusterIP, or as a ready endpoint"),
    ];
    for (address, told) in cases {
        assert_eq!(bench.told("name", &name(address)), told, "{address}");
    }
    assert_eq!(bench.told("zone", &name("10.244.1.20")), "the reverse zone of 10.244.0.0/16: ");
    let (out, error) = bench.trace(&format!("--dns {}", name("10.244.1.20")));
    assert_eq!(error, None, "{out}");
    assert!(out.ends_with("\nANSWERED: NOERROR, db-0.db.default.svc.cluster.local.\n"), "{out}");
}

#[test]
fn without_an_address_no_query_is_answered() {
    let bench = Bench::names("dns: {address: []}");
    for name in ["web.default.svc.cluster.local", "www.example.org"] {
        let (out, error) = bench.trace(&format!("--dns {name}"));
        let summary = "`dns.address` is empty: no query is answered, and clients wait in vain";
        assert!(out.ends_with(&format!("\nUNANSWERED: {summary}\n")), "{out}");
        assert_eq!(error, Some(format!("error: unanswered: {summary}")));
    }
}

/// Offline, a query is one to a running gateway with that configuration.
#[test]
fn each_address_has_its_own_listener() {
    let server = |bench: &Bench| bench.told("server", "web.default.svc.cluster.local");
    let both = Bench::names("dns: {address: [10.96.0.10, \"fd00::53\"], upstreams: []}");
    assert_eq!(
        server(&both),
        "10.96.0.10, fd00::53, port 53: `dns.address`: a worker answers in place; by TCP, the gateway's listener gives the \
         same answer at 10.96.0.10, but not at fd00::53, without an IPv6 address in `addresses`"
    );
    let no_pair = Bench::names("dns: {upstreams: []}\nhost: {pair: false}");
    assert_eq!(
        server(&no_pair),
        "10.96.0.10, port 53: `dns.address`: a worker answers in place; not by TCP, without the host pair"
    );
}
