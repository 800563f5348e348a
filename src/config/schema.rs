//! Every key of `gateway.yaml`, in the order of the reference, with its default.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use pollgate_common::counters::MAX_SERVICES;
use pollgate_common::pair;
use pollgate_common::settings::Masquerade;

use super::model::{
    Api, Backend, Cluster, Config, DEFAULT_SOCKET, Dns, DnsZone, Flows, Health, Host, Idle, Interface, Limits, Link,
    Log, LogFormat, LogLevel, MAGLEV_TABLE_SIZES, Maglev, Metrics, Nat, PodRecords, Purpose, Route, Run, SliceManager,
    Workers,
};
use super::reader::{Fault, Faults, Field, Section};
use super::tree::Node;
use super::{rules, values};

/// Both directions of each must fit a table index of 32 bits, with room to spare: 40 GB of flows.
const MOST_FLOWS: usize = 1 << 28;

/// Responses per second that one client prefix gets from a worker unless configured otherwise: more than a node's resolver asks for.
const DNS_RESPONSES: u32 = 50_000;

/// Largest limit of new flows per second and worker: more than any CPU opens.
const MOST_NEW_FLOWS: u32 = 100_000_000;

/// Each worker has a share of the SNAT ports; more would leave shares of a few hundred.
const MOST_WORKERS: usize = 128;

/// The kernel's largest `CONFIG_NR_CPUS`, with room.
const MOST_CPUS: usize = 1 << 16;

/// Objects and endpoints; far more than memory has room for.
const MOST_HELD: usize = 100_000_000;

/// Flow ages are counted in seconds; a year is as good as unlimited.
const FLOW_AGES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);

/// The MTU of a link: IPv4 has no smaller one (RFC 791), and no IP packet is longer.
const MTUS: RangeInclusive<u32> = 68..=65_535;

/// kube-proxy's own.
const HEALTH_PORT: u16 = 10_256;

/// Service ports with metrics of their own unless configured otherwise: three series each.
const METRICS_SERVICES: usize = 1000;

/// What `api.listen` may be, and why nothing else.
const LISTEN: &str = "a loopback address and port such as 127.0.0.1:6443; the token is the only protection, so use an \
                      SSH tunnel from other hosts";

/// Reads the whole tree.
pub(super) fn read(tree: &Node, purpose: Purpose) -> Result<Config, Vec<Fault>> {
    let faults = Faults::default();
    let config = config(Section::root(tree, &faults), purpose);
    let faults = faults.into_sorted();
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn config(mut root: Section<'_>, purpose: Purpose) -> Config {
    let node = optional_text(&root.field("node"), "the name of a Node", values::domain);
    let zone = optional_text(&root.field("zone"), "the name of a zone", values::label_value);
    let host = host(root.field("host").section());
    let interfaces = interfaces(&root.field("interfaces"), purpose);
    let address_field = root.field("addresses");
    let addresses = host_addresses(&address_field);
    if addresses.is_empty() && address_field.items().is_empty() {
        address_field.fault("at least one gateway address such as 192.168.50.10");
    }
    let (cluster, ports) = cluster(root.field("cluster").section());
    let dns = dns(root.field("dns").section(), &cluster, &addresses);
    let nat = nat(root.field("nat").section(), &cluster, &ports);
    let workers = workers(root.field("workers").section());
    let flows = flows(root.field("flows").section());
    let maglev = maglev(root.field("maglev").section());
    let api = api(root.field("api").section());
    let metrics = metrics(root.field("metrics").section());
    let health = health(root.field("health").section(), &cluster);
    let log = log(root.field("log").section());
    let limits = limits(root.field("limits").section());
    let run = run(root.field("run").section());
    root.finish();
    Config {
        node,
        zone,
        host,
        interfaces,
        addresses,
        cluster,
        dns,
        nat,
        workers,
        flows,
        maglev,
        api,
        metrics,
        health,
        log,
        limits,
        run,
    }
}

fn host(mut section: Section<'_>) -> Host {
    let disable_forwarding = section.field("disableForwarding").boolean().unwrap_or(false);
    let pair = section.field("pair").boolean().unwrap_or(true);
    section.finish();
    Host { disable_forwarding, pair }
}

fn interfaces(field: &Field<'_>, purpose: Purpose) -> Vec<Interface> {
    let items = field.items();
    if items.is_empty() {
        field.fault("at least one interface such as {name: eth1}");
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    for item in items {
        let mut section = item.section();
        let name_field = section.field("name");
        let name = required(&name_field, "the name of an interface such as eth1", values::device);
        let backend = backend(&section.field("backend"));
        let link = link(&mut section, purpose);
        section.finish();
        let Some(name) = name else { continue };
        if interfaces.iter().any(|other| other.name == name) {
            name_field.fault("each interface only once");
        }
        // A capture may be from the workers' end.
        if name == pair::HOST || name == pair::DATA && purpose == Purpose::Run {
            name_field.fault("another interface: this is one that pollgate makes");
        }
        interfaces.push(Interface { name, backend, link });
    }
    interfaces
}

fn backend(field: &Field<'_>) -> Backend {
    let words =
        [("auto", Backend::Auto), ("xdp", Backend::Xdp), ("packet", Backend::Packet), ("uring", Backend::Uring)];
    field.choice(&words).unwrap_or(Backend::Auto)
}

/// The keys that replace netlink. A replay needs the hardware address; a gateway takes all of
/// them from the kernel, and a copy in a file would become wrong one day.
fn link(section: &mut Section<'_>, purpose: Purpose) -> Option<Link> {
    let mac = section.field("mac");
    let mtu = section.field("mtu");
    let addresses = section.field("ip");
    let neighbours = section.field("neighbours");
    let routes = section.field("routes");
    if purpose == Purpose::Run {
        for field in [mac, mtu, addresses, neighbours, routes].iter().filter(|field| field.is_present()) {
            field.fault("this key only for `pollgate replay`; `run` asks the kernel instead");
        }
        return None;
    }
    const PREFIX: &str = "an address with its prefix length such as 192.168.0.1/24";
    let link = Link {
        mac: required(&mac, "a hardware address such as 02:00:00:00:00:01", values::mac).unwrap_or_default(),
        mtu: mtu.integer(MTUS).unwrap_or(1500),
        addresses: list(&addresses, |item| item.parsed(PREFIX, |text| text.parse().ok())),
        neighbours: neighbours.pairs().into_iter().filter_map(neighbour).collect(),
        routes: list(&routes, route),
    };
    rules::mtu(&link, &mtu);
    Some(link)
}

fn neighbour((address, field): (&str, Field<'_>)) -> Option<(IpAddr, [u8; 6])> {
    let Ok(address) = address.parse::<IpAddr>() else {
        field.fault("an address as the key");
        return None;
    };
    let mac = required(&field, "a hardware address such as 02:00:00:00:00:fe", values::mac)?;
    Some((address, mac))
}

fn route(item: &Field<'_>) -> Option<Route> {
    let mut section = item.clone().section();
    let to_field = section.field("to");
    let via_field = section.field("via");
    section.finish();
    let via = via_field.parsed("the address of a next hop", |text| text.parse::<IpAddr>().ok());
    let to = required(&to_field, "a network such as 10.244.1.0/24, or default", |text| values::destination(text, via))?;
    if via.is_some_and(|via| via.is_ipv4() != to.addr().is_ipv4()) {
        via_field.fault(format_args!("a next hop in the same family as {to}"));
    }
    Some(Route { to, via })
}

/// The cluster, and the field of its port range, which [`nat`] is checked against.
fn cluster<'a>(mut section: Section<'a>) -> (Cluster, Field<'a>) {
    let domain = section.field("domain").parsed("a domain such as cluster.local", values::domain);
    let pod_field = section.field("podCIDRs");
    let service_field = section.field("serviceCIDRs");
    let ports_field = section.field("nodePortRange");
    let pool_field = section.field("loadBalancerPools");
    let slice_manager = section
        .field("sliceManager")
        .choice(&[("kubernetes", SliceManager::Kubernetes), ("pollgate", SliceManager::Pollgate)]);
    let external_ips = section.field("externalIPs").boolean();
    section.finish();
    let cluster = Cluster {
        domain: domain.unwrap_or_else(|| "cluster.local".to_owned()),
        pod_cidrs: networks(&pod_field, "10.244.0.0/16"),
        service_cidrs: networks(&service_field, "10.96.0.0/16"),
        node_port_range: port_range(&ports_field, 30000..=32767),
        load_balancer_pools: list(&pool_field, |item| {
            item.parsed("a CIDR, or a range such as 192.0.2.10-192.0.2.20", values::address_range)
        }),
        slice_manager: slice_manager.unwrap_or_default(),
        external_ips: external_ips.unwrap_or(true),
    };
    rules::cluster(&cluster, &service_field, &pod_field, &pool_field);
    (cluster, ports_field)
}

fn dns(mut section: Section<'_>, cluster: &Cluster, gateway: &[IpAddr]) -> Dns {
    let address_field = section.field("address");
    let ttl = section.field("ttl").integer(0..=3600).unwrap_or(5_u32);
    let pods = section.field("pods").choice(&[
        ("disabled", PodRecords::Disabled),
        ("insecure", PodRecords::Insecure),
        ("verified", PodRecords::Verified),
    ]);
    let endpoint_pod_names = section.field("endpointPodNames").boolean();
    let autopath = section.field("autopath").boolean();
    let responses = section.field("responsesPerSecond").integer(0..=u32::MAX);
    let upstream_field = section.field("upstreams");
    let zone_field = section.field("zones");
    let serve_stale = section.field("serveStale").boolean();
    section.finish();
    let addresses = if address_field.is_present() {
        let addresses = host_addresses(&address_field);
        rules::dns(&addresses, cluster, &address_field);
        addresses
    } else {
        rules::tenth_address(cluster, &address_field)
    };
    let own: Vec<IpAddr> = addresses.iter().chain(gateway).copied().chain(pair_addresses()).collect();
    let upstreams = upstream_field.is_present().then(|| dns_servers(&upstream_field, &own));
    let zones = list(&zone_field, |item| dns_zone(item, cluster, &own));
    rules::zones_apart(&zones, &zone_field);
    if addresses.is_empty() {
        rules::no_dns_to_forward(&[&upstream_field, &zone_field]);
    }
    Dns {
        addresses,
        ttl: Duration::from_secs(ttl.into()),
        pods: pods.unwrap_or_default(),
        endpoint_pod_names: endpoint_pod_names.unwrap_or(false),
        autopath: autopath.unwrap_or(false),
        responses_per_second: responses.unwrap_or(DNS_RESPONSES),
        upstreams,
        zones,
        serve_stale: serve_stale.unwrap_or(false),
    }
}

/// Both ends of the host pair.
pub(super) fn pair_addresses() -> impl Iterator<Item = IpAddr> {
    pair::DATA_ADDRESSES.into_iter().chain(pair::HOST_ADDRESSES)
}

/// DNS servers, each once, none of which is the gateway itself.
fn dns_servers(field: &Field<'_>, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for item in field.items() {
        if item.text().is_some_and(|text| text.contains('%')) {
            item.fault("an address without a scope, that means the same on every interface");
            continue;
        }
        let Some(server) = item.parsed("a DNS server such as 9.9.9.9 or [2620:fe::fe]:53", values::dns_server) else {
            continue;
        };
        if own.contains(&server.ip()) {
            item.fault("a server other than the gateway, which would ask itself");
        } else if let Some(expected) = values::instead_of_server(server.ip()) {
            item.fault(expected);
        } else if servers.contains(&server) {
            item.fault(format_args!("each server only once: {server} is listed twice"));
        }
        servers.push(server);
    }
    servers
}

fn dns_zone(item: &Field<'_>, cluster: &Cluster, own: &[IpAddr]) -> Option<DnsZone> {
    let mut section = item.clone().section();
    let (name_field, upstream_field) = (section.field("name"), section.field("upstreams"));
    section.finish();
    let name = name_field.parsed("a domain such as corp.example", values::zone_name);
    if !name_field.is_present() {
        name_field.fault("a domain such as corp.example");
    }
    if upstream_field.items().is_empty() {
        upstream_field.fault("at least one DNS server such as 192.0.2.53");
    }
    let upstreams = dns_servers(&upstream_field, own);
    let name = name?;
    rules::zone_is_not_ours(&name, cluster, &name_field);
    Some(DnsZone { name, upstreams })
}

fn nat(mut section: Section<'_>, cluster: &Cluster, node_ports: &Field<'_>) -> Nat {
    let masquerade = masquerade(&section.field("masquerade"), &section.field("masqueradeAll"));
    let ports_field = section.field("ports");
    section.finish();
    let ports = port_range(&ports_field, 1024..=29999);
    rules::ports_apart(&ports, &ports_field, &cluster.node_port_range, node_ports);
    Nat { masquerade, ports }
}

fn masquerade(mode: &Field<'_>, all: &Field<'_>) -> Masquerade {
    let mode = mode.choice(&[("kubernetes", Masquerade::Kubernetes), ("never", Masquerade::Never)]);
    match (mode, all.boolean()) {
        (Some(Masquerade::Never), Some(true)) => {
            all.fault(format_args!("false, because nat.masquerade is never"));
            Masquerade::Never
        }
        (_, Some(true)) => Masquerade::All,
        (mode, _) => mode.unwrap_or(Masquerade::Kubernetes),
    }
}

fn workers(mut section: Section<'_>) -> Workers {
    let count_field = section.field("count");
    let count = worker_count(&count_field);
    let cpus_field = section.field("cpus");
    let idle = section.field("idle").choice(&[("adaptive", Idle::Adaptive), ("poll", Idle::Poll)]);
    let busy_poll = section.field("busyPoll").boolean().unwrap_or(false);
    section.finish();
    let cpus: Vec<usize> = list(&cpus_field, cpu).into_iter().flatten().collect();
    rules::cpus(count, &cpus, &cpus_field);
    Workers { count: count.and_then(NonZeroUsize::new), cpus, idle: idle.unwrap_or(Idle::Adaptive), busy_poll }
}

fn worker_count(field: &Field<'_>) -> Option<usize> {
    if !field.is_present() || field.text() == Some("auto") {
        return None;
    }
    let count = field.number().filter(|count| (1..=MOST_WORKERS).contains(count));
    if count.is_none() {
        field.fault(format_args!("auto or a whole number from 1 to {MOST_WORKERS}"));
    }
    count
}

fn cpu(item: &Field<'_>) -> Option<RangeInclusive<usize>> {
    if item.text().is_some() {
        let within = |text: &str| values::cpu_range(text).filter(|range| *range.end() < MOST_CPUS);
        return item.parsed("the number of a CPU, or a range such as 2-5", within);
    }
    item.integer(0..=MOST_CPUS - 1).map(|cpu| cpu..=cpu)
}

fn flows(mut section: Section<'_>) -> Flows {
    let max = section.field("max").integer(1..=MOST_FLOWS).unwrap_or(1 << 20);
    let new_per_second = section.field("newPerSecond").integer(1..=MOST_NEW_FLOWS).unwrap_or(1_000_000);
    let unconfirmed_percent = section.field("unconfirmedPercent").integer(1..=100).unwrap_or(50);
    let affinity = section.field("affinity").integer(1..=MOST_FLOWS).unwrap_or(1 << 19);
    let mut age = |key, default| {
        let within = |text: &str| values::duration(text).filter(|age| FLOW_AGES.contains(age));
        let read = section.field(key).parsed("a duration from 1s to 365d such as 1h30m", within);
        read.unwrap_or_else(|| Duration::from_secs(default))
    };
    let flows = Flows {
        max,
        new_per_second,
        unconfirmed_percent,
        affinity,
        tcp_established: age("tcpEstablished", 86_400),
        tcp_opening: age("tcpOpening", 60),
        tcp_closing: age("tcpClosing", 60),
        udp: age("udp", 30),
        udp_stream: age("udpStream", 180),
    };
    section.finish();
    flows
}

fn maglev(mut section: Section<'_>) -> Maglev {
    let size_field = section.field("tableSize");
    let seed_field = section.field("seed");
    section.finish();
    let seed = seed_field.parsed("text", |text| Some(text.to_owned()));
    Maglev { table_size: table_size(&size_field), seed: seed.unwrap_or_else(|| "pollgate".to_owned()) }
}

fn table_size(field: &Field<'_>) -> Option<u32> {
    if !field.is_present() || field.text() == Some("auto") {
        return None;
    }
    let size = field.number().filter(|size| MAGLEV_TABLE_SIZES.contains(size));
    if size.is_none() {
        let sizes: Vec<_> = MAGLEV_TABLE_SIZES.iter().map(u32::to_string).collect();
        field.fault(format_args!("auto or one of {}", sizes.join(", ")));
    }
    size
}

fn api(mut section: Section<'_>) -> Api {
    let socket = section.field("socket").parsed("the path of a Unix socket, at most 107 bytes", values::socket_path);
    let state = section.field("state").parsed("the path of a file", values::path);
    let listen = optional_text(&section.field("listen"), LISTEN, values::loopback);
    section.finish();
    Api {
        socket: socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
        state: state.unwrap_or_else(|| PathBuf::from("/var/lib/pollgate/state.db")),
        listen,
    }
}

fn log(mut section: Section<'_>) -> Log {
    let format = section.field("format").choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let level = section.field("level").choice(&[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ]);
    section.finish();
    Log { format: format.unwrap_or(LogFormat::Text), level: level.unwrap_or(LogLevel::Info) }
}

fn limits(mut section: Section<'_>) -> Limits {
    let mut number = |key, default| section.field(key).integer(1..=MOST_HELD).unwrap_or(default);
    let default = Limits::default();
    let limits = Limits {
        items_per_request: number("itemsPerRequest", default.items_per_request),
        objects: number("objects", default.objects),
        endpoints: number("endpoints", default.endpoints),
        endpoints_per_service: number("endpointsPerService", default.endpoints_per_service),
    };
    section.finish();
    limits
}

fn run(mut section: Section<'_>) -> Run {
    let user = account(&section.field("user"), "the name or number of a user");
    let group = account(&section.field("group"), "the name or number of a group");
    let sandbox = section.field("sandbox").boolean().unwrap_or(true);
    section.finish();
    Run { user, group, sandbox }
}

fn account(field: &Field<'_>, expected: &str) -> Option<String> {
    let number = field.number::<u32>().map(|number| number.to_string());
    number.or_else(|| optional_text(field, expected, values::account))
}

fn metrics(mut section: Section<'_>) -> Metrics {
    let expected = "an address and port such as 127.0.0.1:9090";
    let listen = optional_text(&section.field("listen"), expected, |text| text.parse().ok());
    let services = section.field("services").integer(0..=MAX_SERVICES).unwrap_or(METRICS_SERVICES);
    let compatible = section.field("compatible").boolean().unwrap_or(false);
    section.finish();
    Metrics { listen, services, compatible }
}

fn health(mut section: Section<'_>, cluster: &Cluster) -> Health {
    let field = section.field("port");
    section.finish();
    let port = field.integer(0..=u16::MAX).unwrap_or(HEALTH_PORT);
    if cluster.node_port_range.contains(&port) {
        field.fault("a port outside cluster.nodePortRange, or 0");
    }
    Health { port: Some(port).filter(|port| *port != 0) }
}

/// Text; the empty text means "none".
fn optional_text<T>(field: &Field<'_>, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if field.text() == Some("") { None } else { field.parsed(expected, parse) }
}

/// A value that must be there.
fn required<T>(field: &Field<'_>, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if !field.is_present() {
        field.fault(expected);
    }
    field.parsed(expected, parse)
}

fn list<T>(field: &Field<'_>, read: impl Fn(&Field<'_>) -> Option<T>) -> Vec<T> {
    field.items().iter().filter_map(read).collect()
}

/// Addresses for the gateway to own, each once.
fn host_addresses(field: &Field<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for item in field.items() {
        let Some(address) = item.parsed("a unicast IPv4 or IPv6 address", values::host_address) else {
            continue;
        };
        if addresses.contains(&address) {
            item.fault("each address only once");
        }
        addresses.push(address);
    }
    addresses
}

/// CIDRs, or the one `default` if the key is missing. An empty list stays empty.
fn networks(field: &Field<'_>, default: &str) -> Vec<IpNet> {
    if !field.is_present() {
        return values::network(default).into_iter().collect();
    }
    list(field, |item| {
        let expected = match item.text().and_then(|text| text.parse::<IpNet>().ok()) {
            Some(net) => format!("a network without host bits: {}", net.trunc()),
            None => format!("a CIDR such as {default}"),
        };
        item.parsed(&expected, values::network)
    })
}

fn port_range(field: &Field<'_>, default: RangeInclusive<u16>) -> RangeInclusive<u16> {
    let expected = format!("a range of ports such as {}-{}", default.start(), default.end());
    field.parsed(&expected, values::port_range).unwrap_or(default)
}
