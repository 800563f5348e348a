//! What reads use: a replica of the cluster that belongs to the API thread, and its recent changes.
//!
//! It adopts every commit after it is durable and published, so a read shows neither what the disk may still lose nor
//! what the workers do not have yet. Reads never use the control thread: a client that lists 100 000 objects in a loop
//! delays neither packets nor writes. Objects are shared with the control thread's cluster (`Arc`), so the
//! replica costs the indexes and not the objects a second time.
//!
//! The present and the [`History`] change under one lock: a watch can continue from the revision of a list.
//! The state at an earlier revision is not stored but computed:
//!
//! ```text
//! now:            a   b   c       e          in key order
//! taken back:         b'      d   (e made)   the first change of each key after the revision, its old version
//! then:           a   b'  c   d
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::history::{Bounds, History, TooOld};
use super::selector::Wanted;
use crate::cluster::{Cluster, Commit};
use crate::objects::{Key, Object};

/// The replica. Locked only for as long as it takes to look something up, never across an await.
pub(crate) struct Replica {
    state: RwLock<State>,
    /// The revision of `state`, for tasks that wait for a change.
    revision: watch::Sender<u64>,
}

/// The current state and its history.
pub(crate) struct State {
    pub(crate) cluster: Cluster,
    pub(crate) history: History,
}

/// A part of a list, at one revision.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<Arc<Object>>,
    /// The last object's key, if there is more behind it.
    pub(crate) last: Option<Key>,
}

/// Why there is no state of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoState {
    /// It is forgotten.
    #[error("the state at revision {} is no longer kept", .0.asked)]
    TooOld(TooOld),
    /// It does not exist yet.
    #[error("revision {asked} does not exist yet; the current one is {current}")]
    Future {
        /// The requested revision.
        asked: u64,
        /// The newest there is.
        current: u64,
    },
}

impl Replica {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self::bounded(cluster, Bounds::default())
    }

    /// With a history of other bounds than usual.
    pub(crate) fn bounded(cluster: Cluster, bounds: Bounds) -> Self {
        let (revision, _) = watch::channel(cluster.revision());
        let history = History::new(cluster.revision(), bounds);
        Self { state: RwLock::new(State { cluster, history }), revision }
    }

    pub(crate) fn apply(&self, commits: &[Arc<Commit>]) {
        let Some(last) = commits.last() else {
            return;
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for commit in commits {
            state.cluster.adopt(commit);
            state.history.push(Arc::clone(commit));
        }
        drop(state);
        self.revision.send_replace(last.revision);
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn object(&self, key: &Key) -> Option<Arc<Object>> {
        self.read().cluster.object(key).cloned()
    }

    /// The commit that follows `revision`, if there is one yet.
    pub(crate) fn commit_after(&self, revision: u64) -> Result<Option<Arc<Commit>>, NoState> {
        let state = self.read();
        state.reaches(revision)?;
        let mut commits = state.history.after(revision).map_err(NoState::TooOld)?;
        Ok(commits.next().cloned())
    }

    /// The newest revision, and how to wait for the next.
    pub(crate) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The objects `wanted` as they are now.
    pub(crate) fn list(&self, wanted: &Wanted) -> (u64, Vec<Arc<Object>>) {
        let state = self.read();
        let objects = state.cluster.objects(wanted.kind, wanted.namespace.as_deref());
        let objects = objects.filter(|object| wanted.selects(object)).cloned().collect();
        (state.cluster.revision(), objects)
    }

    /// At most `limit` of the objects `wanted` behind the key `after`, as they were at `revision`; without one, as they are.
    pub(crate) fn page(
        &self,
        wanted: &Wanted,
        revision: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, NoState> {
        let state = self.read();
        let revision = revision.unwrap_or_else(|| state.cluster.revision());
        let mut objects = state.at(revision, wanted, after)?.filter(|object| wanted.selects(object));
        let page: Vec<_> = objects.by_ref().take(limit).cloned().collect();
        let more = objects.next().is_some();
        let last = page.last().filter(|_| more).map(|object| object.key());
        Ok(Page { revision, objects: page, last })
    }

    /// How many objects of `wanted`'s kind and namespace there were at `revision` behind the key `after`.
    pub(crate) fn count_behind(&self, wanted: &Wanted, revision: u64, after: &Key) -> Result<usize, NoState> {
        Ok(self.read().at(revision, wanted, Some(after))?.count())
    }
}

impl State {
    /// Whether `revision` exists.
    fn reaches(&self, asked: u64) -> Result<(), NoState> {
        let current = self.cluster.revision();
        if asked > current { Err(NoState::Future { asked, current }) } else { Ok(()) }
    }

    /// The objects of `wanted`'s kind and namespace as they were at `revision`, those behind the key `after`.
    fn at<'a>(
        &'a self,
        revision: u64,
        wanted: &'a Wanted,
        after: Option<&'a Key>,
    ) -> Result<impl Iterator<Item = &'a Arc<Object>> + 'a, NoState> {
        self.reaches(revision)?;
        let mut back: BTreeMap<&Key, Option<&Arc<Object>>> = BTreeMap::new();
        let commits = self.history.after(revision).map_err(NoState::TooOld)?;
        for change in commits.flat_map(|commit| &commit.changes) {
            if wanted.covers(&change.key) && after.is_none_or(|after| change.key > *after) {
                back.entry(&change.key).or_insert(change.old.as_ref());
            }
        }
        let now = self.cluster.objects_after(wanted.kind, wanted.namespace.as_deref(), after);
        Ok(taken_back(now, back))
    }
}

/// The current objects, in key order, with the versions of `back` in place of those with the same key.
fn taken_back<'a>(
    now: impl Iterator<Item = (&'a Key, &'a Arc<Object>)>,
    back: BTreeMap<&'a Key, Option<&'a Arc<Object>>>,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let (mut now, mut back) = (now.peekable(), back.into_iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let changed = back.peek().map(|(key, _)| *key);
            match now.peek() {
                Some((key, _)) if changed.is_none_or(|changed| *key < changed) => {
                    return now.next().map(|(_, object)| object);
                }
                Some((key, _)) if changed == Some(*key) => drop(now.next()),
                _ => {
                    if let (_, Some(object)) = back.next()? {
                        return Some(object);
                    }
                }
            }
        }
    })
}
