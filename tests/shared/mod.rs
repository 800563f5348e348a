//! What the modules of this target share: how tests are run, what they need, and frames of every kind of port.

pub(crate) mod frames;
pub(crate) mod harness;
pub(crate) mod needs;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use pollgate_control::api::ApiParts;
use pollgate_control::cluster::Cluster;
use pollgate_control::observe::stats::Stats;
use pollgate_control::runtime::Command;

/// For whatever should happen at once, on a machine that may be busy with anything else: no test depends on how long it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The parts of an API without a gateway: objects, and nothing else.
pub(crate) fn api_parts(socket: PathBuf, replica: Cluster, commands: Sender<Command>) -> ApiParts {
    let stats = Arc::new(Stats::default);
    ApiParts { socket, https: None, replica, commands, stats, checks: Arc::default(), dump: None }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
