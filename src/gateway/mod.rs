//! The running gateway: makes all parts and connects them.
//!
//! ```text
//!  API thread ──writes──▶ control thread ──tables──▶ workers (pinned, one port per interface)
//!      ▲                     ▲      │ disk thread                 │
//!      └── replica ◀─────────┼──────┘                             │ who has this neighbour?
//!                            └── Net ◀── network thread ◀─────────┘
//! ```
//!
//! Start: become the configured user ([`crate::privileges`]), check the host, make the host pair, open the state, read the network,
//! publish, start the workers, read the state's Pods, open the API, load the manifests (if there are any, the workers start only
//! then). Once the workers poll, the addresses are announced. Each step either succeeds, or returns what is missing and what to
//! do; what was started before it is stopped again. Packets wait only for what they need: most of the state of a large cluster is
//! Pods, and packets need only their slices. Every thread is narrowed to its role before it begins.
//! Threads belong to the network namespace of the thread that starts the gateway.

mod claim;
mod error;
mod log;
mod network;
mod panics;
mod reload;
mod restore;
mod signals;
mod watch;
mod workers;

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel;
use pollgate_common::clients::Clients;
use pollgate_common::conflicts::Conflicts;
use pollgate_common::counters::Counters;
use pollgate_common::epoch::Source;
use pollgate_common::inspect::Mailbox;
use pollgate_common::net::Net;
use pollgate_control::api::{self, ApiHandle, ApiParts, Https, StatsSource};
use pollgate_control::compile::publications::Publications;
use pollgate_control::compile::sink::TableSink;
use pollgate_control::compile::{self, Compiler, IsEverywhere};
use pollgate_control::dns::resolver::Resolver;
use pollgate_control::dns::{self, DnsParts, DnsServer};
use pollgate_control::health::{self, HealthServer, ProxyHealth};
use pollgate_control::local::Listeners;
use pollgate_control::netlink::{HostNetwork, OwnedAddresses};
use pollgate_control::observe::checks::Checks;
use pollgate_control::observe::dump::DumpSource;
use pollgate_control::observe::metrics::{self, MetricsParts, MetricsServer};
use pollgate_control::observe::stats::{StateFile, Stats};
use pollgate_control::runtime::{self, ControlHandle, RuntimeParts};
use pollgate_control::sources::files::{self, Follower, Following};
use pollgate_control::store::Size;
use pollgate_control::threads::{Role, narrowed_by};
use pollgate_dataplane::egress::mesh::Mesh;
use pollgate_dataplane::idle::Mode;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::config::{self, Config};
use crate::host;
use crate::host::advise::{self, Advice};
use crate::host::pair::{HostPair, PairPlan};
use crate::ports;
use crate::ports::announce::Announcer;
use crate::ports::follow::follow;
use crate::ports::keeper::Keeper;
use crate::privileges::Privileges;
use claim::claim_interfaces;
pub(crate) use claim::is_claimed;
pub use error::GatewayError;
use error::system;
use network::follow_network;
use restore::{open_state, read_pods};
use signals::{Request, Signals};
use watch::{Looked, Watch};
pub(crate) use workers::worker_count;
use workers::{DnsEnds, Made, Workers};

/// File descriptors that all listeners need together.
const OPEN_FILES: u64 = api::OPEN_FILES + health::OPEN_FILES + dns::OPEN_FILES + metrics::OPEN_FILES;

/// Options of one start, in addition to the configuration.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The file of the configuration, to be read again on SIGHUP.
    pub config: Option<PathBuf>,
    /// A file or directory of objects, loaded before the first frame and followed.
    pub manifests: Option<PathBuf>,
    /// Keep a damaged state file under another name, and start without it.
    pub set_aside_damaged: bool,
}

impl Start {
    /// What this process and its threads may do.
    fn privileges(&self, config: &Config) -> Privileges {
        Privileges::of(config).reading(self.config.as_deref()).following(self.manifests.as_deref())
    }
}

/// Runs in the foreground until a signal stops it (module `signals`).
pub fn run(mut config: Config, start: Start) -> Result<(), GatewayError> {
    let privileges = start.privileges(&config);
    // Before there is another thread.
    privileges.enter()?;
    let narrowing = narrowed_by(privileges.clone().narrowing());
    // Dropped last, when everything has been logged.
    let log = log::start(config.log).map_err(system("starting the log"))?;
    drop(narrowing);
    privileges.report();
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::catch(config.log.format).map_err(system("catching signals"))?;
    panics::decide();
    let gateway = Gateway::start_with(&config, &start, stop)?;
    if let Err(fault) = privileges.narrow(Role::Main) {
        gateway.stop();
        return Err(fault.into());
    }
    notify(&[NotifyState::Ready]);
    let totals = loop {
        let (request, signal) = signals.next();
        match request {
            Request::Reload => {
                info!("reloading on {signal}");
                reload::reload(&gateway, &log, &start, &mut config);
            }
            Request::Stop => {
                info!("stopping on {signal}; another one ends the process at once");
                signals::begin_stop();
                break gateway.stop();
            }
            Request::StopAtOnce => {
                info!("stopping at once on {signal}");
                signals::begin_stop();
                break gateway.stop_at_once();
            }
        }
    };
    info!("stopped: {totals}");
    if panics::has_stopped() { Err(GatewayError::Panicked) } else { Ok(()) }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("notifying systemd: {error}");
    }
}

/// A running gateway; it must be stopped.
pub struct Gateway {
    watch: Watch,
    announcer: Announcer,
    workers: Workers,
    keeper: Keeper,
    counters: Arc<Counters>,
    source: Source,
    following: Option<Following>,
    api: ApiHandle,
    control: ControlHandle,
    _network: HostNetwork,
    dns: DnsServer,
    health: Option<HealthServer>,
    metrics: Option<MetricsServer>,
    /// Removed once nothing polls it.
    _pair: Option<HostPair>,
    _claims: Vec<UnixListener>,
}

impl Gateway {
    /// Starts every part in the calling thread's network namespace. Workers end when `stop` is set.
    pub fn start(config: &Config, stop: Arc<AtomicBool>) -> Result<Gateway, GatewayError> {
        Self::start_with(config, &Start::default(), stop)
    }

    /// As [`Gateway::start`], with options.
    pub fn start_with(config: &Config, start: &Start, stop: Arc<AtomicBool>) -> Result<Gateway, GatewayError> {
        let cpus = host::allowed_cpus().map_err(system("reading which CPUs this process may use"))?;
        let count = worker_count(config, cpus.len());
        check(config, count)?;
        let _narrowing = narrowed_by(start.privileges(config).narrowing());
        let plan = PairPlan::of(config);
        let config = config.clone().with_upstreams(host::resolv::upstreams);
        let config = &if plan.is_some() { config.with_pair() } else { config };
        let claims = claim_interfaces(config)?;
        let listener = config.metrics.listen.map(metrics::bind).transpose()?;
        let pair = plan.as_ref().map(HostPair::make).transpose()?;
        let (store, mut cluster) = open_state(config, start.set_aside_damaged)?;
        let counters = Arc::new(Counters::new(count));
        let options = compile::Options::from(config);
        let (settings, zone) = (Arc::clone(&options.settings), Arc::clone(&options.dns));
        let mut compiler = Compiler::new(options, Arc::clone(&counters));
        let source = compiler.source();
        let (commands, received) = channel::unbounded();
        let owned = OwnedAddresses::from(config);
        let (network, net) = follow_network(config, &owned, &commands)?;
        compiler.network(Arc::clone(&net));
        let conflicts = Arc::new(Conflicts::default());
        let mailboxes: Vec<Arc<Mailbox>> = (0..count).map(|_| Arc::default()).collect();
        let requests = dns::requests().map_err(system("creating a socket"))?;
        let ends = DnsEnds {
            resolver: (!zone.forward.is_empty()).then(|| Arc::clone(&requests.0)),
            clients: Arc::new(pair.as_ref().map_or_else(Clients::default, |_| Clients::new(&settings.snat_ports))),
        };
        let Made { mut engines, opener, exchanges, mesh } =
            workers::make(config, &settings, &network, &counters, &conflicts, &mailboxes, &ends)?;
        compiler.measure(is_everywhere(&counters, &mesh));
        let announcer = start_announcer(config, net, &counters, conflicts)?;
        let remaker = pair.as_ref().zip(plan).map(|(pair, plan)| pair.remaker(plan));
        let kept = ports::keep(opener, config, exchanges, &announcer, remaker);
        let (keeper, steered) = kept.map_err(system("starting the thread that opens ports"))?;
        compiler.on_publication(follow(owned, steered, &announcer, &config.owned_addresses()));
        let cpus = host::worker_cpus(&cpus, &config.workers.cpus, count);
        let mut workers = Workers::new(source.clone(), cpus.clone(), Mode::from(config.workers.idle), stop);
        let resolver = Arc::new(Resolver::new(zone, config.dns.serve_stale, Arc::clone(&counters)));
        let dns = DnsServer::start(DnsParts {
            tables: source.clone(),
            clients: ends.clients,
            counters: Arc::clone(&counters),
            resolver: Arc::clone(&resolver),
            requests,
            reply_to: Box::new(move |worker, reply| mesh.reply(worker, reply)),
        })
        .map_err(system("starting the DNS thread"))?;
        let health = pair.as_ref().map(|_| start_health(compiler.progress())).transpose()?;
        if let Some(health) = &health {
            let (health, dns) = (health.services(), dns.listeners());
            compiler.serve_locally(Box::new(Listeners { health, dns }));
            compiler.publish_own(config.health.port);
        }
        runtime::publish_restored(&cluster, &mut compiler);
        // The objects of manifests must be there before the first frame.
        if start.manifests.is_none() {
            workers.start(std::mem::take(&mut engines))?;
            announcer.begin();
        }
        let store = match start.set_aside_damaged {
            true => store, // They have been read with the rest.
            false => read_pods(store, &mut cluster, &mut compiler, &received)?,
        };
        let state = store.size();
        runtime::publish_pods(&cluster, &mut compiler);
        let follow = |path: &PathBuf| Follower::new(path, cluster.followed().collect(), commands.clone());
        let follower = start.manifests.as_ref().map(follow);
        let (checks, progress) = (Arc::new(Checks::default()), compiler.progress());
        let stats = stats(config, &counters, &source, &resolver, follower.as_ref(), (state, compiler.publications()));
        let api = api::spawn(ApiParts {
            socket: config.api.socket.clone(),
            https: config.api.listen.map(|listen| Https::beside(&config.api.state, listen)),
            replica: cluster.clone(),
            commands,
            stats: Arc::clone(&stats),
            checks: Arc::clone(&checks),
            dump: Some(DumpSource {
                tables: source.clone(),
                mailboxes: mailboxes.into(),
                counters: Arc::clone(&counters),
                max_flows: config.flows.max,
            }),
        })?;
        let metrics = listener.map(|listener| {
            let config::Metrics { services, compatible, .. } = config.metrics;
            let parts = MetricsParts { stats, checks: Arc::clone(&checks), services, compatible };
            MetricsServer::start(listener, parts)
        });
        let metrics = metrics.transpose()?;
        let parts =
            RuntimeParts { cluster, store, sink: Box::new(compiler), commands: received, settled: api.settled_sink() };
        let control = runtime::spawn(parts).map_err(system("starting the control thread"))?;
        let manifests = follower.as_ref().map(Follower::status);
        let following = follower.map(load_and_follow).transpose()?;
        workers.start(engines)?;
        progress.begin();
        announcer.begin();
        let lag = network.lag();
        let (polled, tables) = (keeper.status(), source.clone());
        let looked = Looked { config: config.clone(), polled, tables, progress, lag, manifests };
        let watch = Watch::start(looked, checks)?;
        info!("{}", summary(config, &cpus));
        Ok(Gateway {
            watch,
            announcer,
            workers,
            keeper,
            counters,
            source,
            following,
            api,
            control,
            _network: network,
            dns,
            health,
            metrics,
            _pair: pair,
            _claims: claims,
        })
    }

    /// The counters of all workers.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Where metrics are served, if they are.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsServer::address)
    }

    /// Where the tables are read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Drains the workers, then stops the rest. Returns the totals in one line.
    pub fn stop(self) -> String {
        self.end(ApiHandle::stop)
    }

    /// As [`Gateway::stop`], but does not wait for clients of the API.
    pub fn stop_at_once(self) -> String {
        self.end(ApiHandle::stop_at_once)
    }

    fn end(self, stop_api: impl FnOnce(ApiHandle)) -> String {
        drop(self.metrics);
        drop(self.watch);
        drop(self.announcer);
        drop(self.workers);
        drop(self.keeper);
        drop(self.following);
        stop_api(self.api);
        self.control.stop();
        drop(self.health);
        drop(self.dns);
        let totals = self.counters.totals();
        format!("rx {} tx {} passed {} dropped {}", totals.rx, totals.tx, totals.passed(), totals.dropped())
    }
}

/// Whether this host can do what the configuration says.
fn check(config: &Config, workers: usize) -> Result<(), GatewayError> {
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let needs = host::Needs::from(config);
    for changed in host::check(&needs, workers).map_err(GatewayError::Host)? {
        warn!("{}", changed.what);
    }
    // The pair brings routes to them.
    let unrouted = if config.host.pair { Vec::new() } else { host::unrouted(&needs.owned) };
    if let Some(Advice { finding, command, why }) = advise::for_unrouted(&unrouted) {
        warn!("{finding}: {why}: {command}");
    }
    if let Err(error) = host::allow_open_files(OPEN_FILES) {
        warn!("raising the limit of open files: {error}; the API serves fewer clients");
    }
    Ok(())
}

/// Whether the workers have a generation of the tables. One that sleeps finds it when it wakes up.
fn is_everywhere(counters: &Arc<Counters>, mesh: &Arc<Mesh>) -> IsEverywhere {
    let (counters, mesh) = (Arc::clone(counters), Arc::clone(mesh));
    Box::new(move |generation| {
        let mut workers = (0..).zip(counters.workers());
        workers.all(|(number, worker)| worker.generation.value() >= generation || mesh.is_asleep(number))
    })
}

fn start_health(progress: Arc<ProxyHealth>) -> Result<HealthServer, GatewayError> {
    HealthServer::start(progress).map_err(system("starting the health thread"))
}

fn start_announcer(
    config: &Config,
    net: Arc<Net>,
    counters: &Arc<Counters>,
    conflicts: Arc<Conflicts>,
) -> Result<Announcer, GatewayError> {
    let addresses = config.owned_addresses().into_iter().map(|address| (address, config.is_routed(address)));
    let announcer = Announcer::start(addresses, net, Arc::clone(counters), conflicts);
    announcer.map_err(system("starting the thread that announces addresses"))
}

/// Loads the objects of the manifests; when this returns they are served, and follow the files from then on.
fn load_and_follow(mut follower: Follower) -> Result<Following, GatewayError> {
    follower.load().map_err(GatewayError::Manifests)?;
    follower.spawn().map_err(system("starting the manifests thread"))
}

/// What `pollgate stats` shows.
fn stats(
    config: &Config,
    counters: &Arc<Counters>,
    tables: &Source,
    resolver: &Arc<Resolver>,
    follower: Option<&Follower>,
    (state, publications): (Arc<Size>, Arc<Publications>),
) -> StatsSource {
    let (counters, tables, max_flows) = (Arc::clone(counters), tables.clone(), config.flows.max);
    let resolver = Arc::clone(resolver);
    let manifests = follower.map(Follower::status);
    Arc::new(move || {
        let manifests = manifests.as_ref().map(files::Status::to_stats);
        let (log_lines_lost, state, upstreams) = (log::lost(), StateFile::from(&*state), resolver.stats());
        let panicked_requests = api::panicked_requests();
        let publications = publications.stats();
        let collected = Stats::collect(&counters, &tables, max_flows);
        Stats { manifests, log_lines_lost, state, upstreams, panicked_requests, publications, ..collected }
    })
}

fn summary(config: &Config, cpus: &[usize]) -> String {
    let interfaces: Vec<&str> = config.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let (interfaces, socket) = (interfaces.join(" "), config.api.socket.display());
    format!("ready: {} workers on CPUs {cpus:?}; {interfaces}; API at {socket}", cpus.len())
}
