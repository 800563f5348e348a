//! The disk thread: it alone writes the state file, one job at a time.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::cluster::Commit;
use crate::store::Store;
use crate::threads::{self, Role};

/// The disk thread, seen from the control thread.
pub(super) struct Disk {
    jobs: Option<Sender<Job>>,
    pub(super) done: Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
}

/// A job for the disk thread; one at a time.
pub(super) enum Job {
    Write(Vec<Arc<Commit>>),
    /// Accept writes again after these have failed.
    Recover(Vec<Arc<Commit>>),
}

impl Disk {
    pub(super) fn spawn(mut store: Store) -> io::Result<Self> {
        let (jobs, queue) = bounded(1);
        let (report, done) = bounded(1);
        let thread = threads::spawn(Role::Disk, "disk", move || {
            // What fails here fails again, and is reported, with the first commit. A file of unknown content is left as it is.
            let is_measured = store.measure().is_ok();
            if is_measured {
                compact_if_sparse(&mut store);
            }
            for job in queue {
                let done = match job {
                    Job::Write(commits) => store.commit(&commits),
                    Job::Recover(failed) => store.recover(&failed),
                };
                if report.send(done.map_err(|error| error.to_string())).is_err() {
                    break;
                }
                if is_measured {
                    compact_if_sparse(&mut store);
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Never blocks: only one job is in flight at a time, and the channel holds one.
    pub(super) fn start(&self, job: Job) {
        // A dead disk thread shows as a closed `done`, which every caller watches.
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(job));
        }
    }

    pub(super) fn close(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the disk thread panicked");
        }
    }
}

/// Makes the file smaller if most of it is free. A commit that comes meanwhile waits.
fn compact_if_sparse(store: &mut Store) {
    if !store.is_sparse() {
        return;
    }
    let before = store.size().file();
    match store.compact() {
        Ok(()) => {
            tracing::info!("the state file has been compacted: {} instead of {before} bytes", store.size().file());
        }
        Err(error) => tracing::warn!("the state file cannot be compacted: {error}"),
    }
}
