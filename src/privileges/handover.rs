//! Gives the files of the gateway to the user that it becomes, while it still may.
//!
//! ```text
//!  directory of api.state, of api.socket ─┬─ missing: made, and given with its group
//!                                         ├─ holds files of the gateway and no others: given
//!                                         └─ otherwise (empty, too): left as it is; it must be writable for the user already
//!  api.state, api.state.tls ──────────────── given
//! ```
//!
//! The group of what exists stays: that of the socket's directory may be the one by which clients get in.
//!
//! **What is given is what was looked at.** A user of earlier can have put a link in the place of a file, to have root give it away.
//! So no link is followed in the last step of a path, a file with more than one name is refused, and owner and looks are those of
//! one open file. The directories above are taken to be root's, as `/var/lib` and `/run` are.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::{fs, os::fd::OwnedFd};

use nix::unistd::Gid;
use pollgate_control::store::make_directory;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, chownat, fstat, openat};
use rustix::io::Errno;

use super::PrivilegesError;
use super::identity::Identity;
use crate::config::Api;

/// Ends of names before a number: damaged state files, and files that are not complete yet.
const NUMBERED: [&str; 3] = [".damaged-", ".new-", ".tls.new-"];

/// Gives what there is of these files to `identity`.
pub(super) fn give(api: &Api, identity: &Identity) -> Result<(), PrivilegesError> {
    let Api { socket, state, listen: _ } = api;
    let directories = [(state, "api.state"), (socket, "api.socket")];
    for (file, key) in directories {
        let directory = directory_of(file);
        let failed = |source| PrivilegesError::Give { key, path: directory.clone(), source };
        give_directory(&directory, &[state, socket], identity).map_err(failed)?;
    }
    for file in [state.clone(), beside(state, ".tls")] {
        let failed = |source| PrivilegesError::Give { key: "api.state", path: file.clone(), source };
        give_file(&file, identity).map_err(failed)?;
    }
    Ok(())
}

/// The directory of a file.
pub(super) fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn give_directory(directory: &Path, ours: &[&PathBuf], identity: &Identity) -> io::Result<()> {
    let is_new = !directory.exists();
    if is_new {
        make_directory(directory)?;
    }
    let Some((opened, found)) = open(directory)? else { return Ok(()) };
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if is_new {
        return change_owner(&opened, identity, Some(identity.group));
    }
    if is_directory && !belongs(&found, identity) && holds_only(directory, ours)? {
        change_owner(&opened, identity, None)?;
    }
    Ok(())
}

/// Whether there are files in it, and each is one of `ours`. An empty directory may be anyone's.
fn holds_only(directory: &Path, ours: &[&PathBuf]) -> io::Result<bool> {
    let names: Vec<&[u8]> = ours.iter().filter_map(|path| path.file_name()).map(OsStr::as_encoded_bytes).collect();
    let mut is_empty = true;
    for entry in fs::read_dir(directory)? {
        let entry = entry?.file_name();
        if !names.iter().any(|name| is_made_for(entry.as_encoded_bytes(), name)) {
            return Ok(false);
        }
        is_empty = false;
    }
    Ok(!is_empty)
}

/// Whether the gateway makes a file of this name for its file `own`: that file, its HTTPS identity, one that is not complete yet, or a
/// damaged one.
fn is_made_for(entry: &[u8], own: &[u8]) -> bool {
    let Some(end) = entry.strip_prefix(own) else { return false };
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let is_numbered = |start: &[u8]| end.strip_prefix(start).is_some_and(is_number);
    end.is_empty() || end == b".tls" || NUMBERED.iter().any(|start| is_numbered(start.as_bytes()))
}

fn give_file(file: &Path, identity: &Identity) -> io::Result<()> {
    let Some((opened, found)) = open(file)? else { return Ok(()) };
    if belongs(&found, identity) {
        return Ok(());
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_nlink != 1 {
        let why = "it is not an ordinary file of one name, and is not given to another user";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    change_owner(&opened, identity, None)
}

/// The file itself, whatever it is, and how it looks; `None` if there is none.
fn open(path: &Path) -> io::Result<Option<(OwnedFd, Stat)>> {
    match openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => {
            let found = fstat(&opened)?;
            Ok(Some((opened, found)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn belongs(found: &Stat, identity: &Identity) -> bool {
    found.st_uid == identity.user.as_raw()
}

fn change_owner(opened: &OwnedFd, identity: &Identity, group: Option<Gid>) -> io::Result<()> {
    let user = rustix::fs::Uid::from_raw(identity.user.as_raw());
    let group = group.map(|group| rustix::fs::Gid::from_raw(group.as_raw()));
    Ok(chownat(opened, c"", Some(user), group, AtFlags::EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_gateway_makes_are_its_own() {
        for own in ["state.db", "state.db.tls", "state.db.damaged-1", "state.db.new-4711", "state.db.tls.new-4711"] {
            assert!(is_made_for(own.as_bytes(), b"state.db"), "{own}");
        }
        for other in [
            "",
            "state",
            "state.d",
            "state.db2",
            "state.db-journal",
            "state.db.tls2",
            "state.db.damaged-",
            "state.db.damaged-1x",
            "state.db.new",
            "old.state.db",
        ] {
            assert!(!is_made_for(other.as_bytes(), b"state.db"), "{other}");
        }
    }

    #[test]
    fn an_empty_directory_is_not_taken_for_the_gateways() {
        let directory = tempfile::tempdir().expect("a directory");
        let (state, socket) = (directory.path().join("state.db"), directory.path().join("api.sock"));
        let is_given = || holds_only(directory.path(), &[&state, &socket]).expect("it can be read");
        assert!(!is_given(), "it is empty");
        fs::write(&state, "").expect("written");
        fs::write(&socket, "").expect("written");
        assert!(is_given());
        fs::write(directory.path().join("state.db-of-root"), "").expect("written");
        assert!(!is_given(), "it has a file of another");
    }
}
