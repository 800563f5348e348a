//! What signals do to the running process: stop it, have it read its files again, or nothing.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Instant;

use pollgate::lab::Veth;
use pollgate::lab::traffic::ask_tcp;

use crate::live::process::{Place, Process, start_in};
use crate::live::support::{
    BACKENDS, CLUSTER_IP, PATIENCE, answered_by, at, configuration, guide_manifest, servers, socket,
};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        signals_without_a_meaning_are_logged_and_change_nothing,
        sigquit_waits_for_nobody_and_leaves_everything_in_order,
        another_signal_ends_a_process_that_stops,
        sighup_reads_the_configuration_again_and_names_what_needs_a_restart,
        sighup_reads_manifests_and_certificate_again,
        the_socket_of_a_process_that_is_stopped_for_a_while_is_still_its_own;
}

fn signals_without_a_meaning_are_logged_and_change_nothing() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let process = place.start();
    place.apply_guide();
    let (io, rt) = (libc::SIGIO, libc::SIGRTMIN() + 3);
    let ignored = [
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (io, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (rt, "SIGRTMIN+3"),
    ];
    process.signal(libc::SIGPIPE);
    for (signal, name) in ignored {
        process.signal(signal);
        until(name, || place.log().contains(&format!("ignoring {name}; SIGTERM stops the gateway")));
    }
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
}

/// A request in progress, for which SIGTERM waits five seconds.
fn busy(place: &Place) -> UnixStream {
    let mut busy = UnixStream::connect(socket(place.path())).expect("it listens");
    busy.set_read_timeout(Some(PATIENCE)).expect("set");
    let head =
        "POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    busy.write_all(head.as_bytes()).expect("sent");
    busy.read_exact(&mut [0; 12]).expect("the body is asked for");
    busy
}

fn another_signal_ends_a_process_that_stops() {
    let place = Place::new();
    let text = configuration(place.path(), "");
    for (format, first, second) in [
        ("text", libc::SIGTERM, libc::SIGTERM),
        ("json", libc::SIGINT, libc::SIGINT),
        ("text", libc::SIGTERM, libc::SIGQUIT),
    ] {
        place.write("gateway.yaml", &format!("{text}log: {{ format: {format} }}\n"));
        // Each start but the first finds what the one before has left.
        let process = place.start();
        place.apply_guide();
        let services = place.done(&["get", "services", "-o", "yaml"]);
        assert!(services.contains("backend-service"), "{services}");
        let busy = busy(&place);
        process.signal(first);
        until("it stops", || place.log().contains("stopping on SIG"));
        process.signal(libc::SIGHUP);
        process.signal(second);
        assert_eq!(process.wait().code(), Some(1), "{}", place.log());
        drop(busy);
        let log = place.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("ended at once by another signal while stopping"), "{log}");
        assert_eq!(last.starts_with('{'), format == "json", "{log}");
        assert!(socket(place.path()).exists(), "left for the next start");
    }
}

fn sigquit_waits_for_nobody_and_leaves_everything_in_order() {
    let place = Place::new();
    let process = place.start();
    place.apply_guide();
    let services = place.done(&["get", "services", "-o", "yaml"]);
    let _busy = busy(&place);
    let asked = Instant::now();
    process.signal(libc::SIGQUIT);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
    assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
    let log = place.log();
    assert!(log.contains("stopping at once on SIGQUIT") && log.contains("stopped: rx "), "{log}");
    assert!(!socket(place.path()).exists(), "the socket is still there");
    let devices = place.network.gateway().run(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("the devices");
    assert!(!devices.contains("pg-host"), "the host pair is still there: {devices}");
    let process = place.start();
    assert_eq!(place.done(&["get", "services", "-o", "yaml"]), services, "what was acknowledged");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
}

/// What the process says to systemd, one datagram after another.
struct Notified(UnixDatagram);

impl Notified {
    fn next(&self) -> Vec<String> {
        let mut text = [0; 256];
        loop {
            let length = self.0.recv(&mut text).expect("a notification");
            let text = String::from_utf8_lossy(&text[..length]);
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines != ["WATCHDOG=1"] {
                return lines;
            }
        }
    }
}

/// Starts a gateway that is ready, and whose notifications are read on.
fn notified(place: &Place, more: &[&str]) -> (Process, Notified) {
    let path = place.path().join("notify-reload");
    let socket = UnixDatagram::bind(&path).expect("the socket systemd would have");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut command = place.run_command("gateway.yaml");
    let log = File::create(place.path().join("log")).expect("a log");
    let process = Process::of(command.args(more).env("NOTIFY_SOCKET", &path).stderr(log));
    let notified = Notified(socket);
    assert_eq!(notified.next(), ["READY=1"], "{}", place.log());
    (process, notified)
}

fn sighup_reads_the_configuration_again_and_names_what_needs_a_restart() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let (process, notified) = notified(&place, &[]);
    place.apply_guide();
    let reload = |config: &str| {
        place.write("gateway.yaml", config);
        process.signal(libc::SIGHUP);
        let begun = notified.next();
        assert_eq!(begun[0], "RELOADING=1");
        let time = begun[1].strip_prefix("MONOTONIC_USEC=").and_then(|time| time.parse::<u64>().ok());
        assert!(begun.len() == 2 && time.is_some_and(|time| time > 0), "{begun:?}");
        assert_eq!(notified.next(), ["READY=1"]);
    };
    let good = configuration(place.path(), "");
    let logged = |text: &str| until(text, || place.log().contains(text));

    let changed = good.replace("65536", "65537").replace("count: 2", "count: 1");
    reload(&format!("{changed}log: {{ level: debug }}\n"));
    logged("log.level is debug now");
    logged("gateway.yaml: changed, and needs a restart: workers.count, flows.max\n");
    // A client that speaks no HTTP is worth a line of level debug.
    UnixStream::connect(socket(place.path())).expect("it listens").write_all(b"nonsense\r\n\r\n").expect("sent");
    logged(" DEBUG connection ended: ");

    reload(&format!("{good}log: {{ level: trace }}\nnonsense: 1\n"));
    logged("gateway.yaml:8: nonsense: unknown key");
    logged("gateway.yaml: not read again: fix the errors above; the configuration stays as it was");
    assert!(!place.log().contains("log.level is trace now"), "nothing of a faulty file takes effect");

    let lines = || place.log().matches("reloaded").count();
    let before = lines();
    reload(&format!("{good}log: {{ level: error }}\n"));
    reload(&format!("{good}log: {{ level: error }}\n"));
    assert_eq!(lines(), before, "which are of level info");
    fs::remove_file(place.path().join("gateway.yaml")).expect("removed");
    process.signal(libc::SIGHUP);
    logged("gateway.yaml: cannot read the configuration: No such file");
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
}

fn sighup_reads_manifests_and_certificate_again() {
    let place = Place::new();
    let listen = configuration(place.path(), "").replace("api: {", "api: { listen: 127.0.0.1:6443,");
    place.write("gateway.yaml", &listen);
    let file = place.write("manifests.yaml", &guide_manifest());
    let process = start_in(place.path(), {
        let mut command = place.run_command("gateway.yaml");
        command.args(["--manifests", &file]);
        command
    });
    let kubeconfig = || place.done(&["kubeconfig"]);
    let (before, identity) = (kubeconfig(), place.path().join("state.db.tls"));

    // What a client has deleted, the unchanged files bring back.
    place.done(&["delete", "service", "backend-service"]);
    process.signal(libc::SIGHUP);
    until("the files are read again", || place.cli(&["get", "service", "backend-service"]).status.success());
    assert_eq!(kubeconfig(), before, "an unchanged certificate stays");

    fs::write(&identity, "nonsense").expect("written");
    process.signal(libc::SIGHUP);
    until("the fault is told", || place.log().contains("api.listen keeps its certificate and token: "));
    assert_eq!(kubeconfig(), before);

    fs::remove_file(&identity).expect("removed");
    process.signal(libc::SIGHUP);
    until("there is another", || place.log().contains("api.listen has another certificate or token now"));
    assert_ne!(kubeconfig(), before);
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
}

fn the_socket_of_a_process_that_is_stopped_for_a_while_is_still_its_own() {
    let place = Place::new();
    let process = place.start();
    place.apply_guide();
    let file = fs::metadata(socket(place.path())).expect("the socket");
    process.signal(libc::SIGSTOP);
    let spare = configuration(place.path(), "host: { pair: false }\n").replace("state.db", "other.db");
    place.write(
        "same-socket.yaml",
        &spare.replace("[{ name: node-1 }, { name: node-2 }, { name: outside }]", "[{ name: spare }]"),
    );
    let gateway = place.network.gateway();
    Veth::new((gateway, "spare"), (place.client(), "spare")).make().expect("a spare interface");
    let told = place.refused(place.run_command("same-socket.yaml"));
    assert!(told.contains("api.sock: another pollgate listens on this socket"), "{told}");
    process.signal(libc::SIGCONT);
    assert!(place.done(&["get", "services"]).contains("backend-service"));
    let now = fs::metadata(socket(place.path())).expect("the socket");
    assert_eq!((now.dev(), now.ino()), (file.dev(), file.ino()));
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
    assert!(!socket(place.path()).exists());
}
