//! Entering a context that may create namespaces: directly as root, through a user namespace otherwise.
//!
//! Making a network namespace needs CAP_SYS_ADMIN; an ordinary user has it inside a user namespace of his own
//! (user_namespaces(7)), whose "root" may administer only the networks created there. The kernel lets only a
//! single-threaded process enter one (EINVAL otherwise), so a program calls [`enter`] at the top of `main`, before any
//! thread.

#![allow(unsafe_code, reason = "a child enters its namespaces between fork and exec")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Why this machine or container lets this user make no network namespaces.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    reason: String,
}

/// Whether laboratories can be made here, directly or by [`enter`]. Tries it in a child and leaves
/// nothing behind.
pub fn available() -> Result<(), Unavailable> {
    if direct().is_ok() {
        return Ok(());
    }
    let mut probe = Command::new("/proc/self/exe");
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let identity = Identity::current();
    // SAFETY: between fork and exec the closure makes system calls on strings made before and allocates nothing; it
    // ends the child before exec, so the program is never run.
    unsafe {
        probe.pre_exec(move || {
            identity.enter()?;
            libc::_exit(0)
        });
    }
    probe.status().map(drop).map_err(Unavailable::because)
}

/// Makes the calling process one that can make namespaces: nothing to do as root, otherwise a user namespace. Call it
/// before any other thread is started; file ownership and credentials look different afterwards.
pub fn enter() -> Result<(), Unavailable> {
    if direct().is_ok() {
        return Ok(());
    }
    // A thread that was joined may still be on its way out for a moment, and counts until it is gone.
    let identity = Identity::current();
    let entered = (0..100).find_map(|_| match identity.enter() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            thread::sleep(Duration::from_millis(1));
            None
        }
        other => Some(other),
    });
    entered.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EINVAL))).map_err(Unavailable::because)
}

/// Whether this thread may make network namespaces as it is, tried on a thread that then ends.
fn direct() -> io::Result<()> {
    thread::scope(|scope| scope.spawn(|| unshare(UnshareFlags::NEWNET)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Who we are outside, as the maps that make us root inside.
struct Identity {
    users: CString,
    groups: CString,
}

impl Identity {
    fn current() -> Identity {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let map = |id: u32| CString::new(format!("0 {id} 1")).unwrap_or_default();
        Identity { users: map(user), groups: map(group) }
    }

    /// Enters a user namespace as its root, and a network namespace in it. System calls only: it runs between
    /// fork and exec.
    fn enter(&self) -> io::Result<()> {
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
        // An unprivileged process may map its group only after giving up setgroups (user_namespaces(7)).
        write(c"/proc/self/setgroups", c"deny")?;
        write(c"/proc/self/uid_map", &self.users)?;
        write(c"/proc/self/gid_map", &self.groups)
    }
}

/// Puts the calling thread into new namespaces.
pub(super) fn unshare(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: never with FILES, which would part the threads' file descriptors.
    Ok(unsafe { unshare_unsafe(what) }?)
}

/// One write of a whole small file, without allocating.
fn write(path: &CStr, text: &CStr) -> io::Result<()> {
    let bytes = text.to_bytes();
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(file, bytes)?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

impl Unavailable {
    fn because(error: io::Error) -> Unavailable {
        let hint = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "user namespaces are forbidden here (see the sysctls kernel.unprivileged_userns_clone and \
                 kernel.apparmor_restrict_unprivileged_userns, or the container's seccomp profile): allow them or run as root"
            }
            Some(libc::ENOSPC) => {
                "user namespaces are switched off here: raise the sysctl user.max_user_namespaces or run as root"
            }
            Some(libc::EINVAL) => "this process already has threads, or its kernel has no user namespaces: run as root",
            _ => "run as root",
        };
        Unavailable { reason: format!("no network namespace can be created ({error}): {hint}") }
    }
}
