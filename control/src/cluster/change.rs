//! Writes, and what they lead to: a commit or refusals.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::objects::fault::Faults;
use crate::objects::service::ServiceName;
use crate::objects::trigger::trigger_time;
use crate::objects::{Key, Kind, Object};

/// Annotation of an object that was created by [`Write::Follow`].
pub const FROM_FILES: &str = "pollgate.io/from-manifests";

/// Whether an object was created by [`Write::Follow`].
pub(crate) fn is_from_files(object: &Object) -> bool {
    object.metadata().annotations.as_ref().is_some_and(|annotations| annotations.contains_key(FROM_FILES))
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create an object. Dumped uid and resourceVersion are ignored.
    Create(Object),
    /// Replace an existing object; a resourceVersion in it must be the current one.
    Replace(Object),
    /// Create it, or merge it into the existing one as `kubectl apply` does.
    Apply(Object),
    /// Create or replace it by an object that was merged elsewhere, its status and the managers of its fields included. Its
    /// resourceVersion must be the current one; without one, there must be none.
    Exact(Object),
    /// Remove it and what belongs to it, if the preconditions hold.
    Delete(Key, Preconditions),
    /// Apply what an operator's file says. The object is the file's, and marked so, if it was not there before.
    Follow(Object),
    /// Remove what has left the operator's files, if it is theirs and still there.
    Unfollow(Key),
    /// Make a Pod terminating for so many seconds, if the preconditions hold; then it is removed.
    Terminate(Key, u32, Preconditions),
    /// Remove a Pod whose grace period is over; nothing if it is not, or if the Pod is gone.
    Expire(Key),
}

impl Write {
    /// Remove an object, whatever its version.
    pub fn delete(key: Key) -> Write {
        Write::Delete(key, Preconditions::default())
    }
}

/// What must be true of the object that is deleted (`preconditions` of `DeleteOptions`); by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its resourceVersion.
    pub resource_version: Option<String>,
}

/// One object before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which object.
    pub key: Key,
    /// Before; nothing if it was made.
    pub old: Option<Arc<Object>>,
    /// After; nothing if it was deleted.
    pub new: Option<Arc<Object>>,
}

/// What a batch of writes changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The revision it makes; the current one if nothing changed.
    pub revision: u64,
    /// The written objects, and what the controllers made of them. Unchanged objects are left out.
    pub changes: Vec<Change>,
    /// The key each write turned out to be about, write by write.
    pub written: Vec<Key>,
}

impl Commit {
    /// The commit that undoes this one.
    pub(crate) fn inverse(&self) -> Commit {
        let back =
            |change: &Change| Change { key: change.key.clone(), old: change.new.clone(), new: change.old.clone() };
        Commit {
            revision: self.revision.saturating_sub(1),
            changes: self.changes.iter().rev().map(back).collect(),
            written: self.written.clone(),
        }
    }

    /// The change of an object, if it changed.
    pub fn change(&self, key: &Key) -> Option<&Change> {
        self.changes.iter().find(|change| change.key == *key)
    }

    /// The objects that the tables may have to follow.
    pub fn touched(&self) -> Touched {
        let mut touched = Touched::default();
        let versions = self.changes.iter().flat_map(|change| [&change.old, &change.new]).flatten();
        versions.for_each(|object| touched.add(object));
        self.changes.iter().for_each(|change| touched.changes.add(change));
        touched
    }
}

/// The objects that the tables may have to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose endpoints or addresses may have changed.
    pub services: BTreeSet<ServiceName>,
    /// Namespaces that may have come or gone.
    pub namespaces: BTreeSet<String>,
    /// Pods whose addresses may have changed: (namespace, name).
    pub pods: BTreeSet<(String, String)>,
    /// How much changed.
    pub changes: Changes,
}

/// How much changed, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes of Services.
    pub services: u64,
    /// Changes of EndpointSlices.
    pub slices: u64,
    /// The trigger times that EndpointSlices were given by them.
    pub triggers: Vec<Timestamp>,
}

impl Changes {
    fn add(&mut self, Change { key, old, new }: &Change) {
        match key.kind {
            Kind::Service => self.services += 1,
            Kind::EndpointSlice => {
                self.slices += 1;
                let [old, new] = [old, new].map(|version| version.as_ref()?.as_slice());
                // A slice that goes, or changes in other ways, has the time of an earlier change.
                let is_old = |new: &EndpointSlice| {
                    old.is_some_and(|old| trigger_time(old) == trigger_time(new) && old.endpoints == new.endpoints)
                };
                self.triggers.extend(new.filter(|new| !is_old(new)).and_then(trigger_time));
            }
            Kind::Pod
            | Kind::Node
            | Kind::Namespace
            | Kind::Endpoints
            | Kind::ConfigMap
            | Kind::Secret
            | Kind::Event => {}
        }
    }

    fn extend(&mut self, other: Changes) {
        self.services += other.services;
        self.slices += other.slices;
        self.triggers.extend(other.triggers);
    }
}

impl Touched {
    /// Adds those of another commit.
    pub fn extend(&mut self, other: Touched) {
        self.services.extend(other.services);
        self.namespaces.extend(other.namespaces);
        self.pods.extend(other.pods);
        self.changes.extend(other.changes);
    }

    /// Adds an object.
    pub(crate) fn add(&mut self, object: &Object) {
        match object {
            Object::Service(service) => drop(self.services.insert(ServiceName::of(service))),
            Object::EndpointSlice(_) => self.services.extend(ServiceName::of_slice(object)),
            Object::Namespace(_) => drop(self.namespaces.insert(object.name().to_owned())),
            Object::Pod(_) => drop(self.pods.insert((object.namespace().to_owned(), object.name().to_owned()))),
            Object::Node(_) | Object::Endpoints(_) | Object::ConfigMap(_) | Object::Secret(_) | Object::Event(_) => {}
        }
    }
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The object has faults.
    Invalid,
    /// There is no such object.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// It changed since the client read it.
    Conflict,
    /// It is not the object, or not the version of it, that a deletion requires.
    PreconditionFailed,
    /// It may not be done.
    Forbidden,
}

impl RefusalReason {
    /// The HTTP status code.
    pub fn code(self) -> u16 {
        match self {
            RefusalReason::Invalid => 422,
            RefusalReason::NotFound => 404,
            RefusalReason::AlreadyExists | RefusalReason::Conflict | RefusalReason::PreconditionFailed => 409,
            RefusalReason::Forbidden => 403,
        }
    }

    /// `reason` of a `Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Invalid => "Invalid",
            RefusalReason::NotFound => "NotFound",
            RefusalReason::AlreadyExists => "AlreadyExists",
            RefusalReason::Conflict | RefusalReason::PreconditionFailed => "Conflict",
            RefusalReason::Forbidden => "Forbidden",
        }
    }
}

/// One write that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which write of the batch, from 0.
    pub index: usize,
    /// The object it was about.
    pub key: Key,
    /// Why.
    pub reason: RefusalReason,
    /// In words, as the API server says it.
    pub message: String,
    /// The faults, if the object has any.
    pub faults: Faults,
}

/// Saved objects that cannot be one cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved state assigns {what} to both {first} and {second}")]
pub struct RestoreError {
    /// The address or node port.
    pub what: String,
    /// Who has it.
    pub first: ServiceName,
    /// Who has it too.
    pub second: ServiceName,
}
