//! Waits until files change, and have changed for good.
//!
//! ```text
//! an inotify event       ──▶ quiet for 100 ms? ──▶ do the files look different? ──▶ changed
//! or five seconds later                                (path, inode, size, times)
//! ```
//!
//! inotify only wakes; what happened is found by comparing. So nothing depends on how an editor, a package manager or a
//! kubelet replaces a file (in place, by a rename, by a symbolic link to a directory), events that overflow or come
//! twice do no harm, and without inotify (NFS, or no watches left) changes are noticed within five seconds.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::objects::manifest::files;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// How long nothing must happen before the files are compared, so that a client can write several.
const QUIET: Duration = Duration::from_millis(100);
/// The longest wait for quiet.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the files are compared without an event.
const IDLE: Duration = Duration::from_secs(5);

/// Everything that may change a file or a name in a directory.
const ANY: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::MODIFY).union(WatchFlags::CLOSE_WRITE).union(WatchFlags::ATTRIB).union(NAMES);
/// What changes names.
const NAMES: WatchFlags = WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVE);

/// Watches one file or directory.
pub(crate) struct Watch {
    path: PathBuf,
    inotify: Option<OwnedFd>,
    /// How the files looked when they were last seen to change.
    seen: Option<Look>,
}

/// How the files look, or why they cannot be read.
type Look = Result<Vec<Print>, ErrorKind>;

/// What changes with a file: path, device, inode, size, and the times of content and inode.
type Print = (PathBuf, u64, u64, u64, (i64, i64), (i64, i64));

/// What the other end of `stop` writes to have the files read again.
pub(crate) const READ_AGAIN: u8 = 1;

enum Wake {
    Stop,
    /// The files are to be read again, whatever they look like.
    ReadAgain,
    Event,
    Time,
}

impl Watch {
    /// From now on: what is read after this and changes later is seen.
    pub(crate) fn new(path: &Path) -> Watch {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        if let Err(error) = &inotify {
            tracing::warn!(
                "{}: inotify is not available ({error}): changes are noticed within {IDLE:?}",
                path.display()
            );
        }
        let watch = Watch { path: path.to_owned(), inotify: inotify.ok(), seen: Some(look(path)) };
        watch.arm();
        watch
    }

    /// Waits for a change, or a request. `false`: the other end of `stop` was closed.
    pub(crate) fn changed(&mut self, stop: &UnixStream) -> bool {
        loop {
            match self.wait(stop, IDLE) {
                Wake::Stop => return false,
                Wake::ReadAgain => self.forget(),
                Wake::Time if self.seen.as_ref() == Some(&look(&self.path)) => continue,
                Wake::Time | Wake::Event => {}
            }
            if !self.settle(stop) {
                return false;
            }
            // The directory may be another one by now.
            self.arm();
            let now = Some(look(&self.path));
            if now != self.seen {
                self.seen = now;
                return true;
            }
        }
    }

    /// Lets the next comparison report a change, whatever it finds.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
    }

    /// Waits for quiet. `false`: to stop.
    fn settle(&mut self, stop: &UnixStream) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.wait(stop, QUIET) {
                Wake::Stop => return false,
                Wake::Time => return true,
                Wake::ReadAgain => self.forget(),
                Wake::Event => {}
            }
            if Instant::now() >= deadline {
                return true;
            }
        }
    }

    fn wait(&self, stop: &UnixStream, time: Duration) -> Wake {
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut ends = vec![PollFd::new(stop, PollFlags::IN)];
        ends.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
        match poll(&mut ends, Some(&time)) {
            Ok(0) => Wake::Time,
            Ok(_) if ends.first().is_some_and(|stop| !stop.revents().is_empty()) => requested(stop),
            // A signal is handled like an event.
            Ok(_) | Err(_) => {
                self.drain();
                Wake::Event
            }
        }
    }

    fn drain(&self) {
        let mut events = [0; 4096];
        while let Some(inotify) = &self.inotify
            && rustix::io::read(inotify, &mut events).is_ok_and(|length| length > 0)
        {}
    }

    /// Watches the directory, and the name it or the file has in the directory above. Watching twice changes nothing.
    fn arm(&self) {
        let Some(inotify) = &self.inotify else { return };
        let above = match self.path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        let is_directory = self.path.is_dir();
        // A path that does not exist cannot be watched; the directory above reports when it appears.
        if is_directory {
            let _ = inotify::add_watch(inotify, &self.path, ANY);
        }
        let _ = inotify::add_watch(inotify, above, if is_directory { NAMES } else { ANY });
    }
}

/// What the other end wants, which has written or hung up.
fn requested(mut stop: &UnixStream) -> Wake {
    match stop.read(&mut [0; 64]) {
        Ok(0) => Wake::Stop,
        Ok(_) => Wake::ReadAgain,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Wake::Event,
        Err(_) => Wake::Stop,
    }
}

fn look(path: &Path) -> Look {
    let print = |file: PathBuf| {
        let found = fs::metadata(&file)?;
        let times = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Ok((file, found.dev(), found.ino(), found.size(), times.0, times.1))
    };
    let prints: io::Result<Vec<Print>> = files(path).and_then(|files| files.into_iter().map(print).collect());
    prints.map_err(|error| error.kind())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    /// A watch on a thread; a message for each change.
    struct Watched {
        directory: TempDir,
        changes: Receiver<()>,
        _stop: UnixStream,
    }

    impl Watched {
        fn new(name: &str, prepare: impl FnOnce(&Path)) -> Watched {
            let directory = TempDir::new().unwrap();
            prepare(directory.path());
            let mut watch = Watch::new(&directory.path().join(name));
            let (stop, stopped) = UnixStream::pair().unwrap();
            let (tell, changes) = channel();
            thread::spawn(move || {
                while watch.changed(&stopped) {
                    tell.send(()).unwrap();
                }
            });
            Watched { directory, changes, _stop: stop }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn sees(&self, what: &str, act: impl FnOnce()) {
            act();
            self.changes.recv_timeout(SOON).unwrap_or_else(|_| panic!("{what}: not seen"));
        }
    }

    #[test]
    fn files_that_change_come_and_go_are_seen() {
        let watched = Watched::new("d", |root| fs::create_dir(root.join("d")).unwrap());
        watched.sees("a new file", || fs::write(watched.at("d/a.yaml"), "a: 1").unwrap());
        watched.sees("written in place", || fs::write(watched.at("d/a.yaml"), "a: 2").unwrap());
        watched.sees("an atomic replacement", || {
            fs::write(watched.at("d/.a.yaml.tmp"), "a: 3").unwrap();
            fs::rename(watched.at("d/.a.yaml.tmp"), watched.at("d/a.yaml")).unwrap();
        });
        watched.sees("removed", || fs::remove_file(watched.at("d/a.yaml")).unwrap());
        watched.sees("another directory of that name", || {
            fs::create_dir(watched.at("e")).unwrap();
            fs::write(watched.at("e/b.yaml"), "b: 1").unwrap();
            fs::rename(watched.at("d"), watched.at("old")).unwrap();
            fs::rename(watched.at("e"), watched.at("d")).unwrap();
        });
        watched.sees("written in that one", || fs::write(watched.at("d/b.yaml"), "b: 22").unwrap());
    }

    #[test]
    fn a_change_behind_a_symbolic_link_is_seen() {
        // As a kubelet lays out a ConfigMap: one rename swaps all files.
        let layout = |root: &Path, version: &str| {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), version).unwrap();
            symlink(version, root.join("..data_tmp")).unwrap();
            fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        };
        let watched = Watched::new("", |root| {
            layout(root, "..v1");
            symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        });
        watched.sees("the swap", || layout(watched.directory.path(), "..v2"));
    }

    #[test]
    fn one_file_alone_is_watched_by_its_name() {
        let watched = Watched::new("a.yaml", |root| fs::write(root.join("a.yaml"), "a").unwrap());
        watched.sees("a replacement", || {
            fs::write(watched.at("new"), "b").unwrap();
            fs::rename(watched.at("new"), watched.at("a.yaml")).unwrap();
        });
        watched.sees("removed", || fs::remove_file(watched.at("a.yaml")).unwrap());
        watched.sees("back again", || fs::write(watched.at("a.yaml"), "b").unwrap());
    }

    #[test]
    fn an_editors_own_files_are_nobodys_business() {
        let watched = Watched::new("", |root| fs::write(root.join("a.yaml"), "a").unwrap());
        for name in ["4913", ".a.yaml.swp", ".a.yaml", "a.yaml~", "#a.yaml#", "sedX1Y2"] {
            fs::write(watched.at(name), "x").unwrap();
        }
        symlink("user@host.1:2", watched.at(".#a.yaml")).unwrap();
        watched.changes.recv_timeout(QUIET * 5).expect_err("nothing of ours has changed");
        watched.sees("what comes after", || fs::write(watched.at("b.yaml"), "b").unwrap());
    }

    #[test]
    fn many_writes_at_once_are_one_change_and_a_stop_is_heard() {
        let watched = Watched::new("", |_| {});
        watched.sees("the first of many", || {
            (0..50).for_each(|n| fs::write(watched.at(&format!("{n}.yaml")), "x").unwrap());
        });
        watched.changes.recv_timeout(QUIET * 5).expect_err("one change");
        let Watched { changes, _stop: stop, directory: _directory } = watched;
        drop(stop);
        assert!(
            changes.recv_timeout(SOON).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
