//! What each signal does.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT | stop: drain the rings, let requests of the API in progress finish |
//! | SIGQUIT | stop at once: requests in progress are cut off, all else is in order |
//! | SIGHUP | read again what can be read again ([`super::reload`]) |
//! | any other that would end the process | nothing: the log reports it |
//!
//! A signal that ends a process without a line in its log costs an operator a night: SIGUSR1 reopens the log of other servers, and a
//! file-size limit (SIGXFSZ) is then an error of the write that meets it. SIGPIPE is ignored by the standard library.

use std::ffi::c_int;
use std::io;

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::{SIGIO, SIGPROF, SIGVTALRM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals as Caught;
use signal_hook::low_level::signal_name;
use tracing::warn;

/// Those with a meaning.
const OBEYED: [c_int; 4] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP];
/// Those that would end the process, besides the real-time signals and those of a fault in the program.
const IGNORED: [c_int; 10] =
    [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGXFSZ, libc::SIGPWR, libc::SIGSTKFLT];

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
    /// Catches them from now on.
    pub(super) fn catch() -> io::Result<Signals> {
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
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
