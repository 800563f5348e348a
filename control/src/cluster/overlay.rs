//! One batch of writes, worked out on top of a cluster that does not change.
//!
//! The transaction keeps new versions in an [`Index`] of its own and a set of keys whose old versions are hidden;
//! every question is asked of both. So planning costs what the batch touches, whatever the size of the cluster,
//! and throwing a plan away costs nothing. Copying the cluster, or undoing a failed batch in place, would be simpler to
//! write and wrong for 10 k Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::{HashMap, HashSet};
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::admission::apply;
use crate::admission::{ownership, strategy, validate};
use crate::cluster::index::{Index, Label};
use crate::cluster::termination;
use crate::cluster::{Change, ClusterSettings, Commit, FROM_FILES, IMMORTAL_NAMESPACES, Refusal, RefusalReason, Write};
use crate::controllers::{self, allocate, endpoint_slices};
use crate::objects::fault::Fault;
use crate::objects::service::{ServiceName, SpecExt};
use crate::objects::{Key, Kind, Object};

/// Why one write cannot be done: reason, message and the faults behind it.
struct No {
    key: Key,
    reason: RefusalReason,
    message: String,
    faults: Vec<Fault>,
}

/// Longest prefix of a generated name: with its five characters it is a DNS label still (K `names.SimpleNameGenerator`).
const MOST_OF_PREFIX: usize = 58;

/// A batch in the making.
pub(crate) struct Transaction<'a> {
    settings: &'a ClusterSettings,
    base: &'a Index,
    over: Index,
    /// Keys written or deleted so far: their versions in `base` no longer count.
    hidden: HashSet<Key>,
    /// The same keys, in the order in which they were first touched.
    order: Vec<Key>,
    /// Addresses and node ports that Services of this batch ask for by name: not for anybody else.
    asked: HashMap<IpAddr, ServiceName>,
    asked_ports: HashMap<u16, ServiceName>,
    revision: u64,
    now: jiff::Timestamp,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(settings: &'a ClusterSettings, base: &'a Index, revision: u64, now: jiff::Timestamp) -> Self {
        Transaction {
            settings,
            base,
            over: Index::default(),
            hidden: HashSet::default(),
            order: Vec::new(),
            asked: HashMap::default(),
            asked_ports: HashMap::default(),
            revision,
            now,
        }
    }

    /// Does the writes, lets the controllers follow, and sums it up.
    pub(crate) fn run(mut self, writes: Vec<Write>) -> Result<Commit, Vec<Refusal>> {
        let mut written = Vec::with_capacity(writes.len());
        let mut refusals = Vec::new();
        self.note_explicit_claims(&writes);
        for (index, write) in writes.into_iter().enumerate() {
            match self.write(write) {
                Ok(key) => written.push(key),
                Err(No { key, reason, message, faults }) => {
                    refusals.push(Refusal { index, key, reason, message, faults });
                }
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        controllers::run(&mut self);
        Ok(self.commit(written))
    }

    pub(crate) fn settings(&self) -> &'a ClusterSettings {
        self.settings
    }

    /// When the batch came in.
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
    pub(crate) fn selected_pods(
        &self,
        namespace: &str,
        selector: &std::collections::BTreeMap<String, String>,
    ) -> Vec<Arc<Object>> {
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
        pods.filter(|pod| validate::selects(selector, pod.metadata().labels.as_ref())).cloned().collect()
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
                    selector.is_some_and(|selector| validate::selects(selector, labels))
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

    /// Whether dynamic allocation for `service` must leave this address alone.
    pub(crate) fn address_taken(&self, address: IpAddr, service: &ServiceName) -> bool {
        let other = |owner: &ServiceName| owner != service;
        self.address_owner(address).is_some_and(other) || self.asked.get(&address).is_some_and(other)
    }

    /// Whether dynamic allocation for `service` must leave this node port alone.
    pub(crate) fn node_port_taken(&self, port: u16, service: &ServiceName) -> bool {
        let other = |owner: &ServiceName| owner != service;
        self.node_port_owner(port).is_some_and(other) || self.asked_ports.get(&port).is_some_and(other)
    }

    /// From here on addresses and node ports that were asked for by name and not taken are anybody's.
    pub(crate) fn forget_wishes(&mut self) {
        self.asked.clear();
        self.asked_ports.clear();
    }

    /// An upper bound of the addresses that are taken.
    pub(crate) fn address_bound(&self) -> usize {
        self.base.address_count() + self.over.address_count() + self.asked.len()
    }

    /// LoadBalancer Services of ours without an address, by name.
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

    /// Whether there is any Node.
    pub(crate) fn has_nodes(&self) -> bool {
        let stays = |node: &Arc<Object>| !self.hidden.contains(&node.key());
        self.over.node_count() > 0 || self.base.objects(Kind::Node, None).any(stays)
    }

    /// Whether there was any Node before the batch.
    pub(crate) fn had_nodes(&self) -> bool {
        self.base.node_count() > 0
    }

    /// Puts an object in place, with the metadata that is ours to write. An object that says nothing new stays as it is.
    pub(crate) fn put(&mut self, mut object: Object) {
        let key = object.key();
        let before = self.object(&key).cloned();
        self.stamp(&mut object, before.as_deref(), &key);
        if before.is_some_and(|before| *before == object) {
            return;
        }
        object.metadata_mut().resource_version = Some((self.revision + 1).to_string());
        self.hide(&key);
        self.over.insert(Arc::new(object));
    }

    /// Takes an object away.
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
        }
    }

    fn stamp(&self, object: &mut Object, before: Option<&Object>, key: &Key) {
        let generation = generation(object, before);
        let metadata = object.metadata_mut();
        let old = before.map(Object::metadata);
        metadata.uid = old.map_or_else(|| Some(uid(key, self.revision + 1)), |old| old.uid.clone());
        metadata.creation_timestamp = old.map_or(Some(Time(self.now)), |old| old.creation_timestamp.clone());
        metadata.resource_version = old.and_then(|old| old.resource_version.clone());
        metadata.generation = generation;
        metadata.self_link = None;
        if key.kind != Kind::Pod {
            // Only Pods terminate. What else was dumped while it went is here to stay.
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

    fn note_explicit_claims(&mut self, writes: &[Write]) {
        for write in writes {
            let (Write::Create(object)
            | Write::Replace(object)
            | Write::Apply(object)
            | Write::Exact(object)
            | Write::Follow(object)) = write
            else {
                continue;
            };
            let Some(service) = object.as_service() else {
                continue;
            };
            let name = ServiceName::of(service);
            for address in strategy::explicit_addresses(service) {
                self.asked.entry(address).or_insert_with(|| name.clone());
            }
            for port in crate::cluster::index::claimed_node_ports(service) {
                self.asked_ports.entry(port).or_insert_with(|| name.clone());
            }
        }
    }

    fn write(&mut self, write: Write) -> Result<Key, No> {
        match write {
            Write::Create(object) => self.create(object),
            Write::Replace(object) => self.replace(object),
            Write::Apply(object) => self.apply(object),
            Write::Exact(object) => self.exact(object),
            Write::Delete(key) => self.delete(key),
            Write::Follow(object) => self.follow(object),
            Write::Unfollow(key) => self.unfollow(key),
            Write::Terminate(key, grace) => self.terminate(key, grace),
            Write::Expire(key) => Ok(self.expire(key)),
        }
    }

    fn create(&mut self, mut object: Object) -> Result<Key, No> {
        self.generate_name(&mut object);
        let key = object.key();
        if self.object(&key).is_some() {
            let message = format!("{} already exists", quoted(&key));
            return Err(No { key, reason: RefusalReason::AlreadyExists, message, faults: Vec::new() });
        }
        object.metadata_mut().managed_fields = None;
        self.settle(object, None)?;
        Ok(key)
    }

    fn replace(&mut self, mut object: Object) -> Result<Key, No> {
        let key = object.key();
        let Some(old) = self.object(&key).cloned() else {
            return if may_be_made_by_replacing(&object) { self.create(object) } else { Err(not_found(key)) };
        };
        check_version(&key, &object, &old)?;
        ownership::carry(&old, &mut object);
        self.settle(object, Some(&old))?;
        Ok(key)
    }

    fn exact(&mut self, mut object: Object) -> Result<Key, No> {
        let key = object.key();
        let Some(old) = self.object(&key).cloned() else {
            return match object.metadata().resource_version {
                Some(_) => Err(not_found(key)),
                None => self.settle(object, None).map(|()| key),
            };
        };
        // Made from nothing, while somebody made it: that is a conflict too.
        object.metadata_mut().resource_version.get_or_insert_with(|| "0".to_owned());
        check_version(&key, &object, &old)?;
        self.settle_exactly(object, &old)?;
        Ok(key)
    }

    fn apply(&mut self, mut object: Object) -> Result<Key, No> {
        self.generate_name(&mut object);
        let key = object.key();
        let old = self.object(&key).cloned();
        let mut merged = apply::merge(&object, old.as_deref()).map_err(|faults| invalid(key.clone(), faults))?;
        match &old {
            Some(old) => ownership::carry(old, &mut merged),
            None => merged.metadata_mut().managed_fields = None,
        }
        self.settle_merged(merged, old.as_deref())?;
        Ok(key)
    }

    /// As apply. What was there already stays somebody else's, and so does a Namespace, with which all in it would go.
    fn follow(&mut self, object: Object) -> Result<Key, No> {
        let key = object.key();
        let old = self.object(&key).cloned();
        let mut merged = apply::merge(&object, old.as_deref()).map_err(|faults| invalid(key.clone(), faults))?;
        if key.kind != Kind::Namespace && old.as_deref().is_none_or(is_from_files) {
            let annotations = merged.metadata_mut().annotations.get_or_insert_default();
            annotations.insert(FROM_FILES.to_owned(), "true".to_owned());
        }
        self.settle_merged(merged, old.as_deref())?;
        Ok(key)
    }

    fn unfollow(&mut self, key: Key) -> Result<Key, No> {
        let is_theirs = self.object(&key).is_some_and(|object| is_from_files(object));
        if is_theirs { self.delete(key) } else { Ok(key) }
    }

    fn delete(&mut self, key: Key) -> Result<Key, No> {
        if self.object(&key).is_none() {
            return Err(not_found(key));
        }
        match key.kind {
            Kind::Namespace if IMMORTAL_NAMESPACES.contains(&key.name.as_str()) => {
                let message = format!("{} is forbidden: this namespace may not be deleted", quoted(&key));
                return Err(No { key, reason: RefusalReason::Forbidden, message, faults: Vec::new() });
            }
            Kind::Namespace => self.empty_namespace(&key.name),
            Kind::Service => self.remove_dependents(&ServiceName::new(&*key.namespace, &*key.name)),
            _ => {}
        }
        self.remove(&key);
        Ok(key)
    }

    fn terminate(&mut self, key: Key, grace: u32) -> Result<Key, No> {
        let Some(object) = self.object(&key) else {
            return Err(not_found(key));
        };
        let mut object = (**object).clone();
        termination::begin(&mut object, grace, self.now);
        self.put(object);
        Ok(key)
    }

    fn expire(&mut self, key: Key) -> Key {
        let due = self.object(&key).and_then(|object| termination::ends_at(object)).is_some_and(|end| end <= self.now);
        if due {
            self.remove(&key);
        }
        key
    }

    fn empty_namespace(&mut self, namespace: &str) {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.namespaced()) {
            for object in self.objects(kind, Some(namespace)) {
                self.remove(&object.key());
            }
        }
    }

    /// What goes with a Service: its Endpoints whoever wrote them, and the slices that are the controllers' or name it as
    /// their owner. A slice written by hand stays, as in Kubernetes: the Service may be made again.
    fn remove_dependents(&mut self, service: &ServiceName) {
        for slice in self.slices(service).iter().filter(|slice| endpoint_slices::belongs_to(slice, service)) {
            self.remove(&slice.key());
        }
        let endpoints = Key::new(Kind::Endpoints, &*service.namespace, &*service.name);
        if self.object(&endpoints).is_some() {
            self.remove(&endpoints);
        }
    }

    /// From what was typed to what is valid, and into place.
    fn settle(&mut self, mut object: Object, old: Option<&Object>) -> Result<(), No> {
        strategy::prepare(&mut object, old);
        self.place(object, old)
    }

    /// The same for an object whose status is what it says, be it nothing.
    fn settle_exactly(&mut self, mut object: Object, old: &Object) -> Result<(), No> {
        strategy::prepare(&mut object, Some(&strategy::without_status(old)));
        self.place(object, Some(old))
    }

    /// The same for what a manifest was merged with: a status that it no longer has is taken away, as any field.
    fn settle_merged(&mut self, merged: Object, old: Option<&Object>) -> Result<(), No> {
        match old {
            Some(old) => self.settle_exactly(merged, old),
            None => self.settle(merged, None),
        }
    }

    fn place(&mut self, mut object: Object, old: Option<&Object>) -> Result<(), No> {
        let key = object.key();
        let mut faults = Vec::new();
        if let Object::Service(service) = &mut object {
            allocate::settle_families(service, old.and_then(Object::as_service), self.settings, &mut faults);
        }
        validate::object(&object, old, &mut faults);
        if let (Object::Service(service), true) = (&mut object, faults.is_empty()) {
            allocate::allocate(self, service, &mut faults);
        }
        if !faults.is_empty() {
            return Err(invalid(key, faults));
        }
        self.ensure_namespace(&key);
        self.put(object);
        Ok(())
    }

    fn ensure_namespace(&mut self, key: &Key) {
        if key.kind.namespaced() && self.object(&Key::new(Kind::Namespace, "", &*key.namespace)).is_none() {
            self.put(new_namespace(&key.namespace));
        }
    }

    /// `generateName`: a suffix from the hash of prefix and revision, the next one while that is taken.
    fn generate_name(&self, object: &mut Object) {
        let Some(prefix) = object.metadata().generate_name.clone().filter(|_| object.name().is_empty()) else {
            return;
        };
        for attempt in 0u64.. {
            let seed = format!("{prefix}/{}/{attempt}", self.revision + 1);
            object.metadata_mut().name = Some(generated_name(&prefix, &seed));
            if self.object(&object.key()).is_none() {
                return;
            }
        }
    }

    fn commit(self, written: Vec<Key>) -> Commit {
        let changes: Vec<Change> = self.order.iter().filter_map(|key| self.change(key)).collect();
        let revision = if changes.is_empty() { self.revision } else { self.revision + 1 };
        Commit { revision, changes, written }
    }

    fn change(&self, key: &Key) -> Option<Change> {
        let (old, new) = (self.base.object(key).cloned(), self.over.object(key).cloned());
        (old != new).then(|| Change { key: key.clone(), old, new })
    }
}

/// Whether an object came to be by [`Write::Follow`].
pub(crate) fn is_from_files(object: &Object) -> bool {
    object.metadata().annotations.as_ref().is_some_and(|annotations| annotations.contains_key(FROM_FILES))
}

/// An object that is there from the start: it has no creation time, nobody made it.
pub(crate) fn from_the_start(mut object: Object) -> Object {
    let key = object.key();
    let metadata = object.metadata_mut();
    metadata.uid = Some(uid(&key, 1));
    metadata.resource_version = Some("1".to_owned());
    object
}

/// A prefix, cut if it is long, and five characters that follow from a seed.
pub(crate) fn generated_name(prefix: &str, seed: &str) -> String {
    let most = prefix.char_indices().nth(MOST_OF_PREFIX).map_or(prefix.len(), |(cut, _)| cut);
    format!("{}{}", &prefix[..most], suffix(seed))
}

/// Five characters from the hash of a seed, in the alphabet Kubernetes uses for generated names (no vowels, no words).
fn suffix(seed: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = allocate::hash(seed, 0);
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        let index = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or_default();
        text.push(char::from(ALPHABET[index]));
        hash /= ALPHABET.len() as u64;
    }
    text
}

/// An active namespace.
pub(crate) fn new_namespace(name: &str) -> Object {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.metadata.labels = Some([("kubernetes.io/metadata.name".to_owned(), name.to_owned())].into());
    namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..Default::default() });
    Object::Namespace(Box::new(namespace))
}

/// A UUID of version 8 (RFC 9562 5.8): what is in it is ours to choose, so a replay gives the same one.
fn uid(key: &Key, revision: u64) -> String {
    let seed = format!("{key}@{revision}");
    let (high, low) = (allocate::hash(&seed, 1), allocate::hash(&seed, 2));
    let high = (high & !0xf000) | 0x8000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}

/// `metadata.generation`: counts changes of what is wanted, for the kinds that have one.
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

/// As in Kubernetes (`AllowCreateOnUpdate`), a replacement of nothing makes an object of these kinds. Whoever names a version
/// or uid means one that was there.
fn may_be_made_by_replacing(object: &Object) -> bool {
    let metadata = object.metadata();
    let open = |field: &Option<String>| field.as_ref().is_none_or(String::is_empty);
    matches!(object.kind(), Kind::Service | Kind::Endpoints | Kind::Event)
        && open(&metadata.resource_version)
        && open(&metadata.uid)
}

/// Whoever names a version or uid means that one.
fn check_version(key: &Key, object: &Object, old: &Object) -> Result<(), No> {
    let (given, current) = (object.metadata(), old.metadata());
    let differs = |given: &Option<String>, current: &Option<String>| {
        given.as_ref().is_some_and(|given| !given.is_empty() && Some(given) != current.as_ref())
    };
    let why = if differs(&given.uid, &current.uid) {
        let text = |uid: &Option<String>| uid.clone().unwrap_or_default();
        let (given, current) = (text(&given.uid), text(&current.uid));
        format!("Precondition failed: UID in precondition: {given}, UID in object meta: {current}")
    } else if differs(&given.resource_version, &current.resource_version) {
        "the object has been modified; please apply your changes to the latest version and try again".to_owned()
    } else {
        return Ok(());
    };
    let message = format!("Operation cannot be fulfilled on {}: {why}", quoted(key));
    Err(No { key: key.clone(), reason: RefusalReason::Conflict, message, faults: Vec::new() })
}

fn not_found(key: Key) -> No {
    let message = format!("{} not found", quoted(&key));
    No { key, reason: RefusalReason::NotFound, message, faults: Vec::new() }
}

fn invalid(key: Key, faults: Vec<Fault>) -> No {
    let texts: Vec<String> = faults.iter().map(Fault::to_string).collect();
    let list = match texts.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    };
    let kind = match key.kind.group() {
        "" => key.kind.name().to_owned(),
        group => format!("{}.{group}", key.kind.name()),
    };
    let message = format!("{kind} {:?} is invalid: {list}", key.name);
    No { key, reason: RefusalReason::Invalid, message, faults }
}

/// `services "a"`, as the API server names an object in a message.
fn quoted(key: &Key) -> String {
    match key.kind.group() {
        "" => format!("{} {:?}", key.kind.plural(), key.name),
        group => format!("{}.{group} {:?}", key.kind.plural(), key.name),
    }
}
