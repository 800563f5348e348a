//! The files of each role: what a thread may open by name, enforced by the kernel's Landlock.
//!
//! ```text
//!  role ─▶ directories, with what may be done there ─▶ a domain of the thread, for good: all else is EACCES
//! ```
//!
//! Most roles have no files at all: what they need was opened before. Rules are for directories and not for files, since a file that
//! is replaced (an editor's save, a new certificate) is another one, and a rule holds for the one that it was made with.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::thread;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, make_bitflags,
};
use pollgate_control::objects::manifest;
use pollgate_control::threads::Role;
use rustix::fd::OwnedFd;

use super::Support;
use super::handover::directory_of;

/// What is limited: all that Landlock knew of in Linux 6.10. An older kernel limits what it knows.
const KNOWN: ABI = ABI::V5;

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
/// As a database and a certificate are written, under a name of their own first.
const REPLACE: BitFlags<AccessFs> =
    make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile});
/// The socket's file when the gateway stops.
const REMOVE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{RemoveFile});
/// `Truncate`, since the files are opened with O_TRUNC.
const SET: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate});

/// Where files of the network's settings are.
const SYSCTLS: &str = "/proc/sys/net";

/// The directories of a gateway.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// Of the state file and of the HTTPS identity.
    state: PathBuf,
    socket: PathBuf,
    /// Those of the file of the configuration.
    configuration: Vec<PathBuf>,
    manifests: Vec<PathBuf>,
    disable_forwarding: bool,
    /// Whether there is a host pair, which is made again with its sysctls.
    pair: bool,
}

impl Files {
    pub(super) fn of(state: &Path, socket: &Path, disable_forwarding: bool, pair: bool) -> Files {
        Files {
            state: directory_of(state),
            socket: directory_of(socket),
            configuration: Vec::new(),
            manifests: Vec::new(),
            disable_forwarding,
            pair,
        }
    }

    /// The first thread reads this file again.
    pub(super) fn read(&mut self, configuration: &Path) {
        self.configuration = directories(configuration);
    }

    /// Manifests are followed.
    pub(super) fn follow(&mut self, manifests: &Path) {
        self.manifests = directories(manifests);
    }

    /// What a role may do, and where.
    fn rules(&self, role: Role) -> Vec<(&Path, BitFlags<AccessFs>)> {
        match role {
            Role::Main => {
                let configuration = self.configuration.iter().map(|path| (path.as_path(), READ));
                configuration.chain([(&*self.state, REPLACE), (&*self.socket, REMOVE)]).collect()
            }
            Role::Api => vec![(&self.socket, REMOVE)],
            Role::Disk => vec![(&self.state, REPLACE)],
            Role::Manifests => self.manifests.iter().map(|path| (path.as_path(), READ)).collect(),
            // What the machine and its interfaces are.
            Role::Ports => {
                let sysctls = if self.disable_forwarding || self.pair { SET } else { READ };
                vec![(Path::new("/proc"), READ), (Path::new("/sys"), READ), (Path::new(SYSCTLS), sysctls)]
            }
            Role::Watch => vec![(Path::new(SYSCTLS), if self.disable_forwarding { SET } else { READ })],
            Role::Log
            | Role::Worker
            | Role::Control
            | Role::Network
            | Role::Announcer
            | Role::Dns
            | Role::Health
            | Role::Metrics => Vec::new(),
        }
    }

    /// Limits the calling thread to the files of a role, for good. Returns what has to stay open as long as it needs them: an entry of
    /// /proc that is not open may be dropped by the kernel and made again, and the rule would be that of the old one.
    pub(super) fn limit(&self, role: Role) -> Result<Vec<OwnedFd>, Box<dyn Error + Send + Sync>> {
        let mut rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.create()?;
        let mut held = Vec::new();
        for (path, access) in self.rules(role) {
            // What is not there cannot be used.
            let Ok(directory) = PathFd::new(path) else { continue };
            rules = rules.add_rule(PathBeneath::new(&directory, access))?;
            held.extend(rustix::io::dup(&directory));
        }
        match rules.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(held),
            RulesetStatus::NotEnforced => Err("Landlock does not enforce the rules".into()),
        }
    }
}

/// The directories in which the manifests at `path` are, and to which their links lead: a directory or a link is replaced by a
/// new one beside the old one. A directory at the root has none above it that would not be everything.
fn directories(path: &Path) -> Vec<PathBuf> {
    let above = |path: &Path| match directory_of(path) {
        root if root == Path::new("/") => path.to_owned(),
        directory => directory,
    };
    let mut directories = vec![above(path)];
    let files = manifest::files(path).unwrap_or_default();
    for found in [path].into_iter().chain(files.iter().map(PathBuf::as_path)) {
        let Ok(real) = found.canonicalize() else { continue };
        let directory = above(&real);
        if !directories.iter().any(|known| directory.starts_with(known)) {
            directories.push(directory);
        }
    }
    directories
}

/// Whether threads can be limited to files. Only a thread that is limited can tell, so one is.
pub(super) fn support() -> Support {
    let limited = || Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.create()?.restrict_self();
    let probe = thread::spawn(limited).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    match probe.map(|status| status.landlock) {
        Ok(LandlockStatus::Available { .. }) => Support::Present,
        Ok(LandlockStatus::NotEnabled) => {
            Support::Absent("Landlock is not enabled (lsm= on the kernel's command line)".to_owned())
        }
        Ok(LandlockStatus::NotImplemented) => Support::Absent("this kernel was built without Landlock".to_owned()),
        Err(error) => Support::Forbidden(format!("Landlock: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Runs on a thread with the files of a role.
    fn within<R: Send>(files: &Files, role: Role, work: impl FnOnce() -> R + Send) -> R {
        let narrowed = || {
            let _held = files.limit(role).expect("limited");
            work()
        };
        thread::scope(|scope| scope.spawn(narrowed).join()).expect("no panic")
    }

    fn refused<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_thread_has_the_files_of_its_role_and_no_others() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name);
        for directory in ["state", "run", "manifests", "elsewhere"] {
            fs::create_dir(at(directory)).expect("made");
        }
        for file in ["state/state.db", "run/sock", "manifests/a.yaml", "elsewhere/b.yaml", "elsewhere/secret"] {
            fs::write(at(file), "text").expect("written");
        }
        symlink(at("elsewhere/b.yaml"), at("manifests/b.yaml")).expect("a link");
        let mut files = Files::of(&at("state/state.db"), &at("run/sock"), false, false);
        files.follow(&at("manifests/a.yaml"));
        within(&files, Role::Disk, || {
            fs::write(at("state/new"), "more").expect("its own directory");
            fs::rename(at("state/new"), at("state/state.db")).expect("replaced");
            assert!(refused(fs::read(at("run/sock"))) && refused(fs::write(at("elsewhere/x"), "")));
            assert!(refused(fs::read("/etc/passwd")));
        });
        within(&files, Role::Manifests, || {
            fs::read(at("manifests/a.yaml")).expect("a manifest");
            assert!(refused(fs::write(at("manifests/a.yaml"), "")) && refused(fs::read(at("state/state.db"))));
            assert!(refused(fs::read(at("elsewhere/secret"))));
        });
        within(&files, Role::Api, || {
            assert!(refused(fs::read(at("run/sock"))) && refused(fs::read(at("state/state.db"))));
            assert!(refused(fs::remove_file(at("state/state.db"))));
            fs::remove_file(at("run/sock")).expect("its own");
        });
        for role in [Role::Worker, Role::Control, Role::Dns, Role::Log] {
            within(&files, role, || {
                assert!(refused(fs::read(at("manifests/a.yaml"))) && refused(fs::read("/etc/passwd")))
            });
        }
        within(&files, Role::Watch, || {
            fs::read(Path::new(SYSCTLS).join("ipv4/ip_forward")).expect("a setting");
            assert!(refused(fs::read("/proc/sys/kernel/core_pattern")) && refused(fs::read(at("state/state.db"))));
            assert!(refused(fs::write(Path::new(SYSCTLS).join("ipv4/ip_forward"), "0")));
        });
    }

    #[test]
    fn manifests_are_found_beside_themselves_and_where_their_links_lead() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path().canonicalize().expect("it is there");
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("etc/manifests")).expect("made");
        fs::create_dir(at("elsewhere")).expect("made");
        fs::write(at("elsewhere/b.yaml"), "").expect("written");
        symlink(at("elsewhere/b.yaml"), at("etc/manifests/b.yaml")).expect("a link");
        assert_eq!(directories(&at("etc/manifests")), [at("etc"), at("elsewhere")]);
        assert_eq!(directories(&at("etc/manifests/b.yaml")), [at("etc/manifests"), at("elsewhere")]);
        assert_eq!(directories(&at("none")), std::slice::from_ref(&root));
        assert_eq!(directories(Path::new("/manifests-of-a-container")), [Path::new("/manifests-of-a-container")]);
    }
}
