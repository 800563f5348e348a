//! `pollgate demo`, the program, as a user runs it: its exit code, its key lines, and that it leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use pollgate::lab;
use tempfile::TempDir;

use crate::shared::harness::tests;
use crate::shared::needs::Need::{Namespaces, RootAndOrdinaryUser};
use crate::shared::needs::ORDINARY;
use crate::shared::until;

tests! {
    [] => where_no_namespace_can_be_made_it_says_so_in_a_line;
    [Namespaces] =>
        the_story_is_told_and_nothing_is_left_behind,
        a_kept_lab_can_be_entered_until_a_signal,
        a_signal_in_the_middle_leaves_nothing_behind;
    [RootAndOrdinaryUser] => an_ordinary_user_sees_the_same_story;
}

const BINARY: &str = env!("CARGO_BIN_EXE_pollgate");

/// Lines that must be there, in this order, whoever runs it.
const STORY: [&str; 27] = [
    "$ pollgate get services",
    "backend-service        ClusterIP      10.96.0.50 ",
    "external-service       ExternalName   <none>          my.database.example.com",
    "8081:30081/TCP",
    "backend-1       10.244.1.10  app=backend,version=v1   match",
    "backend-2       10.244.2.15  app=backend,version=v1   match",
    "backend-canary  10.244.2.22  app=backend,version=v2   miss   version is v2, not v1",
    "frontend-1      10.244.1.20  app=frontend,version=v1  miss   app is frontend, not backend",
    "backend-service.default.svc.cluster.local   NOERROR   A 10.96.0.50",
    "no-such-service.default.svc.cluster.local   NXDOMAIN",
    "external-service.default.svc.cluster.local  NOERROR   CNAME my.database.example.com",
    "ok     only backend-1 and backend-2 answered, evenly",
    "ok     the Pods saw frontend-app's own address, 10.244.1.5, as the source",
    "http://192.168.50.10:30081/",
    "ok     only backend-1 and backend-2 answered, evenly",
    "ok     the Pods saw the gateway's address, 192.168.50.10",
    "ok     its name has an AAAA record with the IPv6 ClusterIP",
    "ok     only backend-1 and backend-2 answered, evenly",
    "ok     over IPv6 too, the Pods saw frontend-app's own address, fd00:10:244:1::5",
    "has no endpoints: refused",
    "10.96.0.50:9999: refused",
    "ok     backend-2 is no longer an endpoint",
    "ok     only backend-1 answered",
    "ok     only backend-1 and backend-2 answered, evenly",
    "ok     rx + originated = tx + passed + consumed + drops + held",
    "The Service has no usable endpoint; the client was refused.",
    "checks passed, in",
];

/// Somewhere for the program's files; whoever runs it may write there.
fn workplace() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("a directory for everybody");
    directory
}

/// The demo, in a process group of its own, with its temporary files in `files`.
fn demo(binary: &Path, files: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("demo").env("TMPDIR", files).env("HOME", files).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end; answers what it printed, and its process group.
fn finished(mut command: Command) -> (Output, u32) {
    let child = command.spawn().expect("the program starts");
    let group = child.id();
    (child.wait_with_output().expect("its output"), group)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_story(printed: &str) {
    let mut rest = printed;
    for line in STORY {
        let Some(at) = rest.find(line) else { panic!("{line:?} is missing, or not in its place, in\n{printed}") };
        rest = &rest[at + line.len()..];
    }
    assert!(!printed.contains("WRONG") && !printed.contains('\x1b'), "{printed}");
    let wide = printed.lines().find(|line| line.chars().count() > 100);
    assert_eq!(wide, None, "a line wider than 100 columns");
}

/// No process of its group, no file, no name of a namespace.
fn assert_nothing_left(group: u32, files: &Path) {
    let processes: Vec<PathBuf> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| process_group(path) == Some(group))
        .collect();
    assert_eq!(processes, Vec::<PathBuf>::new(), "processes of the demo");
    let left: Vec<_> = fs::read_dir(files).expect("the directory").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "files of the demo");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names: Vec<_> = names.filter(|name| name.to_string_lossy().contains("frontend-app")).collect();
    assert!(names.is_empty(), "namespaces of the demo: {names:?}");
}

/// The fifth field of `/proc/PID/stat`; the second is in parentheses and may hold anything.
fn process_group(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

fn assert_demo_works(command: Command, files: &Path) {
    let (output, group) = finished(command);
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{errors}\n{printed}");
    assert_eq!(errors, "");
    assert_story(&printed);
    assert_nothing_left(group, files);
}

fn the_story_is_told_and_nothing_is_left_behind() {
    let files = workplace();
    assert_demo_works(demo(Path::new(BINARY), files.path()), files.path());
}

/// For an ordinary user, the test above is that already.
fn an_ordinary_user_sees_the_same_story() {
    // The build directory may be root's alone.
    let (bin, files) = (workplace(), workplace());
    let binary = bin.path().join("pollgate");
    fs::copy(BINARY, &binary).expect("a copy of the program");
    let mut ordinary = demo(&binary, files.path());
    ordinary.uid(ORDINARY).gid(ORDINARY);
    assert_demo_works(ordinary, files.path());
}

fn unshared(what: libc::c_int) -> std::io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(what) } == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A running demo that is ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: libc::c_int) {
        let process = libc::pid_t::try_from(self.0.id()).expect("a process id");
        // SAFETY: no pointers; the process is our child and not yet waited for.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }

    /// Waits for its end and answers the exit code.
    fn code(&mut self) -> Option<i32> {
        until("it has ended", || self.0.try_wait().expect("its status").is_some());
        self.0.wait().expect("its status").code()
    }
}

fn a_kept_lab_can_be_entered_until_a_signal() {
    let files = workplace();
    let mut command = demo(Path::new(BINARY), files.path());
    let mut running = Running(command.arg("--keep").spawn().expect("the program starts"));
    let group = running.0.id();
    let mut lines = BufReader::new(running.0.stdout.take().expect("its output")).lines();
    let mut until = |wanted: &str| {
        let line = lines.by_ref().map(|line| line.expect("text")).find(|line| line.contains(wanted));
        line.unwrap_or_else(|| panic!("it never printed {wanted:?}"))
    };
    until("checks passed, in");
    let entry = until("frontend-app    nsenter");
    let path = entry.split_once("--net=").and_then(|(_, rest)| rest.split(' ').next()).expect(&entry);
    let namespace = fs::read_link(path).expect("the namespace can be opened");
    assert!(namespace.to_string_lossy().starts_with("net:["), "{}", namespace.display());
    assert_ne!(namespace, fs::read_link("/proc/self/ns/net").expect("our own"));
    let socket = until("export POLLGATE_SOCKET=");
    let socket = socket.trim().trim_start_matches("export POLLGATE_SOCKET=");
    let asked = Command::new(BINARY).args(["get", "endpoints", "backend-service", "--socket", socket]).output();
    let asked = asked.expect("the command line");
    let endpoints = text(&asked.stdout);
    assert!(endpoints.contains("10.244.1.10:8080,10.244.2.15:8080"), "{endpoints}{}", text(&asked.stderr));
    until("curl");
    running.signal(libc::SIGINT);
    assert_eq!(running.code(), Some(0));
    assert_nothing_left(group, files.path());
}

fn a_signal_in_the_middle_leaves_nothing_behind() {
    let files = workplace();
    let mut running = Running(demo(Path::new(BINARY), files.path()).spawn().expect("the program starts"));
    let group = running.0.id();
    let mut output = BufReader::new(running.0.stdout.take().expect("its output"));
    let mut line = String::new();
    while !line.contains("The Services") {
        line.clear();
        assert_ne!(output.read_line(&mut line).expect("text"), 0, "it ended early");
    }
    running.signal(libc::SIGTERM);
    assert_eq!(running.code(), Some(128 + libc::SIGTERM));
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert!(!rest.contains("checks passed"), "{rest}");
    assert_nothing_left(group, files.path());
}

fn where_no_namespace_can_be_made_it_says_so_in_a_line() {
    let files = workplace();
    let mut command = demo(Path::new(BINARY), files.path());
    // In a user namespace that maps nobody, nobody may make namespaces. Where not even that one can be made, we are
    // where the demo has to refuse as it is.
    if lab::available().is_ok() {
        // SAFETY: one system call without pointers between fork and exec.
        unsafe { command.pre_exec(|| unshared(libc::CLONE_NEWUSER)) };
    }
    let (output, group) = finished(command);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.starts_with("error: the demo builds its network in namespaces, but no network namespace"),
        "{errors}"
    );
    assert!(errors.contains("run as root") && errors.lines().count() == 1, "{errors}");
    assert_eq!(text(&output.stdout), "");
    assert_nothing_left(group, files.path());
}
