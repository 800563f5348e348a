//! The state of the cluster as the gateway knows it, and how it changes.
//!
//! ```text
//! writes ─ plan (pure) ─▶ Commit ─▶ store (durable) ─▶ adopt ─▶ the next revision
//!            └▶ Refusals: nothing happened
//! ```
//!
//! Planning is separate from adopting because a write must be on disk before any client sees it, and because `dryRun` and
//! `check` then run the same code as a real write. A batch is one commit of one revision: all of it or nothing,
//! later writes see earlier ones, controllers run once at its end. What a commit holds are whole objects, old and new; an
//! event log, the store and a watch need nothing else.

pub(crate) mod change;
pub(crate) mod index;
pub(crate) mod names;
pub(crate) mod overlay;
pub(crate) mod settings;
pub(crate) mod termination;

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use self::change::{
    Change, Changes, Commit, FROM_FILES, Preconditions, Refusal, RefusalReason, RestoreError, Touched, Write,
};
pub use self::settings::{ClusterSettings, IpRange, Limits, SliceManager};

use self::change::is_from_files;
use self::index::{Index, claimed_node_ports};
use self::overlay::Overlay;
use crate::objects::service::{ServiceName, SpecExt};
use crate::objects::{Key, Kind, Object};

/// All objects at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    settings: ClusterSettings,
    index: Index,
    revision: u64,
}

impl Cluster {
    /// No objects, not even those that are there from the start.
    pub(crate) fn empty(settings: ClusterSettings, revision: u64) -> Cluster {
        Cluster { settings, index: Index::default(), revision }
    }

    /// Adds a saved object, unless it holds an address or node port of another.
    pub(crate) fn admit(&mut self, object: Object) -> Result<(), RestoreError> {
        self.refuse_double_claims(&object)?;
        self.insert(object);
        Ok(())
    }

    /// Adds an object without checking its addresses and ports.
    pub(crate) fn insert(&mut self, object: Object) {
        self.index.insert(Arc::new(object));
    }

    /// Gives the objects that always exist, and are not saved, the time at which the state began.
    pub fn begin_at(&mut self, time: jiff::Timestamp) {
        let open = |object: &&Arc<Object>| object.metadata().creation_timestamp.is_none();
        let all = Kind::ALL.into_iter().flat_map(|kind| self.objects(kind, None));
        let objects: Vec<Arc<Object>> = all.filter(open).cloned().collect();
        for mut object in objects {
            Arc::make_mut(&mut object).metadata_mut().creation_timestamp = Some(Time(time));
            self.index.insert(object);
        }
    }

    /// Adds saved Pods. [`Cluster::restore`] works without them, for they hold no address or port; planning does not.
    pub fn admit_pods(&mut self, pods: impl IntoIterator<Item = Object>) {
        pods.into_iter().for_each(|pod| self.insert(pod));
    }

    /// Makes a commit planned on this very revision the current state.
    pub fn adopt(&mut self, commit: &Commit) {
        // An address that one object releases may belong to another in the same commit: first all are released.
        for change in &commit.changes {
            self.index.remove(&change.key);
        }
        for object in commit.changes.iter().filter_map(|change| change.new.as_ref()) {
            self.index.insert(Arc::clone(object));
        }
        self.revision = commit.revision;
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// A view for a batch of writes that was received at `now`.
    pub(crate) fn overlay(&self, now: jiff::Timestamp) -> Overlay<'_> {
        Overlay::new(&self.settings, &self.index, self.revision, now)
    }

    /// Which Service holds an address.
    pub(crate) fn address_owner(&self, address: IpAddr) -> Option<&ServiceName> {
        self.index.address_owner(address)
    }

    /// One object.
    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.index.object(key)
    }

    /// The objects of a kind, of one namespace or of all, by namespace and name.
    pub fn objects<'a>(&'a self, kind: Kind, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        self.index.objects(kind, namespace)
    }

    /// The same, each with its key, and only those after the key `after`: a list read in pages.
    pub fn objects_after<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> + 'a {
        self.index.objects_after(kind, namespace, after)
    }

    /// All objects of these kinds, as if a commit had changed them.
    pub fn all_of(&self, kinds: impl IntoIterator<Item = Kind>) -> Touched {
        let mut touched = Touched::default();
        kinds.into_iter().flat_map(|kind| self.objects(kind, None)).for_each(|object| touched.add(object));
        touched
    }

    /// The EndpointSlices that name a Service, by name, of any writer.
    pub fn slices<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        self.index.slices(service)
    }

    /// The objects that were created from an operator's files.
    pub fn followed(&self) -> impl Iterator<Item = Key> + '_ {
        let objects = Kind::ALL.into_iter().flat_map(|kind| self.objects(kind, None));
        objects.filter(|object| is_from_files(object)).map(|object| object.key())
    }

    /// Whether a Pod's Node is missing while there are Nodes at all.
    pub(crate) fn node_missing(&self, node: Option<&str>) -> bool {
        node.is_some_and(|name| self.index.node_count() > 0 && self.object(&Key::new(Kind::Node, "", name)).is_none())
    }

    fn refuse_double_claims(&self, object: &Object) -> Result<(), RestoreError> {
        let Some(service) = object.as_service() else {
            return Ok(());
        };
        let second = ServiceName::of(service);
        let refuse = |what: String, first: &ServiceName| {
            Err(RestoreError { what, first: first.clone(), second: second.clone() })
        };
        for address in service.spec.iter().flat_map(SpecExt::cluster_addresses) {
            if let Some(first) = self.index.address_owner(address) {
                return refuse(format!("address {address}"), first);
            }
        }
        for port in claimed_node_ports(service) {
            if let Some(first) = self.index.node_port_owner(port).filter(|first| **first != second) {
                return refuse(format!("node port {port}"), first);
            }
        }
        Ok(())
    }
}
