//! The gateway's threads: each has a role, and is narrowed to what that role may do before its work begins.
//!
//! ```text
//!  gateway ── narrowed_by(narrow) ──▶ its thread ── spawn(role, …) ──▶ new thread: narrow(role), then the work
//! ```
//!
//! Capabilities, seccomp filters and Landlock domains belong to a thread, and only the thread itself can give up rights. So every
//! long-lived thread is started by [`spawn`]. What the rights of a role are is decided by whoever starts the gateway; without
//! [`narrowed_by`] (in tests of one part) nothing is given up. A thread that a narrowed one starts has no more than that one.
//!
//! A thread that cannot be narrowed does not begin its work: [`spawn`] returns the error.

use std::cell::RefCell;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Starts everything, waits for signals, and stops everything.
    Main,
    /// Writes the log to stderr.
    Log,
    /// Polls ports and processes packets.
    Worker,
    /// Compiles objects into tables and publishes them.
    Control,
    /// Opens ports again, and changes the programs by which the kernel chooses frames for them.
    Ports,
    /// Serves the API. Its helpers (`api-decode`) have its rights.
    Api,
    /// Reads and writes the state file.
    Disk,
    /// Follows the files of `--manifests`.
    Manifests,
    /// Follows the kernel's network and asks it for neighbours.
    Network,
    /// Announces owned addresses.
    Announcer,
    /// Asks other DNS servers, and serves DNS over TCP.
    Dns,
    /// Serves the health checks of load balancers.
    Health,
    /// Looks whether the gateway works.
    Watch,
    /// Serves metrics.
    Metrics,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 14] = [
        Role::Main,
        Role::Log,
        Role::Worker,
        Role::Control,
        Role::Ports,
        Role::Api,
        Role::Disk,
        Role::Manifests,
        Role::Network,
        Role::Announcer,
        Role::Dns,
        Role::Health,
        Role::Watch,
        Role::Metrics,
    ];

    /// Its name in documentation and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Role::Main => "main",
            Role::Log => "log",
            Role::Worker => "worker",
            Role::Control => "control",
            Role::Ports => "ports",
            Role::Api => "api",
            Role::Disk => "disk",
            Role::Manifests => "manifests",
            Role::Network => "network",
            Role::Announcer => "announcer",
            Role::Dns => "dns",
            Role::Health => "health",
            Role::Watch => "watch",
            Role::Metrics => "metrics",
        }
    }
}

/// Gives up what the calling thread does not need in its role. Fails if it cannot give it up.
pub type Narrow = Arc<dyn Fn(Role) -> io::Result<()> + Send + Sync>;

thread_local! {
    static NARROW: RefCell<Option<Narrow>> = const { RefCell::new(None) };
}

/// While this lives, threads that the calling thread starts are narrowed.
#[must_use]
pub struct Narrowing {
    before: Option<Narrow>,
}

/// Has every thread that the calling thread starts, and that those start, narrowed by `narrow`.
pub fn narrowed_by(narrow: Narrow) -> Narrowing {
    Narrowing { before: NARROW.replace(Some(narrow)) }
}

impl Drop for Narrowing {
    fn drop(&mut self) {
        NARROW.set(self.before.take());
    }
}

/// Starts a thread of this role, in the calling thread's network namespace. When this returns, it is narrowed.
///
/// # Errors
/// The system's, if no thread can be started, and that of narrowing it.
pub fn spawn<R: Send + 'static>(
    role: Role,
    name: impl Into<String>,
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    let Some(narrow) = NARROW.with_borrow(Clone::clone) else {
        return Builder::new().name(name.into()).spawn(work);
    };
    let (report, reported) = mpsc::sync_channel(1);
    let thread = Builder::new().name(name.into()).spawn(move || {
        let narrowed = narrow(role);
        let is_narrow = narrowed.is_ok();
        // The caller waits for it.
        let _ = report.send(narrowed);
        if !is_narrow {
            // Ends the thread, which has no result; nothing is printed.
            resume_unwind(Box::new("not narrowed"));
        }
        NARROW.set(Some(narrow));
        work()
    })?;
    match reported.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        // It has panicked, which has been printed: whoever joins it sees that.
        Err(mpsc::RecvError) => Ok(thread),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    #[test]
    fn threads_are_narrowed_before_they_begin_and_so_are_theirs() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = {
            let seen = Arc::clone(&seen);
            move |role| {
                let name = thread::current().name().map(str::to_owned);
                seen.lock().expect("not poisoned").push((role, name));
                Ok(())
            }
        };
        let narrowing = narrowed_by(Arc::new(note));
        let outer = spawn(Role::Control, "outer", || {
            let inner = spawn(Role::Disk, "inner", || thread::current().name().map(str::to_owned)).expect("a thread");
            inner.join().expect("no panic")
        });
        assert_eq!(outer.expect("a thread").join().expect("no panic").as_deref(), Some("inner"));
        let expected =
            [(Role::Control, "outer"), (Role::Disk, "inner")].map(|(role, name)| (role, Some(name.to_owned())));
        assert_eq!(*seen.lock().expect("not poisoned"), expected);
        drop(narrowing);
        spawn(Role::Log, "later", || {}).expect("a thread").join().expect("no panic");
        assert_eq!(seen.lock().expect("not poisoned").len(), 2, "no longer");
    }

    #[test]
    fn a_thread_that_cannot_be_narrowed_does_not_begin() {
        let refuse = |role: Role| match role {
            Role::Disk => Err(io::Error::other("not this one")),
            _ => Ok(()),
        };
        let _narrowing = narrowed_by(Arc::new(refuse));
        let began = Arc::new(Mutex::new(false));
        let note = Arc::clone(&began);
        let refused = spawn(Role::Disk, "disk", move || *note.lock().expect("not poisoned") = true);
        assert_eq!(refused.map(drop).map_err(|error| error.to_string()), Err("not this one".to_owned()));
        assert!(!*began.lock().expect("not poisoned"));
        assert_eq!(spawn(Role::Api, "api", || 7).expect("a thread").join().expect("no panic"), 7);
    }
}
