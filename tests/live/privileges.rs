//! What the process and its threads may still do once they run: as root, as another user, and in a user namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pollgate::lab::traffic::{ask_dns, ask_tcp};
use pollgate_common::pair;
use tempfile::TempDir;

use crate::live::metrics::scrape;
use crate::live::process::{POLLGATE, Place, Process, start_in};
use crate::live::support::{BACKENDS, CLUSTER_IP, DNS, PATIENCE, answered_by, at, configuration, servers};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, IoUring, Lab, Program, RootAndOrdinaryUser};
use crate::shared::needs::ORDINARY;
use crate::shared::until;

tests! {
    [Lab] =>
        each_thread_has_the_capabilities_of_its_role,
        threads_that_cannot_be_limited_keep_it_from_starting,
        what_is_refused_is_an_error_and_the_gateway_goes_on;
    [Lab, RootAndOrdinaryUser] =>
        packet_ports_serve_as_another_user_and_the_state_stays,
        whoever_is_root_again_has_the_files_again,
        a_user_that_cannot_be_is_refused_with_what_to_do,
        files_that_are_not_its_own_are_not_given_away;
    [Lab, RootAndOrdinaryUser, Program("setpriv")] =>
        a_service_manager_may_start_it_as_its_user;
    [Lab, RootAndOrdinaryUser, IoUring] =>
        uring_ports_serve_as_another_user;
    [Lab, Bpf, RootAndOrdinaryUser] =>
        xdp_ports_serve_as_another_user;
}

/// Bits of capabilities(7).
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const IPC_LOCK: u64 = 1 << 14;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// A thread of a running gateway, as `/proc/PID/task/TID/status` shows it.
#[derive(Debug)]
struct Thread {
    name: String,
    status: BTreeMap<String, String>,
}

impl Thread {
    fn read(directory: &Path) -> Option<Thread> {
        // One that has just ended is none.
        let status = fs::read_to_string(directory.join("status")).ok()?;
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        let status: BTreeMap<_, _> = lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        Some(Thread { name: status["Name"].clone(), status })
    }

    /// A set of capabilities.
    fn set(&self, key: &str) -> u64 {
        u64::from_str_radix(&self.status[key], 16).expect("bits")
    }

    /// Real, effective, saved and file system's.
    fn ids(&self, key: &str) -> Vec<u32> {
        self.status[key].split_whitespace().map(|id| id.parse().expect("a number")).collect()
    }
}

/// Those of a gateway that is ready. The last ones may just have been started: they get their names and give up their rights before
/// they do anything else.
fn threads(process: &Process) -> Vec<Thread> {
    let read = || -> Vec<Thread> {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("a process");
        tasks.filter_map(|task| Thread::read(&task.expect("a thread").path())).collect()
    };
    let all = ["pollgate", "log", "worker-0", "ports", "control", "api", "disk", "network", "dns", "watch"];
    until("all threads have begun", || {
        let threads = read();
        let has = |name: &&str| threads.iter().filter(|thread| thread.name == *name).count() == 1;
        all.iter().all(has)
            && threads.iter().all(|thread| thread.name == "ports" || thread.set("CapPrm") & NET_RAW == 0)
    });
    read()
}

/// The capabilities of a thread whose gateway has the host pair and does not switch forwarding off.
fn expected(name: &str, bound: u64) -> u64 {
    match name {
        // The first thread removes the pair; the other asks for neighbours.
        "pollgate" | "network" => NET_ADMIN,
        // It opens ports again.
        "ports" => bound & (NET_ADMIN | NET_RAW | BPF | PERFMON | IPC_LOCK),
        "log" | "control" | "disk" | "announcer" | "dns" | "health" | "watch" | "manifests" | "metrics" => 0,
        _ if name.starts_with("worker-") || name.starts_with("api") => 0,
        _ => panic!("nobody knows the thread {name}"),
    }
}

/// Every thread is what it should be, and has been given nothing that it could pass on. `bound`: what the process may have at all.
fn are_narrow(process: &Process, bound: u64) {
    let threads = threads(process);
    let names: Vec<&str> = threads.iter().map(|thread| thread.name.as_str()).collect();
    for name in
        ["pollgate", "log", "worker-0", "worker-1", "control", "api", "disk", "network", "dns", "health", "watch"]
    {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    for thread in &threads {
        let name = &thread.name;
        let expected = expected(name, bound);
        assert_eq!((thread.set("CapEff"), thread.set("CapPrm")), (expected, expected), "{name}: {thread:?}");
        assert_eq!((thread.set("CapInh"), thread.set("CapAmb")), (0, 0), "{name}: {thread:?}");
        assert_eq!(thread.set("CapBnd"), bound, "{name}: {thread:?}");
        let filtered = (thread.status["NoNewPrivs"].as_str(), thread.status["Seccomp"].as_str());
        assert_eq!(filtered, ("1", "2"), "{name}: {thread:?}");
    }
}

fn belongs_to(process: &Process, user: u32) {
    for thread in threads(process) {
        assert_eq!((thread.ids("Uid"), thread.ids("Gid")), (vec![user; 4], vec![user; 4]), "{thread:?}");
        assert!(user == 0 || thread.ids("Groups").iter().all(|group| *group == user), "{thread:?}");
    }
}

/// A network with a gateway whose files are in a directory of their own, and another user may pass through to it.
struct Site {
    place: Place,
    own: PathBuf,
}

impl Site {
    fn new() -> Site {
        let place = Place::new();
        let own = place.path().join("own");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o711)).expect("ours");
        // Where commands look for the socket.
        symlink(own.join("api.sock"), place.path().join("api.sock")).expect("a link");
        Site { place, own }
    }

    /// Starts a gateway with these ports.
    fn start(&self, backend: &str, more: &str) -> Process {
        let text = configuration(&self.own, more).replace("{ name: ", &format!("{{ backend: {backend}, name: "));
        self.place.write("gateway.yaml", &text);
        start_in(self.place.path(), self.place.run_command("gateway.yaml"))
    }

    /// As the ordinary user.
    fn start_as_other(&self, backend: &str, more: &str) -> Process {
        self.start(backend, &format!("run: {{ user: {ORDINARY}, group: {ORDINARY} }}\n{more}"))
    }

    fn serves(&self) {
        answered_by(20, &BACKENDS, || ask_tcp(self.place.client(), at(CLUSTER_IP), PATIENCE));
        let name = "backend-service.default.svc.cluster.local";
        assert_eq!(ask_dns(self.place.client(), at(DNS), name, PATIENCE).expect("an answer").addresses.len(), 1);
    }

    fn stop(&self, process: Process) {
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait().code(), Some(0), "{}", self.place.log());
        assert!(!self.own.join("api.sock").exists(), "the socket is left; {}", self.place.log());
        let links = self.place.network.gateway().command("ip").args(["link", "show", pair::HOST]).output().expect("ip");
        assert!(!links.status.success(), "the host pair is left; {}", self.place.log());
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let found = fs::metadata(self.own.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (found.uid(), found.gid())
    }
}

fn each_thread_has_the_capabilities_of_its_role() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    let process = site.start("packet", "metrics: { listen: 127.0.0.1:9090 }\n");
    site.place.apply_guide();
    site.serves();
    are_narrow(&process, NET_ADMIN | NET_RAW);
    assert!(threads(&process).iter().any(|thread| thread.name == "metrics"));
    // It reads the process from a file that was opened before.
    let page = scrape(site.place.network.gateway(), at("127.0.0.1:9090"), "/metrics");
    assert!(page.contains("\nprocess_cpu_seconds_total ") && page.contains("\npollgate_rx_frames_total{"), "{page}");
    belongs_to(&process, 0);
    site.stop(process);
    // A gateway without a pair removes none, and one that switches forwarding off needs the right to do so later.
    let process = site.start("packet", "host: { pair: false, disableForwarding: true }\nrun: { sandbox: false }\n");
    let threads = threads(&process);
    let capabilities =
        |name: &str| threads.iter().find(|thread| thread.name == name).map(|thread| thread.set("CapEff"));
    assert_eq!((capabilities("pollgate"), capabilities("watch")), (Some(0), Some(NET_ADMIN)));
    // Without the sandbox there are no filters, and that is said.
    assert!(threads.iter().all(|thread| thread.status["Seccomp"] == "0" && thread.status["NoNewPrivs"] == "1"));
    assert!(site.place.log().contains("run.sandbox is false: threads are not limited"), "{}", site.place.log());
    let check = site.place.run_command("gateway.yaml").arg("--check").output().expect("run");
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(told.contains("\nat start: run.sandbox is false"), "{told}");
    site.stop(process);
}

/// Has the command run where a system call fails, as in a container that forbids it; `first`: only with this first argument.
fn forbid(command: &mut Command, call: libc::c_long, first: Option<u32>, error: libc::c_int) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).expect("small"), jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    let refuse = libc::SECCOMP_RET_ERRNO | error.cast_unsigned();
    // The number of the call is at offset 0 of struct seccomp_data, the lower half of the first argument at 16.
    let filter = [
        statement(load, 0, 0, 0),
        statement(equal, 0, 3, u32::try_from(call).expect("small")),
        statement(load, 0, 0, 16),
        first.map_or_else(|| statement(ret, 0, 0, refuse), |first| statement(equal, 0, 1, first)),
        statement(ret, 0, 0, refuse),
        statement(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program =
            libc::sock_fprog { len: u16::try_from(filter.len()).expect("short"), filter: filter.as_ptr().cast_mut() };
        // SAFETY: the kernel reads the program and its instructions, which are alive.
        let results = unsafe {
            let no_new = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            (no_new, libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
        };
        if results == (0, 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}

fn threads_that_cannot_be_limited_keep_it_from_starting() {
    let site = Site::new();
    let configure = |more: &str| site.place.write("gateway.yaml", &configuration(&site.own, more));
    let under = |call, first, error| {
        let mut command = site.place.run_command("gateway.yaml");
        forbid(&mut command, call, first, error);
        command
    };
    let (set_filter, ask) = (Some(libc::SECCOMP_SET_MODE_FILTER), Some(libc::SECCOMP_GET_ACTION_AVAIL));
    configure("");

    // Filters exist, and a thread cannot have one. The log's is the first.
    let told = site.place.refused(under(libc::SYS_seccomp, set_filter, libc::EPERM));
    assert!(
        told.contains("the thread log cannot be limited to the system calls of its part: Operation not permitted"),
        "{told}"
    );
    assert!(told.contains("or set run.sandbox: false"), "{told}");
    let told = site.place.refused(under(libc::SYS_seccomp, ask, libc::EPERM));
    assert!(
        told.contains("run.sandbox: threads cannot be limited to the system calls of their parts: seccomp"),
        "{told}"
    );
    assert!(!site.own.join("api.sock").exists() && !site.own.join("state.db").exists(), "nothing was made");
    // `run --check` says so, too.
    let mut check = under(libc::SYS_seccomp, ask, libc::EPERM);
    let told = site.place.refused_check(check.arg("--check"));
    assert!(told.contains("run.sandbox: threads cannot be limited"), "{told}");

    let plain = site.place.run_command("gateway.yaml").arg("--check").output().expect("run");
    // A kernel without Landlock has nothing to refuse.
    if !String::from_utf8_lossy(&plain.stdout).contains("files are not limited") {
        let told = site.place.refused(under(libc::SYS_landlock_restrict_self, None, libc::EPERM));
        assert!(
            told.contains("run.sandbox: threads cannot be limited to the files of their parts: Landlock"),
            "{told}"
        );
    }

    // A kernel that has neither is no reason: the log says so once.
    let is_absent = |text: &str| site.place.log().matches(text).count() == 1;
    let process = start_in(site.place.path(), under(libc::SYS_seccomp, ask, libc::ENOSYS));
    assert!(is_absent("system calls are not limited: no seccomp filters"), "{}", site.place.log());
    site.stop(process);
    let process = start_in(site.place.path(), under(libc::SYS_landlock_create_ruleset, None, libc::ENOSYS));
    assert!(is_absent("files are not limited: "), "{}", site.place.log());
    site.stop(process);
    configure("run: { sandbox: false }\n");
    let process = start_in(site.place.path(), under(libc::SYS_seccomp, set_filter, libc::EPERM));
    site.stop(process);
}

/// A gateway follows manifests that lead elsewhere: it may read only what was there when it started.
fn what_is_refused_is_an_error_and_the_gateway_goes_on() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    let elsewhere = TempDir::new().expect("a directory");
    let service = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n")
    };
    fs::create_dir_all(site.place.path().join("followed/manifests")).expect("made");
    let manifests = site.place.path().join("followed/manifests");
    fs::write(manifests.join("first.yaml"), service("first")).expect("written");
    fs::write(elsewhere.path().join("second.yaml"), service("second")).expect("written");
    site.place.write("gateway.yaml", &configuration(&site.own, ""));
    let mut command = site.place.run_command("gateway.yaml");
    command.arg("--manifests").arg(&manifests);
    let process = start_in(site.place.path(), command);
    symlink(elsewhere.path().join("second.yaml"), manifests.join("second.yaml")).expect("a link");
    until("the file is refused", || site.place.log().contains("Permission denied"));
    assert!(site.place.done(&["get", "services"]).contains("first"));
    assert!(site.place.failed(&["get", "service", "second"]).contains("NotFound"));
    // Its own files are still followed, also when the directory is another one.
    fs::remove_file(manifests.join("second.yaml")).expect("removed");
    fs::rename(&manifests, site.place.path().join("followed/old")).expect("renamed");
    fs::create_dir(&manifests).expect("made");
    fs::write(manifests.join("third.yaml"), service("third")).expect("written");
    until("the new directory is followed", || site.place.cli(&["get", "service", "third"]).status.success());
    site.place.apply_guide();
    site.serves();
    site.stop(process);
}

fn packet_ports_serve_as_another_user_and_the_state_stays() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    let listen = "api: { listen: 127.0.0.1:643, ";
    let with_https = |text: &str| text.replace("api: { ", listen);
    // Root's files first, as of a gateway that has never had a user.
    let text = with_https(&configuration(&site.own, ""));
    site.place.write("gateway.yaml", &text);
    let process = start_in(site.place.path(), site.place.run_command("gateway.yaml"));
    site.place.apply_guide();
    site.serves();
    site.stop(process);
    for name in ["", "state.db", "state.db.tls"] {
        assert_eq!(site.owner(name), (0, 0), "{name}");
    }
    // The port is one that only a capability lets it listen on, which no thread has later.
    let run = format!("run: {{ user: {ORDINARY}, group: {ORDINARY} }}\nhost: {{ disableForwarding: true }}\n");
    site.place.write("gateway.yaml", &with_https(&configuration(&site.own, &run)));
    for round in 0..2 {
        let process = start_in(site.place.path(), site.place.run_command("gateway.yaml"));
        // Before any client has spoken.
        site.serves();
        belongs_to(&process, ORDINARY);
        for thread in threads(&process).iter().filter(|thread| thread.name != "watch") {
            let ports = NET_ADMIN | NET_RAW | BPF | PERFMON | IPC_LOCK;
            assert_eq!(thread.set("CapEff"), expected(&thread.name, ports), "{thread:?}");
        }
        for name in ["", "state.db", "state.db.tls", "api.sock"] {
            assert_eq!(site.owner(name).0, ORDINARY, "{name}");
        }
        assert_eq!(site.owner("api.sock"), (ORDINARY, ORDINARY), "whose group may use it");
        let mode = fs::metadata(site.own.join("api.sock")).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        // It writes, and what it has written is there in the next round.
        let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: round-{round} }}\n");
        let file = site.place.write("map.yaml", &map);
        site.place.done(&["apply", "-f", &file]);
        assert!(site.place.done(&["get", "configmaps"]).contains("round-0"));
        // It still may switch off forwarding.
        let (gateway, key) = (site.place.network.gateway(), "net.ipv4.conf.node-2.forwarding");
        gateway.sysctl(key, "1").expect("set");
        until("forwarding is off", || gateway.read_sysctl(key).expect("a value") == "0");
        site.stop(process);
    }
}

fn whoever_is_root_again_has_the_files_again() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    let process = site.start_as_other("packet", "");
    site.place.apply_guide();
    are_narrow(&process, NET_ADMIN | NET_RAW);
    // It may still make the host pair, with its sysctls.
    site.place.network.gateway().remove(pair::HOST).expect("removed");
    until("the host pair is polled again", || site.place.log().contains("pg-data is polled again by packet"));
    answered_by(20, &BACKENDS, || ask_tcp(site.place.network.gateway(), at(CLUSTER_IP), PATIENCE));
    site.stop(process);
    assert_eq!(site.owner("state.db"), (ORDINARY, ORDINARY));
    let process = site.start("packet", "");
    site.serves();
    belongs_to(&process, 0);
    assert_eq!((site.owner("").0, site.owner("state.db").0), (0, 0));
    site.stop(process);
}

/// With ambient capabilities, more of them than it needs, and a run.user that it is already.
fn a_service_manager_may_start_it_as_its_user() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    fs::create_dir(&site.own).expect("made");
    std::os::unix::fs::chown(&site.own, Some(ORDINARY), Some(ORDINARY)).expect("root may");
    let text = configuration(&site.own, &format!("run: {{ user: {ORDINARY} }}\n"));
    let file = site.place.write("gateway.yaml", &text.replace("{ name: ", "{ backend: packet, name: "));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let mut command = site.place.network.gateway().command("setpriv");
    let capabilities = "-all,+net_raw,+net_admin,+sys_time";
    command.args(["--bounding-set", capabilities, "--inh-caps", capabilities, "--ambient-caps", capabilities]);
    let user = ORDINARY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    command.args([POLLGATE, "run", "--config", &file]).env_remove("RUST_LOG");
    let process = start_in(site.place.path(), command);
    site.place.apply_guide();
    site.serves();
    belongs_to(&process, ORDINARY);
    // It has no right to reduce the bounding set, which is whole what it was started with.
    const SYS_TIME: u64 = 1 << 25;
    are_narrow(&process, NET_ADMIN | NET_RAW | SYS_TIME);
    site.stop(process);
}

fn uring_ports_serve_as_another_user() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    let process = site.start_as_other("uring", "");
    site.place.apply_guide();
    site.serves();
    are_narrow(&process, NET_ADMIN | NET_RAW);
    belongs_to(&process, ORDINARY);
    assert!(site.place.log().contains("node-1 is polled by uring"), "{}", site.place.log());
    site.stop(process);
}

fn xdp_ports_serve_as_another_user() {
    let site = Site::new();
    let _servers = servers(&site.place.network);
    let text = configuration(&site.own, &format!("run: {{ user: {ORDINARY}, group: {ORDINARY} }}\n"));
    let text = text.replace("{ name: ", "{ backend: xdp, name: ").replace("count: 2", "count: 1");
    site.place.write("gateway.yaml", &text);
    let process = start_in(site.place.path(), site.place.run_command("gateway.yaml"));
    site.place.apply_guide();
    site.serves();
    let bound = NET_ADMIN | NET_RAW | BPF | PERFMON | IPC_LOCK;
    for thread in threads(&process) {
        assert_eq!((thread.set("CapEff"), thread.set("CapBnd")), (expected(&thread.name, bound), bound), "{thread:?}");
    }
    belongs_to(&process, ORDINARY);
    assert!(site.place.log().contains("node-1 is polled by xdp"), "{}", site.place.log());
    site.stop(process);
}

/// Has the command run as another user, once it is in its namespace.
fn become_other(command: &mut Command, user: u32) {
    let become_it = move || {
        // SAFETY: no pointers.
        let results = unsafe { (libc::setresgid(user, user, user), libc::setresuid(user, user, user)) };
        if results == (0, 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(become_it) };
}

fn a_user_that_cannot_be_is_refused_with_what_to_do() {
    let site = Site::new();
    let refused = |run: &str, user: Option<u32>| {
        site.place.write("gateway.yaml", &configuration(&site.own, &format!("run: {run}\n")));
        let mut command = site.place.run_command("gateway.yaml");
        if let Some(user) = user {
            become_other(&mut command, user);
        }
        site.place.refused(command)
    };
    let told = refused("{ user: no-such-user }", None);
    assert!(told.contains("run.user: there is no user no-such-user: create it (useradd"), "{told}");
    let told = refused("{ group: no-such-group }", None);
    assert!(told.contains("run.group: there is no group no-such-group: create it (groupadd"), "{told}");
    fs::set_permissions(site.place.path().join("gateway.yaml"), fs::Permissions::from_mode(0o644)).expect("ours");
    let told = refused("{ user: root }", Some(ORDINARY));
    assert!(
        told.contains(&format!("belongs to the user {ORDINARY} and cannot become root: start it as root")),
        "{told}"
    );
    let mut check = site.place.run_command("gateway.yaml");
    become_other(check.arg("--check"), ORDINARY);
    let told = site.place.refused_check(&mut check);
    assert!(told.contains("cannot become root") && told.contains("CAP_NET_RAW is missing ("), "{told}");
    assert!(told.contains("; packet sockets on node-1, node-2, outside): run as root"), "{told}");
    assert!(!site.own.exists(), "nothing was made");
}

fn files_that_are_not_its_own_are_not_given_away() {
    let site = Site::new();
    let run = format!("run: {{ user: {ORDINARY}, group: {ORDINARY} }}\n");
    let text = configuration(&site.own, &run);
    site.place.write("gateway.yaml", &text);
    fs::create_dir(&site.own).expect("made");
    // A directory that somebody has made for something else.
    let told = site.place.refused(site.place.run_command("gateway.yaml"));
    assert!(told.contains(&format!("belongs to others and the user {ORDINARY} cannot write there: chown")), "{told}");
    assert_eq!(site.owner(""), (0, 0));
    // One with files of others.
    let secret = site.own.join("secret");
    fs::write(&secret, "root's").expect("written");
    let told = site.place.refused(site.place.run_command("gateway.yaml"));
    assert!(told.contains(&format!("belongs to others and the user {ORDINARY} cannot write there: chown")), "{told}");
    assert_eq!((site.owner(""), site.owner("secret")), ((0, 0), (0, 0)));
    // A file of root's under another name, in a directory that the user may write.
    std::os::unix::fs::chown(&site.own, Some(ORDINARY), None).expect("root may");
    fs::hard_link(&secret, site.own.join("state.db")).expect("a second name");
    let told = site.place.refused(site.place.run_command("gateway.yaml"));
    assert!(told.contains("it is not an ordinary file of one name"), "{told}");
    fs::remove_file(site.own.join("state.db")).expect("removed");
    symlink(&secret, site.own.join("state.db")).expect("a link");
    let told = site.place.refused(site.place.run_command("gateway.yaml"));
    assert!(told.contains("it is not an ordinary file of one name"), "{told}");
    assert_eq!(site.owner("secret"), (0, 0));
}
