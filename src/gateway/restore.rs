//! Loads the state file: first what packets need, then the Pods.

use std::path::Path;
use std::time::Duration;

use crossbeam::channel;
use pollgate_control::cluster::Cluster;
use pollgate_control::compile::Compiler;
use pollgate_control::compile::sink::TableSink;
use pollgate_control::runtime::Command;
use pollgate_control::store::{Restored, Store, StoreError};
use pollgate_control::threads::{self, Role};
use tracing::{error, info};

use super::error::{GatewayError, system};
use crate::config::Config;

/// How long to wait for a change of the network before checking whether all Pods are read.
const PATIENCE: Duration = Duration::from_millis(5);

pub(super) fn open_state(config: &Config, set_aside_damaged: bool) -> Result<(Store, Cluster), GatewayError> {
    let path = &config.api.state;
    if !set_aside_damaged {
        return restore(config, Store::open_without_pods);
    }
    // All of it, so that no damage is found later.
    let damage = match restore(config, Store::open) {
        Err(damage @ (GatewayError::Store(StoreError::Damaged { .. }) | GatewayError::Restore { .. })) => damage,
        opened => return opened,
    };
    let aside = Store::set_aside(path).map_err(|source| GatewayError::SetAside { path: path.clone(), source })?;
    error!("{damage}");
    error!("{}: renamed to {}; starting without its objects", path.display(), aside.display());
    restore(config, Store::open)
}

fn restore(
    config: &Config,
    open: fn(&Path) -> Result<(Store, Restored), StoreError>,
) -> Result<(Store, Cluster), GatewayError> {
    let path = &config.api.state;
    let (store, Restored { objects, revision, created }) = open(path)?;
    let count = objects.len();
    let mut cluster = Cluster::restore(config.into(), objects, revision)
        .map_err(|reason| GatewayError::Restore { path: path.clone(), reason: Box::new(reason) })?;
    cluster.begin_at(created);
    info!("{}: {count} objects, revision {revision}", path.display());
    Ok((store, cluster))
}

/// Reads the Pods of the state, on a separate thread: packets do not need them, and reading many takes seconds. Meanwhile,
/// changes of the network reach the tables; there are no other commands yet.
pub(super) fn read_pods(
    store: Store,
    cluster: &mut Cluster,
    compiler: &mut Compiler,
    commands: &channel::Receiver<Command>,
) -> Result<Store, GatewayError> {
    let read = move || {
        let pods = store.pods();
        (store, pods)
    };
    let thread = threads::spawn(Role::Disk, "restore", read);
    let thread = thread.map_err(system("starting the thread that reads the state"))?;
    while !thread.is_finished() {
        if let Ok(Command::Network(net)) = commands.recv_timeout(PATIENCE) {
            compiler.network(net);
        }
        compiler.tick();
    }
    let (store, pods) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let pods = pods?;
    info!("the state file has {} Pods besides", pods.len());
    cluster.admit_pods(pods);
    Ok(store)
}
