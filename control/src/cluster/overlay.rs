//! A view of the objects with the changes of one batch on top.
//!
//! ```text
//! object(key) ─▶ over: what the batch wrote ─ nothing ─▶ base: the cluster, without the keys the batch has touched
//! put, remove ─▶ over, hidden                            (never changed)
//! ```
//!
//! The overlay keeps new versions in an [`Index`] of its own and a set of keys whose old versions are hidden; every
//! look-up consults both. So planning costs what the batch touches, whatever the size of the cluster, and throwing
//! a plan away costs nothing. Copying the cluster, or undoing a failed batch in place, would be simpler to write and too
//! slow for 10 k Services.
//!
//! It knows nothing of verbs, admission or controllers: [`crate::registry`] and the controllers read and change objects
//! through it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::{HashMap, HashSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cluster::change::{Change, Commit};
use crate::cluster::index::{Index, Label, Totals, endpoint_count};
use crate::cluster::names::uid;
use crate::cluster::settings::ClusterSettings;
use crate::cluster::termination;
use crate::objects::service::{ServiceName, SpecExt, selects};
use crate::objects::{Key, Kind, Object};

/// The objects as a batch has them so far.
pub(crate) struct Overlay<'a> {
    settings: &'a ClusterSettings,
    base: &'a Index,
    over: Index,
    /// Keys written or deleted so far: their versions in `base` no longer count.
    hidden: HashSet<Key>,
    /// What is hidden of `base`, in numbers.
    hidden_totals: Totals,
    /// The same keys, in the order in which they were first touched.
    order: Vec<Key>,
    /// Addresses and node ports that Services of this batch request by number: allocation skips them for others.
    requested: HashMap<IpAddr, ServiceName>,
    requested_ports: HashMap<u16, ServiceName>,
    revision: u64,
    now: jiff::Timestamp,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(settings: &'a ClusterSettings, base: &'a Index, revision: u64, now: jiff::Timestamp) -> Self {
        Overlay {
            settings,
            base,
            over: Index::default(),
            hidden: HashSet::default(),
            hidden_totals: Totals::default(),
            order: Vec::new(),
            requested: HashMap::default(),
            requested_ports: HashMap::default(),
            revision,
            now,
        }
    }

    pub(crate) fn settings(&self) -> &'a ClusterSettings {
        self.settings
    }

    /// The revision the batch makes, if it changes anything.
    pub(crate) fn next_revision(&self) -> u64 {
        self.revision + 1
    }

    /// When the batch was received.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.now
    }

    /// One object as the batch has it so far.
    pub(crate) fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.over.object(key).or_else(|| self.visible(key))
    }

    /// What changed so far: every touched key with its version before the batch.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (&Key, Option<&'a Arc<Object>>)> {
        self.order.iter().map(|key| (key, self.base.object(key)))
    }

    /// The Pods a selector matches, by name.
    pub(crate) fn selected_pods(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<Arc<Object>> {
        let pairs: Vec<Label> = selector.iter().map(|(key, value)| Label::new(namespace, key, value)).collect();
        let count = |label: &&Label| {
            let size = |index: &Index| index.labelled(label).map_or(0, BTreeSet::len);
            size(self.base) + size(&self.over)
        };
        let Some(rarest) = pairs.iter().min_by_key(count) else {
            return Vec::new();
        };
        let names = [self.base, &self.over].into_iter().filter_map(|index| index.labelled(rarest)).flatten();
        let names: BTreeSet<&String> = names.collect();
        let pods = names.into_iter().filter_map(|name| self.object(&Key::new(Kind::Pod, namespace, &**name)));
        pods.filter(|pod| selects(selector, pod.metadata().labels.as_ref())).cloned().collect()
    }

    /// The Services that select an object with these labels, as the batch has them.
    pub(crate) fn services_selecting(&self, pod: &Object) -> Vec<ServiceName> {
        let labels = pod.metadata().labels.as_ref();
        let mut found = Vec::new();
        for (key, value) in labels.into_iter().flatten() {
            let label = Label::new(pod.namespace(), key, value);
            for name in self.base.selecting(&label).chain(self.over.selecting(&label)) {
                let service = ServiceName::new(pod.namespace(), &**name);
                let selects = |object: &Arc<Object>| {
                    let selector = object.as_service().and_then(|s| s.spec.as_ref()).and_then(SpecExt::selector);
                    selector.is_some_and(|selector| selects(selector, labels))
                };
                if self.object(&service.key()).is_some_and(selects) {
                    found.push(service);
                }
            }
        }
        found
    }

    /// All objects of a kind in a namespace (or everywhere), as the batch has them.
    pub(crate) fn objects(&self, kind: Kind, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let base = self.base.objects(kind, namespace).filter(|object| !self.hidden.contains(&object.key()));
        base.chain(self.over.objects(kind, namespace)).cloned().collect()
    }

    /// The EndpointSlices of a Service, by name.
    pub(crate) fn slices(&self, service: &ServiceName) -> Vec<Arc<Object>> {
        let base = self.base.slices(service).filter(|object| !self.hidden.contains(&object.key()));
        let mut slices: Vec<_> = base.chain(self.over.slices(service)).cloned().collect();
        slices.sort_by(|a, b| a.name().cmp(b.name()));
        slices
    }

    pub(crate) fn address_owner(&self, address: IpAddr) -> Option<&ServiceName> {
        let base = self.base.address_owner(address).filter(|owner| !self.hidden.contains(&owner.key()));
        self.over.address_owner(address).or(base)
    }

    pub(crate) fn node_port_owner(&self, port: u16) -> Option<&ServiceName> {
        let base = self.base.node_port_owner(port).filter(|owner| !self.hidden.contains(&owner.key()));
        self.over.node_port_owner(port).or(base)
    }

    /// Whether dynamic allocation for `service` must not assign this address.
    pub(crate) fn address_taken(&self, address: IpAddr, service: &ServiceName) -> bool {
        let other = |owner: &ServiceName| owner != service;
        self.address_owner(address).is_some_and(other) || self.requested.get(&address).is_some_and(other)
    }

    /// Whether dynamic allocation for `service` must not assign this node port.
    pub(crate) fn node_port_taken(&self, port: u16, service: &ServiceName) -> bool {
        let other = |owner: &ServiceName| owner != service;
        self.node_port_owner(port).is_some_and(other) || self.requested_ports.get(&port).is_some_and(other)
    }

    /// Keeps allocation for other Services from an address that `service` requests.
    pub(crate) fn request_address(&mut self, address: IpAddr, service: &ServiceName) {
        self.requested.entry(address).or_insert_with(|| service.clone());
    }

    /// The same for a node port.
    pub(crate) fn request_node_port(&mut self, port: u16, service: &ServiceName) {
        self.requested_ports.entry(port).or_insert_with(|| service.clone());
    }

    /// Ends the requests: what was requested and not allocated is free for all.
    pub(crate) fn forget_requests(&mut self) {
        self.requested.clear();
        self.requested_ports.clear();
    }

    /// An upper bound of the number of addresses in use.
    pub(crate) fn address_bound(&self) -> usize {
        self.base.address_count() + self.over.address_count() + self.requested.len()
    }

    /// LoadBalancer Services that wait for an address, by name.
    pub(crate) fn waiting(&self) -> BTreeSet<ServiceName> {
        let base = self.base.waiting().filter(|name| !self.hidden.contains(&name.key()));
        base.chain(self.over.waiting()).cloned().collect()
    }

    /// The Events beyond the newest `kept`, oldest first.
    pub(crate) fn surplus_events(&self, kept: usize) -> Vec<Key> {
        let base = self.base.events().filter(|key| !self.hidden.contains(*key));
        let gone = self.hidden.iter().filter(|key| key.kind == Kind::Event && self.base.object(key).is_some());
        let count = self.base.events().len() - gone.count() + self.over.events().len();
        base.chain(self.over.events()).take(count.saturating_sub(kept)).cloned().collect()
    }

    /// Bytes of all values of ConfigMaps and Secrets.
    pub(crate) fn data_bytes(&self) -> usize {
        self.total(|totals| totals.data)
    }

    /// How many objects of a kind there are.
    pub(crate) fn object_count(&self, kind: Kind) -> usize {
        self.total(|totals| totals.objects(kind))
    }

    /// How many endpoints there are in all EndpointSlices; and how many there were before the batch.
    pub(crate) fn endpoint_counts(&self) -> (usize, usize) {
        (self.total(|totals| totals.endpoints), self.base.totals().endpoints)
    }

    fn total(&self, of: impl Fn(&Totals) -> usize) -> usize {
        of(self.base.totals()) - of(&self.hidden_totals) + of(self.over.totals())
    }

    /// The Services of which the batch has made an EndpointSlice longer, each with its endpoints now.
    pub(crate) fn growing_services(&self) -> BTreeMap<ServiceName, usize> {
        let count = |object: Option<&Arc<Object>>| object.map_or(0, |object| endpoint_count(object));
        let grown = self.order.iter().filter(|key| key.kind == Kind::EndpointSlice).filter_map(|key| {
            let new = self.over.object(key)?;
            (count(Some(new)) > count(self.base.object(key))).then(|| ServiceName::of_slice(new)).flatten()
        });
        let names: BTreeSet<ServiceName> = grown.collect();
        let endpoints = |name: &ServiceName| self.slices(name).iter().map(|slice| endpoint_count(slice)).sum();
        names.into_iter().map(|name| (name.clone(), endpoints(&name))).collect()
    }

    /// The endpoints that a Service had before the batch.
    pub(crate) fn former_endpoints(&self, service: &ServiceName) -> usize {
        self.base.slices(service).map(|slice| endpoint_count(slice)).sum()
    }

    /// Whether there is any Node.
    pub(crate) fn has_nodes(&self) -> bool {
        let stays = |node: &Arc<Object>| !self.hidden.contains(&node.key());
        self.over.node_count() > 0 || self.base.objects(Kind::Node, None).any(stays)
    }

    /// Whether there was any Node before the batch.
    pub(crate) fn had_nodes(&self) -> bool {
        self.base.node_count() > 0
    }

    /// Stores an object, with the metadata that the server writes. An object that did not change stays as it is.
    pub(crate) fn put(&mut self, mut object: Object) {
        let key = object.key();
        let before = self.object(&key).cloned();
        self.stamp(&mut object, before.as_deref(), &key);
        if before.is_some_and(|before| *before == object) {
            return;
        }
        object.metadata_mut().resource_version = Some(self.next_revision().to_string());
        self.hide(&key);
        self.over.insert(Arc::new(object));
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.hide(key);
        self.over.remove(key);
    }

    fn visible(&self, key: &Key) -> Option<&'a Arc<Object>> {
        self.base.object(key).filter(|_| !self.hidden.contains(key))
    }

    fn hide(&mut self, key: &Key) {
        if self.hidden.insert(key.clone()) {
            self.order.push(key.clone());
            if let Some(object) = self.base.object(key) {
                self.hidden_totals.add(object);
            }
        }
    }

    fn stamp(&self, object: &mut Object, before: Option<&Object>, key: &Key) {
        let generation = generation(object, before);
        let metadata = object.metadata_mut();
        let old = before.map(Object::metadata);
        metadata.uid = old.map_or_else(|| Some(uid(key, self.next_revision())), |old| old.uid.clone());
        metadata.creation_timestamp = old.map_or(Some(Time(self.now)), |old| old.creation_timestamp.clone());
        metadata.resource_version = old.and_then(|old| old.resource_version.clone());
        metadata.generation = generation;
        metadata.self_link = None;
        if key.kind != Kind::Pod {
            // Only Pods terminate. Other objects that were dumped while they terminated are kept.
            metadata.deletion_timestamp = None;
            metadata.deletion_grace_period_seconds = None;
        }
        // As the API server, which writes no empty maps.
        metadata.labels.take_if(|labels| labels.is_empty());
        metadata.annotations.take_if(|annotations| annotations.is_empty());
        if let Some(before) = before {
            termination::keep(before, object);
        }
    }

    /// The changes, and the keys each write was about.
    pub(crate) fn commit(self, written: Vec<Key>) -> Commit {
        let changes: Vec<Change> = self.order.iter().filter_map(|key| self.change(key)).collect();
        let revision = if changes.is_empty() { self.revision } else { self.revision + 1 };
        Commit { revision, changes, written }
    }

    fn change(&self, key: &Key) -> Option<Change> {
        let (old, new) = (self.base.object(key).cloned(), self.over.object(key).cloned());
        (old != new).then(|| Change { key: key.clone(), old, new })
    }
}

/// `metadata.generation`: counts changes of the desired state, for the kinds that have one.
fn generation(object: &Object, before: Option<&Object>) -> Option<i64> {
    let same = match (object, before) {
        (Object::Pod(new), Some(Object::Pod(old))) => new.spec == old.spec,
        (Object::EndpointSlice(new), Some(Object::EndpointSlice(old))) => {
            new.endpoints == old.endpoints && new.ports == old.ports
        }
        (Object::Pod(_) | Object::EndpointSlice(_), _) => false,
        _ => return None,
    };
    let last = before.and_then(|before| before.metadata().generation);
    Some(last.unwrap_or_default() + i64::from(!same))
}
