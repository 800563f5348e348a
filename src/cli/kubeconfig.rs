//! `pollgate kubeconfig`: what kubectl needs to reach the gateway.
//!
//! It contains the token, so a file is readable for its owner only. It overwrites only an earlier kubeconfig of pollgate:
//! `--output ~/.kube/config` must not destroy the clusters in that file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pollgate_control::api::KUBECONFIG_PATH;

use super::args::KubeconfigArgs;
use super::client::Client;
use crate::failure::Failure;
use crate::output::yaml;

/// The first line of a kubeconfig that pollgate wrote.
const MARK: &str = "# Made by `pollgate kubeconfig`. Whoever reads it may change the gateway.\n";

/// `pollgate kubeconfig`
///
/// # Errors
/// If the gateway cannot be reached, or has no `api.listen`, or the file cannot be written.
pub fn kubeconfig(args: &KubeconfigArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let answer = Client::new(&args.connection.socket)?.get(KUBECONFIG_PATH)?;
    let text = format!("{MARK}{}", yaml(&answer)?);
    let Some(path) = &args.output else {
        return Ok(out.write_all(text.as_bytes())?);
    };
    if !is_free(path).map_err(|error| unwritable(path, &error))? {
        return Err(Failure::refused(format!(
            "error: {0}: exists and was not created by `pollgate kubeconfig`, so it was not changed; write to another \
             file and use both: KUBECONFIG=OTHER:{0}",
            path.display()
        )));
    }
    write_whole(path, &text).map_err(|error| unwritable(path, &error))?;
    Ok(writeln!(out, "kubeconfig written to {}", path.display())?)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("error: {}: cannot write the kubeconfig: {error}", path.display()))
}

/// Whether `path` does not exist, or is a kubeconfig that pollgate wrote.
fn is_free(path: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut start = Vec::new();
    let is_file = file.metadata()?.is_file();
    Ok(is_file && file.take(MARK.len() as u64).read_to_end(&mut start).is_ok() && start == MARK.as_bytes())
}

/// Under another name first: a reader finds the old one or the new one, and neither is ever open to others.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".new-{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // Best effort: the first error is the one to report.
        drop(fs::remove_file(&fresh));
    }
    written
}
