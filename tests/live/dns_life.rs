//! DNS while another part of the gateway is away: its API, or, over a restart, the packet path.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{fs, ptr};

use pollgate::lab::traffic::ask_dns;

use crate::live::process::{Place, Process};
use crate::live::support::{DNS, PATIENCE, SHORT, StopOnDrop, at, ip, socket};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;

tests! {
    [Lab] =>
        names_are_answered_while_the_api_is_away,
        a_restart_loses_only_queries_that_come_while_nothing_polls;
}

const NAME: &str = "backend-service.default.svc.cluster.local";
const ADDRESS: &str = "10.96.0.50";

/// A thread of a process that stands still, as under a debugger, until this is dropped.
struct Halted(libc::pid_t);

impl Halted {
    fn new(process: &Process, name: &str) -> Halted {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("its threads");
        let tasks = tasks.map(|task| task.expect("a thread").path());
        let named =
            |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let path = tasks.into_iter().find(named).unwrap_or_else(|| panic!("no thread is called {name}"));
        let id = path.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok()).expect("a number");
        let halted = Halted(id);
        halted.request(libc::PTRACE_SEIZE);
        halted.request(libc::PTRACE_INTERRUPT);
        let mut status = 0;
        // SAFETY: waitpid writes to `status` alone.
        let stopped = unsafe { libc::waitpid(id, &raw mut status, libc::__WALL) };
        assert_eq!(stopped, id, "it stops: {}", io::Error::last_os_error());
        halted
    }

    fn request(&self, request: libc::c_uint) {
        // SAFETY: none of these requests reads or writes memory of this process.
        let done = unsafe { libc::ptrace(request, self.0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) };
        assert_eq!(done, 0, "ptrace: {}", io::Error::last_os_error());
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        self.request(libc::PTRACE_DETACH);
    }
}

fn names_are_answered_while_the_api_is_away() {
    let place = Place::new();
    let process = place.start();
    place.apply_guide();
    let ask = || ask_dns(place.client(), at(DNS), NAME, PATIENCE).expect("an answer").addresses;
    let mut api = UnixStream::connect(socket(place.path())).expect("connected");
    {
        let _halted = Halted::new(&process, "api");
        api.write_all(b"GET /livez HTTP/1.1\r\nHost: pollgate\r\nConnection: close\r\n\r\n").expect("sent");
        api.set_read_timeout(Some(SHORT)).expect("set");
        let silence = api.read(&mut [0]).expect_err("the API stands still");
        assert_eq!(silence.kind(), ErrorKind::WouldBlock);
        for _ in 0..20 {
            assert_eq!(ask(), [ip(ADDRESS)]);
        }
    }
    api.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut response = String::new();
    api.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert_eq!(ask(), [ip(ADDRESS)]);
}

fn a_restart_loses_only_queries_that_come_while_nothing_polls() {
    let place = Place::new();
    let process = place.start();
    place.apply_guide();
    let ask = |patience: Duration| ask_dns(place.client(), at(DNS), NAME, patience);
    let is_right = |answer: pollgate::lab::traffic::DnsAnswer| {
        assert_eq!((answer.rcode, &answer.addresses[..]), (0, &[ip(ADDRESS)][..]), "an answer is never another one");
    };
    is_right(ask(PATIENCE).expect("an answer"));
    process.signal(libc::SIGKILL);
    assert_eq!(process.wait().code(), None, "killed");
    let is_ready = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut lost = 0;
            while !is_ready.load(Ordering::Relaxed) {
                match ask(Duration::from_millis(20)) {
                    Ok(answer) => is_right(answer),
                    Err(_) => lost += 1,
                }
            }
            lost
        });
        // Also if it does not start.
        let stop = StopOnDrop(&is_ready);
        let started = place.start();
        drop(stop);
        assert!(asking.join().expect("right answers") > 0, "nothing polled for a while");
        for _ in 0..50 {
            is_right(ask(PATIENCE).expect("an answer"));
        }
        drop(started);
    });
}
