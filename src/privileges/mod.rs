//! What the process and each of its threads may do.
//!
//! ```text
//!  start, one thread ── enter ──▶ run.user, with the capabilities that opening ports needs; no_new_privs
//!      every further thread ── narrow(role) ──▶ only what its role needs:
//!                                   its capabilities, its files (Landlock), its system calls (seccomp)
//!      when all is started, the first thread ── narrow(Main) ──▶ the same
//! ```
//!
//! **The user is changed first, before any other thread exists.** So all threads have it, whichever way credentials are inherited, and
//! every socket and file is opened as it will be when it has to be opened again: what works at start works later.
//!
//! **All of this belongs to threads.** The threads share their memory, so this does not hold against one that runs foreign code: see
//! `docs/security.md`.

mod calls;
mod files;
mod handover;
mod identity;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{getegid, geteuid};
use pollgate_control::threads::{Narrow, Role};
use rustix::fd::OwnedFd;
use rustix::fs::{Access, access};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tracing::{info, warn};

use self::calls::Ports;
use self::files::Files;
use self::identity::Identity;
use crate::config::{Api, Backend, Config, Run};
use crate::host::{self, capability};

/// Why the process could not become what it is configured to be.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// No such user or group.
    #[error("{key}: there is no {what} {name}: create it ({what}add --system {name}), or correct the key")]
    Unknown {
        /// `run.user` or `run.group`.
        key: &'static str,
        /// `user` or `group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Only root can change.
    #[error(
        "run.user: this process belongs to the user {own} and cannot become {label}: start it as root, or leave run.user and \
         run.group out"
    )]
    NotRoot {
        /// Who it should become.
        label: String,
        /// Who it is.
        own: u32,
    },
    /// It has the user, but groups that the user is not in.
    #[error(
        "run.user: this process has groups of others than {label}: {}: start it without them (no SupplementaryGroups= in its unit; \
         setpriv --init-groups), or add the user to them",
        groups.join(", ")
    )]
    ForeignGroups {
        /// Who it should become.
        label: String,
        /// Their numbers.
        groups: Vec<String>,
    },
    /// The kernel refused.
    #[error("run.user: becoming {label}: {step}: {source}")]
    Become {
        /// Who it should become.
        label: String,
        /// The failed step.
        step: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// A file could not be given to the user.
    #[error("{key}: {}: giving it to the gateway's user: {source}", path.display())]
    Give {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The user cannot write where it has to.
    #[error(
        "{key}: {} belongs to others and the user {label} cannot write there: chown {label} {}, or use a directory that is the \
         gateway's alone",
        directory.display(), directory.display()
    )]
    NotWritable {
        /// The key that names a file in it.
        key: &'static str,
        /// The directory.
        directory: PathBuf,
        /// The user.
        label: String,
    },
    /// A thread could not give up what its role does not need.
    #[error(
        "the thread {thread} cannot be limited to the {what} of its part: {source}; lift what forbids it (the seccomp profile of a \
         container, for example), or set run.sandbox: false"
    )]
    NotLimited {
        /// Its role.
        thread: &'static str,
        /// `system calls` or `files`.
        what: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No thread could.
    #[error(
        "run.sandbox: threads cannot be limited to the {what} of their parts: {why}; lift what forbids it (the seccomp profile of a \
         container, for example), or set run.sandbox: false"
    )]
    Forbidden {
        /// `system calls` or `files`.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// Capabilities could not be read or set.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

fn system(doing: &'static str) -> impl Fn(rustix::io::Errno) -> PrivilegesError {
    move |error| PrivilegesError::System { doing, source: error.into() }
}

/// What the process of a configuration may do.
#[derive(Clone, Debug)]
pub struct Privileges {
    run: Run,
    api: Api,
    /// What opening ports takes.
    opening: CapabilitySet,
    /// What the process has while it starts.
    process: CapabilitySet,
    pair: bool,
    disable_forwarding: bool,
    /// Whether changing the steering programs' tables takes CAP_BPF.
    tables_need_bpf: bool,
    ports: Ports,
    files: Files,
    /// What the kernel cannot do, if threads are to be limited at all.
    sandbox: Option<Sandbox>,
}

/// What threads can be limited to.
#[derive(Clone, Debug)]
struct Sandbox {
    calls: Support,
    files: Support,
}

/// Whether threads can be limited in one respect.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Support {
    Present,
    /// The kernel does not have it, for this reason: they run without.
    Absent(String),
    /// The kernel has it, and this process may not use it.
    Forbidden(String),
}

impl Support {
    fn absence(&self) -> Option<&str> {
        match self {
            Support::Absent(why) => Some(why),
            Support::Present | Support::Forbidden(_) => None,
        }
    }

    fn obstacle(&self, what: &'static str) -> Option<PrivilegesError> {
        match self {
            Support::Forbidden(why) => Some(PrivilegesError::Forbidden { what, why: why.clone() }),
            Support::Present | Support::Absent(_) => None,
        }
    }
}

impl Sandbox {
    fn ask() -> Sandbox {
        Sandbox { calls: calls::support(), files: files::support() }
    }

    fn obstacle(&self) -> Option<PrivilegesError> {
        self.calls.obstacle(CALLS).or_else(|| self.files.obstacle(FILES))
    }
}

/// What threads are limited to, for messages.
const CALLS: &str = "system calls";
const FILES: &str = "files";

thread_local! {
    /// What a thread's rules need to stay open.
    static HELD: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
}

impl Privileges {
    /// Of a gateway with this configuration.
    pub fn of(config: &Config) -> Privileges {
        let ports = capability::of_gateway(config);
        let may_be = |backends: &[Backend]| config.interfaces.iter().any(|port| backends.contains(&port.backend));
        let files = Files::of(&config.api.state, &config.api.socket, config.host.disable_forwarding, config.host.pair);
        let first = host::first_unprivileged_port();
        let is_low = [config.api.listen, config.metrics.listen].iter().flatten().any(|listen| listen.port() < first);
        let listening = if is_low { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() };
        Privileges {
            run: config.run.clone(),
            api: config.api.clone(),
            opening: ports,
            process: ports | listening,
            pair: config.host.pair,
            disable_forwarding: config.host.disable_forwarding,
            // Before, all commands of bpf(2) did, where unprivileged processes may not use it.
            tables_need_bpf: ports.contains(CapabilitySet::BPF) && host::kernel() < (6, 0),
            ports: Ports { uring: may_be(&[Backend::Uring]), xdp: may_be(&[Backend::Xdp, Backend::Auto]) },
            files,
            sandbox: config.run.sandbox.then(Sandbox::ask),
        }
    }

    /// The file of the configuration, which is read again on request.
    #[must_use]
    pub fn reading(mut self, configuration: Option<&Path>) -> Privileges {
        configuration.into_iter().for_each(|path| self.files.read(path));
        self
    }

    /// Manifests that are followed.
    #[must_use]
    pub fn following(mut self, manifests: Option<&Path>) -> Privileges {
        manifests.into_iter().for_each(|path| self.files.follow(path));
        self
    }

    /// What is not limited although it could be: one line each.
    pub fn gaps(&self) -> Vec<String> {
        let Some(Sandbox { calls, files }) = &self.sandbox else {
            return vec![
                "run.sandbox is false: threads are not limited to the system calls and files of their roles".to_owned(),
            ];
        };
        let calls = calls.absence().map(|why| format!("system calls are not limited: {why}"));
        let files = files.absence().map(|why| format!("files are not limited: {why}"));
        calls.into_iter().chain(files).collect()
    }

    /// Logs who the process is, and what is not limited.
    pub fn report(&self) {
        info!("running as user {} and group {}", geteuid(), getegid());
        self.gaps().iter().for_each(|gap| warn!("{gap}"));
    }

    /// Why [`Privileges::enter`] would fail.
    pub fn obstacle(&self) -> Option<PrivilegesError> {
        let has = match capabilities(None) {
            Ok(sets) => sets.effective,
            Err(error) => return Some(system("reading this process's capabilities")(error)),
        };
        let obstacle = Identity::configured(&self.run).and_then(|identity| identity.obstacle(has));
        obstacle.unwrap_or_else(Some).or_else(|| self.sandbox.as_ref()?.obstacle())
    }

    /// Makes the process that of `run.user`, with the capabilities that starting needs and no others, for good. To be called while
    /// it has one thread.
    ///
    /// # Errors
    /// If it cannot become the user, or the user could not use the files of the configuration.
    pub fn enter(&self) -> Result<(), PrivilegesError> {
        if let Some(obstacle) = self.obstacle() {
            return Err(obstacle);
        }
        let identity = Identity::configured(&self.run)?;
        if identity.is_current()? {
            // Without the right to give files away, they are used as they are, or fail to open.
            let _ = handover::give(&self.api, &identity);
        } else {
            handover::give(&self.api, &identity)?;
            identity.enter()?;
            self.look_for_files(&identity)?;
        }
        bound(self.process)?;
        keep(self.process)?;
        set_no_new_privs(true).map_err(system("setting no_new_privs"))
    }

    /// As the user: can the state and the socket be made?
    fn look_for_files(&self, identity: &Identity) -> Result<(), PrivilegesError> {
        for (file, key) in [(&self.api.state, "api.state"), (&self.api.socket, "api.socket")] {
            let directory = handover::directory_of(file);
            if access(&directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
                return Err(PrivilegesError::NotWritable { key, directory, label: identity.label.clone() });
            }
        }
        Ok(())
    }

    /// Narrows the calling thread to its role, for good.
    ///
    /// # Errors
    /// If it could not give up what it does not need. It must not go on then.
    pub fn narrow(&self, role: Role) -> Result<(), PrivilegesError> {
        let thread = role.name();
        keep(self.capabilities(role))?;
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        if sandbox.files == Support::Present {
            let failed = |source| PrivilegesError::NotLimited { thread, what: FILES, source };
            HELD.set(self.files.limit(role).map_err(failed)?);
        }
        // Last, since it forbids all of this.
        if sandbox.calls == Support::Present {
            let failed = |source: io::Error| PrivilegesError::NotLimited { thread, what: CALLS, source: source.into() };
            self.limit_calls(role).map_err(failed)?;
        }
        Ok(())
    }

    fn limit_calls(&self, role: Role) -> io::Result<()> {
        set_no_new_privs(true)?;
        calls::limit(role, self.ports)
    }

    /// For [`pollgate_control::threads::narrowed_by`].
    pub fn narrowing(self) -> Narrow {
        Arc::new(move |role| self.narrow(role).map_err(io::Error::other))
    }

    /// What a thread of this role keeps.
    pub fn capabilities(&self, role: Role) -> CapabilitySet {
        let some = |capability, is_needed| if is_needed { capability } else { CapabilitySet::empty() };
        match role {
            // It removes the pair.
            Role::Main => some(CapabilitySet::NET_ADMIN, self.pair),
            // Requests of neighbours.
            Role::Network => CapabilitySet::NET_ADMIN,
            // Writes of /proc/sys/net.
            Role::Watch => some(CapabilitySet::NET_ADMIN, self.disable_forwarding),
            // All that opening took at start.
            Role::Ports => self.opening,
            Role::Control => some(CapabilitySet::BPF, self.tables_need_bpf),
            Role::Log
            | Role::Worker
            | Role::Api
            | Role::Disk
            | Role::Manifests
            | Role::Announcer
            | Role::Dns
            | Role::Health
            | Role::Metrics => CapabilitySet::empty(),
        }
    }
}

/// Leaves the calling thread those of its capabilities that are in `set`, and none that a program it starts would get.
fn keep(set: CapabilitySet) -> Result<(), PrivilegesError> {
    clear_ambient_capability_set().map_err(system("clearing the ambient capabilities"))?;
    has_exactly(permitted()? & set)
}

/// Bounds what the calling thread and what it starts can ever have to `set`. Needs CAP_SETPCAP; whoever starts the process
/// without it has set the bounds.
fn bound(set: CapabilitySet) -> Result<(), PrivilegesError> {
    let has = permitted()?;
    if !has.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    // A change of user has left them permitted only.
    has_exactly(has)?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !set.contains(one) => {
                remove_capability_from_bounding_set(one).map_err(system("reducing the capability bounding set"))?;
            }
            Ok(_) => {}
            // The kernel has no more.
            Err(_) => break,
        }
    }
    Ok(())
}

fn permitted() -> Result<CapabilitySet, PrivilegesError> {
    Ok(capabilities(None).map_err(system("reading this thread's capabilities"))?.permitted)
}

fn has_exactly(permitted: CapabilitySet) -> Result<(), PrivilegesError> {
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(system("changing this thread's capabilities"))
}
