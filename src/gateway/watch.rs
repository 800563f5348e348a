//! The watch: looks once a second whether the gateway works, and says so.
//!
//! ```text
//!  kernel: interfaces, sysctls, addresses ─┐             ┌─▶ `/livez`, `/readyz`, `pollgate stats`
//!  tables: carrier, interface index ───────┼─ a look ────┼─▶ log: each check that fails, or passes again
//!  threads: rounds, publications ──────────┘             └─▶ systemd's watchdog, while all that is alive makes progress
//! ```

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{self, RecvTimeoutError, Sender};
use pollgate_common::epoch::Source;
use pollgate_control::health::ProxyHealth;
use pollgate_control::netlink::Lag;
use pollgate_control::observe::checks::{Check, Checks, Scope};
use pollgate_control::sources::files;
use pollgate_control::threads::{self, Role};
use tracing::{info, warn};

use super::error::{GatewayError, system};
use crate::config::Config;
use crate::host::{self, HostFault, Needs};
use crate::ports::port_id;
use crate::ports::status::Status;

const EVERY: Duration = Duration::from_secs(1);

/// What is looked at.
pub(super) struct Looked {
    pub(super) config: Config,
    /// Which interfaces are polled.
    pub(super) polled: Arc<Status>,
    pub(super) tables: Source,
    pub(super) progress: Arc<ProxyHealth>,
    pub(super) lag: Arc<Lag>,
    pub(super) manifests: Option<files::Status>,
}

/// The thread. Dropping it ends the thread.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks once, then starts the thread.
    pub(super) fn start(looked: Looked, checks: Arc<Checks>) -> Result<Watch, GatewayError> {
        let (stop, stopped) = channel::bounded(0);
        let first = looked.look();
        report(&[], &first);
        checks.set(first);
        let body = move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let results = looked.look();
                let lives = results.iter().all(|check| check.fault.is_none() || check.scope == Scope::Ready);
                report(&checks.set(results.clone()), &results);
                if lives {
                    // Fails without a service manager.
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        };
        let thread = threads::spawn(Role::Watch, "watch", body).map_err(system("starting the watch"))?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

/// Logs what has changed between two looks.
fn report(before: &[Check], now: &[Check]) {
    for Check { name, fault, .. } in now {
        let before = before.iter().find(|check| check.name == *name).and_then(|check| check.fault.as_ref());
        match fault {
            Some(fault) if before != Some(fault) => warn!("{name}: {fault}"),
            None if before.is_some() => info!("{name}: all is well again"),
            Some(_) | None => {}
        }
    }
}

impl Looked {
    fn look(&self) -> Vec<Check> {
        let faults = self.host_faults();
        let interfaces = self.config.interfaces.iter().enumerate();
        let mut checks: Vec<Check> = self.threads();
        checks.extend(interfaces.map(|(at, interface)| {
            let name = interface.name.as_str();
            let fault = joined(faults.iter().filter(|fault| Subject::of(fault) == Subject::Interface(name)));
            Check::ready(format!("interface-{name}"), fault.or_else(|| self.link_fault(at)))
        }));
        let about = |subject| joined(faults.iter().filter(|fault| Subject::of(fault) == subject));
        checks.push(Check::ready("network", self.lag.fault()));
        checks.push(Check::ready("forwarding", about(Subject::Forwarding)));
        checks.push(Check::ready("host", about(Subject::Host)));
        if let Some(manifests) = &self.manifests {
            let faults = manifests.to_stats().faults.len();
            let stale =
                || format!("the files have {faults} errors, and the previous objects are still served: see the log");
            checks.push(Check::ready("manifests", (faults > 0).then(stale)));
        }
        checks
    }

    fn threads(&self) -> Vec<Check> {
        let name = |at: usize| match at.checked_sub(1) {
            None => "control".to_owned(),
            Some(worker) => format!("worker-{worker}"),
        };
        self.progress.faults().into_iter().enumerate().map(|(at, fault)| Check::live(name(at), fault)).collect()
    }

    /// What is wrong with the host. Forwarding is switched off if that is allowed.
    fn host_faults(&self) -> Vec<HostFault> {
        let (changed, faults) = host::keep(&Needs::from(&self.config));
        changed.iter().for_each(|changed| warn!("{}", changed.what));
        faults
    }

    /// What the tables say of an interface that the kernel has, and that is up.
    fn link_fault(&self, at: usize) -> Option<String> {
        let reader = self.tables.reader();
        let pin = reader.pin();
        let Some(link) = pin.load().net().port_link(port_id(at)) else {
            return Some("it was created again, and this has not been read from the kernel yet".to_owned());
        };
        let no_carrier = || "it has no carrier: connect it, or start what is at its other end".to_owned();
        self.polled.fault(at, link).or_else(|| (!link.up).then(no_carrier))
    }
}

/// The check that a fault of the host belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject<'a> {
    Interface(&'a str),
    Forwarding,
    Host,
}

impl Subject<'_> {
    fn of(fault: &HostFault) -> Subject<'_> {
        match fault {
            HostFault::NoInterface { name, .. }
            | HostFault::InterfaceDown { name }
            | HostFault::NotEthernet { name } => Subject::Interface(name),
            HostFault::Forwards { .. } => Subject::Forwarding,
            HostFault::Capability(_) | HostFault::AddressTaken { .. } | HostFault::Unknown { .. } => Subject::Host,
        }
    }
}

/// All faults in one text; `None` without any.
fn joined<'a>(faults: impl Iterator<Item = &'a HostFault>) -> Option<String> {
    let texts: Vec<String> = faults.map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}
