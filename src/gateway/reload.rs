//! SIGHUP: reads again what can be read again while packets flow, and reports what cannot.
//!
//! ```text
//!  gateway.yaml ─▶ faulty? ─▶ reported, nothing changes
//!                    └─▶ log.level ─▶ log          every other key that differs ─▶ reported: it needs a restart
//!  certificate and token of api.listen ─▶ API
//!  files of --manifests ─▶ manifests thread
//! ```
//!
//! The service manager is told when it begins and ends (sd_notify(3)), so that `systemctl reload` waits for it with
//! `Type=notify-reload`.

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::log::Log;
use super::{Gateway, Start, notify};
use crate::config::{Config, Purpose};

/// Keys that take effect without a restart.
const LIVE: [&str; 1] = ["log.level"];

/// Reads everything again. `running` is the configuration in effect.
pub(super) fn reload(gateway: &Gateway, log: &Log, start: &Start, running: &mut Config) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!("reading the clock for systemd: {error}"),
    }
    let is_read = [configuration(log, start, running), certificate(gateway)];
    if let Some(following) = &gateway.following {
        following.read_again();
    }
    match is_read {
        [true, true] => info!("reloaded"),
        _ => warn!("reloaded, but for the errors above"),
    }
    notify(&[NotifyState::Ready]);
}

/// Returns whether it could be read, if there is one.
fn configuration(log: &Log, start: &Start, running: &mut Config) -> bool {
    let Some(path) = &start.config else { return true };
    let new = match Config::load(path, Purpose::Run) {
        Ok(new) => new,
        Err(fault) => {
            error!("{fault}");
            error!("{}: not read again: fix the errors above; the configuration stays as it was", path.display());
            return false;
        }
    };
    let changed = running.differences(&new);
    if changed.contains(&"log.level") {
        match log.set_level(new.log.level) {
            Ok(()) => info!("log.level is {} now", new.log.level),
            Err(why) => warn!("log.level is {} now, but {why}", new.log.level),
        }
        running.log.level = new.log.level;
    }
    let pending: Vec<&str> = changed.into_iter().filter(|key| !LIVE.contains(key)).collect();
    if !pending.is_empty() {
        warn!("{}: changed, and needs a restart: {}", path.display(), pending.join(", "));
    }
    true
}

/// Returns whether it could be read.
fn certificate(gateway: &Gateway) -> bool {
    match gateway.api.read_identity_again() {
        Ok(true) => info!("api.listen has another certificate or token now"),
        Ok(false) => {}
        Err(fault) => {
            error!("api.listen keeps its certificate and token: {fault}");
            return false;
        }
    }
    true
}
