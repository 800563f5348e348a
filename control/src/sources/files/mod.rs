//! `pollgate run --manifests PATH`: objects from files, for hosts without a client of the API.
//!
//! ```text
//! files ── watch ──▶ set: all of them, or their faults ──▶ one batch ──▶ control thread: all or nothing
//!                                        └ logged with FILE:LINE ◀── refused ──┘  what was served stays
//! ```
//!
//! The files are the desired state, the gateway's state is the actual one. They are reconciled before the first frame, and
//! whenever the files change: what they say is applied as by `kubectl apply`, what has left them is deleted.
//!
//! **Whose object is it?** What the files made carries the annotation [`FROM_FILES`](crate::cluster::FROM_FILES), so a restart knows what to delete even
//! if the files changed meanwhile. An object that was there before the files named it is applied to but not theirs, and
//! never deleted for them; neither is a Namespace, with which everything in it would go. A set of keys in a table of
//! its own would do the same, but no client could see it.
//!
//! **Faults.** A set is applied as a whole or not at all: half of a directory may be worse than the old one. At the start,
//! faults keep the gateway from starting, unless the state already holds what the files said before: a restart must not
//! remove what a broken file would not have removed.

mod set;
mod watch;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::cluster::{Commit, Write};
use crate::objects::Key;
use crate::objects::manifest;
use crate::observe::stats::ManifestState;
use crate::runtime::{Command, WriteError, WriteRequest};
use crate::threads::{self, Role};
use crossbeam::channel::{Sender, bounded};
use tracing::{error, info};

pub use self::set::{Diagnostic, Set};
use self::watch::Watch;

/// Keeps the cluster in the state the files describe.
pub struct Follower {
    path: PathBuf,
    watch: Watch,
    commands: Sender<Command>,
    /// What the files have in the cluster, as far as is known.
    theirs: BTreeSet<Key>,
    status: Status,
}

/// What `pollgate stats` reports about the files.
#[derive(Clone)]
pub struct Status(Arc<Mutex<State>>);

struct State {
    path: PathBuf,
    objects: usize,
    faults: Vec<String>,
}

/// Why the cluster is not in the state the files describe.
#[derive(Debug)]
enum Fault {
    /// The files have faults: only another change of them can help.
    Files(Vec<String>),
    /// The cluster or its disk refused them: that may pass.
    Cluster(Vec<String>),
    /// The gateway is being stopped.
    Stopping,
}

impl Follower {
    /// A follower of the file or directory `path`, whose objects `theirs` are in the cluster. Nothing happens yet.
    pub fn new(path: &Path, theirs: BTreeSet<Key>, commands: Sender<Command>) -> Follower {
        let state = State { path: path.to_owned(), objects: theirs.len(), faults: Vec::new() };
        let status = Status(Arc::new(Mutex::new(state)));
        Follower { path: path.to_owned(), watch: Watch::new(path), commands, theirs, status }
    }

    /// Its status, now and later.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Loads the files for the first time.
    ///
    /// # Errors
    /// Their faults, if no earlier state of theirs exists to continue with.
    pub fn load(&mut self) -> Result<(), Vec<String>> {
        let known = !self.theirs.is_empty();
        let Err(fault) = self.bring_together() else { return Ok(()) };
        match self.note(fault) {
            faults if known => {
                self.tell(&faults);
                Ok(())
            }
            faults => Err(faults),
        }
    }

    /// Follows the files on a thread of its own.
    pub fn spawn(mut self) -> io::Result<Following> {
        let (stop, stopped) = UnixStream::pair()?;
        stop.set_nonblocking(true)?;
        stopped.set_nonblocking(true)?;
        let follow = move || {
            while self.watch.changed(&stopped) {
                self.follow();
            }
        };
        let thread = threads::spawn(Role::Manifests, "manifests", follow)?;
        Ok(Following { stop: Some(stop), thread: Some(thread) })
    }

    fn follow(&mut self) {
        let before = self.status.faults();
        let Err(fault) = self.bring_together() else {
            if !before.is_empty() {
                info!("{}: no errors any more", self.path.display());
            }
            return;
        };
        let faults = self.note(fault);
        // A repeated attempt has nothing new to report.
        if faults != before {
            self.tell(&faults);
        }
    }

    fn note(&mut self, fault: Fault) -> Vec<String> {
        let faults = match fault {
            Fault::Stopping => return self.status.faults(),
            Fault::Files(faults) => faults,
            Fault::Cluster(faults) => {
                self.watch.forget();
                faults
            }
        };
        self.status.set(self.theirs.len(), faults.clone());
        faults
    }

    fn tell(&self, faults: &[String]) {
        for fault in faults {
            error!("{fault}");
        }
        let path = self.path.display();
        error!("{path}: nothing was applied, and the previous objects are still served: fix the errors above");
    }

    /// Reads the files, applies what they say and deletes what has left them.
    fn bring_together(&mut self) -> Result<(), Fault> {
        let mut set = Set::new(manifest::read_all(&self.path));
        let nameless = set.objects.iter().filter(|(_, object)| object.name().is_empty());
        let required = |(document, _): &(_, _)| {
            Diagnostic::new(document, "metadata.name", "Required value: an object in a followed file must have a name")
        };
        let nameless: Vec<Diagnostic> = nameless.map(required).collect();
        set.faults.extend(nameless);
        if !set.faults.is_empty() {
            return Err(Fault::Files(texts(set.faults)));
        }
        let keys: BTreeSet<Key> = set.objects.iter().map(|(_, object)| object.key()).collect();
        let gone = self.theirs.difference(&keys).cloned().map(Write::Unfollow);
        let writes = set.objects.iter().map(|(_, object)| Write::Follow(object.clone())).chain(gone).collect();
        let commit = self.write(writes, &set)?;
        self.log(keys.len(), &commit);
        self.status.set(keys.len(), Vec::new());
        self.theirs = keys;
        Ok(())
    }

    fn write(&self, writes: Vec<Write>, set: &Set) -> Result<Arc<Commit>, Fault> {
        let (reply, outcome) = bounded(1);
        let reply = Box::new(move |outcome| drop(reply.send(outcome)));
        let request = WriteRequest { writes, dry_run: false, reply };
        self.commands.send(Command::Write(request)).map_err(|_| Fault::Stopping)?;
        match outcome.recv() {
            Ok(Ok(commit)) => Ok(commit),
            Ok(Err(WriteError::Refused(refusals))) => Err(Fault::Cluster(texts(set.refused(&refusals)))),
            Ok(Err(WriteError::Store(reason))) => Err(Fault::Cluster(vec![reason])),
            Err(_) => Err(Fault::Stopping),
        }
    }

    fn log(&self, objects: usize, commit: &Commit) {
        if commit.changes.is_empty() {
            return;
        }
        let (mut made, mut changed, mut deleted) = (0, 0, 0);
        for change in commit.written.iter().filter_map(|key| commit.change(key)) {
            match (&change.old, &change.new) {
                (None, _) => made += 1,
                (Some(_), Some(_)) => changed += 1,
                (Some(_), None) => deleted += 1,
            }
        }
        let path = self.path.display();
        info!("{path}: {objects} objects; {made} created, {changed} configured, {deleted} deleted");
    }
}

fn texts(mut told: Vec<Diagnostic>) -> Vec<String> {
    told.sort();
    told.iter().map(ToString::to_string).collect()
}

impl Status {
    /// As statistics show it.
    pub fn to_stats(&self) -> ManifestState {
        let State { path, objects, faults } = &*self.state();
        ManifestState { path: path.display().to_string(), objects: *objects as u64, faults: faults.clone() }
    }

    fn faults(&self) -> Vec<String> {
        self.state().faults.clone()
    }

    fn set(&self, objects: usize, faults: Vec<String>) {
        let mut state = self.state();
        (state.objects, state.faults) = (objects, faults);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that follows the files. Stop it before what it writes to.
pub struct Following {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Has the files read again, whether they look changed or not. Does not wait for it.
    pub fn read_again(&self) {
        if let Some(mut stop) = self.stop.as_ref() {
            // Full only of earlier requests for the same; closed only if the thread has ended.
            let _ = stop.write(&[watch::READ_AGAIN]);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread that follows the manifests panicked");
        }
    }
}

#[cfg(test)]
mod tests;
