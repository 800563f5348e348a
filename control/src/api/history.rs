//! Recent changes: the commits that the replica adopted, newest last.
//!
//! ```text
//!    floor                                the replica's revision
//!      │ [r+1] [r+2] [r+3]  …  [r+n-1] [r+n] │
//!      └── forgotten first                └── never forgotten, however large
//! ```
//!
//! A watcher is a place in here and nothing more: it reads on from its revision at its own pace, so a thousand watchers
//! cost one history. A page of a list that was begun earlier is the present with these changes taken back. A request for
//! a revision below the floor gets 410, and the client lists again, as with an API server whose etcd was compacted.
//!
//! The bounds: [`CHANGES`] is half a minute at a thousand changed objects a second, longer than a client takes to come
//! back after a lost connection; [`BYTES`] holds whatever the objects. Only the versions that were replaced are
//! weighed, for the current ones are kept by the cluster anyway. The newest commit stays even if it is larger: watchers must
//! not all lose their place because a client applied a directory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use crate::cluster::{Change, Commit};

/// Most changes that are kept.
const CHANGES: usize = 32_768;
/// Most bytes of replaced objects that are kept, as [`weight`] estimates them.
const BYTES: usize = 64 << 20;

/// The commits after some revision, in order and without a gap.
#[derive(Debug)]
pub(crate) struct History {
    /// Everything after this revision is here.
    floor: u64,
    entries: VecDeque<Entry>,
    changes: usize,
    bytes: usize,
    bounds: Bounds,
}

/// What a history may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { changes: CHANGES, bytes: BYTES }
    }
}

#[derive(Debug)]
struct Entry {
    commit: Arc<Commit>,
    bytes: usize,
    time: SystemTime,
}

/// The requested revision has been forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOld {
    /// The requested revision.
    pub(crate) asked: u64,
    /// The oldest one that is available.
    pub(crate) oldest: u64,
}

impl History {
    /// The empty history of a replica at `revision`.
    pub(crate) fn new(revision: u64, bounds: Bounds) -> Self {
        Self { floor: revision, entries: VecDeque::new(), changes: 0, bytes: 0, bounds }
    }

    /// Adds the next commit.
    pub(crate) fn push(&mut self, commit: Arc<Commit>) {
        let bytes = commit.changes.iter().map(weight).sum();
        self.changes += commit.changes.len();
        self.bytes += bytes;
        self.entries.push_back(Entry { commit, bytes, time: SystemTime::now() });
        while self.entries.len() > 1 && (self.changes > self.bounds.changes || self.bytes > self.bounds.bytes) {
            self.forget_oldest();
        }
    }

    /// The commits after `revision`, oldest first.
    pub(crate) fn after(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Commit>>, TooOld> {
        if revision < self.floor {
            return Err(TooOld { asked: revision, oldest: self.floor });
        }
        let first = self.entries.partition_point(|entry| entry.commit.revision <= revision);
        Ok(self.entries.range(first..).map(|entry| &entry.commit))
    }

    /// At most the last `limit` commits after `revision` that are remembered, oldest first, and when each was published.
    pub(crate) fn latest(&self, revision: u64, limit: usize) -> impl Iterator<Item = (&Arc<Commit>, SystemTime)> {
        let first = self.entries.partition_point(|entry| entry.commit.revision <= revision);
        let first = first.max(self.entries.len().saturating_sub(limit));
        self.entries.range(first..).map(|entry| (&entry.commit, entry.time))
    }

    fn forget_oldest(&mut self) {
        if let Some(Entry { commit, bytes, .. }) = self.entries.pop_front() {
            self.floor = commit.revision;
            self.changes -= commit.changes.len();
            self.bytes -= bytes;
        }
    }
}

/// The memory of a change, in bytes: the version it replaced, which takes about three times its text when
/// decoded, and the change itself.
fn weight(change: &Change) -> usize {
    const CHANGE: usize = 512;
    const DECODED: usize = 3;
    CHANGE + change.old.as_deref().map_or(0, |old| DECODED * old.json_length())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::Write;
    use crate::testing::{World, object, web};

    fn revisions(history: &History, after: u64) -> Result<Vec<u64>, TooOld> {
        history.after(after).map(|commits| commits.map(|commit| commit.revision).collect())
    }

    /// A world whose commits go into a history with these bounds.
    fn remembered(changes: usize, bytes: usize, commits: usize, note: &str) -> History {
        let mut world = World::new();
        let mut history = History::new(world.cluster.revision(), Bounds { changes, bytes });
        for count in 0..commits {
            let mut web = web("a");
            web["metadata"]["annotations"] = json!({"count": count.to_string(), "note": note});
            history.push(Arc::new(world.write(vec![Write::Apply(object(web))]).unwrap()));
        }
        history
    }

    #[test]
    fn it_tells_what_came_after_or_that_it_forgot() {
        // The first commit makes the Service and its slice, those after it change the Service.
        let history = remembered(4, usize::MAX, 6, "");
        assert_eq!(revisions(&history, 7), Ok(vec![]));
        assert_eq!(revisions(&history, 5), Ok(vec![6, 7]));
        assert_eq!(revisions(&history, 3), Ok(vec![4, 5, 6, 7]));
        assert_eq!(revisions(&history, 2), Err(TooOld { asked: 2, oldest: 3 }));
        assert_eq!(revisions(&history, 100), Ok(vec![]), "the future is the caller's to refuse");
    }

    #[test]
    fn it_is_bounded_in_bytes_too_and_keeps_the_newest_whatever_its_size() {
        let note = "x".repeat(10_000);
        let history = remembered(usize::MAX, 200_000, 20, &note);
        assert!(history.bytes <= 200_000 && history.entries.len() == 3, "{}", history.bytes);
        let history = remembered(usize::MAX, 1, 20, &note);
        assert_eq!(revisions(&history, 20), Ok(vec![21]));
        let history = remembered(0, 0, 1, "");
        assert_eq!(history.entries.len(), 1);
    }
}
