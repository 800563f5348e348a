//! A valid configuration, as plain data of std's types.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
pub(super) use pollgate_common::dns::zone::PodRecords;
use pollgate_common::settings::Masquerade;
pub(super) use pollgate_control::cluster::Limits;
pub(super) use pollgate_control::cluster::SliceManager;

/// Table sizes that `maglev.tableSize` may name.
pub const MAGLEV_TABLE_SIZES: &[u32] = &pollgate_control::compile::maglev::SIZES;

/// The API's socket, unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pollgate/pollgate.sock";

/// What a configuration is read for. It decides which keys of an interface make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A gateway on real interfaces: addresses, routes and neighbours come from the kernel.
    Run,
    /// Offline: the file replaces what the kernel would report.
    Replay,
}

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the Kubernetes Node of this gateway; none: the whole cluster is local.
    pub node: Option<String>,
    /// Zone of this gateway; none: topology hints are not used.
    pub zone: Option<String>,
    /// What pollgate may change on the host.
    pub host: Host,
    /// Where packets are polled; at least one, names are unique.
    pub interfaces: Vec<Interface>,
    /// Gateway addresses: used for NodePorts and SNAT. At least one, no duplicates.
    pub addresses: Vec<IpAddr>,
    /// Ranges and names of the cluster.
    pub cluster: Cluster,
    /// The cluster's DNS service.
    pub dns: Dns,
    /// Source translation.
    pub nat: Nat,
    /// The polling threads.
    pub workers: Workers,
    /// Size and time-outs of the flow tables.
    pub flows: Flows,
    /// Consistent hashing.
    pub maglev: Maglev,
    /// The Kubernetes API and the durable state.
    pub api: Api,
    /// Metrics for Prometheus.
    pub metrics: Metrics,
    /// The gateway's own health, for load balancers.
    pub health: Health,
    /// The log.
    pub log: Log,
    /// How much the gateway may hold.
    pub limits: Limits,
    /// Who the process becomes.
    pub run: Run,
}

/// Who the process becomes, and what it gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// A user, by name or number; none: the one that starts it.
    pub user: Option<String>,
    /// A group, by name or number; none: the user's.
    pub group: Option<String>,
    /// Whether each thread is limited to the system calls and files of its role.
    pub sandbox: bool,
}

/// The log, on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// How each line is written.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: LogLevel,
}

/// How important a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Something may stop working.
    Warn,
    /// What has changed.
    Info,
    /// What the gateway does.
    Debug,
    /// Each step of it.
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

/// What pollgate may change on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Whether it may switch off the kernel's own forwarding on its interfaces.
    pub disable_forwarding: bool,
    /// Whether the host's own processes reach Services.
    pub pair: bool,
}

/// An interface whose packets are polled.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// The kernel's name of the device, or the name a capture is given to (`--in NAME=FILE`).
    pub name: String,
    /// How its packets are polled.
    pub backend: Backend,
    /// What netlink would report; `Some` exactly when read for [`Purpose::Replay`].
    pub link: Option<Link>,
}

/// How packets of an interface are polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The best that the host and this build can do.
    Auto,
    /// AF_XDP.
    Xdp,
    /// AF_PACKET with memory-mapped rings.
    Packet,
    /// AF_PACKET through io_uring.
    Uring,
}

/// An interface's side of the network, for a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Hardware address of the interface.
    pub mac: [u8; 6],
    /// Largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// The interface's own addresses with the length of their prefix; host bits are kept.
    pub addresses: Vec<IpNet>,
    /// Hardware addresses of neighbours, in the order of the file.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
    /// Routes that leave by this interface, in the order of the file.
    pub routes: Vec<Route>,
}

/// A route that leaves by its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination; no host bits are set.
    pub to: IpNet,
    /// Next hop, of the same family; none: the destination is on the link.
    pub via: Option<IpAddr>,
}

/// Ranges and names of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The DNS zone of the cluster: lower case, without the final dot.
    pub domain: String,
    /// Ranges of Pod addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Where ClusterIPs are allocated: one per family; the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// Where node ports are allocated; disjoint from [`Nat::ports`].
    pub node_port_range: RangeInclusive<u16>,
    /// Addresses for Services of type LoadBalancer; both ends of one family, ascending, disjoint.
    pub load_balancer_pools: Vec<RangeInclusive<IpAddr>>,
    /// The name under which EndpointSlices are made.
    pub slice_manager: SliceManager,
    /// Whether `spec.externalIPs` of Services are served.
    pub external_ips: bool,
}

/// The cluster's DNS service.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// Addresses of the DNS service; empty: no DNS.
    pub addresses: Vec<IpAddr>,
    /// Time to live of records of the zone, 0–3600 seconds.
    pub ttl: Duration,
    /// Names made of Pods' addresses.
    pub pods: PodRecords,
    /// Whether an endpoint without a hostname is called by its Pod's name.
    pub endpoint_pod_names: bool,
    /// Whether the search list of the client's Pod is walked for it.
    pub autopath: bool,
    /// Responses that a worker sends to one client prefix per second; 0: no limit.
    pub responses_per_second: u32,
    /// Servers for names outside the cluster, in order of preference; `None`: those of the host.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// Zones with servers of their own.
    pub zones: Vec<DnsZone>,
    /// Whether an expired answer serves while no upstream gives another.
    pub serve_stale: bool,
}

/// A zone that other servers than those of [`Dns::upstreams`] know.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsZone {
    /// Its name: lower case, without the final dot.
    pub name: String,
    /// Its servers, in order of preference.
    pub upstreams: Vec<SocketAddr>,
}

/// Source translation.
#[derive(Debug, Clone, PartialEq)]
pub struct Nat {
    /// Whose source is translated.
    pub masquerade: Masquerade,
    /// Source ports to translate to, on each of [`Config::addresses`].
    pub ports: RangeInclusive<u16>,
}

/// The polling threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// How many; none: one per receive queue, at most one less than the number of CPUs.
    pub count: Option<NonZeroUsize>,
    /// CPUs to pin them to, in order; empty: chosen by pollgate. Never fewer than `count`.
    pub cpus: Vec<usize>,
    /// What a worker does while it has no packets.
    pub idle: Idle,
    /// Whether AF_XDP sockets ask for preferred busy polling (SO_PREFER_BUSY_POLL).
    pub busy_poll: bool,
}

/// What a worker does while it has no packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Poll for a while, then sleep in the kernel until a packet comes.
    Adaptive,
    /// Keep polling: lowest latency, one busy CPU per worker.
    Poll,
}

/// Size and time-outs of the flow tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    /// Connections, over all workers.
    pub max: usize,
    /// New flows that each worker opens in a second.
    pub new_per_second: u32,
    /// Percentage of each worker's flows that their clients may not have confirmed.
    pub unconfirmed_percent: u8,
    /// Clients whose endpoint is remembered.
    pub affinity: usize,
    /// A TCP connection that its client has confirmed and that is silent for this long is forgotten.
    pub tcp_established: Duration,
    /// The same before the client has confirmed it.
    pub tcp_opening: Duration,
    /// The same after a FIN from both sides or a RST.
    pub tcp_closing: Duration,
    /// A UDP flow that its client has not confirmed.
    pub udp: Duration,
    /// A UDP flow that its client has confirmed.
    pub udp_stream: Duration,
}

/// Consistent hashing. Gateways that stand in for each other need the same values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maglev {
    /// One of [`MAGLEV_TABLE_SIZES`] for every Service; none: by the number of its backends.
    pub table_size: Option<u32>,
    /// Key of the hash.
    pub seed: String,
}

/// The Kubernetes API and the durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Unix socket of the API.
    pub socket: PathBuf,
    /// File of the durable state.
    pub state: PathBuf,
    /// Address of the HTTPS listener, a loopback address; none: no HTTPS.
    pub listen: Option<SocketAddr>,
}

/// The gateway's own health, for load balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The port of the gateway addresses that serves it; none: it is not served.
    pub port: Option<u16>,
}

/// Metrics for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Address that serves `/metrics` over HTTP; none: no metrics.
    pub listen: Option<SocketAddr>,
    /// Service ports that have series of their own, at most.
    pub services: usize,
    /// Whether the names of kube-proxy's and CoreDNS' metrics are served, too.
    pub compatible: bool,
}
