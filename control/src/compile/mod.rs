//! Compiling: from resolved Services to the tables the workers read.
//!
//! ```text
//!  Cluster ─ draft ─┬─▶ service::compile ─▶ tables::ServicePort ─┐
//!          (rings)  │   (ids)                                    ├─ staged ─ publish ─▶ Builder ─▶ Tables ─▶ workers
//!                   └─▶ zone::names ─────▶ names, addresses ─────┘
//! ```
//!
//! The steps are pure; at a cold start, while the workers do not need the CPUs, all of them make drafts. The state lives here:
//! which Service has which index, which ring is shared, what is staged and what is published. The control thread calls it
//! through [`TableSink`]; an offline replay calls the same.
//!
//! Two claims meet their limits here rather than in a worker: an address the kernel itself has configured is not taken
//! from it, and of two Services that want the same address and port (external IPs are free text) the first keeps it. The
//! frontend is left out, the log says why, and it is tried again with every later change.

pub mod draft;
pub mod ids;
pub mod local;
pub mod maglev;
pub mod publications;
pub mod resolve;
pub mod rings;
pub mod service;
pub mod sink;
pub mod topology;
pub mod zone;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pollgate_common::counters::{Carried, Counters};
use pollgate_common::dns::message;
use pollgate_common::dns::zone::{Resident, Zone, ZoneSettings};
use pollgate_common::epoch::Publisher;
use pollgate_common::net::Net;
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{Backend, Builder, Counted, FrontendKey, ServicePort, Tables};
use tracing::warn;

use self::draft::{Draft, Drafter, HealthCheck};
use self::ids::{Ids, PortName};
use self::publications::Publications;
use self::rings::Rings;
use self::topology::Locality;
use self::zone::ServiceNames;
use crate::cluster::{Cluster, Touched};
use crate::compile::local::{LocalService, LocalServices};
use crate::compile::resolve::{Family, ServiceName};
use crate::compile::sink::TableSink;
use crate::health::ProxyHealth;
use crate::objects::service::parse_ip;
use crate::objects::{Key, Kind, Object};

/// From this number of Services on, threads are started.
const MANY: usize = 64;

/// Threads that make drafts, at most: beyond these, what one thread does afterwards is most of the time.
const DRAFTERS: usize = 8;

/// What compiling needs from the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// What stays the same for the life of the process.
    pub settings: Arc<DataplaneSettings>,
    /// The node this gateway stands for; `None`: the whole cluster is local.
    pub node: Option<String>,
    /// Its zone, for topology hints.
    pub zone: Option<String>,
    /// The zone of the cluster domain.
    pub dns: Arc<ZoneSettings>,
    /// `maglev.tableSize`; `None`: by the number of backends.
    pub table_size: Option<u32>,
}

/// One Service port in a new generation of the tables that is not as it was.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// As it was; `None`: it is new.
    pub before: Option<Arc<ServicePort>>,
    /// As it is; `None`: it is gone.
    pub after: Option<Arc<ServicePort>>,
}

/// Called after each publication, with what it changed in the order it was changed.
pub type PublicationListener = Box<dyn FnMut(&Tables, &[Replaced]) + Send>;

/// Whether every worker has this generation, or a later one: no packet is processed with an earlier one from now on.
pub type IsEverywhere = Box<dyn Fn(u64) -> bool + Send>;

/// A publication that some worker may not have yet.
struct Unconfirmed {
    generation: u64,
    since: Instant,
    /// Trigger times of the slices in it.
    triggers: Vec<Timestamp>,
}

/// Compiles Services and publishes the tables; remembers what is published and what is staged.
pub struct Compiler {
    options: Options,
    ids: Ids,
    rings: Rings,
    zone: Zone,
    /// Whether the zone is not as it was published.
    zone_changed: bool,
    builder: Builder,
    publisher: Publisher,
    counters: Arc<Counters>,
    generation: u64,
    /// Published Services: their ports as compiled, before contested frontends are left out.
    compiled: BTreeMap<ServiceName, Compiled>,
    staged: BTreeMap<ServiceName, Staged>,
    /// Namespaces that are there, or not, from the next publication on.
    staged_namespaces: BTreeMap<String, bool>,
    /// Pods with an address, if DNS needs them; and those of the next publication.
    pods: BTreeMap<PodName, (IpAddr, Resident)>,
    staged_pods: BTreeMap<PodName, Option<(IpAddr, Resident)>>,
    /// Services some of whose frontends were left out.
    contested: BTreeSet<ServiceName>,
    /// What the next publication changes.
    replaced: Vec<Replaced>,
    on_publication: Option<PublicationListener>,
    node_is_eligible: bool,
    local: Option<Box<dyn LocalServices>>,
    progress: Arc<ProxyHealth>,
    publications: Arc<Publications>,
    /// Trigger times of what is staged.
    triggers: Vec<Timestamp>,
    /// In order. No more than there are tables that are not freed.
    unconfirmed: VecDeque<Unconfirmed>,
    is_everywhere: Option<IsEverywhere>,
}

/// Namespace and name.
type PodName = (String, String);

#[derive(Default)]
struct Compiled {
    services: Vec<Arc<ServicePort>>,
    names: ServiceNames,
    local: Vec<LocalService>,
}

#[derive(Default)]
struct Staged {
    ports: BTreeMap<u32, Arc<ServicePort>>,
    names: ServiceNames,
    released: BTreeSet<PortName>,
    /// Local services, each with what it reports.
    local: Vec<(LocalService, usize)>,
}

impl Compiler {
    /// An empty cluster, published as generation 1.
    pub fn new(options: Options, counters: Arc<Counters>) -> Compiler {
        let zone = Zone::new(Arc::clone(&options.dns));
        let mut builder = Builder::new(Arc::clone(&options.settings), Arc::new(zone.clone()));
        let publisher = Publisher::new(builder.build(1));
        let progress = Arc::new(ProxyHealth::new(Arc::clone(&counters)));
        Compiler {
            ids: Ids::default(),
            rings: Rings::new(options.settings.ring_hash, options.table_size),
            zone,
            zone_changed: false,
            builder,
            publisher,
            counters,
            generation: 1,
            compiled: BTreeMap::new(),
            staged: BTreeMap::new(),
            staged_namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            staged_pods: BTreeMap::new(),
            contested: BTreeSet::new(),
            replaced: Vec::new(),
            on_publication: None,
            node_is_eligible: true,
            local: None,
            progress,
            publications: Arc::default(),
            triggers: Vec::new(),
            unconfirmed: VecDeque::new(),
            is_everywhere: None,
            options,
        }
    }

    /// Where workers read what is published.
    pub fn source(&self) -> pollgate_common::epoch::Source {
        self.publisher.source()
    }

    /// Has `listener` called after each publication.
    pub fn on_publication(&mut self, listener: PublicationListener) {
        self.on_publication = Some(listener);
    }

    /// Where it notes the progress that is made.
    pub fn progress(&self) -> Arc<ProxyHealth> {
        Arc::clone(&self.progress)
    }

    /// Where it notes how long changes take.
    pub fn publications(&self) -> Arc<Publications> {
        Arc::clone(&self.publications)
    }

    /// Has publications measured until `is_everywhere` says so, once the workers have begun. Without it, they are not measured.
    pub fn measure(&mut self, is_everywhere: IsEverywhere) {
        self.is_everywhere = Some(is_everywhere);
    }

    /// Has the listeners of local services opened and closed. Without it, there are no local services.
    pub fn serve_locally(&mut self, services: Box<dyn LocalServices>) {
        self.local = Some(services);
    }

    /// Publishes the gateway's own services: DNS over TCP, and its health at `health` of the gateway addresses. Before any other
    /// Service, so that none of these keeps their place.
    pub fn publish_own(&mut self, health: Option<u16>) {
        let mut staged = Staged::default();
        for family in [Family::V4, Family::V6] {
            self.stage_local(&mut staged, LocalService::Dns { family }, message::PORT, 0);
            if let Some(port) = health {
                self.stage_local(&mut staged, LocalService::Proxy { family }, port, 0);
            }
        }
        self.staged.insert(local::gateway(), staged);
        self.publish();
    }

    /// The generation published last.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn drafts(&self, cluster: &Cluster, services: &BTreeSet<ServiceName>) -> Vec<Option<Draft>> {
        let locality = Locality { node: self.options.node.as_deref(), zone: self.options.zone.as_deref() };
        let nothing_is_served = self.compiled.is_empty() && services.len() >= MANY;
        let cpus = || thread::available_parallelism().map_or(1, usize::from);
        let threads = if nothing_is_served { cpus().min(DRAFTERS) } else { 1 };
        Drafter { cluster, locality, rings: &self.rings }.draft_all(services, threads)
    }

    fn compile(&mut self, draft: Option<Draft>, name: &ServiceName) -> Staged {
        let mut staged = Staged { released: self.ids.names_of(name), ..Staged::default() };
        let Some(Draft { service: resolved, ports, health_check }) = draft else {
            return staged;
        };
        for draft in ports {
            let port = &resolved.ports[draft.at];
            let kept = service::port_name(&resolved, port, draft.family);
            staged.released.remove(&kept);
            match service::compile(&resolved, draft, &self.options.settings, &mut self.ids) {
                Ok(compiled) => self.stage(&mut staged, compiled),
                Err(error) => warn!("service {}/{} port {}: {error}", name.namespace, name.name, port.port),
            }
        }
        if let Some(HealthCheck { port, ready }) = health_check {
            for (family, ready) in ready {
                let service = LocalService::HealthCheck { service: name.clone(), family };
                self.stage_local(&mut staged, service, port, ready);
            }
        }
        staged.names = zone::names(&resolved, &self.options.dns);
        staged
    }

    fn stage(&self, staged: &mut Staged, compiled: ServicePort) {
        let counted = self.counted(&compiled);
        staged.ports.insert(compiled.id.index, Arc::new(ServicePort { counted, ..compiled }));
    }

    /// Stages a local service, if the host pair has its family.
    fn stage_local(&mut self, staged: &mut Staged, service: LocalService, port: u16, ready: usize) {
        let is_possible = service.is_possible(&self.options.settings);
        let Some(local) = self.local.as_mut().filter(|_| is_possible) else { return };
        let kept = service.port_name();
        staged.released.remove(&kept);
        let compiled = local.listen(&service).map_err(|error| error.to_string()).and_then(|listener| {
            let compiled = local::compile(&service, port, listener, &self.options.settings, &mut self.ids);
            compiled.map_err(|error| error.to_string())
        });
        match compiled {
            Ok(compiled) => {
                self.stage(staged, compiled);
                staged.local.push((service, ready));
            }
            Err(error) => warn!("{service:?} at port {port} is not served: {error}"),
        }
    }

    /// Reports what is published of local services, and closes those that are gone.
    fn settle_local(&mut self, old: &[LocalService], new: &[(LocalService, usize)]) {
        let Some(local) = &mut self.local else { return };
        for gone in old.iter().filter(|gone| !new.iter().any(|(service, _)| service == *gone)) {
            local.close(gone);
        }
        new.iter().for_each(|(service, ready)| local.report(service, *ready));
    }

    /// What the counters showed when the Service port got its index, and its endpoints their slots.
    fn counted(&self, service: &ServicePort) -> Counted {
        let index = service.id.index;
        let known = self.builder.tables().service_by_id(service.id);
        let all = known.map_or_else(|| self.counters.carried(index), |known| known.counted.all);
        let before = |slot: u16, backend: &Backend| {
            let is_held = |known: &&Arc<ServicePort>| {
                known.backends.get(usize::from(slot)).is_some_and(|old| old.incarnation == backend.incarnation)
            };
            let held = known.filter(is_held);
            held.map_or_else(|| self.counters.carried_by(index, slot), |known| known.counted.of(slot))
        };
        let by_slot = (0..).zip(&service.backends).map(|(slot, backend)| (slot, before(slot, backend)));
        Counted { all, by_slot: by_slot.filter(|(_, before)| *before != Carried::default()).collect() }
    }

    /// Puts what is staged for one Service into the builder.
    fn settle(&mut self, name: ServiceName, staged: Staged) {
        let old = self.compiled.remove(&name).unwrap_or_default();
        for gone in old.services.iter().filter(|service| !staged.ports.contains_key(&service.id.index)) {
            if let before @ Some(_) = self.builder.remove_service(gone.id.index) {
                self.replaced.push(Replaced { before, after: None });
            }
        }
        staged.released.iter().for_each(|port| self.ids.release(port));
        self.settle_local(&old.local, &staged.local);
        self.rename(&old.names, &staged.names);
        let services: Vec<Arc<ServicePort>> = staged.ports.into_values().collect();
        let names = staged.names;
        if services.is_empty() && names.nodes.is_empty() {
            self.contested.remove(&name);
            return;
        }
        let local = staged.local.into_iter().map(|(service, _)| service).collect();
        self.compiled.insert(name.clone(), Compiled { services, names, local });
        // Whoever holds one of its frontends may give it up in the same publication.
        self.install(&name, false);
    }

    /// Replaces what the zone has of one Service.
    fn rename(&mut self, old: &ServiceNames, new: &ServiceNames) {
        if old == new {
            return;
        }
        self.zone_changed = true;
        for gone in old.nodes.iter().filter(|gone| new.node(gone.name()).is_none()) {
            self.zone.remove(gone.name());
        }
        for node in new.nodes.iter().filter(|node| old.node(node.name()) != Some(node)) {
            self.zone.insert(node.clone());
        }
        let service = if new.name.is_empty() { &old.name } else { &new.name };
        for address in new.changed_addresses(old) {
            self.zone.set_owners(address, service, new.owners_of(address));
        }
    }

    /// Puts what is staged for namespaces and Pods into the zone.
    fn settle_zone(&mut self) {
        for (name, is_there) in std::mem::take(&mut self.staged_namespaces) {
            let Some(node) = zone::namespace(&name, &self.options.dns) else { continue };
            // A node without records: one like it changes nothing.
            let is_new = is_there && self.zone.insert(node.clone()).is_none();
            let is_gone = !is_there && self.zone.remove(node.name()).is_some();
            self.zone_changed |= is_new || is_gone;
        }
        for (name, pod) in std::mem::take(&mut self.staged_pods) {
            let old = self.pods.remove(&name);
            if old == pod {
                self.pods.extend(pod.map(|pod| (name, pod)));
                continue;
            }
            self.zone_changed = true;
            if let Some((address, resident)) = old {
                self.zone.set_resident(address, &resident, false);
            }
            if let Some((address, resident)) = pod {
                self.zone.set_resident(address, &resident, true);
                self.pods.insert(name, (address, resident));
            }
        }
    }

    /// Gives the builder a Service's ports, without the frontends that conflict. `log`: reports these.
    fn install(&mut self, name: &ServiceName, log: bool) {
        self.contested.remove(name);
        let services = self.compiled.get(name).map(|compiled| compiled.services.clone()).unwrap_or_default();
        for service in services {
            let allowed = self.allowed(&service, log);
            if allowed.frontends.len() < service.frontends.len() {
                self.contested.insert(name.clone());
            }
            match self.builder.put_service(Arc::clone(&allowed)) {
                Ok(before) => self.replaced.push(Replaced { before, after: Some(allowed) }),
                Err(error) => warn!("service {}/{} is not served: {error}", name.namespace, name.name),
            }
        }
    }

    /// The service without the frontends that conflict with another.
    fn allowed(&self, service: &Arc<ServicePort>, log: bool) -> Arc<ServicePort> {
        let obstacles: Vec<Option<String>> =
            service.frontends.iter().map(|(key, _)| self.obstacle(key, service.id.index)).collect();
        if obstacles.iter().all(Option::is_none) {
            return Arc::clone(service);
        }
        let both = || service.frontends.iter().zip(&obstacles);
        for ((key, _), why) in both().filter_map(|(frontend, why)| Some((frontend, why.as_ref()?))).filter(|_| log) {
            warn!("{}: not served at {}:{}/{}: {why}", service.name, key.address, key.port, key.protocol);
        }
        let frontends = both().filter(|(_, why)| why.is_none()).map(|(frontend, _)| *frontend).collect();
        Arc::new(ServicePort { frontends, ..(**service).clone() })
    }

    /// Why the service at `index` cannot have this frontend, if it cannot.
    fn obstacle(&self, key: &FrontendKey, index: u32) -> Option<String> {
        let tables = self.builder.tables();
        if tables.net().kernel_has(key.address).is_some() {
            return Some("the host's kernel has this address".to_owned());
        }
        let holder = tables.frontend(key).filter(|frontend| frontend.service != index)?;
        tables.service(holder.service).map(|holder| format!("{} already uses it", holder.name))
    }

    fn publish_staged(&mut self) {
        let known = self.contested.clone();
        for (name, staged) in std::mem::take(&mut self.staged) {
            self.settle(name, staged);
        }
        for name in self.contested.clone() {
            self.install(&name, !known.contains(&name));
        }
        if std::mem::take(&mut self.zone_changed) {
            // Any number that grows will do (RFC 1982).
            self.zone.set_serial(u32::try_from(self.generation & 0xffff_ffff).unwrap_or(0));
            self.builder.set_zone(Arc::new(self.zone.clone()));
        }
        self.swap_in();
    }

    fn swap_in(&mut self) {
        self.generation += 1;
        let tables = self.builder.build(self.generation);
        self.publisher.publish(tables);
        if let Some(listener) = &mut self.on_publication {
            listener(self.builder.tables(), &self.replaced);
        }
        self.replaced.clear();
    }
}

impl TableSink for Compiler {
    fn changed(&mut self, cluster: &Cluster, touched: &Touched) {
        let started = Instant::now();
        let services = &touched.services;
        for (name, draft) in services.iter().zip(self.drafts(cluster, services)) {
            let staged = self.compile(draft, name);
            self.staged.insert(name.clone(), staged);
        }
        let is_there = |name: &String| cluster.object(&Key::new(Kind::Namespace, "", &**name)).is_some();
        self.staged_namespaces.extend(touched.namespaces.iter().map(|name| (name.clone(), is_there(name))));
        if self.needs_pods() {
            let pod =
                |(namespace, name): &PodName| resident(cluster.object(&Key::new(Kind::Pod, &**namespace, &**name))?);
            self.staged_pods.extend(touched.pods.iter().map(|name| (name.clone(), pod(name))));
        }
        self.node_is_eligible = is_eligible(cluster, self.options.node.as_deref());
        self.progress.pending();
        self.triggers.extend(&touched.changes.triggers);
        self.publications.compiled(&touched.changes, started.elapsed());
    }

    fn needs_pods(&self) -> bool {
        self.zone.needs_pods()
    }

    fn loaded(&mut self, with_pods: bool) {
        // What is known of Pods changes no answer that does not depend on them.
        self.zone_changed |= !self.zone.knows_services() || self.zone.needs_pods();
        self.zone.services_are_loaded();
        if with_pods {
            self.zone.pods_are_loaded();
        }
    }

    fn publish(&mut self) {
        let since = Instant::now();
        let triggers = std::mem::take(&mut self.triggers);
        self.settle_zone();
        if !self.staged.is_empty() || self.zone_changed {
            self.publish_staged();
            if self.is_everywhere.is_some() && self.progress.has_begun() {
                self.unconfirmed.push_back(Unconfirmed { generation: self.generation, since, triggers });
            }
        }
        self.publications.published();
        self.progress.node(self.node_is_eligible);
        self.progress.settled(true);
    }

    fn undone(&mut self) {
        self.triggers.clear();
        self.publications.undone();
        self.progress.settled(false);
    }

    fn confirm(&mut self) -> Option<Duration> {
        let is_everywhere = self.is_everywhere.as_ref()?;
        while let Some(next) = self.unconfirmed.front()
            && is_everywhere(next.generation)
        {
            self.publications.confirmed(next.since.elapsed(), &next.triggers);
            self.unconfirmed.pop_front();
        }
        self.unconfirmed.back().map(|newest| newest.since.elapsed())
    }

    fn network(&mut self, net: Arc<Net>) {
        let before: BTreeSet<IpAddr> = kernel_addresses(self.builder.tables().net());
        let now = kernel_addresses(&net);
        self.builder.set_net(net);
        if before != now {
            let changed: BTreeSet<IpAddr> = before.symmetric_difference(&now).copied().collect();
            let concerned = |compiled: &Compiled| {
                compiled.services.iter().flat_map(|s| &s.frontends).any(|(key, _)| changed.contains(&key.address))
            };
            let names: Vec<ServiceName> =
                self.compiled.iter().filter(|(_, c)| concerned(c)).map(|(name, _)| name.clone()).collect();
            for name in names {
                let is_news = !self.contested.contains(&name);
                self.install(&name, is_news);
            }
        }
        self.swap_in();
    }

    fn tick(&mut self) {
        self.publisher.reclaim();
        self.rings.tidy();
        self.progress.tick();
    }
}

/// Whether the gateway's Node may take traffic. One that does not exist may.
fn is_eligible(cluster: &Cluster, node: Option<&str>) -> bool {
    let node = node.and_then(|name| cluster.object(&Key::new(Kind::Node, "", name))?.as_node());
    node.is_none_or(local::takes_traffic)
}

fn kernel_addresses(net: &Net) -> BTreeSet<IpAddr> {
    net.facts().addresses.iter().map(|(_, address)| address.addr()).collect()
}

/// The address of a Pod that has one and is not over, as `status.podIP` says.
fn resident(pod: &Object) -> Option<(IpAddr, Resident)> {
    let Object::Pod(pod) = pod else { return None };
    let status = pod.status.as_ref()?;
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let address = status.pod_ip.as_deref().filter(|_| !is_over).and_then(parse_ip)?;
    let resident = Resident {
        namespace: pod.metadata.namespace.as_deref()?.as_bytes().into(),
        name: pod.metadata.name.as_deref()?.into(),
        on_host_network: pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)),
    };
    Some((address, resident))
}
