//! Getting to where namespaces can be made: directly as root, through a user namespace otherwise.
//!
//! Making a network namespace needs CAP_SYS_ADMIN; an ordinary user has it inside a user namespace of his own
//! (user_namespaces(7)), where he is "root" over the networks made there and nothing else. The kernel lets only a
//! single-threaded process enter one (EINVAL otherwise), so:
//!
//! * the program calls [`enter`] at the top of `main`, before any thread;
//! * a test, which the harness runs on a thread, is started again in a child ([`in_lab`]) that enters between fork and
//!   exec, where there is one thread by definition.

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Set in the child of [`in_lab`].
const INSIDE: &str = "POLLGATE_IN_LAB";
/// Set to 1 where a missing lab is a failure: in CI.
const REQUIRED: &str = "POLLGATE_REQUIRE_LAB";

/// Why this machine or container lets this user make no network namespaces.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    reason: String,
}

/// Whether laboratories can be made here, directly or by [`enter`] and [`in_lab`]. Tries it in a child and leaves
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

/// Runs a test's body where it can make namespaces, on a thread in an empty network namespace of its own, so that not
/// even a mistake reaches the machine's network.
///
/// `test` is the full name of the calling test, as the harness prints it (`module::tests::name`): as an ordinary user
/// the test is run again under this name in a child. Where namespaces are impossible it prints `SKIPPED` with the
/// reason, or fails if `POLLGATE_REQUIRE_LAB=1` is set.
///
/// # Panics
/// When the body panics, the child fails, or a required lab is impossible.
pub fn in_lab(test: &str, body: impl FnOnce() + Send) {
    if direct().is_ok() {
        return contained(body);
    }
    if std::env::var_os(INSIDE).is_some() {
        panic!("{test}: not allowed to create namespaces even inside the user namespace");
    }
    if let Err(why) = available() {
        assert!(!is_required(), "{test} needs a network lab, and {why}");
        eprintln!("SKIPPED: {test}: {why}");
        return;
    }
    again(test);
}

/// As [`in_lab`], for a test that needs rights no user namespace gives: eBPF, and AF_XDP with it.
///
/// An ordinary user can never run it, on any machine; it then prints `NEEDS ROOT`, which is no `SKIPPED`: nothing that this
/// user could have run was left out, and whoever runs all tests has to run them as root once. To root who may not (in
/// a container, say), a test that cannot run is `SKIPPED`, or fails if `POLLGATE_REQUIRE_LAB=1` is set.
///
/// # Panics
/// When the body panics, or root may not and a lab is required.
pub fn in_root_lab(test: &str, body: impl FnOnce() + Send) {
    let Err(error) = pollgate_dataplane::bpf::permitted() else { return in_lab(test, body) };
    // SAFETY: the call cannot fail and has no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("NEEDS ROOT: {test}: eBPF needs CAP_BPF and CAP_NET_ADMIN in the initial user namespace ({error})");
        return;
    }
    assert!(!is_required(), "{test} needs eBPF, which this root may not use: {error}");
    eprintln!("SKIPPED: {test}: this root may not use eBPF ({error})");
}

fn is_required() -> bool {
    std::env::var_os(REQUIRED).is_some_and(|value| value == "1")
}

/// The body on a thread in a namespace of its own.
fn contained(body: impl FnOnce() + Send) {
    let inside = || {
        unshare(libc::CLONE_NEWNET).expect("an empty network namespace for the test");
        body();
    };
    let ended = thread::scope(|scope| scope.spawn(inside).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// The same test in a child that is root in a user namespace.
fn again(test: &str) {
    let program = std::env::current_exe().expect("the test's own path");
    let mut child = Command::new(program);
    child.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let identity = Identity::current();
    // SAFETY: between fork and exec the closure makes system calls on strings made before and allocates nothing.
    unsafe { child.pre_exec(move || identity.enter()) };
    let output = child.output().expect("the test started again inside a user namespace");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed inside a user namespace: {}", output.status);
    assert!(text.contains("1 passed"), "no test is called {test:?}: give in_lab the name the harness prints");
}

/// Whether this thread may make network namespaces as it is, tried on a thread that then ends.
fn direct() -> io::Result<()> {
    thread::scope(|scope| scope.spawn(|| unshare(libc::CLONE_NEWNET)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Who we are outside, as the maps that make us root inside.
struct Identity {
    users: CString,
    groups: CString,
}

impl Identity {
    fn current() -> Identity {
        // SAFETY: these calls cannot fail and have no arguments.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let map = |id: u32| CString::new(format!("0 {id} 1")).unwrap_or_default();
        Identity { users: map(user), groups: map(group) }
    }

    /// Enters a user namespace as its root, and a network namespace in it. System calls only: it runs between
    /// fork and exec.
    fn enter(&self) -> io::Result<()> {
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
        // An unprivileged process may map its group only after giving up setgroups (user_namespaces(7)).
        write(c"/proc/self/setgroups", c"deny")?;
        write(c"/proc/self/uid_map", &self.users)?;
        write(c"/proc/self/gid_map", &self.groups)
    }
}

fn unshare(what: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(what) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One write of a whole small file, without allocating.
fn write(path: &std::ffi::CStr, text: &std::ffi::CStr) -> io::Result<()> {
    let bytes = text.to_bytes();
    // SAFETY: the path ends in NUL, the text is valid for its length, the descriptor is ours and closed once.
    let written = unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let error = io::Error::last_os_error();
        libc::close(fd);
        if written < 0 {
            return Err(error);
        }
        written
    };
    if written.cast_unsigned() == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
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
