//! Resolvers as Pods have them: glibc's and musl's, with the search list and `ndots:5` that a kubelet writes.
//!
//! ```text
//!  getaddrinfo("api.prod") ─▶ api.prod.default.svc.cluster.local   NXDOMAIN
//!                             api.prod.svc.cluster.local           A and AAAA, from one port at once
//! ```
//!
//! Both ask for A and AAAA from one port, which is seen on the wire, before the first answer is there. A query without an answer
//! would be sent again after seconds; so every test counts the queries.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use pollgate::lab::topology::{Network, guide};
use pollgate_common::net::PortId;
use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::packet::{PacketOptions, PacketPort};
use tempfile::TempDir;

use crate::live::support::Site;
use crate::shared::frames::NOW;
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};

tests! {
    [Lab, Program("cc"), Program("unshare")] =>
        glibc_finds_names_by_the_search_list,
        glibc_finds_the_same_with_autopath_in_fewer_queries;
    [Lab, Program("musl-gcc"), Program("unshare")] =>
        musl_finds_names_by_the_search_list,
        musl_finds_the_same_with_autopath_in_fewer_queries;
}

/// What a kubelet writes for a Pod of the namespace `default` (Kubernetes "DNS for Services and Pods").
const RESOLV_CONF: &str = "nameserver 10.96.0.10\n\
                           search default.svc.cluster.local svc.cluster.local cluster.local\n\
                           options ndots:5\n";

/// A Service of another namespace, and one with endpoints of both families.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: api, namespace: prod }
spec: { clusterIP: 10.96.0.61, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: alias }
spec: { type: ExternalName, externalName: api.prod.svc.cluster.local }
---
apiVersion: v1
kind: Service
metadata: { name: both }
spec: { clusterIP: None, ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: both-4, labels: { kubernetes.io/service-name: both } }
addressType: IPv4
ports: [{ name: "", port: 80 }]
endpoints: [{ addresses: [10.244.1.10] }, { addresses: [10.244.2.15] }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: both-6, labels: { kubernetes.io/service-name: both } }
addressType: IPv6
ports: [{ name: "", port: 80 }]
endpoints: [{ addresses: ["fd00:10:244:1::10"] }]
"#;

/// A program that prints what getaddrinfo finds, one address per line.
const FIND: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words)
{
    struct addrinfo wanted = { .ai_socktype = SOCK_STREAM }, *found = 0;
    int error = getaddrinfo(words[count - 1], 0, &wanted, &found);
    if (error) {
        puts(gai_strerror(error));
        return 1;
    }
    for (; found; found = found->ai_next) {
        char text[INET6_ADDRSTRLEN];
        int is_v6 = found->ai_family == AF_INET6;
        void *address = is_v6 ? (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr
                              : (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr;
        puts(inet_ntop(found->ai_family, address, text, sizeof text));
    }
}
"#;

/// What a name leads to, and the queries that takes without and with autopath: A, AAAA, and how many of them are denied.
struct Case {
    name: &'static str,
    addresses: &'static [&'static str],
    plain: [u64; 3],
    autopath: [u64; 3],
}

const CASES: [Case; 6] = [
    Case { name: "backend-service", addresses: &["10.96.0.50"], plain: [1, 1, 0], autopath: [1, 1, 0] },
    Case {
        name: "both",
        addresses: &["10.244.1.10", "10.244.2.15", "fd00:10:244:1::10"],
        plain: [1, 1, 0],
        autopath: [1, 1, 0],
    },
    Case { name: "alias", addresses: &["10.96.0.61"], plain: [1, 1, 0], autopath: [1, 1, 0] },
    // The second domain of the search list has it, then the third.
    Case { name: "api.prod", addresses: &["10.96.0.61"], plain: [2, 2, 2], autopath: [1, 1, 0] },
    Case { name: "api.prod.svc", addresses: &["10.96.0.61"], plain: [3, 3, 4], autopath: [1, 1, 0] },
    // No domain of the list has it: four dots are less than ndots.
    Case { name: "api.prod.svc.cluster.local", addresses: &["10.96.0.61"], plain: [4, 4, 6], autopath: [1, 1, 0] },
];

/// Source port and type of a query.
type Sent = (u16, u16);

/// The name, port and type of a DNS query over IPv4 in a frame.
fn query(frame: &[u8]) -> Option<(Vec<u8>, Sent)> {
    let is_ours = frame.get(12..14)? == [8, 0] && frame.get(14)? == &0x45 && frame.get(23)? == &17;
    if !is_ours || frame.get(36..38)? != [0, 53] {
        return None;
    }
    let number = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    // Behind Ethernet, IPv4, UDP and the header of the message: a name that ends with an empty label.
    let mut end = 54;
    while *frame.get(end)? != 0 {
        end += 1 + usize::from(*frame.get(end)?);
    }
    Some((frame[54..end].to_ascii_lowercase(), (number(34)?, number(end + 1)?)))
}

/// A program that resolves names, with what it needs to run.
struct Resolver {
    /// Frames from the Pods, as they come to the gateway.
    wire: RefCell<PacketPort>,
    site: Site,
    files: TempDir,
}

impl Resolver {
    /// With the C library that `compiler` links.
    fn new(autopath: bool, compiler: &str, options: &[&str]) -> Resolver {
        let network = Network::new(&guide(), 1).expect("a network");
        let dns = format!("dns: {{ address: 10.96.0.10, autopath: {autopath}, upstreams: [] }}\n");
        let site = Site::configured(network, |text| text + &dns);
        site.resolve_neighbours();
        site.apply(OBJECTS);
        let (interface, port) = ("node-1", PortId(0));
        let listening =
            PacketOptions { interface, port, worker: 0, workers: 1, group: None, fanout: None, ring_frames: 4096 };
        let wire = site.network.gateway().run(|| PacketPort::open(&listening)).expect("a packet port");
        let resolver = Resolver { wire: RefCell::new(wire), site, files: TempDir::new().expect("a directory") };
        for (name, text) in [("resolv.conf", RESOLV_CONF), ("nsswitch.conf", "hosts: dns\n"), ("find.c", FIND)] {
            fs::write(resolver.path(name), text).expect("written");
        }
        let mut command = Command::new(compiler);
        command.args(options).args(["-o", &resolver.path("find"), &resolver.path("find.c")]);
        let status = command.status().expect("started");
        assert!(status.success(), "{compiler}: {status}");
        resolver
    }

    fn path(&self, file: &str) -> String {
        self.files.path().join(file).display().to_string()
    }

    /// The addresses that it finds from a Pod of the namespace `default`, sorted. In a mount namespace of its own: whatever the
    /// machine's resolver is configured to, it is not asked.
    fn find(&self, name: &str) -> Vec<String> {
        let script = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
                      mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf && exec \"$1/find\" \"$2\"";
        let mut command = self.site.host("frontend-app").command("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", &self.path(""), name]);
        let output = command.stdin(Stdio::null()).output().expect("started");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {}\n{out}{err}", output.status);
        let mut found: Vec<String> = out.lines().map(str::to_owned).collect();
        found.sort();
        found
    }

    /// The queries for A, for AAAA, and those that were denied, so far.
    fn counted(&self) -> [u64; 3] {
        let totals = self.site.at_rest(&[]);
        [totals.dns_a, totals.dns_aaaa, totals.dns_nxdomain]
    }

    /// The queries that have come since the last call, by name.
    fn seen(&self) -> BTreeMap<Vec<u8>, Vec<Sent>> {
        let (mut wire, mut frames) = (self.wire.borrow_mut(), Vec::new());
        let mut before = None;
        while before != Some(frames.len()) {
            before = Some(frames.len());
            wire.rx(NOW, 64, &mut frames);
        }
        let mut seen = BTreeMap::<_, Vec<_>>::new();
        for frame in &frames {
            if let Some((name, sent)) = query(frame.bytes()) {
                seen.entry(name).or_default().push(sent);
            }
        }
        frames.into_iter().for_each(|frame| wire.release(frame));
        seen
    }

    fn check(&self, autopath: bool) {
        for case in CASES {
            let before = self.counted();
            drop(self.seen());
            assert_eq!(self.find(case.name), case.addresses, "{}", case.name);
            let after = self.counted();
            let queries: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
            let expected = if autopath { case.autopath } else { case.plain };
            assert_eq!(queries, expected, "queries for {}", case.name);
            let seen = self.seen();
            assert_eq!(seen.len() as u64, expected[0], "one name in each domain: {seen:?}");
            for sent in seen.values() {
                let [(port, first), (other, second)] = sent[..] else { panic!("two queries: {seen:?}") };
                assert_eq!((port, first.min(second), first.max(second)), (other, 1, 28), "A and AAAA from one port");
            }
        }
    }
}

fn glibc_finds_names_by_the_search_list() {
    Resolver::new(false, "cc", &[]).check(false);
}

fn glibc_finds_the_same_with_autopath_in_fewer_queries() {
    Resolver::new(true, "cc", &[]).check(true);
}

fn musl_finds_names_by_the_search_list() {
    Resolver::new(false, "musl-gcc", &["-static"]).check(false);
}

fn musl_finds_the_same_with_autopath_in_fewer_queries() {
    Resolver::new(true, "musl-gcc", &["-static"]).check(true);
}
