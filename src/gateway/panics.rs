//! What a panic ends, by the thread it is in.
//!
//! | thread | ends |
//! |---|---|
//! | `api` in a request, `api-decode` | the request: it gets 500 |
//! | `api` elsewhere, `control` | the process, after the workers have drained: what it would do next could be wrong, and a supervisor starts it again from the state file |
//! | every other, such as a worker | the process at once: nothing may go on with memory that a worker has left half changed |

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::{panic, process, thread};

use pollgate_control::api::panic_is_contained;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use super::signals::is_stopping;

static STOPS: AtomicBool = AtomicBool::new(false);

/// What a panic ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Request,
    ProcessInOrder,
    ProcessAtOnce,
}

fn ends(thread: Option<&str>, is_contained: bool) -> Ends {
    match thread {
        _ if is_contained => Ends::Request,
        Some("api" | "control") => Ends::ProcessInOrder,
        _ => Ends::ProcessAtOnce,
    }
}

/// From now on, panics end what they must. The first is reported before.
pub(super) fn decide() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        match ends(thread::current().name(), panic_is_contained()) {
            Ends::Request => {}
            Ends::ProcessInOrder => {
                STOPS.store(true, SeqCst);
                // The main thread stops the gateway, as if it had been asked to. Without a signal nothing would be left to do it.
                if !is_stopping() && raise(SIGTERM).is_err() {
                    process::abort();
                }
            }
            Ends::ProcessAtOnce => process::abort(),
        }
    }));
}

/// Whether the process stops because of a panic.
pub(super) fn has_stopped() -> bool {
    STOPS.load(SeqCst)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    use super::*;

    const CHILD: &str = "POLLGATE_TEST_PANIC_IN";

    #[test]
    fn each_thread_ends_what_it_must() {
        for (thread, is_contained, expected) in [
            (Some("api"), true, Ends::Request),
            (Some("api-decode"), true, Ends::Request),
            (Some("api"), false, Ends::ProcessInOrder),
            (Some("control"), false, Ends::ProcessInOrder),
            (Some("worker-0"), false, Ends::ProcessAtOnce),
            (Some("disk"), false, Ends::ProcessAtOnce),
            (None, false, Ends::ProcessAtOnce),
        ] {
            assert_eq!(ends(thread, is_contained), expected, "{thread:?}");
        }
    }

    /// Runs [`child`] in a process of its own.
    fn panic_in(thread: &str) -> Output {
        Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "gateway::panics::tests::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, thread)
            .output()
            .expect("a process")
    }

    #[test]
    fn a_panic_in_control_stops_in_order_and_one_in_a_worker_aborts() {
        let control = panic_in("control");
        let said = String::from_utf8_lossy(&control.stdout);
        assert!(said.contains("stopped in order") && control.status.signal().is_none(), "{control:?}");
        let worker = panic_in("worker-0");
        assert_eq!(worker.status.signal(), Some(signal_hook::consts::SIGABRT), "{worker:?}");
        let decode = panic_in("api-decode");
        assert!(String::from_utf8_lossy(&decode.stdout).contains("goes on"), "{decode:?}");
    }

    /// Only as a child of the test above.
    #[test]
    fn child() {
        let Ok(name) = std::env::var(CHILD) else { return };
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM]).expect("signals");
        decide();
        let thread = thread::Builder::new().name(name.clone()).spawn(|| panic!("a bug")).expect("a thread");
        assert!(thread.join().is_err());
        if name == "api-decode" {
            assert!(!has_stopped());
            println!("goes on");
            return;
        }
        assert_eq!(signals.forever().next(), Some(SIGTERM));
        assert!(has_stopped());
        println!("stopped in order");
    }
}
