//! What reads are answered from: a replica of the cluster that belongs to the API thread.
//!
//! It adopts every commit once it is durable and published, so a read shows neither what the disk may still lose nor
//! what the workers do not have yet. Reads never ask the control thread: a client that lists 100 000 objects in a
//! loop costs packets and writes nothing. Objects are shared with the control thread's cluster (`Arc`), so the
//! replica costs the indexes and not the objects a second time.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::cluster::{Cluster, Commit};
use crate::objects::{Key, Kind, Object};

/// The replica. Locked only for as long as it takes to look something up, never across an await.
pub(crate) struct Replica {
    cluster: RwLock<Cluster>,
}

impl Replica {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster: RwLock::new(cluster) }
    }

    pub(crate) fn apply(&self, commits: &[Arc<Commit>]) {
        let mut cluster = self.cluster.write().unwrap_or_else(PoisonError::into_inner);
        for commit in commits {
            cluster.adopt(commit);
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn object(&self, key: &Key) -> Option<Arc<Object>> {
        self.read().object(key).cloned()
    }

    /// The objects that `wanted` says yes to, and the revision they are at.
    pub(crate) fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        mut wanted: impl FnMut(&Object) -> bool,
    ) -> (u64, Vec<Arc<Object>>) {
        let cluster = self.read();
        let objects = cluster.objects(kind, namespace).filter(|object| wanted(object)).cloned().collect();
        (cluster.revision(), objects)
    }
}
