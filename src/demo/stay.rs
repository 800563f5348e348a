//! `--keep`: the lab keeps running after the demo, to try things in.
//!
//! It stays as long as this process does, in the foreground: without the gateway's threads and the Pods' servers the
//! namespaces would be a stage without actors, and what lives in a process is gone with it, however it ends. Names under
//! `/run/netns` would need root and outlive a crash; the descriptors under `/proc/PID/fd` do neither, and nsenter takes
//! them as well.

use super::page::{Page, row, table};
use super::scratch::Scratch;
use super::stage::{OUTSIDE, Stage};

/// A user namespace, by its kernel name (`user:[4026531837]`); empty if there is no /proc.
#[derive(PartialEq, Eq)]
pub(super) struct UserNamespace(String);

impl UserNamespace {
    /// That of this process.
    pub(super) fn current() -> UserNamespace {
        let name = std::fs::read_link("/proc/self/ns/user");
        UserNamespace(name.map(|name| name.display().to_string()).unwrap_or_default())
    }
}

/// Prints how to enter the lab, and waits for SIGINT or SIGTERM. `before` is the user namespace it was started in.
pub(super) fn stay(stage: &Stage, scratch: &Scratch, before: &UserNamespace, page: &mut Page) {
    let process = std::process::id();
    let user = match *before == UserNamespace::current() {
        true => String::new(),
        // Without supplementary groups to give up, as whom the reader already is.
        false => format!(" --user=/proc/{process}/ns/user --preserve-credentials"),
    };
    page.chapter("The lab keeps running");
    page.say(&format!(
        "Gateway and Pods run until Ctrl-C here, or `kill {process}`; then everything is removed. To open a shell on \
         a host, from another terminal:"
    ));
    let hosts = stage.network.hosts().iter().map(|host| &host.namespace);
    let hosts = hosts.chain([stage.network.gateway()]);
    let rows = hosts.map(|host| row([&host.name(), &format!("nsenter{user} --net={} sh", host.entry().display())]));
    page.show(&table(&rows.collect::<Vec<_>>()));
    page.say("To use the command line, from any terminal:");
    page.show(&format!(
        "export POLLGATE_SOCKET={}\npollgate explain service backend-service",
        stage.socket().display()
    ));
    page.say(&format!("In {OUTSIDE}, for example: curl http://192.168.50.10:30081/"));
    scratch.await_signal();
}
