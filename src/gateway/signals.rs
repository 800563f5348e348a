//! What each signal does.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT | stop: drain the rings, let requests of the API in progress finish |
//! | SIGQUIT | stop at once: requests in progress are cut off, all else is in order |
//! | SIGHUP | read again what can be read again ([`super::reload`]) |
//! | SIGTERM, SIGINT or SIGQUIT while it stops | end at once, with exit code 1: nothing more is drained or removed |
//! | any other that would end the process | nothing: the log reports it |
//!
//! A signal that ends a process without a line in its log costs an operator a night: SIGUSR1 reopens the log of other servers, and a
//! file-size limit (SIGXFSZ) is then an error of the write that meets it. SIGPIPE is ignored by the standard library.
//!
//! **While it stops, nothing reads signals**, and what it waits for may never come. So the handler itself ends the process then, with
//! calls that a handler may make (signal-safety(7)).

#![allow(unsafe_code, reason = "what runs in a signal handler must be vouched for")]

use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::{SIGIO, SIGPROF, SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals as Caught;
use signal_hook::low_level::{register, signal_name};
use tracing::warn;

use crate::config::LogFormat;

/// Those with a meaning.
const OBEYED: [c_int; 4] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP];
/// Those that would end the process, besides the real-time signals and those of a fault in the program.
const IGNORED: [c_int; 10] =
    [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGXFSZ, libc::SIGPWR, libc::SIGSTKFLT];

/// Those that stop the process, or end it while it stops.
const STOPPING: [c_int; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Whether the process is stopping.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);

/// The last line of a process that did not stop in order.
const ENDED: &str = "pollgate: ended at once by another signal while stopping: what clients were sent may be lost, and the API's socket and \
                     the host pair are left for the next start\n";
const ENDED_AS_JSON: &str = "{\"level\":\"ERROR\",\"message\":\"ended at once by another signal while stopping: what clients were \
                             sent may be lost, and the API's socket and the host pair are left for the next start\"}\n";

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Reload,
    Stop,
    StopAtOnce,
}

impl Request {
    fn of(signal: c_int) -> Option<Request> {
        match signal {
            SIGTERM | SIGINT => Some(Request::Stop),
            SIGQUIT => Some(Request::StopAtOnce),
            SIGHUP => Some(Request::Reload),
            _ => None,
        }
    }
}

/// The signals that the process has been sent.
pub(super) struct Signals(Caught);

impl Signals {
    /// Catches them from now on. `format`: of the log.
    pub(super) fn catch(format: LogFormat) -> io::Result<Signals> {
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
        let last = match format {
            LogFormat::Text => ENDED,
            LogFormat::Json => ENDED_AS_JSON,
        };
        for signal in STOPPING {
            // SAFETY: the action reads an atomic and a constant, and makes system calls that signal-safety(7) lists.
            unsafe { register(signal, move || end_if_stopping(last)) }?;
        }
        Ok(Signals(Caught::new(OBEYED.into_iter().chain(IGNORED).chain(real_time))?))
    }

    /// Waits for the next request. Returns it with the signal's name.
    pub(super) fn next(&mut self) -> (Request, String) {
        for signal in self.0.forever() {
            let name = name(signal);
            match Request::of(signal) {
                Some(request) => return (request, name),
                None => warn!("ignoring {name}; SIGTERM stops the gateway, SIGHUP has it read its files again"),
            }
        }
        // Not reached: the iterator ends only when it is closed.
        (Request::Stop, name(SIGTERM))
    }
}

/// The process stops from now on: another signal ends it at once.
pub(super) fn begin_stop() {
    IS_STOPPING.store(true, SeqCst);
}

/// Whether the process is stopping.
pub(super) fn is_stopping() -> bool {
    IS_STOPPING.load(SeqCst)
}

/// Runs in a signal handler.
fn end_if_stopping(last: &'static str) {
    if !is_stopping() {
        return;
    }
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one structure, which is alive. It does not wait: the reader may hang.
    let can_write = unsafe { libc::poll(&raw mut stderr, 1, 0) } == 1 && stderr.revents & libc::POLLOUT != 0;
    if can_write {
        // SAFETY: the bytes are constant. If they cannot be written, there is nothing else to do.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, last.as_ptr().cast(), last.len()) };
    }
    // SAFETY: ends the process and runs nothing else of it.
    unsafe { libc::_exit(1) }
}

fn name(signal: c_int) -> String {
    let real_time = || match signal.checked_sub(libc::SIGRTMIN()) {
        Some(above @ 0..) => format!("SIGRTMIN+{above}"),
        Some(_) | None => format!("signal {signal}"),
    };
    let named = match signal {
        libc::SIGPWR => Some("SIGPWR"),
        libc::SIGSTKFLT => Some("SIGSTKFLT"),
        _ => signal_name(signal),
    };
    named.map_or_else(real_time, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_has_its_meaning_and_its_name() {
        let obeyed = OBEYED.map(|signal| (name(signal), Request::of(signal)));
        let expected = [
            ("SIGTERM", Request::Stop),
            ("SIGINT", Request::Stop),
            ("SIGQUIT", Request::StopAtOnce),
            ("SIGHUP", Request::Reload),
        ];
        assert_eq!(obeyed, expected.map(|(name, request)| (name.to_owned(), Some(request))));
        for signal in IGNORED {
            assert_eq!(Request::of(signal), None);
            assert!(name(signal).starts_with("SIG"), "{}", name(signal));
        }
        assert_eq!(name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }
}
