//! The threads of the workers: created with their ports, started once there are tables, stopped together.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Instant as Clock;

use pollgate_common::clients::Clients;
use pollgate_common::conflicts::Conflicts;
use pollgate_common::counters::Counters;
use pollgate_common::dns::forward::Requests;
use pollgate_common::epoch::Source;
use pollgate_common::hash::random_seed;
use pollgate_common::inspect::Mailbox;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::sleep::Waker;
use pollgate_common::time::Instant;
use pollgate_control::netlink::HostNetwork;
use pollgate_control::threads::{self, Role};
use pollgate_dataplane::affinity::Affinity;
use pollgate_dataplane::egress::exchange::Exchange;
use pollgate_dataplane::egress::mesh::Mesh;
use pollgate_dataplane::flow::Limits;
use pollgate_dataplane::idle::{Idle, Mode, WakeUp};
use pollgate_dataplane::steer::Steering;
use pollgate_dataplane::worker::{Parts, RESERVE, Worker};
use tracing::warn;

use super::error::{GatewayError, system};
use crate::config::Config;
use crate::host;
use crate::ports::opener::Opener;

/// A worker that is not running yet, with what wakes it.
pub(crate) struct Engine {
    worker: Worker,
    wake: WakeUp,
}

/// Where workers meet the DNS thread.
pub(crate) struct DnsEnds {
    /// Queries that take a resolver; `None` if there is none.
    pub(crate) resolver: Option<Arc<Requests>>,
    /// The clients of DNS over TCP.
    pub(crate) clients: Arc<Clients>,
}

/// All workers, made and not started.
pub(crate) struct Made {
    pub(crate) engines: Vec<Engine>,
    /// With what steers frames to their ports.
    pub(crate) opener: Opener,
    /// By which their ports are replaced.
    pub(crate) exchanges: Vec<Arc<Exchange>>,
    pub(crate) mesh: Arc<Mesh>,
}

/// One engine per worker, with its ports open.
pub(crate) fn make(
    config: &Config,
    settings: &Arc<DataplaneSettings>,
    network: &HostNetwork,
    counters: &Arc<Counters>,
    conflicts: &Arc<Conflicts>,
    mailboxes: &[Arc<Mailbox>],
    dns: &DnsEnds,
) -> Result<Made, GatewayError> {
    let workers = mailboxes.len();
    let count = u16::try_from(workers).unwrap_or(u16::MAX);
    let wakes =
        (0..count).map(|_| WakeUp::new()).collect::<io::Result<Vec<_>>>().map_err(system("creating an eventfd"))?;
    let mesh = Arc::new(Mesh::new(wakes.iter().map(|wake| Some(wake.waker())).collect(), RESERVE));
    let steering = Steering::new(count, random_seed());
    let mut opener = Opener::new(config, settings, steering.clone(), count)?;
    let exchanges: Vec<Arc<Exchange>> = wakes.iter().map(|wake| Arc::new(Exchange::new(Some(wake.waker())))).collect();
    let limits = Limits::from(config).share(workers);
    let affinity = Affinity::new(config.flows.affinity, random_seed());
    let affinity = Arc::new(affinity.map_err(system("mapping the affinity table (flows.affinity)"))?);
    let make = |(worker, wake): (u16, WakeUp)| {
        let parts = Parts {
            worker,
            ports: opener.open(worker)?,
            mesh: Arc::clone(&mesh),
            steering: steering.clone(),
            limits,
            settings: Arc::clone(settings),
            counters: Arc::clone(counters),
            affinity: Arc::clone(&affinity),
            conflicts: Arc::clone(conflicts),
            mailbox: Arc::clone(&mailboxes[usize::from(worker)]),
            exchange: Arc::clone(&exchanges[usize::from(worker)]),
            ask: Box::new(network.resolver().into_fn()),
            dns_rate: config.dns.responses_per_second,
            resolver: dns.resolver.clone(),
            dns_clients: Arc::clone(&dns.clients),
            seeds: random_seed(),
        };
        let worker = Worker::new(parts).map_err(system("mapping the flow table (flows.max)"))?;
        Ok(Engine { worker, wake })
    };
    // In the workers' order, which is the order in which their ports join the fanout groups.
    let engines: Result<Vec<Engine>, GatewayError> = (0..count).zip(wakes).map(make).collect();
    Ok(Made { engines: engines?, opener, exchanges, mesh })
}

/// `auto`: one per receive queue, at most CPUs − 1, and at most the length of `workers.cpus`.
pub(crate) fn worker_count(config: &Config, cpus: usize) -> usize {
    if let Some(count) = config.workers.count {
        return count.get();
    }
    let queues = config.interfaces.iter().map(|interface| host::receive_queues(&interface.name)).max().unwrap_or(1);
    let named = if config.workers.cpus.is_empty() { usize::MAX } else { config.workers.cpus.len() };
    queues.min(cpus.saturating_sub(1)).min(named).max(1)
}

/// The running workers. Dropping them stops them.
pub(crate) struct Workers {
    tables: Source,
    cpus: Vec<usize>,
    idle: Mode,
    stop: Arc<AtomicBool>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// No workers yet. The first will run on the first CPU, and so on. All end when `stop` is set.
    pub(crate) fn new(tables: Source, cpus: Vec<usize>, idle: Mode, stop: Arc<AtomicBool>) -> Workers {
        Workers { tables, cpus, idle, stop, wakers: Vec::new(), threads: Vec::new() }
    }

    /// Starts these workers.
    pub(crate) fn start(&mut self, engines: Vec<Engine>) -> Result<(), GatewayError> {
        let origin = Clock::now();
        let clock = move || Instant(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        for engine in engines {
            let (number, stop, tables) = (self.threads.len(), Arc::clone(&self.stop), self.tables.clone());
            let cpu = self.cpus.get(number).copied();
            self.wakers.push(engine.wake.waker());
            let idle = Idle::new(self.idle, engine.wake);
            let work = move || {
                if let Some(Err(error)) = cpu.map(host::pin_to_cpu) {
                    warn!("worker {number} is not pinned to a CPU: {error}");
                }
                engine.worker.run(&tables, &stop, idle, clock);
            };
            let thread = threads::spawn(Role::Worker, format!("worker-{number}"), work);
            self.threads.push(thread.map_err(system("starting a worker thread"))?);
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.wakers.iter().for_each(|wake| wake());
        for thread in self.threads.drain(..) {
            // A panic of a worker has been printed; the others still stop in order.
            let _ = thread.join();
        }
    }
}
