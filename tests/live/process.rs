//! The binary as its users run it: a process that gets ready, is asked, is told to stop, or is killed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use pollgate::lab::topology::{Network, guide};
use pollgate::lab::traffic::{ask_dns, ask_tcp};
use pollgate::lab::{Namespace, Veth};
use serde_json::Value;
use tempfile::TempDir;

use crate::live::support::{
    self, BACKENDS, CLUSTER_IP, DNS, PATIENCE, answered_by, at, configuration, guide_manifest, servers, socket,
};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        run_check_says_what_run_would_do_and_refuses_what_run_refuses,
        it_says_when_it_is_ready_and_stops_in_order_on_a_signal,
        what_was_acknowledged_is_served_after_a_kill_before_anybody_speaks,
        a_host_that_is_not_ready_is_refused_with_what_to_do,
        missing_privileges_are_named,
        whatever_happens_to_its_log_it_serves_and_stops,
        a_host_that_forwards_is_refused_or_put_right_as_the_configuration_says,
        it_says_what_is_wrong_and_when_that_is_over,
        the_watchdog_is_fed_while_it_works,
        a_second_gateway_in_the_same_place_is_refused_and_the_first_goes_on,
        commands_ask_the_running_gateway;
}

pub(crate) const POLLGATE: &str = env!("CARGO_BIN_EXE_pollgate");

/// A directory with what a gateway reads and writes, and the network it runs in.
pub(crate) struct Place {
    pub(crate) network: Network,
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let place =
            Place { network: Network::new(&guide(), 1).expect("a network"), directory: TempDir::new().expect("one") };
        place.write("gateway.yaml", &configuration(place.path(), ""));
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    pub(crate) fn run_command(&self, config: &str) -> Command {
        let mut command = self.network.gateway().command(POLLGATE);
        command.args(["run", "--config"]).arg(self.path().join(config)).env_remove("RUST_LOG");
        command
    }

    /// Starts the gateway and waits until it says to systemd's socket that it is ready.
    pub(crate) fn start(&self) -> Process {
        self.start_with(&[])
    }

    /// The same, with more options.
    pub(crate) fn start_with(&self, options: &[&str]) -> Process {
        let mut command = self.run_command("gateway.yaml");
        command.args(options);
        start_in(self.path(), command)
    }

    /// What the last gateway has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).expect("the log")
    }

    /// A gateway that refuses to start: exit code 1, and what it said.
    pub(crate) fn refused(&self, mut command: Command) -> String {
        let output = command.stdin(Stdio::null()).output().expect("started");
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(output.stdout.is_empty(), "errors belong to stderr");
        told.lines()
            .filter(|line| !line.contains(" INFO ") && !line.contains(" WARN "))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// What `run --check` says on stderr of what it would refuse.
    pub(crate) fn refused_check(&self, command: &mut Command) -> String {
        let output = command.stdin(Stdio::null()).output().expect("started");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).expect("text")
    }

    pub(crate) fn cli(&self, words: &[&str]) -> Output {
        let mut command = Command::new(POLLGATE);
        command.args(words).arg("--socket").arg(socket(self.path())).stdin(Stdio::null()).output().expect("run")
    }

    /// What a command prints that succeeds.
    pub(crate) fn done(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command says on stderr that is refused with exit code 1.
    pub(crate) fn failed(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
        told
    }

    pub(crate) fn apply_guide(&self) {
        let file = self.write("guide.yaml", &guide_manifest());
        self.done(&["apply", "-f", &file]);
    }

    /// What a command says on stderr that succeeds.
    fn warned(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {told}");
        told
    }

    pub(crate) fn client(&self) -> &Namespace {
        &self.network.host("frontend-app").namespace
    }
}

/// Starts a gateway that logs into `directory`, and waits until it says to systemd's socket that it is ready.
pub(crate) fn start_in(directory: &Path, command: Command) -> Process {
    let log = File::create(directory.join("log")).expect("a log");
    start_logging_to(log.into(), directory, command)
}

fn start_logging_to(log: Stdio, directory: &Path, mut command: Command) -> Process {
    let notify = directory.join("notify");
    // The last one's, if there was one.
    drop(fs::remove_file(&notify));
    let ready = UnixDatagram::bind(&notify).expect("the socket systemd would have");
    // systemd's is open to every user too.
    fs::set_permissions(&notify, fs::Permissions::from_mode(0o777)).expect("ours");
    ready.set_read_timeout(Some(PATIENCE)).expect("set");
    command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::null()).stderr(log);
    let process = Process::of(&mut command);
    let mut told = [0; 256];
    let length = ready.recv(&mut told).unwrap_or_else(|error| {
        panic!("not ready: {error}; {}", fs::read_to_string(directory.join("log")).unwrap_or_default())
    });
    assert!(String::from_utf8_lossy(&told[..length]).lines().any(|line| line == "READY=1"));
    process
}

/// A gateway that runs; it is killed if the test ends before it.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn of(command: &mut Command) -> Process {
        Process { child: command.spawn().expect("started") }
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: no pointers; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0, "{}", io::Error::last_os_error());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        until("it has stopped", || self.child.try_wait().expect("a child").is_some());
        self.child.wait().expect("a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail for one that has ended, as it should have.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run_check_says_what_run_would_do_and_refuses_what_run_refuses() {
    let place = Place::new();
    let check = || place.run_command("gateway.yaml").arg("--check").output().expect("run");
    let output = check();
    let told = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty() && told.ends_with("\nIt would run.\n"), "{told}");
    for interface in ["node-1", "node-2", "outside"] {
        assert!(told.contains(&format!("{interface}: veth, ")), "{told}");
    }
    assert!(!place.path().join("state.db").exists(), "the state is left alone");

    let running = place.start();
    let output = check();
    let told = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("it would not run:\nnode-1: another pollgate already polls this interface"), "{told}");
    running.signal(libc::SIGTERM);
    assert!(running.wait().success());
}

fn it_says_when_it_is_ready_and_stops_in_order_on_a_signal() {
    let place = Place::new();
    let _servers = servers(&place.network);
    for (signal, name) in [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT")] {
        let process = place.start();
        place.apply_guide();
        answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(0), "{name}: {}", place.log());
        assert!(!socket(place.path()).exists(), "{name}: the socket is still there");
        assert!(place.log().contains(&format!("stopping on {name}")), "{}", place.log());
        ask_tcp(place.client(), at(CLUSTER_IP), Duration::from_millis(300)).expect_err("nobody serves any more");
    }
}

fn what_was_acknowledged_is_served_after_a_kill_before_anybody_speaks() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let process = place.start();
    place.apply_guide();
    let services = ["get", "services", "-o", "yaml"];
    let pods = ["get", "pods", "-o", "yaml"];
    let before = [place.done(&services), place.done(&pods)];
    process.signal(libc::SIGKILL);
    assert_eq!(process.wait().code(), None, "killed");
    assert!(socket(place.path()).exists(), "a killed process removes nothing");
    let _process = place.start();
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    let name = "backend-service.default.svc.cluster.local";
    assert_eq!(ask_dns(place.client(), at(DNS), name, PATIENCE).expect("an answer").addresses.len(), 1);
    assert_eq!([place.done(&services), place.done(&pods)], before, "the same objects, the same allocations");
    // The Pods, which are read after packets flow, are what endpoints are made of again.
    place.done(&["delete", "pod", "backend-1"]);
    answered_by(20, &BACKENDS[1..], || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
}

fn a_host_that_is_not_ready_is_refused_with_what_to_do() {
    let place = Place::new();
    let good = configuration(place.path(), "");
    let cases = [
        (good.replace("node-2", "eth9"), vec!["the interface eth9 does not exist; the host has ", "interfaces[].name"]),
        (
            good.replace("192.168.50.10]", "192.168.50.1]"),
            vec!["the kernel has 192.168.50.1 on outside", "ip address del"],
        ),
        (good.replace("name: outside", "name: lo"), vec!["the interface lo is not an Ethernet device"]),
        (format!("{good}intrefaces: []\n"), vec!["bad.yaml:", "intrefaces"]),
        (good.replace("addresses: [192.168.50.10]\n", ""), vec!["bad.yaml:", "addresses: "]),
        (
            format!("{good}metrics: {{ listen: 203.0.113.1:9 }}\n"),
            vec!["metrics.listen 203.0.113.1:9: cannot listen: ", "use another address"],
        ),
    ];
    for (config, parts) in cases {
        place.write("bad.yaml", &config);
        let told = place.refused(place.run_command("bad.yaml"));
        assert_eq!(told.lines().count(), 1, "one line a fault: {told}");
        assert!(parts.iter().all(|part| told.contains(part)), "expected {parts:?} in {told:?}");
    }
    let missing = place.refused(place.run_command("missing.yaml"));
    assert!(missing.contains("missing.yaml") && missing.contains("No such file"), "{missing}");
    assert!(!socket(place.path()).exists(), "nothing half started is left");
    assert!(!place.path().join("state.db").exists(), "nor a state that nobody asked for");
}

fn missing_privileges_are_named() {
    let place = Place::new();
    let mut command = place.run_command("gateway.yaml");
    // What an ordinary user's process looks like: it holds no capability for the network.
    let drop_capabilities = || {
        const NET_ADMIN: libc::c_ulong = 12;
        const NET_RAW: libc::c_ulong = 13;
        for capability in [NET_ADMIN, NET_RAW] {
            // SAFETY: no pointers. After exec, root has what the bounding set leaves (capabilities(7)).
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(drop_capabilities) };
    let told = place.refused(command);
    assert!(told.contains("CAP_NET_RAW is missing") && told.contains("CAP_NET_ADMIN is missing"), "{told}");
    assert!(told.contains("run as root, or `setcap"), "{told}");
}

fn whatever_happens_to_its_log_it_serves_and_stops() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("the device");
    let (reader, hangs) = io::pipe().expect("a pipe");
    let (leaves, broken) = io::pipe().expect("a pipe");
    let logs: [(&str, Stdio); 3] = [("full", full().into()), ("hangs", hangs.into()), ("broken", broken.into())];
    let mut leaves = Some(leaves);
    for (name, log) in logs {
        let process = start_logging_to(log, place.path(), place.run_command("gateway.yaml"));
        if name == "broken" {
            leaves.take();
        }
        place.apply_guide();
        answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
        until("lines are lost, and counted", || {
            many_lines(&place);
            let stats: Value = serde_json::from_str(&place.done(&["stats", "-o", "json"])).expect("JSON");
            stats["log_lines_lost"].as_u64().is_some_and(|lost| lost > 0)
        });
        assert!(place.done(&["stats"]).contains(" lines lost: "), "{name}");
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait().code(), Some(0), "{name}");
    }
    drop(reader);
    let json = place.write("json.yaml", &(configuration(place.path(), "") + "log: { format: json }\n"));
    let process = start_in(place.path(), place.run_command(&json));
    process.signal(libc::SIGTERM);
    assert!(process.wait().success());
    let lines: Vec<Value> = place.log().lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let ready =
        |line: &Value| line["level"] == "INFO" && line["message"].as_str().is_some_and(|m| m.starts_with("ready: "));
    assert!(lines.iter().any(ready), "{lines:?}");
    let last = lines.last().and_then(|line| line["message"].as_str());
    assert!(last.is_some_and(|message| message.starts_with("stopped: ")), "the last lines are written: {lines:?}");
}

/// Has the gateway log a line for each of 200 Services: the address they ask for is its kernel's.
fn many_lines(place: &Place) {
    let services = |spec: &str| -> String {
        let one = |n: u32| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{{spec}ports: [{{port: {n}}}]}}\n---\n"
            )
        };
        (1..=200).map(one).collect()
    };
    for spec in ["externalIPs: [192.168.50.1], ", ""] {
        let output = place.cli(&["apply", "-f", &place.write("many.yaml", &services(spec))]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn a_host_that_forwards_is_refused_or_put_right_as_the_configuration_says() {
    let place = Place::new();
    let (gateway, key) = (place.network.gateway(), "net.ipv4.conf.node-2.forwarding");
    gateway.sysctl(key, "1").expect("set");
    let told = place.refused(place.run_command("gateway.yaml"));
    for part in [&format!("{key} is 1"), &format!("sysctl -w {key}=0"), "host.disableForwarding: true"] {
        assert!(told.contains(part), "expected {part:?} in {told:?}");
    }
    assert_eq!(gateway.read_sysctl(key).expect("a value"), "1", "refused, not changed");
    place.write("gateway.yaml", &configuration(place.path(), "host: { disableForwarding: true }\n"));
    let process = place.start();
    assert_eq!(gateway.read_sysctl(key).expect("a value"), "0");
    assert!(place.log().contains(&format!("set {key}=0")), "{}", place.log());
    // And while it runs, whatever else is wrong.
    gateway.down("outside").expect("down");
    gateway.sysctl(key, "1").expect("set");
    until("forwarding is switched off again", || gateway.read_sysctl(key).expect("a value") == "0");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
}

fn asked(place: &Place, path: &str) -> (u16, String) {
    support::asked(&socket(place.path()), path)
}

fn it_says_what_is_wrong_and_when_that_is_over() {
    let place = Place::new();
    let gateway = place.network.gateway();
    let process = place.start();
    let all = asked(&place, "/readyz?verbose");
    for name in ["ping", "store", "control", "worker-0", "interface-node-1", "network", "forwarding", "checks"] {
        assert!(all.1.contains(&format!("[+]{name} ok\n")), "{name}: {all:?}");
    }
    assert_eq!((all.0, asked(&place, "/readyz")), (200, (200, "ok".to_owned())));
    let is_well = |name: &str| {
        until(name, || asked(&place, "/readyz").0 == 200);
        until("the log says so", || place.log().contains(&format!("{name}: all is well again")));
        assert!(place.done(&["stats"]).contains(" passed\n"));
    };
    let is_wrong = |name: &str, fault: &str| {
        until(name, || asked(&place, "/readyz").1.contains(&format!("[-]{name} failed: {fault}")));
        assert_eq!(asked(&place, &format!("/readyz/{name}")).0, 500);
        assert_eq!(asked(&place, &format!("/readyz?exclude={name}")), (200, "ok".to_owned()));
        assert_eq!(asked(&place, "/livez"), (200, "ok".to_owned()), "a restart does not help");
        until("the log says so", || place.log().contains(&format!("{name}: {fault}")));
        assert!(place.done(&["stats"]).contains(&format!("\n  {name}: {fault}")));
    };

    gateway.down("outside").expect("down");
    is_wrong("interface-outside", "the interface outside is down: ip link set outside up");
    gateway.up("outside").expect("up");
    is_well("interface-outside");

    let key = "net.ipv4.conf.node-2.forwarding";
    gateway.sysctl(key, "1").expect("set");
    is_wrong("forwarding", &format!("{key} is 1, so the kernel would also forward Service traffic"));
    gateway.sysctl(key, "0").expect("set");
    is_well("forwarding");

    gateway.remove("node-2").expect("removed");
    is_wrong("interface-node-2", "the interface node-2 does not exist");
    Veth::new((gateway, "node-2"), (place.client(), "spare")).make().expect("another of the same name");
    gateway.up("node-2").expect("up");
    is_well("interface-node-2");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
}

fn the_watchdog_is_fed_while_it_works() {
    let place = Place::new();
    let notify = UnixDatagram::bind(place.path().join("watchdog")).expect("the socket systemd would have");
    notify.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut command = place.run_command("gateway.yaml");
    command.env("NOTIFY_SOCKET", place.path().join("watchdog"));
    let log = File::create(place.path().join("log")).expect("a log");
    let process = Process::of(command.stderr(log));
    let told = || {
        let mut text = [0; 256];
        let length = notify.recv(&mut text).unwrap_or_else(|error| panic!("{error}; {}", place.log()));
        String::from_utf8_lossy(&text[..length]).trim().to_owned()
    };
    assert_eq!([told(), told(), told()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    // A process that is stopped feeds nothing; systemd would restart it.
    process.signal(libc::SIGSTOP);
    notify.set_nonblocking(true).expect("set");
    while notify.recv(&mut [0; 256]).is_ok() {}
    notify.set_nonblocking(false).expect("set");
    notify.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
    assert!(notify.recv(&mut [0; 256]).is_err(), "stopped, and still at work");
    process.signal(libc::SIGCONT);
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
}

fn a_second_gateway_in_the_same_place_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let _process = place.start();
    place.apply_guide();
    let elsewhere = configuration(place.path(), "").replace("api.sock", "other.sock").replace("state.db", "other.db");
    place.write("same-interfaces.yaml", &elsewhere);
    let told = place.refused(place.run_command("same-interfaces.yaml"));
    assert!(told.contains("node-1: another pollgate already polls this interface"), "{told}");
    // An interface the first one does not poll, so that only the files are in the way.
    let gateway = place.network.gateway();
    Veth::new((gateway, "spare"), (place.client(), "spare")).make().expect("a spare interface");
    gateway.up("spare").expect("up");
    let spare = configuration(place.path(), "")
        .replace("[{ name: node-1 }, { name: node-2 }, { name: outside }]", "[{ name: spare }]");
    place.write("same-pair.yaml", &spare);
    let told = place.refused(place.run_command("same-pair.yaml"));
    assert!(told.contains("another pollgate on this host has the host pair"), "{told}");
    let spare = format!("{spare}host: {{ pair: false }}\n");
    place.write("same-state.yaml", &spare.replace("api.sock", "other.sock"));
    let told = place.refused(place.run_command("same-state.yaml"));
    assert!(told.contains("state.db: in use by another pollgate"), "{told}");
    place.write("same-socket.yaml", &spare.replace("state.db", "other.db"));
    let told = place.refused(place.run_command("same-socket.yaml"));
    assert!(told.contains("api.sock") && told.contains("api.socket"), "which, and what to change: {told}");
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    assert!(place.done(&["get", "services"]).contains("backend-service"), "the first one's socket is still its own");
}

fn commands_ask_the_running_gateway() {
    let place = Place::new();
    let _servers = servers(&place.network);
    let nobody = place.failed(&["get", "services"]);
    assert!(nobody.contains("no gateway at") && nobody.contains("pollgate run --config FILE"), "{nobody}");
    let _process = place.start();
    place.apply_guide();
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    let table = place.done(&["get", "services"]);
    assert!(table.starts_with("NAME ") && table.contains("192.168.50.200"), "{table}");
    let described = place.done(&["describe", "service", "backend-service"]);
    assert!(described.contains("10.244.1.10:8080,10.244.2.15:8080"), "{described}");
    let explained = place.done(&["explain", "service", "backend-service"]);
    assert!(explained.contains("backend-canary") && explained.contains("v2 ≠ v1"), "{explained}");
    counters(&place);
    broken_manifests(&place);
    assert_eq!(
        place.done(&["delete", "service", "backend-service"]),
        "service \"backend-service\" deleted from default namespace\n"
    );
    let gone = place.failed(&["get", "service", "backend-service"]);
    assert!(gone.contains("NotFound") && gone.contains("backend-service"), "{gone}");
    assert_eq!(place.cli(&["get"]).status.code(), Some(2), "typed wrongly");
}

/// `stats`, for people and for programs.
fn counters(place: &Place) {
    let adds_up = "It adds up: rx + originated = tx + passed + consumed + dropped + held";
    until("the counters add up", || place.done(&["stats"]).contains(adds_up));
    let stats: Value = serde_json::from_str(&place.done(&["stats", "-o", "json"])).expect("JSON");
    let number = |name: &str| stats["counters"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"));
    // Three packets of the handshake, and a request, a reply and a FIN each way; acknowledgements may ride along.
    assert!(number("rx") >= 20 * 7 && number("tx") >= 20 * 7, "{stats}");
    assert_eq!(number("flows_opened"), 20);
    assert_eq!(stats["workers"].as_array().map(Vec::len), Some(2));
    let services = stats["services"].as_object().expect("services");
    let flows: Vec<_> = services.iter().filter(|(_, counts)| counts["flows"] == 20).map(|(name, _)| name).collect();
    assert!(flows.len() == 1 && flows[0].contains("backend-service"), "{services:?}");
}

/// A manifest with faults is told with file and line, and none of it is applied.
fn broken_manifests(place: &Place) {
    let good = "apiVersion: v1\nkind: Service\nmetadata: { name: half }\nspec: { ports: [{ port: 80 }] }\n";
    let file = place.write("broken.yaml", &format!("{good}---\nkind: Service\nspec: {{ ports: [] }}\n"));
    let told = place.failed(&["apply", "-f", &file]);
    for fault in ["apiVersion", "metadata.name"] {
        let line = told.lines().find(|line| line.contains(&format!(" {fault}: ")));
        let line = line.unwrap_or_else(|| panic!("{fault} is not told: {told}"));
        assert!(line.starts_with(&format!("{file}:6: ")), "{line}");
    }
    // What only the gateway can know comes with file and line too.
    let taken =
        format!("{good}---\n{}", good.replace("half", "other").replace("spec: {", "spec: { clusterIP: 10.96.0.50,"));
    let file = place.write("taken.yaml", &taken);
    let told = place.failed(&["apply", "-f", &file]);
    assert!(told.contains("taken.yaml:") && told.contains("10.96.0.50"), "{told}");
    assert!(place.failed(&["get", "service", "half"]).contains("NotFound"), "nothing half applied");
    let class = "apiVersion: v1\nkind: Service\nmetadata: {name: other}\n\
                 spec: {type: LoadBalancer, loadBalancerClass: example.com/x, ports: [{port: 80}]}\n";
    let warned = place.warned(&["create", "-f", &place.write("other.yaml", class)]);
    assert!(warned.starts_with("Warning: spec.loadBalancerClass: no address is assigned here"), "{warned}");
}
