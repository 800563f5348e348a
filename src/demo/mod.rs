//! `pollgate demo`: Services at work, with real packets.
//!
//! ```text
//!   lab (namespaces, by netlink) ─▶ gateway inside ─▶ objects by its API ─▶ scenes ─▶ the counters add up ─▶ verdict
//! ```
//!
//! Every scene prints what it is about to do, does it with ordinary sockets in ordinary network stacks, and checks the
//! result. Nothing is simulated, and everything printed was measured a moment before. So the demo is also the shortest
//! test of whether pollgate works on this machine: its exit code is 1 if any check failed.
//!
//! The lab is held by this one process. When that ends, however it ends, the kernel takes the namespaces away; the only
//! thing on disk is a scratch directory, removed at the end and on a signal.

mod books;
mod change;
mod error;
mod names;
mod objects;
mod page;
mod scratch;
mod stage;
mod stay;
mod visits;

use std::time::Instant;

use crate::lab;
pub use error::DemoError;
use error::system;
use page::{Checked, Page};
use scratch::Scratch;
use stage::Stage;
use stay::UserNamespace;

/// A part of the demo. It returns why it could not run to its end.
type Scene = fn(&Stage, &mut Page) -> Checked;

const SCENES: [(&str, Scene); 10] = [
    ("The Services", objects::services),
    ("Selector: which Pods are endpoints of backend-service", objects::selector),
    ("DNS: a stable name for a changing set of Pods", names::resolve),
    ("ClusterIP: one stable address for all Pods of a Service", visits::cluster_ip),
    ("NodePort and LoadBalancer: access from outside the cluster", visits::from_outside),
    ("UDP is balanced in the same way", visits::udp),
    ("IPv6: the same Service in both families", visits::dual_stack),
    ("No endpoint, or no such port: the client is refused at once", change::refusal),
    ("A Pod leaves the Service and comes back", change::relabel),
    ("Counters: where every frame went", books::balance),
];

/// Runs the demo; with `keep`, the lab keeps running until SIGINT or SIGTERM. Call it before any thread is
/// started: an ordinary user has to enter a user namespace first.
///
/// # Errors
/// If the lab or the gateway cannot be started here, or if anything shown is not as it should be.
pub fn run(keep: bool) -> Result<(), DemoError> {
    let started = Instant::now();
    let before = UserNamespace::current();
    lab::enter()?;
    let scratch = Scratch::new()?;
    let mut page = Page::stdout();
    page.say("pollgate demo: Services at work, with real packets in network namespaces of their own.");
    let stage = Stage::build(&scratch, &mut page)?;
    for (title, scene) in SCENES {
        page.chapter(title);
        if let Err(trouble) = scene(&stage, &mut page) {
            page.check("this part of the demo can run", Err(trouble));
        }
    }
    tell_end(&mut page, started);
    if keep {
        stay::stay(&stage, &scratch, &before, &mut page);
    }
    stage.strike();
    verdict(&mut page)
}

fn tell_end(page: &mut Page, started: Instant) {
    let took = started.elapsed().as_secs_f64();
    let checks = page.checks();
    let wrong = page.wrong().to_vec();
    page.chapter("Result");
    if wrong.is_empty() {
        return page.say(&format!("All {checks} checks passed, in {took:.1} s."));
    }
    page.say(&format!("{} of {checks} checks failed, in {took:.1} s:", wrong.len()));
    wrong.iter().for_each(|what| page.say(&format!("- {what}")));
}

fn verdict(page: &mut Page) -> Result<(), DemoError> {
    if let Some(error) = page.unwritten() {
        return Err(system("writing to standard output")(error));
    }
    match page.wrong().len() {
        0 => Ok(()),
        wrong => Err(DemoError::NotAsItShouldBe { wrong, checks: page.checks() }),
    }
}
