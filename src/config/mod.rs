//! `gateway.yaml`: what the operator decides, as plain typed data.
//!
//! ```text
//! text ──tree──▶ what was typed, ──schema──▶ every key read,  ──rules──▶ Config
//!                with lines                 faults noted              (or all faults)
//! ```
//!
//! Objects of Kubernetes come through the API and change while packets flow; this file holds what
//! must be known before the first one: the interfaces, the addresses the gateway owns, the ranges
//! it allocates from. It is read at start; on SIGHUP, what can change meanwhile is taken from it. Every key but `interfaces` and `addresses` has a default,
//! and an unknown key is an error, because a misspelt `masquaradeAll` that is silently ignored
//! costs a night. `docs/configuration.md` is the reference for users.
//!
//! The values are types of std, so that no other part depends on how they are written.

mod keys;
mod model;
mod parts;
mod reader;
mod rules;
mod schema;
mod tree;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

pub use model::{
    Api, Backend, Cluster, Config, DEFAULT_SOCKET, Dns, Flows, Health, Host, Idle, Interface, Link, Log, LogFormat,
    LogLevel, MAGLEV_TABLE_SIZES, Maglev, Metrics, Nat, Purpose, Route, Run, Workers,
};
pub use reader::Fault;

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] if the file does not exist or is not text;
    /// [`ConfigError::Faulty`] with every fault that was found in it.
    pub fn load(path: &Path, purpose: Purpose) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&path.display().to_string(), &text, purpose)
    }

    /// Checks a text; `source` is what errors call it.
    ///
    /// # Errors
    /// [`ConfigError::Faulty`] with every fault that was found.
    pub fn parse(source: &str, text: &str, purpose: Purpose) -> Result<Self, ConfigError> {
        let faulty = |faults| ConfigError::Faulty { source: source.to_owned(), faults };
        let tree = tree::parse(text).map_err(|syntax| {
            let tree::Syntax { line, message } = syntax;
            faulty(vec![Fault { line, key: String::new(), message }])
        })?;
        schema::read(&tree, purpose).map_err(faulty)
    }

    /// The addresses that pollgate owns before there is any object.
    pub fn owned_addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().chain(&self.dns.addresses).copied().collect()
    }

    /// Whether clients reach the address by a route: it is in a Service CIDR, which no link has.
    pub fn is_routed(&self, address: IpAddr) -> bool {
        self.cluster.service_cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    /// The same with the workers' end of the host pair as the last interface.
    #[must_use]
    pub fn with_pair(mut self) -> Config {
        let name = pollgate_common::pair::DATA.to_owned();
        self.interfaces.push(Interface { name, backend: Backend::Packet, link: None });
        self
    }

    /// The same with the host's DNS servers as upstreams, if none are given. Its own addresses are left out.
    #[must_use]
    pub fn with_upstreams(mut self, of_host: impl FnOnce() -> Vec<SocketAddr>) -> Config {
        if self.dns.upstreams.is_none() {
            let own: Vec<IpAddr> = self.owned_addresses().into_iter().chain(schema::pair_addresses()).collect();
            let mut servers: Vec<SocketAddr> = Vec::new();
            for server in of_host() {
                let server = SocketAddr::new(server.ip().to_canonical(), server.port());
                let is_one = !own.contains(&server.ip()) && values::instead_of_server(server.ip()).is_none();
                if is_one && !servers.contains(&server) {
                    servers.push(server);
                }
            }
            self.dns.upstreams = Some(servers);
        }
        self
    }

    /// Whether the workers' end of the host pair is among the interfaces.
    pub fn has_pair(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.name == pollgate_common::pair::DATA)
    }

    /// What is valid and probably not what was meant: one line per key.
    pub fn warnings(&self) -> Vec<String> {
        let lacks = |address: &&IpAddr| !self.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
        let without = self.dns.addresses.iter().filter(lacks).filter(|_| self.host.pair);
        let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let without = without.map(|address| {
            format!(
                "dns.address: {address} serves DNS over UDP only, because `addresses` has no {} address: clients do not get \
                 answers that are longer than a datagram",
                family(address)
            )
        });
        let open = self.metrics.listen.filter(|listen| !listen.ip().is_loopback()).map(|listen| {
            format!(
                "metrics.listen: {listen} is no loopback address: whoever reaches it can read the metrics, names of Services \
                 included; there is no TLS and no token"
            )
        });
        without.chain(open).collect()
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// The file was read and is wrong.
    Faulty {
        /// The name of the text: the path of the file.
        source: String,
        /// Every fault, in the order of the file; at least one.
        faults: Vec<Fault>,
    },
}

impl fmt::Display for ConfigError {
    /// One line per fault: `FILE:LINE: KEY: what is expected (what was found)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(f, "{}: cannot read the configuration: {error}", path.display())
            }
            Self::Faulty { source, faults } => {
                for (index, fault) in faults.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{source}:{fault}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The least that is a configuration.
    const LEAST: &str = "interfaces: [{name: eth1}]\naddresses: 192.168.50.10\n";

    fn run(text: &str) -> Result<Config, String> {
        Config::parse("gateway.yaml", text, Purpose::Run).map_err(|error| error.to_string())
    }

    fn replay(text: &str) -> Result<Config, String> {
        Config::parse("gateway.yaml", text, Purpose::Replay).map_err(|error| error.to_string())
    }

    #[test]
    fn every_other_key_has_a_default_and_the_example_shows_it() {
        assert_eq!(run(LEAST).unwrap(), run(include_str!("../../examples/gateway.yaml")).unwrap());
    }

    /// The keys that the schema knows in a section, from what it says of one that it does not know.
    fn keys(section: &str) -> Vec<String> {
        const UNKNOWN: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqq";
        let text = match section {
            "" => format!("{UNKNOWN}: 1\n"),
            "interfaces" => format!("interfaces: [{{{UNKNOWN}: 1}}]\n"),
            section => format!("{section}: {{{UNKNOWN}: 1}}\n"),
        };
        let faults = run(&text).unwrap_err();
        let known =
            faults.split("unknown key; known here: ").nth(1).map(|rest| rest.lines().next().unwrap_or_default());
        known.into_iter().flat_map(|known| known.split(", ")).map(str::to_owned).collect()
    }

    #[test]
    fn the_example_shows_every_key() {
        let example = include_str!("../../examples/gateway.yaml");
        let sections = keys("");
        assert!(sections.len() > 10, "{sections:?}");
        for section in sections {
            let start = example.find(&format!("\n{section}:")).unwrap_or_else(|| panic!("{section} is not shown"));
            let lines: Vec<&str> = example[start + 1..].lines().collect();
            let end = lines.iter().skip(1).position(|line| !line.starts_with([' ', '#'])).unwrap_or(lines.len() - 1);
            let shown = lines[..=end].join("\n");
            let is_for_run = |key: &String| {
                let used = run(&format!("interfaces: [{{{key}: x}}]\n")).unwrap_err();
                section != "interfaces" || !used.contains("this key only for `pollgate replay`")
            };
            for key in keys(&section).into_iter().filter(is_for_run) {
                assert!(shown.contains(&format!("{key}:")), "{section}.{key} is not shown");
            }
        }
    }

    #[test]
    fn an_address_of_dns_without_a_gateway_address_of_its_family_is_warned_of() {
        let warnings = |more: &str| run(&format!("{LEAST}{more}\n")).unwrap().warnings();
        assert_eq!(warnings("dns: {}"), [""; 0]);
        let [warning] = &warnings("dns: {address: [10.96.0.10, \"fd00::53\"]}")[..] else { panic!("one warning") };
        assert!(
            warning
                .starts_with("dns.address: fd00::53 serves DNS over UDP only, because `addresses` has no IPv6 address"),
            "{warning}"
        );
        // Without the host pair, no address has it.
        assert_eq!(warnings("dns: {address: \"fd00::53\"}\nhost: {pair: false}"), [""; 0]);
    }

    #[test]
    fn metrics_that_others_can_read_are_warned_of() {
        let warnings = |listen: &str| run(&format!("{LEAST}metrics: {{listen: '{listen}'}}\n")).unwrap().warnings();
        for listen in ["127.0.0.1:9090", "[::1]:9090"] {
            assert_eq!(warnings(listen), [""; 0]);
        }
        for listen in ["0.0.0.0:9090", "192.168.50.1:9090", "[::]:9090"] {
            let [warning] = &warnings(listen)[..] else { panic!("one warning") };
            assert!(warning.starts_with(&format!("metrics.listen: {listen} is no loopback address: ")), "{warning}");
        }
    }

    #[test]
    fn a_zone_may_have_underscores_or_hold_a_range() {
        for name in ["_msdcs.corp.example", "in-addr.arpa", "10.in-addr.arpa", "168.192.in-addr.arpa"] {
            let zones = run(&format!("{LEAST}dns: {{zones: [{{name: {name}, upstreams: 192.0.2.53}}]}}\n"));
            assert_eq!(zones.unwrap().dns.zones[0].name, name);
        }
        assert!(run(&format!("{LEAST}dns: {{address: [], upstreams: [], zones: []}}\n")).is_ok());
    }

    #[test]
    fn the_defaults() {
        let config = run(LEAST).unwrap();
        assert_eq!((config.node.as_deref(), config.zone.as_deref()), (None, None));
        assert_eq!(config.interfaces, [Interface { name: "eth1".into(), backend: Backend::Auto, link: None }]);
        assert_eq!(config.cluster.node_port_range, 30000..=32767);
        assert_eq!(config.dns.addresses, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.flows.tcp_established, Duration::from_secs(86_400));
        assert_eq!((config.flows.max, config.workers.count), (1 << 20, None));
        assert_eq!((config.flows.new_per_second, config.flows.unconfirmed_percent), (1_000_000, 50));
        assert_eq!((config.maglev.table_size, config.maglev.seed.as_str()), (None, "pollgate"));
        assert_eq!(config.api.socket, Path::new(DEFAULT_SOCKET));
        assert_eq!((config.api.listen, config.metrics.listen, config.metrics.services), (None, None, 1000));
        assert_eq!((config.host.pair, config.health.port), (true, Some(10_256)));
        assert_eq!(run(&format!("{LEAST}health: {{port: 0}}\n")).unwrap().health.port, None);
        assert_eq!(config.run, Run { user: None, group: None, sandbox: true });
        let other = run(&format!("{LEAST}run: {{user: pollgate, group: 990}}\n")).unwrap().run;
        assert_eq!((other.user.as_deref(), other.group.as_deref()), (Some("pollgate"), Some("990")));
    }

    #[test]
    fn an_interface_may_name_its_backend() {
        for (word, backend) in [("xdp", Backend::Xdp), ("packet", Backend::Packet), ("uring", Backend::Uring)] {
            let config =
                run(&format!("interfaces: {{name: eth1, backend: {word}}}\naddresses: 192.168.50.10\n")).unwrap();
            assert_eq!(config.interfaces[0].backend, backend);
        }
    }

    #[test]
    fn one_value_or_a_list() {
        let config = replay(
            "interfaces: {name: eth0, mac: 02:00:00:00:00:01, ip: 192.168.0.1/24}\n\
             addresses: 192.168.0.10\n\
             cluster: {podCIDRs: 10.244.0.0/16, serviceCIDRs: fd00:96::/112, loadBalancerPools: 192.0.2.7}\n\
             workers: {cpus: 2-4}\n",
        )
        .unwrap();
        assert_eq!(config.interfaces.len(), 1);
        assert_eq!(config.addresses.len(), 1);
        assert_eq!(config.workers.cpus, [2, 3, 4]);
        assert_eq!(config.dns.addresses, ["fd00:96::a".parse::<IpAddr>().unwrap()], "the tenth");
        let pool = "192.0.2.7".parse::<IpAddr>().unwrap();
        assert_eq!(config.cluster.load_balancer_pools, [pool..=pool]);
    }

    #[test]
    fn a_replay_says_what_netlink_would_have_said() {
        let config = replay(
            r#"
interfaces:
  - name: eth0
    mac: 02:00:00:00:00:01
    mtu: 9000
    ip: [192.168.0.1/24, "2001:db8::fe/64"]
    neighbours: { 192.168.0.254: "02:00:00:00:00:fe" }
    routes: [ { to: 0.0.0.0/0, via: 192.168.0.254 }, { to: default, via: "2001:db8::1" }, { to: 10.0.0.0/8 } ]
addresses: 192.168.0.10
"#,
        )
        .unwrap();
        let link = config.interfaces[0].link.as_ref().unwrap();
        assert_eq!((link.mac, link.mtu), ([2, 0, 0, 0, 0, 1], 9000));
        assert_eq!(link.addresses[0].to_string(), "192.168.0.1/24", "host bits are kept");
        let neighbour = ("192.168.0.254".parse().unwrap(), [2, 0, 0, 0, 0, 0xfe]);
        assert_eq!(link.neighbours, [neighbour]);
        let routes: Vec<_> = link.routes.iter().map(|r| (r.to.to_string(), r.via)).collect();
        assert_eq!(
            routes,
            [
                ("0.0.0.0/0".to_owned(), "192.168.0.254".parse().ok()),
                ("::/0".to_owned(), "2001:db8::1".parse().ok()),
                ("10.0.0.0/8".to_owned(), None),
            ]
        );
    }

    #[test]
    fn the_address_of_dns_may_be_anywhere_but_among_pods_or_nowhere() {
        let with = |dns: &str| run(&format!("{LEAST}dns: {dns}\n"));
        assert_eq!(with("{address: 169.254.20.10}").unwrap().dns.addresses.len(), 1);
        assert_eq!(with("{address: []}").unwrap().dns.addresses, [] as [IpAddr; 0]);
        assert_eq!(
            with("{address: 10.244.0.53}").unwrap_err(),
            "gateway.yaml:3: dns.address: expected an address outside podCIDRs: 10.244.0.53 is in \
             10.244.0.0/16 (found 10.244.0.53)"
        );
    }

    #[test]
    fn without_upstreams_those_of_the_host_are_used_but_for_the_gateway_itself() {
        let with = |dns: &str| {
            let config = run(&format!("{LEAST}dns: {dns}\n")).unwrap();
            let of_host = || {
                [
                    "192.0.2.53:53",
                    "10.96.0.10:53",
                    "[::ffff:10.96.0.10]:53",
                    "169.254.112.1:53",
                    "[fe80::1]:53",
                    "192.0.2.53:53",
                ]
                .map(|server| server.parse().unwrap())
                .into()
            };
            config.with_upstreams(of_host).dns.upstreams.unwrap()
        };
        let server = |text: &str| vec![text.parse::<std::net::SocketAddr>().unwrap()];
        assert_eq!(with("{}"), server("192.0.2.53:53"));
        assert_eq!(with("{upstreams: 9.9.9.9}"), server("9.9.9.9:53"));
        assert_eq!(with("{upstreams: []}"), []);
        let zones = run(&format!("{LEAST}dns: {{zones: [{{name: Corp.Example., upstreams: 9.9.9.9}}]}}\n")).unwrap();
        assert_eq!(
            (zones.dns.zones[0].name.as_str(), &zones.dns.zones[0].upstreams),
            ("corp.example", &server("9.9.9.9:53"))
        );
    }

    #[test]
    fn a_fault_is_one_line_with_its_place_and_what_is_expected() {
        for (text, told) in [
            (
                "colour: red",
                "colour: unknown key; known here: node, zone, host, interfaces, addresses, cluster, dns, nat, \
                 workers, flows, maglev, api, metrics, health, log, limits, run",
            ),
            ("run: {user: 'a:b'}", "run.user: expected the name or number of a user (found a:b)"),
            ("run: {group: /etc}", "run.group: expected the name or number of a group (found /etc)"),
            (
                "nat: {masquerade: never, masqueradeAll: true}",
                "nat.masqueradeAll: expected false, because nat.masquerade is never (found true)",
            ),
            ("nat: {masquaradeAll: true}", "nat.masquaradeAll: unknown key; did you mean masqueradeAll?"),
            ("cluster: {podCIDRS: []}", "cluster.podCIDRS: unknown key; did you mean podCIDRs?"),
            ("nat: yes", "nat: expected a mapping of keys (found yes)"),
            ("node: 5", "node: expected the name of a Node (found 5)"),
            ("node: a_b", "node: expected the name of a Node (found a_b)"),
            ("host: {disableForwarding: 1}", "host.disableForwarding: expected true or false (found 1)"),
            ("cluster: {domain: a..b}", "cluster.domain: expected a domain such as cluster.local (found a..b)"),
            (
                "cluster: {serviceCIDRs: 10.96.0.0/33}",
                "cluster.serviceCIDRs: expected a CIDR such as 10.96.0.0/16 (found 10.96.0.0/33)",
            ),
            (
                "cluster: {serviceCIDRs: [10.96.0.1/16]}",
                "cluster.serviceCIDRs[0]: expected a network without host bits: 10.96.0.0/16 (found 10.96.0.1/16)",
            ),
            (
                "cluster: {serviceCIDRs: []}",
                "cluster.serviceCIDRs: expected at least one CIDR such as 10.96.0.0/16 (found a list of 0)",
            ),
            (
                "cluster: {serviceCIDRs: [10.96.0.0/16, 10.97.0.0/16]}",
                "cluster.serviceCIDRs: expected at most one CIDR per family (found a list of 2)",
            ),
            (
                "cluster: {podCIDRs: 10.0.0.0/8}",
                "cluster.podCIDRs: expected podCIDRs outside serviceCIDRs: 10.0.0.0/8 overlaps 10.96.0.0/16 (found \
                 10.0.0.0/8)",
            ),
            (
                "cluster: {nodePortRange: 30000}",
                "cluster.nodePortRange: expected a range of ports such as 30000-32767 (found 30000)",
            ),
            (
                "cluster: {nodePortRange: 20000-32767}",
                "cluster.nodePortRange: expected ports outside nat.ports 1024-29999 (found 20000-32767)",
            ),
            (
                "nat: {ports: 1024-30000}",
                "nat.ports: expected ports outside cluster.nodePortRange 30000-32767 (found 1024-30000)",
            ),
            (
                "cluster: {loadBalancerPools: [192.0.2.0/28, 192.0.2.8-192.0.2.9]}",
                "cluster.loadBalancerPools: expected pools that do not overlap: 192.0.2.8-192.0.2.9 overlaps an \
                 earlier one (found a list of 2)",
            ),
            (
                "cluster: {loadBalancerPools: 10.96.7.1}",
                "cluster.loadBalancerPools: expected pools outside serviceCIDRs and podCIDRs: 10.96.7.1-10.96.7.1 \
                 overlaps 10.96.0.0/16 (found 10.96.7.1)",
            ),
            ("dns: {ttl: 5s}", "dns.ttl: expected a whole number from 0 to 3600 (found 5s)"),
            ("dns: {ttl: 3601}", "dns.ttl: expected a whole number from 0 to 3600 (found 3601)"),
            ("dns: {autopath: 1}", "dns.autopath: expected true or false (found 1)"),
            (
                "dns: {responsesPerSecond: -1}",
                "dns.responsesPerSecond: expected a whole number from 0 to 4294967295 (found -1)",
            ),
            ("dns: {pods: all}", "dns.pods: expected disabled, insecure or verified (found all)"),
            (
                "dns: {responsesPerSecond: 1e6}",
                "dns.responsesPerSecond: expected a whole number from 0 to 4294967295, in digits only (found 1000000)",
            ),
            (
                "dns: {upstreams: [192.0.2.53, 192.0.2.54, \"192.0.2.53:53\"]}",
                "dns.upstreams[2]: expected each server only once: 192.0.2.53:53 is listed twice (found 192.0.2.53:53)",
            ),
            (
                "dns: {upstreams: 224.0.0.251}",
                "dns.upstreams: expected the address of one server, not a group's (found 224.0.0.251)",
            ),
            (
                "dns: {upstreams: 255.255.255.255}",
                "dns.upstreams: expected the address of one server, not a group's (found 255.255.255.255)",
            ),
            (
                "dns: {upstreams: \"ff02::fb\"}",
                "dns.upstreams: expected the address of one server, not a group's (found ff02::fb)",
            ),
            (
                "dns: {upstreams: \"fe80::1%eth0\"}",
                "dns.upstreams: expected an address without a scope, that means the same on every interface (found \
                 fe80::1%eth0)",
            ),
            (
                "dns: {upstreams: \"fe80::1\"}",
                "dns.upstreams: expected an address that means the same on every interface; a link-local one does not \
                 (found fe80::1)",
            ),
            (
                "dns: {upstreams: \"::ffff:10.96.0.10\"}",
                "dns.upstreams: expected a server other than the gateway, which would ask itself (found ::ffff:10.96.0.10)",
            ),
            (
                "dns: {upstreams: 169.254.112.1}",
                "dns.upstreams: expected a server other than the gateway, which would ask itself (found 169.254.112.1)",
            ),
            (
                "dns: {address: [], upstreams: 192.0.2.53}",
                "dns.upstreams: expected none, because dns.address is [] and no query is answered (found 192.0.2.53)",
            ),
            (
                "dns: {address: [], zones: [{name: corp.example, upstreams: 192.0.2.53}]}",
                "dns.zones: expected none, because dns.address is [] and no query is answered (found a list of 1)",
            ),
            (
                "dns: {zones: [{name: 7.96.10.in-addr.arpa, upstreams: 192.0.2.53}]}",
                "dns.zones[0].name: expected a domain outside the reverse zones of serviceCIDRs and podCIDRs: it is in that \
                 of 10.96.0.0/16 (found 7.96.10.in-addr.arpa)",
            ),
            (
                "dns: {upstreams: [dns.example]}",
                "dns.upstreams[0]: expected a DNS server such as 9.9.9.9 or [2620:fe::fe]:53 (found dns.example)",
            ),
            (
                "dns: {upstreams: [9.9.9.9, '10.96.0.10:5353']}",
                "dns.upstreams[1]: expected a server other than the gateway, which would ask itself (found 10.96.0.10:5353)",
            ),
            (
                "dns: {zones: [{upstreams: 9.9.9.9}]}",
                "dns.zones[0].name: expected a domain such as corp.example (found nothing)",
            ),
            (
                "dns: {zones: [{name: corp.example}]}",
                "dns.zones[0].upstreams: expected at least one DNS server such as 192.0.2.53 (found nothing)",
            ),
            (
                "dns: {zones: [{name: svc.cluster.local, upstreams: 9.9.9.9}]}",
                "dns.zones[0].name: expected a domain outside cluster.domain cluster.local (found svc.cluster.local)",
            ),
            (
                "dns: {zones: [{name: a.b, upstreams: 9.9.9.9}, {name: a.b, upstreams: 9.9.9.8}]}",
                "dns.zones: expected each zone only once: a.b is listed twice (found a list of 2)",
            ),
            ("dns: {serveStale: 1}", "dns.serveStale: expected true or false (found 1)"),
            ("workers: {count: 0}", "workers.count: expected auto or a whole number from 1 to 128 (found 0)"),
            ("workers: {count: many}", "workers.count: expected auto or a whole number from 1 to 128 (found many)"),
            (
                "workers: {count: 3, cpus: [1, 2]}",
                "workers.cpus: expected at least 3 CPUs, one per worker, or an empty list (found a list of 2)",
            ),
            (
                "workers: {cpus: [1, 0-1]}",
                "workers.cpus: expected each CPU only once: 1 is listed twice (found a list \
                                           of 2)",
            ),
            ("workers: {cpus: [-1]}", "workers.cpus[0]: expected a whole number from 0 to 65535 (found -1)"),
            ("workers: {idle: never}", "workers.idle: expected adaptive or poll (found never)"),
            ("limits: {objects: 0}", "limits.objects: expected a whole number from 1 to 100000000 (found 0)"),
            (
                "limits: {pods: 5}",
                "limits.pods: unknown key; known here: itemsPerRequest, objects, endpoints, endpointsPerService",
            ),
            ("flows: {max: 0}", "flows.max: expected a whole number from 1 to 268435456 (found 0)"),
            ("flows: {affinity: 0}", "flows.affinity: expected a whole number from 1 to 268435456 (found 0)"),
            ("flows: {newPerSecond: 0}", "flows.newPerSecond: expected a whole number from 1 to 100000000 (found 0)"),
            (
                "flows: {unconfirmedPercent: 101}",
                "flows.unconfirmedPercent: expected a whole number from 1 to 100 (found 101)",
            ),
            ("flows: {udp: 30}", "flows.udp: expected a duration from 1s to 365d such as 1h30m (found 30)"),
            ("flows: {udp: 100ms}", "flows.udp: expected a duration from 1s to 365d such as 1h30m (found 100ms)"),
            (
                "maglev: {tableSize: 65536}",
                "maglev.tableSize: expected auto or one of 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537, 131071, 262139, 524287 (found 65536)",
            ),
            ("api: {socket: ''}", "api.socket: expected the path of a Unix socket, at most 107 bytes (found \"\")"),
            (
                "api: {listen: 0.0.0.0:6443}",
                "api.listen: expected a loopback address and port such as 127.0.0.1:6443; the token is the only \
                 protection, so use an SSH tunnel from other hosts (found 0.0.0.0:6443)",
            ),
            ("health: {port: 30256}", "health.port: expected a port outside cluster.nodePortRange, or 0 (found 30256)"),
            ("health: {port: 65536}", "health.port: expected a whole number from 0 to 65535 (found 65536)"),
            (
                "metrics: {listen: 9090}",
                "metrics.listen: expected an address and port such as 127.0.0.1:9090 (found 9090)",
            ),
            (
                "metrics: {services: 131073}",
                "metrics.services: expected a whole number from 0 to 131072 (found 131073)",
            ),
        ] {
            let expected = format!("gateway.yaml:3: {told}");
            assert_eq!(run(&format!("{LEAST}{text}\n")).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_service_cidr_too_small_for_a_default_dns_address_is_told() {
        let text = format!("{LEAST}cluster: {{serviceCIDRs: 10.96.0.0/29}}\n");
        assert_eq!(
            run(&text).unwrap_err(),
            "gateway.yaml:1: dns.address: expected an address, because 10.96.0.0/29 has no tenth address to use as \
             the default (found nothing)"
        );
        assert!(run(&format!("{text}dns: {{address: 10.96.0.2}}\n")).is_ok());
    }

    #[test]
    fn interfaces_and_addresses_are_required() {
        assert_eq!(
            run("").unwrap_err(),
            "gateway.yaml:1: addresses: expected at least one gateway address such as \
             192.168.50.10 (found nothing)\n\
             gateway.yaml:1: interfaces: expected at least one interface such as {name: eth1} \
             (found nothing)"
        );
    }

    #[test]
    fn all_faults_of_a_file_are_told_in_its_order() {
        let text = "\
addresses: [192.168.50.10, 127.0.0.1, 192.168.50.10]
interfaces:
  - name: eth1
    backend: AF_XDP
  - name: eth1
    mtu: 9000
  - backend: dpdk
    mac: 02:00:00:00:00:01
";
        assert_eq!(run(text).unwrap_err(), "\
gateway.yaml:1: addresses[1]: expected a unicast IPv4 or IPv6 address (found 127.0.0.1)
gateway.yaml:1: addresses[2]: expected each address only once (found 192.168.50.10)
gateway.yaml:4: interfaces[0].backend: expected auto, xdp, packet or uring (found AF_XDP)
gateway.yaml:5: interfaces[1].name: expected each interface only once (found eth1)
gateway.yaml:6: interfaces[1].mtu: expected this key only for `pollgate replay`; `run` asks the kernel instead (found 9000)
gateway.yaml:7: interfaces[2].backend: expected auto, xdp, packet or uring (found dpdk)
gateway.yaml:7: interfaces[2].name: expected the name of an interface such as eth1 (found nothing)
gateway.yaml:8: interfaces[2].mac: expected this key only for `pollgate replay`; `run` asks the kernel instead (found 02:00:00:00:00:01)");
    }

    #[test]
    fn a_replay_checks_what_it_is_told_of_the_network() {
        let text = "\
addresses: 192.168.50.10
interfaces:
  - name: eth1
    ip: 192.168.0.1
    neighbours: {router: 02:00:00:00:00:01, 192.168.0.2: 01:00:00:00:00:01}
    routes:
      - {via: 192.168.0.2}
      - {to: 10.0.0.1/8}
      - {to: 10.0.0.0/8, via: '::1', dev: eth1}
";
        assert_eq!(replay(text).unwrap_err(), "\
gateway.yaml:3: interfaces[0].mac: expected a hardware address such as 02:00:00:00:00:01 (found nothing)
gateway.yaml:4: interfaces[0].ip: expected an address with its prefix length such as 192.168.0.1/24 (found 192.168.0.1)
gateway.yaml:5: interfaces[0].neighbours[192.168.0.2]: expected a hardware address such as 02:00:00:00:00:fe (found 01:00:00:00:00:01)
gateway.yaml:5: interfaces[0].neighbours[router]: expected an address as the key (found 02:00:00:00:00:01)
gateway.yaml:7: interfaces[0].routes[0].to: expected a network such as 10.244.1.0/24, or default (found nothing)
gateway.yaml:8: interfaces[0].routes[1].to: expected a network such as 10.244.1.0/24, or default (found 10.0.0.1/8)
gateway.yaml:9: interfaces[0].routes[2].dev: unknown key; known here: to, via
gateway.yaml:9: interfaces[0].routes[2].via: expected a next hop in the same family as 10.0.0.0/8 (found ::1)");
    }

    #[test]
    fn a_replay_has_the_mtu_of_ethernet_unless_another_is_given() {
        let with = |more: &str| {
            let text =
                format!("addresses: 192.168.50.10\ninterfaces:\n  - {{name: eth1, mac: 02:00:00:00:00:01{more}}}\n");
            replay(&text).map(|config| config.interfaces[0].link.as_ref().unwrap().mtu)
        };
        assert_eq!((with(""), with(", mtu: 68"), with(", mtu: 65535")), (Ok(1500), Ok(68), Ok(65535)));
        assert_eq!(with(", mtu: 1280, ip: '2001:db8::1/64'"), Ok(1280));
        for wrong in ["67", "65536", "1.5", "jumbo", "-1"] {
            let told = with(&format!(", mtu: {wrong}")).unwrap_err();
            let expected = "gateway.yaml:3: interfaces[0].mtu: expected a whole number from 68 to 65535 (found ";
            assert!(told.starts_with(expected), "{told}");
        }
        for v6 in ["ip: '2001:db8::1/64'", "neighbours: {'fe80::1': 02:00:00:00:00:fe}", "routes: [{to: '2000::/3'}]"] {
            let told = with(&format!(", mtu: 1279, {v6}")).unwrap_err();
            let expected = "gateway.yaml:3: interfaces[0].mtu: expected at least 1280 on an interface with IPv6";
            assert!(told.starts_with(expected), "{v6}: {told}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_with_file_and_line() {
        let told = run("interfaces: [\n  {name: eth1\naddresses: 1.2.3.4\n").unwrap_err();
        assert!(told.starts_with("gateway.yaml:") && !told.contains('\n'), "{told}");
        let told = run(&format!("{LEAST}addresses: 192.168.50.11\n")).unwrap_err();
        assert_eq!(told, "gateway.yaml:3: duplicate key \"addresses\", first used on line 2");
    }

    #[test]
    fn a_missing_file_is_named() {
        let told = Config::load(Path::new("/nonexistent/gateway.yaml"), Purpose::Run).unwrap_err();
        assert_eq!(
            told.to_string(),
            "/nonexistent/gateway.yaml: cannot read the configuration: No such file or directory \
             (os error 2)"
        );
    }
}
