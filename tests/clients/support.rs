//! A gateway with `api.listen`, the kubeconfig for it, and the programs that use it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pollgate::lab::topology::{Network, guide};
use serde_json::Value;
use tempfile::TempDir;

use crate::live::support::Site;
use crate::shared::needs::{kubectl, python, python_path};

/// What an API server says to every request for Endpoints.
const ENDPOINTS_DEPRECATED: &str =
    "Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\n";

const LISTEN: &str = "127.0.0.1:6443";

/// A gateway with the guide's objects, and a home for its clients.
pub(crate) struct Place {
    pub(crate) site: Site,
    home: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let network = Network::new(&guide(), 1).expect("a network");
        let listening = |text: String| text.replace("api: { ", &format!("api: {{ listen: \"{LISTEN}\", "));
        let place = Place { site: Site::configured(network, listening), home: TempDir::new().expect("a home") };
        place.site.cli(&["kubeconfig", "--output", &place.kubeconfig().display().to_string()]).expect("written");
        place
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Of a file in the clients' home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// A program that finds nothing of this machine's own clusters.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.site.network.gateway().command(program);
        command.env("HOME", self.home.path()).env_remove("KUBECONFIG").stdin(Stdio::null()).current_dir(&self.home);
        command
    }

    pub(crate) fn kubectl_command(&self) -> Command {
        self.kubectl_command_with(&self.kubeconfig().display().to_string())
    }

    /// With another kubeconfig than the one that was made for it.
    pub(crate) fn kubectl_command_with(&self, kubeconfig: &str) -> Command {
        let mut command = self.command(kubectl());
        command.args(["--kubeconfig", kubeconfig]);
        command
    }

    pub(crate) fn kubectl_output(&self, words: &[&str]) -> Output {
        self.kubectl_command().args(words).output().expect("started")
    }

    /// What kubectl prints when it succeeds and has nothing to complain of, but that Endpoints are deprecated.
    #[track_caller]
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        let output = self.kubectl_output(words);
        let (out, err) = (text(output.stdout), text(output.stderr).replace(ENDPOINTS_DEPRECATED, ""));
        assert!(output.status.success() && err.is_empty(), "kubectl {words:?}: {}\n{out}\n{err}", output.status);
        out
    }

    #[track_caller]
    pub(crate) fn kubectl_json(&self, words: &[&str]) -> Value {
        let out = self.kubectl(&[words, &["-o", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// What kubectl says when it is refused.
    #[track_caller]
    pub(crate) fn kubectl_refused(&self, words: &[&str]) -> String {
        let output = self.kubectl_output(words);
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(1), "kubectl {words:?}: {out}\n{err}");
        err
    }

    /// Runs a script of this directory, which fails by itself if anything is not as it should be; what it printed.
    #[track_caller]
    pub(crate) fn python(&self, script: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
        let output = self
            .command(python())
            .env("PYTHONPATH", python_path())
            .arg(&path)
            .arg(self.kubeconfig())
            .output()
            .expect("started");
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{script}: {}\n{out}\n{err}", output.status);
        out
    }
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

/// The text with every age in it, which depends on the machine, as a dash of the same width.
pub(crate) fn ageless(text: &str) -> String {
    let is_age = |word: &str| {
        word.strip_suffix('s').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let line = |line: &str| {
        let words =
            line.split(' ').map(|word| if is_age(word) { format!("{:1$}", "-", word.len()) } else { word.into() });
        words.collect::<Vec<String>>().join(" ").trim_end().to_owned() + "\n"
    };
    text.lines().map(line).collect()
}
