//! The verbs: what each write means, with admission before it and the controllers after.
//!
//! ```text
//! writes ─▶ create, replace, apply, delete, … ─▶ admission ─▶ overlay ─▶ controllers ─▶ Commit
//!                      └▶ Refusals: nothing happened
//! ```
//!
//! A batch is all or nothing: later writes see earlier ones, and the controllers run once, at its end. A refusal does not
//! end the batch: the remaining writes are still checked, so that a client gets every fault at once.

use std::sync::Arc;

use ahash::HashMap;

use crate::admission::{apply, ownership, strategy, validate};
use crate::cluster::change::is_from_files;
use crate::cluster::index::{claimed_node_ports, data_bytes};
use crate::cluster::names::{generated_name, uid};
use crate::cluster::overlay::Overlay;
use crate::cluster::settings::SliceManager;
use crate::cluster::termination;
use crate::cluster::{
    Cluster, ClusterSettings, Commit, FROM_FILES, Preconditions, Refusal, RefusalReason, RestoreError, Write,
};
use crate::controllers::start::new_namespace;
use crate::controllers::{self, allocate, membership, mirror, slices, start};
use crate::objects::fault::{Faults, MAX_FAULTS};
use crate::objects::service::ServiceName;
use crate::objects::{Key, Kind, Object};

/// Most bytes of all values of ConfigMaps and Secrets.
const MAX_DATA: usize = 32 << 20;

/// The permanent namespaces that cannot be deleted. The remaining one comes back.
const IMMORTAL_NAMESPACES: [&str; 3] = ["default", "kube-public", "kube-system"];

impl Cluster {
    /// An empty cluster, at revision 1: the permanent namespaces, the Service `default/kubernetes`, and nothing else.
    pub fn new(settings: ClusterSettings) -> Cluster {
        let mut cluster = Cluster::empty(settings, 1);
        cluster.ensure_start_state();
        cluster
    }

    /// The cluster whose objects were saved at `revision`.
    ///
    /// # Errors
    /// If two Services hold the same address or node port, which no sequence of commits leads to.
    pub fn restore(
        settings: ClusterSettings,
        objects: impl IntoIterator<Item = Object>,
        revision: u64,
    ) -> Result<Cluster, RestoreError> {
        let mut cluster = Cluster::empty(settings, revision);
        for object in objects {
            cluster.admit(object)?;
        }
        cluster.ensure_start_state();
        Ok(cluster)
    }

    /// What the writes would lead to. Nothing happens until the commit is adopted.
    ///
    /// # Errors
    /// Every write that cannot be done, each with its reason; then none of the batch is.
    pub fn plan(&self, writes: Vec<Write>, now: jiff::Timestamp) -> Result<Commit, Vec<Refusal>> {
        Transaction { view: self.overlay(now), attempts: HashMap::default() }.run(writes)
    }

    /// Adds the objects that always exist; they are not saved until a client changes them.
    fn ensure_start_state(&mut self) {
        let all = start::objects(self.settings(), |address| self.address_owner(address).is_some());
        let missing: Vec<Object> = all.into_iter().filter(|object| self.object(&object.key()).is_none()).collect();
        missing.into_iter().map(from_the_start).for_each(|object| self.insert(object));
    }
}

/// Why one write cannot be done: reason, message and the faults behind it.
struct Rejected {
    key: Key,
    reason: RefusalReason,
    message: String,
    faults: Faults,
}

/// A batch in the making: the verbs over a view of the objects.
struct Transaction<'a> {
    view: Overlay<'a>,
    /// How many names were tried for a prefix of generated names: those are taken.
    attempts: HashMap<Key, u64>,
}

impl Transaction<'_> {
    /// Executes the writes, then the controllers.
    fn run(mut self, writes: Vec<Write>) -> Result<Commit, Vec<Refusal>> {
        let mut written = Vec::with_capacity(writes.len());
        let mut refusals = Vec::new();
        self.note_explicit_claims(&writes);
        for (index, write) in writes.into_iter().enumerate() {
            match self.write(write) {
                Ok(key) => written.push(key),
                // The client is told the first ones; the others are checked for nothing, but once.
                Err(Rejected { key, reason, message, faults }) if refusals.len() < MAX_FAULTS => {
                    refusals.push(Refusal { index, key, reason, message, faults });
                }
                Err(_) => {}
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        controllers::run(&mut self.view);
        self.check_endpoints(&written)?;
        Ok(self.view.commit(written))
    }

    /// The controllers make endpoints of any write, so these are counted after them. The refusal is that of the last write.
    fn check_endpoints(&self, written: &[Key]) -> Result<(), Vec<Refusal>> {
        let limits = self.view.settings().limits;
        let growing = self.view.growing_services().into_iter();
        let too_large = growing.filter(|(_, endpoints)| *endpoints > limits.endpoints_per_service);
        let too_large = too_large.into_iter().find(|(name, endpoints)| *endpoints > self.view.former_endpoints(name));
        let (now, before) = self.view.endpoint_counts();
        let why = match too_large {
            Some((name, endpoints)) => format!(
                "Service {name} would have {endpoints} endpoints, more than limits.endpointsPerService allows ({})",
                limits.endpoints_per_service
            ),
            None if now > limits.endpoints && now > before => {
                format!("there would be {now} endpoints, more than limits.endpoints allows ({})", limits.endpoints)
            }
            None => return Ok(()),
        };
        let Some(key) = written.last() else { return Ok(()) };
        let Rejected { key, reason, message, faults } = forbidden(key, &why);
        Err(vec![Refusal { index: written.len() - 1, key, reason, message, faults }])
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
                self.view.request_address(address, &name);
            }
            for port in claimed_node_ports(service) {
                self.view.request_node_port(port, &name);
            }
        }
    }

    fn write(&mut self, write: Write) -> Result<Key, Rejected> {
        match write {
            Write::Create(object) => self.create(object),
            Write::Replace(object) => self.replace(object),
            Write::Apply(object) => self.apply(object),
            Write::Exact(object) => self.exact(object),
            Write::Delete(key, preconditions) => self.delete(key, &preconditions),
            Write::Follow(object) => self.follow(object),
            Write::Unfollow(key) => self.unfollow(key),
            Write::Terminate(key, grace, preconditions) => self.terminate(key, grace, &preconditions),
            Write::Expire(key) => Ok(self.expire(key)),
        }
    }

    fn create(&mut self, mut object: Object) -> Result<Key, Rejected> {
        self.generate_name(&mut object);
        let key = object.key();
        if self.view.object(&key).is_some() {
            let message = format!("{} already exists", quoted(&key));
            return Err(Rejected { key, reason: RefusalReason::AlreadyExists, message, faults: Faults::new() });
        }
        object.metadata_mut().managed_fields = None;
        self.settle(object, None)?;
        Ok(key)
    }

    fn replace(&mut self, mut object: Object) -> Result<Key, Rejected> {
        let key = object.key();
        let Some(old) = self.view.object(&key).cloned() else {
            return if may_be_made_by_replacing(&object) { self.create(object) } else { Err(not_found(key)) };
        };
        check_version(&key, &object, &old)?;
        ownership::carry(&old, &mut object);
        self.settle(object, Some(&old))?;
        Ok(key)
    }

    fn exact(&mut self, mut object: Object) -> Result<Key, Rejected> {
        let key = object.key();
        let Some(old) = self.view.object(&key).cloned() else {
            return match object.metadata().resource_version {
                Some(_) => Err(not_found(key)),
                None => self.settle(object, None).map(|()| key),
            };
        };
        // Merged into nothing, while another client created it: that is a conflict too.
        object.metadata_mut().resource_version.get_or_insert_with(|| "0".to_owned());
        check_version(&key, &object, &old)?;
        self.settle_exactly(object, &old)?;
        Ok(key)
    }

    fn apply(&mut self, mut object: Object) -> Result<Key, Rejected> {
        self.generate_name(&mut object);
        let (merged, old) = self.merged(&object)?;
        self.settle_merged(merged, old.as_deref())?;
        Ok(object.key())
    }

    /// The object that applying a manifest leads to, and the one it is applied to. Who owns its fields follows from the latter,
    /// whatever the manifest says.
    fn merged(&self, manifest: &Object) -> Result<(Object, Option<Arc<Object>>), Rejected> {
        let key = manifest.key();
        let old = self.view.object(&key).cloned();
        let mut merged = apply::merge(manifest, old.as_deref()).map_err(|faults| invalid(key, faults))?;
        match &old {
            Some(old) => ownership::carry(old, &mut merged),
            None => merged.metadata_mut().managed_fields = None,
        }
        Ok((merged, old))
    }

    /// As apply. An object that existed before is not marked as the files', and neither is a Namespace: its deletion would
    /// remove everything in it.
    fn follow(&mut self, object: Object) -> Result<Key, Rejected> {
        let key = object.key();
        let (mut merged, old) = self.merged(&object)?;
        if key.kind != Kind::Namespace && old.as_deref().is_none_or(is_from_files) {
            let annotations = merged.metadata_mut().annotations.get_or_insert_default();
            annotations.insert(FROM_FILES.to_owned(), "true".to_owned());
        }
        self.settle_merged(merged, old.as_deref())?;
        Ok(key)
    }

    fn unfollow(&mut self, key: Key) -> Result<Key, Rejected> {
        let is_theirs = self.view.object(&key).is_some_and(|object| is_from_files(object));
        if is_theirs { self.delete(key, &Preconditions::default()) } else { Ok(key) }
    }

    fn delete(&mut self, key: Key, preconditions: &Preconditions) -> Result<Key, Rejected> {
        self.checked(&key, preconditions)?;
        match key.kind {
            Kind::Namespace if IMMORTAL_NAMESPACES.contains(&key.name.as_str()) => {
                return Err(forbidden(&key, "this namespace may not be deleted"));
            }
            Kind::Namespace => self.empty_namespace(&key.name),
            Kind::Service => self.remove_dependents(&ServiceName::new(&*key.namespace, &*key.name)),
            _ => {}
        }
        self.view.remove(&key);
        Ok(key)
    }

    fn terminate(&mut self, key: Key, grace: u32, preconditions: &Preconditions) -> Result<Key, Rejected> {
        let mut object = self.checked(&key, preconditions)?.clone();
        if termination::is_over_at_once(&object) {
            self.view.remove(&key);
            return Ok(key);
        }
        termination::begin(&mut object, grace, self.view.now());
        self.view.put(object);
        Ok(key)
    }

    /// The object, if it exists and the preconditions hold.
    fn checked(&self, key: &Key, preconditions: &Preconditions) -> Result<&Object, Rejected> {
        let object = self.view.object(key).ok_or_else(|| not_found(key.clone()))?;
        check_preconditions(key, preconditions, object)?;
        Ok(object)
    }

    fn expire(&mut self, key: Key) -> Key {
        let due = self
            .view
            .object(&key)
            .and_then(|object| termination::ends_at(object))
            .is_some_and(|end| end <= self.view.now());
        if due {
            self.view.remove(&key);
        }
        key
    }

    fn empty_namespace(&mut self, namespace: &str) {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.namespaced()) {
            for object in self.view.objects(kind, Some(namespace)) {
                self.view.remove(&object.key());
            }
        }
    }

    /// Removes what belongs to a Service: its Endpoints, whoever wrote them, and the slices that a controller made or that
    /// name it as their owner. A slice written by hand stays, as in Kubernetes: the Service may be created again.
    fn remove_dependents(&mut self, service: &ServiceName) {
        let manager = self.view.settings().slice_manager;
        for slice in self.view.slices(service).iter().filter(|slice| belongs_to(slice, service, manager)) {
            self.view.remove(&slice.key());
        }
        let endpoints = Key::new(Kind::Endpoints, &*service.namespace, &*service.name);
        if self.view.object(&endpoints).is_some() {
            self.view.remove(&endpoints);
        }
    }

    /// Applies defaults, then admits the object.
    fn settle(&mut self, mut object: Object, old: Option<&Object>) -> Result<(), Rejected> {
        strategy::prepare(&mut object, old);
        self.admit(object, old)
    }

    /// The same for an object whose status counts as written, even if it is empty.
    fn settle_exactly(&mut self, mut object: Object, old: &Object) -> Result<(), Rejected> {
        strategy::prepare(&mut object, Some(&strategy::without_status(old)));
        self.admit(object, Some(old))
    }

    /// The same for a merged manifest: a status that it no longer has is removed, as any field.
    fn settle_merged(&mut self, merged: Object, old: Option<&Object>) -> Result<(), Rejected> {
        match old {
            Some(old) => self.settle_exactly(merged, old),
            None => self.settle(merged, None),
        }
    }

    fn admit(&mut self, mut object: Object, old: Option<&Object>) -> Result<(), Rejected> {
        let key = object.key();
        let mut faults = Faults::new();
        if let Object::Pod(pod) = &mut object {
            membership::copy_topology(&self.view, pod);
        }
        if let Object::Service(service) = &mut object {
            let old = old.and_then(Object::as_service);
            // Before validation, as in Kubernetes: that requires what is allocated.
            allocate::settle_families(service, old, self.view.settings(), &mut faults);
            if faults.is_empty() {
                allocate::allocate(&self.view, service, old, &mut faults);
            }
        }
        if faults.is_empty() {
            validate::object(&object, old, &mut faults);
        }
        if !faults.is_empty() {
            return Err(invalid(key, faults));
        }
        if let Object::Service(service) = &mut object {
            allocate::allocate_balancer(&self.view, service);
        }
        self.check_room(&key, &object, old)?;
        self.ensure_namespace(&key)?;
        self.view.put(object);
        Ok(())
    }

    /// The number of objects is bounded; and the size of ConfigMaps and Secrets, which are only kept for other programs.
    fn check_room(&self, key: &Key, object: &Object, old: Option<&Object>) -> Result<(), Rejected> {
        let most = self.view.settings().limits.objects;
        if old.is_none() && self.view.object_count(key.kind) >= most {
            let kind = key.kind.plural();
            return Err(forbidden(key, &format!("there are {most} {kind}, the most that limits.objects allows")));
        }
        let (new, old) = (data_bytes(object), old.map_or(0, data_bytes));
        if new <= old || self.view.data_bytes() - old + new <= MAX_DATA {
            return Ok(());
        }
        Err(forbidden(key, &format!("all ConfigMaps and Secrets together may not exceed {MAX_DATA} bytes")))
    }

    fn ensure_namespace(&mut self, key: &Key) -> Result<(), Rejected> {
        if key.kind.namespaced() && self.view.object(&Key::new(Kind::Namespace, "", &*key.namespace)).is_none() {
            let namespace = new_namespace(&key.namespace);
            self.check_room(&namespace.key(), &namespace, None)?;
            self.view.put(namespace);
        }
        Ok(())
    }

    /// `generateName`: a suffix from the hash of prefix and revision, the next one while that is taken.
    fn generate_name(&mut self, object: &mut Object) {
        let Some(prefix) = object.metadata().generate_name.clone().filter(|_| object.name().is_empty()) else {
            return;
        };
        let of_prefix = Key::new(object.kind(), object.namespace(), &*prefix);
        let attempts = self.attempts.entry(of_prefix).or_default();
        for attempt in *attempts.. {
            *attempts = attempt + 1;
            let seed = format!("{prefix}/{}/{attempt}", self.view.next_revision());
            object.metadata_mut().name = Some(generated_name(&prefix, &seed));
            if self.view.object(&object.key()).is_none() {
                return;
            }
        }
    }
}

/// An object that always exists: it has no creation time.
pub(crate) fn from_the_start(mut object: Object) -> Object {
    let key = object.key();
    let metadata = object.metadata_mut();
    metadata.uid = Some(uid(&key, 1));
    metadata.resource_version = Some("1".to_owned());
    object
}

/// Whether a slice is removed with its Service: a controller made it, or it names the Service as its owner. By name alone:
/// a dumped slice carries a dumped uid.
fn belongs_to(slice: &Object, service: &ServiceName, manager: SliceManager) -> bool {
    let owners = slice.metadata().owner_references.iter().flatten();
    let mut owners = owners.filter(|owner| owner.kind == "Service" && owner.name == service.name);
    slices::is_ours(manager, slice) || mirror::is_ours(manager, slice) || owners.next().is_some()
}

/// As in Kubernetes (`AllowCreateOnUpdate`), a replacement of nothing creates an object of these kinds, whatever its version.
/// One with a uid does not: it names an object that existed.
fn may_be_made_by_replacing(object: &Object) -> bool {
    matches!(object.kind(), Kind::Service | Kind::Endpoints | Kind::Event)
        && object.metadata().uid.as_ref().is_none_or(String::is_empty)
}

/// A version or uid in the object must be the current one.
fn check_version(key: &Key, object: &Object, old: &Object) -> Result<(), Rejected> {
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
    Err(conflict(key, &why))
}

/// Whether the object is as a deletion requires (K `pkg/registry/rest/delete.go`).
fn check_preconditions(key: &Key, preconditions: &Preconditions, object: &Object) -> Result<(), Rejected> {
    let metadata = object.metadata();
    let fields = [
        ("UID", &preconditions.uid, &metadata.uid, "deleted and then recreated"),
        ("ResourceVersion", &preconditions.resource_version, &metadata.resource_version, "modified"),
    ];
    for (name, wanted, found, happened) in fields {
        if let Some(wanted) = wanted
            && found.as_ref() != Some(wanted)
        {
            let found = found.as_deref().unwrap_or_default();
            let why = format!(
                "the {name} in the precondition ({wanted}) does not match the {name} in record ({found}). The object \
                 might have been {happened}"
            );
            let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", qualified_kind(key), key.name);
            let (key, reason) = (key.clone(), RefusalReason::PreconditionFailed);
            return Err(Rejected { key, reason, message, faults: Faults::new() });
        }
    }
    Ok(())
}

fn conflict(key: &Key, why: &str) -> Rejected {
    let message = format!("Operation cannot be fulfilled on {}: {why}", quoted(key));
    Rejected { key: key.clone(), reason: RefusalReason::Conflict, message, faults: Faults::new() }
}

fn forbidden(key: &Key, why: &str) -> Rejected {
    let message = format!("{} is forbidden: {why}", quoted(key));
    Rejected { key: key.clone(), reason: RefusalReason::Forbidden, message, faults: Faults::new() }
}

fn not_found(key: Key) -> Rejected {
    let message = format!("{} not found", quoted(&key));
    Rejected { key, reason: RefusalReason::NotFound, message, faults: Faults::new() }
}

fn invalid(key: Key, faults: Faults) -> Rejected {
    let message = format!("{} {:?} is invalid: {faults}", qualified_kind(&key), key.name);
    Rejected { key, reason: RefusalReason::Invalid, message, faults }
}

/// `Service`, `EndpointSlice.discovery.k8s.io`.
fn qualified_kind(key: &Key) -> String {
    match key.kind.group() {
        "" => key.kind.name().to_owned(),
        group => format!("{}.{group}", key.kind.name()),
    }
}

/// `services "a"`, as the API server names an object in a message.
fn quoted(key: &Key) -> String {
    match key.kind.group() {
        "" => format!("{} {:?}", key.kind.plural(), key.name),
        group => format!("{}.{group} {:?}", key.kind.plural(), key.name),
    }
}

#[cfg(test)]
mod tests;
