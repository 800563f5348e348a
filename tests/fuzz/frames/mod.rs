//! The frame target: whole workers of both families, between Services of all protocols and their clients.
//!
//! ```text
//!  bytes ─▶ script ─▶ workers ─▶ frames and counters ─▶ checker
//!                                        ▲
//!                        sabotage, in the tests of the checker
//! ```
//!
//! The checker is apart from the gateway's code: [`checker`]. That it sees faults is shown in [`sabotage`].

mod checker;
mod sabotage;
mod script;
mod site;
mod view;

use std::cell::RefCell;

use self::checker::Checker;
use self::script::Step;
use self::site::{Run, Site, Sums};
use self::view::Out;
use super::choices::Choices;

pub(super) use self::site::CONFIG;

/// Most steps of an input.
const MOST_STEPS: usize = 200;

/// After these nothing waits any more: fragments and frames without a MAC have waited in vain. Milliseconds.
const UNTIL_NOTHING_WAITS: [u64; 4] = [1100, 1100, 1100, 5000];

thread_local! {
    static SITE: RefCell<Option<Site>> = const { RefCell::new(None) };
}

/// The target.
pub(super) fn fuzz(bytes: &[u8]) {
    if let Err(fault) = run(bytes, &mut |_, _| {}) {
        panic!("{fault}");
    }
}

/// Runs the script of `bytes`. `change` is what happens to frames and counters on their way to the checker.
fn run(bytes: &[u8], change: &mut dyn FnMut(&mut Vec<Out>, &mut Sums)) -> Result<(), String> {
    // One that was left in the middle by a panic is not used again.
    let mut site = SITE.take().unwrap_or_else(Site::new);
    let result = script(&mut site, bytes, change);
    if result.is_ok() {
        SITE.set(Some(site));
    }
    result
}

fn script(site: &mut Site, bytes: &[u8], change: &mut dyn FnMut(&mut Vec<Out>, &mut Sums)) -> Result<(), String> {
    let mut choices = Choices::of(bytes);
    let mut run = Run::new(site);
    let (mut checker, mut number) = (Checker::default(), 0);
    let mut look = |run: &mut Run<'_>, checker: &mut Checker| {
        let mut out = run.poll();
        let mut sums = run.sums();
        change(&mut out, &mut sums);
        let state = run.site.state();
        checker.check(&out, &sums, state).map_err(|fault| format!("{fault}\ndrops: {:?}", run.drops()))
    };
    for _ in 0..MOST_STEPS {
        if choices.is_empty() {
            break;
        }
        match script::step(&mut choices, checker.flows(), &mut number) {
            Step::Wait(milliseconds) => {
                run.wait(milliseconds);
                checker.loosen();
            }
            Step::Cluster(state) => {
                run.site.become_state(state);
                checker.loosen();
            }
            Step::Neighbours(all) => run.site.know_neighbours(all),
            Step::Send(frames) => {
                for (worker, port, packet) in frames {
                    checker.comes(port, &packet, run.site.state());
                    run.push(worker, port, packet);
                }
            }
        }
        look(&mut run, &mut checker)?;
    }
    for milliseconds in UNTIL_NOTHING_WAITS {
        run.wait(milliseconds);
        look(&mut run, &mut checker)?;
    }
    match run.sums().waiting {
        0 => Ok(()),
        waiting => Err(format!("{waiting} frames wait for ever")),
    }
}
