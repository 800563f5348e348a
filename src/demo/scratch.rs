//! The demo's only trace on the machine, and its removal however the demo ends.
//!
//! The gateway wants a path for its socket and one for its state. Both lie in a directory of this process, removed when
//! the demo is over and when SIGINT or SIGTERM ends it early. (SIGKILL leaves it, in the place for temporary files.)

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::{DemoError, system};

/// The directory; it is removed with this.
pub(super) struct Scratch {
    path: PathBuf,
    /// Whether a signal is awaited, rather than the end of everything.
    awaited: Arc<AtomicBool>,
    signalled: Receiver<()>,
}

impl Scratch {
    /// Makes the directory, for this user alone, and watches for signals.
    pub(super) fn new() -> Result<Scratch, DemoError> {
        let root = std::env::temp_dir();
        let path = make(&root)
            .map_err(system(format!("creating a directory in {} (set TMPDIR to use another)", root.display())))?;
        let awaited = Arc::new(AtomicBool::new(false));
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(system("catching signals"))?;
        let (told, signalled) = channel();
        let (doomed, expected) = (path.clone(), Arc::clone(&awaited));
        let watch = move || {
            for signal in signals.forever() {
                if !expected.load(SeqCst) {
                    remove(&doomed);
                    // As a shell reports a process that a signal ended.
                    std::process::exit(128 + signal);
                }
                // The receiver is gone once the lab is being taken down.
                let _ = told.send(());
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(system("starting a thread"))?;
        Ok(Scratch { path, awaited, signalled })
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Waits for SIGINT or SIGTERM.
    pub(super) fn await_signal(&self) {
        self.awaited.store(true, SeqCst);
        // The sender lives in a thread that never ends.
        let _ = self.signalled.recv();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// An unused name. Names can be guessed, so an existing directory may be a trap by another user.
fn make(root: &Path) -> io::Result<PathBuf> {
    for attempt in 0..100 {
        let path = root.join(format!("pollgate-demo-{}-{attempt}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != ErrorKind::NotFound
    {
        eprintln!("{} could not be removed: {error}", path.display());
    }
}
