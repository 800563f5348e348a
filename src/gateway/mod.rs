//! The running gateway: all parts, wired.
//!
//! ```text
//!  API thread ──writes──▶ control thread ──tables──▶ workers (pinned, one port an interface each)
//!      ▲                     ▲      │ disk thread                 │
//!      └── replica ◀─────────┼──────┘                             │ who has this neighbour?
//!                            └── network ◀── mirror thread ◀──────┘
//! ```
//!
//! Start: check the host, open the state, mirror the network, publish, start the workers, read the state's Pods, open the API,
//! load the manifests (if there are any, the workers start only then); each step either succeeds or says what is missing and
//! what to do, and what was started before it is stopped again. Packets wait for what they need and no longer: of a large
//! cluster, most of the state is Pods, and their slices are in it too. Threads belong to the network namespace of the thread
//! that starts the gateway.

mod workers;

use std::cell::RefCell;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam::channel;
use pollgate_common::counters::Counters;
use pollgate_common::epoch::Source;
use pollgate_common::net::Net;
use pollgate_common::settings::DataplaneSettings;
use pollgate_control::api::{self, ApiError, ApiHandle, ApiParts, Https, StatsSource};
use pollgate_control::cluster::{Cluster, RestoreError};
use pollgate_control::compile::Compiler;
use pollgate_control::compile::sink::TableSink;
use pollgate_control::netlink::{HostEvent, HostNetwork, HostNetworkError, OwnedAddresses};
use pollgate_control::runtime::{self, Command, ControlHandle, RuntimeParts};
use pollgate_control::sources::files::{Follower, Following};
use pollgate_control::store::{Restored, Store, StoreError};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{error, info, warn};

use crate::assembly;
use crate::config::{self, Config};
use crate::host::{self, HostFault};
use crate::ports::follow::follow;
use crate::ports::{PortsError, port_id};
use workers::Workers;

/// How long the network may have no news before it is asked whether all Pods are read.
const PATIENCE: Duration = Duration::from_millis(5);

/// Why the gateway did not start. Says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The host is not ready: one line a fault.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Host(Vec<HostFault>),
    /// The configuration asks for more than this version does.
    #[error("{}", .0.join("\n"))]
    NotDone(Vec<String>),
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state contradicts itself.
    #[error(
        "{}: {reason}; the file was not changed. Replace it with a backup, or start without it: `pollgate run \
         --set-aside-damaged`",
        path.display()
    )]
    Restore {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<RestoreError>,
    },
    /// The state file was to be moved away and could not be.
    #[error("{}: damaged, and it cannot be renamed: {source}; move it away yourself (mv)", path.display())]
    SetAside {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifests: one line a fault.
    #[error("{}", .0.join("\n"))]
    Manifests(Vec<String>),
    /// The kernel's network could not be mirrored.
    #[error(transparent)]
    HostNetwork(#[from] HostNetworkError),
    /// The API could not be opened.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The interfaces could not be opened.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// Another gateway polls the interface.
    #[error(
        "{interface}: another pollgate already polls this interface; both would answer for the same addresses: stop \
         the other one"
    )]
    Taken {
        /// The interface.
        interface: String,
    },
    /// Memory, threads, signals.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

pub(crate) fn system(doing: &'static str) -> impl Fn(io::Error) -> GatewayError {
    move |source| GatewayError::System { doing, source }
}

/// What is asked of one start, besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// A file or directory of objects, loaded before the first frame and followed.
    pub manifests: Option<PathBuf>,
    /// Keep a damaged state file under another name, and start without it.
    pub set_aside_damaged: bool,
}

/// Runs in the foreground until SIGTERM or SIGINT, then drains and stops.
pub fn run(config: Config, start: Start) -> Result<(), GatewayError> {
    start_log();
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map_err(system("catching signals"))?;
    let gateway = Gateway::start_with(&config, &start, stop)?;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!("notifying systemd that the gateway is ready: {error}");
    }
    let signal = signals.forever().next().unwrap_or(SIGTERM);
    info!("stopping on {}", signal_hook::low_level::signal_name(signal).unwrap_or("a signal"));
    let totals = gateway.stop();
    info!("stopped: {totals}");
    Ok(())
}

/// Logs of level info and up to stderr; `RUST_LOG` says otherwise.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Somebody else's subscriber (a test's) stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).try_init();
}

/// A gateway that runs; it must be stopped.
pub struct Gateway {
    workers: Workers,
    counters: Arc<Counters>,
    source: Source,
    following: Option<Following>,
    api: ApiHandle,
    control: ControlHandle,
    _mirror: HostNetwork,
    _claims: Vec<UnixListener>,
}

impl Gateway {
    /// Starts every part in the calling thread's network namespace. Workers end when `stop` is set.
    pub fn start(config: &Config, stop: Arc<AtomicBool>) -> Result<Gateway, GatewayError> {
        Self::start_with(config, &Start::default(), stop)
    }

    /// As [`Gateway::start`], with what is asked of this one start.
    pub fn start_with(config: &Config, start: &Start, stop: Arc<AtomicBool>) -> Result<Gateway, GatewayError> {
        let not_done = assembly::not_done(config);
        if !not_done.is_empty() {
            return Err(GatewayError::NotDone(not_done));
        }
        check_host(config)?;
        if let Err(error) = host::allow_open_files(api::OPEN_FILES) {
            warn!("raising the limit of open files: {error}; the API serves fewer clients");
        }
        let cpus = host::allowed_cpus().map_err(system("reading which CPUs this process may use"))?;
        let count = worker_count(config, cpus.len());
        let claims = claim_interfaces(config)?;
        let (store, mut cluster) = open_state(config, start.set_aside_damaged)?;
        let counters = Arc::new(Counters::new(count));
        let settings = assembly::settings(config);
        let (commands, received) = channel::unbounded();
        let (mirror, mut compiler, owned) = mirror_network(config, &settings, &counters, &commands)?;
        let source = compiler.source();
        let (mut engines, steered) = workers::make(config, &settings, count, &mirror, &counters)?;
        compiler.on_publication(follow(owned, steered, &assembly::owned_from_start(config)));
        let cpus = host::worker_cpus(&cpus, &config.workers.cpus, count);
        let mut workers = Workers::new(source.clone(), cpus.clone(), config.workers.idle, stop);
        runtime::publish_restored(&cluster, &mut compiler);
        // What manifests bring is to be there before the first frame.
        if start.manifests.is_none() {
            workers.start(std::mem::take(&mut engines))?;
        }
        let store = match start.set_aside_damaged {
            true => store, // They have been read with the rest.
            false => read_pods(store, &mut cluster, &mut compiler, &received)?,
        };
        let follow = |path: &PathBuf| Follower::new(path, cluster.followed().collect(), commands.clone());
        let follower = start.manifests.as_ref().map(follow);
        let api = api::spawn(ApiParts {
            socket: config.api.socket.clone(),
            https: config.api.listen.map(|listen| Https::beside(&config.api.state, listen)),
            replica: cluster.clone(),
            commands,
            stats: stats(config, &counters, &source, follower.as_ref()),
        })?;
        let parts =
            RuntimeParts { cluster, store, sink: Box::new(compiler), commands: received, settled: api.settled_sink() };
        let control = runtime::spawn(parts).map_err(system("starting the control thread"))?;
        let following = follower.map(load_and_follow).transpose()?;
        workers.start(engines)?;
        info!("{}", summary(config, &cpus));
        Ok(Gateway { workers, counters, source, following, api, control, _mirror: mirror, _claims: claims })
    }

    /// The counters of all workers.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Where the tables are read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Drains the workers, then stops the rest. Answers the totals in a line.
    pub fn stop(self) -> String {
        drop(self.workers);
        drop(self.following);
        self.api.stop();
        self.control.stop();
        let totals = self.counters.totals();
        format!("rx {} tx {} passed {} dropped {}", totals.rx, totals.tx, totals.passed(), totals.dropped())
    }
}

fn check_host(config: &Config) -> Result<(), GatewayError> {
    let interfaces: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let owned = assembly::owned_from_start(config);
    let needs =
        host::Needs { interfaces: &interfaces, owned: &owned, disable_forwarding: config.host.disable_forwarding };
    for changed in host::check(&needs).map_err(GatewayError::Host)? {
        warn!("{}", changed.what);
    }
    let v6 = config.addresses.iter().chain(&config.dns.addresses).filter(|address| address.is_ipv6()).count();
    if v6 > 0 {
        warn!("{v6} IPv6 addresses are configured; this version leaves IPv6 frames to the kernel");
    }
    Ok(())
}

/// Claims every interface for this process: an abstract socket belongs to the network namespace, and goes with the process
/// however that ends.
fn claim_interfaces(config: &Config) -> Result<Vec<UnixListener>, GatewayError> {
    let claim = |interface: &config::Interface| {
        let name = SocketAddr::from_abstract_name(claim_name(&interface.name));
        name.and_then(|name| UnixListener::bind_addr(&name)).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => GatewayError::Taken { interface: interface.name.clone() },
            _ => GatewayError::System { doing: "claiming an interface", source },
        })
    };
    config.interfaces.iter().map(claim).collect()
}

fn claim_name(interface: &str) -> String {
    format!("pollgate/{interface}")
}

/// Whether a gateway polls the interface now. Reads the kernel's list: a connection to see it would stay in the queue.
pub(crate) fn is_claimed(interface: &str) -> bool {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let name = format!("@{}", claim_name(interface));
    sockets.lines().any(|line| line.split_whitespace().last() == Some(&name))
}

/// `auto`: one a receive queue, at most CPUs − 1, and no more than `workers.cpus` names.
pub(crate) fn worker_count(config: &Config, cpus: usize) -> usize {
    if let Some(count) = config.workers.count {
        return count.get();
    }
    let queues = config.interfaces.iter().map(|interface| host::receive_queues(&interface.name)).max().unwrap_or(1);
    let named = if config.workers.cpus.is_empty() { usize::MAX } else { config.workers.cpus.len() };
    queues.min(cpus.saturating_sub(1)).min(named).max(1)
}

fn open_state(config: &Config, set_aside_damaged: bool) -> Result<(Store, Cluster), GatewayError> {
    let path = &config.api.state;
    if !set_aside_damaged {
        return restore(config, Store::open_without_pods);
    }
    // All of it, so that no damage is found later.
    let damage = match restore(config, Store::open) {
        Err(damage @ (GatewayError::Store(StoreError::Damaged { .. }) | GatewayError::Restore { .. })) => damage,
        opened => return opened,
    };
    let aside = Store::set_aside(path).map_err(|source| GatewayError::SetAside { path: path.clone(), source })?;
    error!("{damage}");
    error!("{}: renamed to {}; starting without its objects", path.display(), aside.display());
    restore(config, Store::open)
}

fn restore(
    config: &Config,
    open: fn(&Path) -> Result<(Store, Restored), StoreError>,
) -> Result<(Store, Cluster), GatewayError> {
    let path = &config.api.state;
    let (store, Restored { objects, revision }) = open(path)?;
    let count = objects.len();
    let cluster = Cluster::restore(assembly::cluster_settings(config), objects, revision)
        .map_err(|reason| GatewayError::Restore { path: path.clone(), reason: Box::new(reason) })?;
    info!("{}: {count} objects, revision {revision}", path.display());
    Ok((store, cluster))
}

/// The Pods of the state, on a thread of their own: packets do not need them, and to read many takes seconds. The network's news
/// come to the tables meanwhile; nobody else can ask for anything yet.
fn read_pods(
    store: Store,
    cluster: &mut Cluster,
    compiler: &mut Compiler,
    news: &channel::Receiver<Command>,
) -> Result<Store, GatewayError> {
    let read = move || {
        let pods = store.pods();
        (store, pods)
    };
    let thread = std::thread::Builder::new().name("restore".into()).spawn(read);
    let thread = thread.map_err(system("starting the thread that reads the state"))?;
    while !thread.is_finished() {
        if let Ok(Command::Network(net)) = news.recv_timeout(PATIENCE) {
            compiler.network(net);
        }
        compiler.tick();
    }
    let (store, pods) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let pods = pods?;
    info!("and {} Pods", pods.len());
    cluster.admit_pods(pods);
    Ok(store)
}

/// The manifests' objects are there when this returns, and follow the files from then on.
fn load_and_follow(mut follower: Follower) -> Result<Following, GatewayError> {
    follower.load().map_err(GatewayError::Manifests)?;
    follower.spawn().map_err(system("starting the manifests thread"))
}

/// What `pollgate stats` shows.
fn stats(config: &Config, counters: &Arc<Counters>, tables: &Source, follower: Option<&Follower>) -> StatsSource {
    let (counters, tables, max_flows) = (Arc::clone(counters), tables.clone(), config.flows.max);
    let manifests = follower.map(Follower::status);
    Arc::new(move || {
        let mut stats = assembly::stats(&counters, &tables, max_flows);
        if let Some(manifests) = &manifests {
            stats["manifests"] = manifests.to_value();
        }
        stats
    })
}

fn mirror_network(
    config: &Config,
    settings: &Arc<DataplaneSettings>,
    counters: &Arc<Counters>,
    commands: &channel::Sender<Command>,
) -> Result<(HostNetwork, Compiler, OwnedAddresses), GatewayError> {
    let mut compiler = Compiler::new(assembly::compile_options(config, settings), Arc::clone(counters));
    let owned = OwnedAddresses::new(config.addresses.iter().chain(&config.dns.addresses).copied());
    let names = config.interfaces.iter().enumerate();
    let interfaces = names.map(|(at, interface)| (interface.name.clone(), port_id(at))).collect();
    let news = {
        let commands = commands.clone();
        let links = LinkLog::new(config);
        Box::new(move |news: HostEvent| match news {
            HostEvent::Net(net) => {
                links.tell(&net);
                // The control thread may have ended already: then nobody needs it.
                drop(commands.send(Command::Network(net)));
            }
            HostEvent::AddressConflict { address, interface } => {
                warn!(
                    "{address} belongs to pollgate, but the kernel has it on {interface} too: remove it there (ip \
                     address del)"
                );
            }
        })
    };
    let (mirror, net) = HostNetwork::start(interfaces, owned.clone(), news)?;
    compiler.network(net);
    Ok((mirror, compiler, owned))
}

/// Says in the log when a polled interface goes, comes, or changes its state.
struct LinkLog {
    /// Name and last state; `None`: not there.
    known: RefCell<Vec<(String, Option<bool>)>>,
}

impl LinkLog {
    fn new(config: &Config) -> LinkLog {
        let known = config.interfaces.iter().map(|interface| (interface.name.clone(), Some(true))).collect();
        LinkLog { known: RefCell::new(known) }
    }

    fn tell(&self, net: &Net) {
        for (at, (name, known)) in self.known.borrow_mut().iter_mut().enumerate() {
            let now = net.port_link(port_id(at)).map(|link| link.up);
            if *known == now {
                continue;
            }
            match now {
                None => error!(
                    "{name} no longer exists: no packets are received or sent on it; restart pollgate once \
                                it is back"
                ),
                Some(false) => warn!("{name} is down"),
                Some(true) => info!("{name} is up"),
            }
            *known = now;
        }
    }
}

fn summary(config: &Config, cpus: &[usize]) -> String {
    let interfaces: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let (interfaces, socket) = (interfaces.join(" "), config.api.socket.display());
    format!("ready: {} workers on CPUs {cpus:?}; {interfaces}; API at {socket}", cpus.len())
}
