//! With umask 0, every file is open to everybody unless its maker sees to it. The umask is the process's, so this test has its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

use rustix::fs::Mode;
use rustix::process::umask;

use self::support::Gateway;

mod support;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0, |found| found.mode() & 0o777)
}

#[test]
fn no_file_is_ever_open_to_others() {
    let before = umask(Mode::empty());
    let (seen, done) = (AtomicU32::new(0), AtomicBool::new(false));
    for round in 0..50 {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let run = directory.path().join("run/deeper");
        let socket = run.join("api.sock");
        done.store(false, SeqCst);
        thread::scope(|scope| {
            // Looks at the socket from before it exists.
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    seen.fetch_or(mode(&socket), SeqCst);
                }
            });
            let gateway = Gateway::at(directory, "run/deeper/api.sock");
            seen.fetch_or(mode(&socket), SeqCst);
            done.store(true, SeqCst);
            assert_eq!(mode(&socket), 0o660, "round {round}");
            for made in [&run, run.parent().expect("run")] {
                assert_eq!(mode(made) & 0o022, 0, "{}", made.display());
            }
            assert_eq!(mode(&gateway.state()) & 0o077, 0);
            drop(gateway.stop());
        });
    }
    assert_eq!(seen.load(SeqCst), 0o660);
    umask(before);
    // One that takes from the group does not keep it out.
    let strict = umask(Mode::from_raw_mode(0o077));
    let gateway = Gateway::new();
    assert_eq!(mode(&gateway.socket()), 0o660);
    drop(gateway.stop());
    umask(strict);
}
