//! The counters: every frame that came or was made is accounted for, and nothing was lost that should not be.

use std::thread;
use std::time::{Duration, Instant};

use pollgate_common::counters::Totals;
use pollgate_common::reasons::{DropReason, PassReason};

use super::page::{Checked, Page, row, same, table};
use super::stage::Stage;

/// How long the last frames may take to be done with.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The drops that the demo causes on purpose, with the number of frames.
const EXPECTED: [(DropReason, u64); 2] = [(DropReason::RejectNoEndpoints, 1), (DropReason::RejectUndefinedPort, 1)];

/// Both sides of the sum, and what was dropped, by reason.
pub(super) fn balance(stage: &Stage, page: &mut Page) -> Checked {
    page.say(
        "Each frame that was received or created by the gateway ends in exactly one of these counters; `pollgate \
         stats` shows them at any time.",
    );
    let totals = at_rest(stage);
    let (came, went) = totals.balance();
    page.show(&sum(&totals, came, went));
    page.check("rx + originated = tx + passed + consumed + drops + held", same(&went, &came));
    page.check("the clients' traffic went through the workers, and every worker carried some of it", all_worked(stage));
    tell_drops(&totals, page);
    page.check(
        "the two refused connections were dropped and answered with a reset; nothing else was lost",
        lost_nothing(&totals),
    );
    Ok(())
}

/// The counters once the workers have nothing in hand, or after the patience has ended.
fn at_rest(stage: &Stage) -> Totals {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = stage.gateway.counters().totals();
        thread::sleep(LOOK);
        let totals = stage.gateway.counters().totals();
        let (came, went) = totals.balance();
        if (came == went && totals.rx == before.rx && totals.waiting() == 0) || Instant::now() > deadline {
            return totals;
        }
    }
}

fn sum(totals: &Totals, came: u64, went: u64) -> String {
    let number = |n: u64| format!("{n:>8}");
    let passes = PassReason::ALL.iter().filter(|&&reason| totals.passes_of(reason) > 0);
    let passes: Vec<&str> = passes.map(|reason| reason.name()).collect();
    let passes = passes.join(", ");
    let rows = [
        row([&"rx", &number(totals.rx), &"frames received"]),
        row([&"originated", &number(totals.originated), &"created here: resets and ICMP errors"]),
        row([&"", &number(came), &"= total in"]),
        row([&"", &"", &""]),
        row([&"tx", &number(totals.tx), &"sent"]),
        row([&"passed", &number(totals.passed()), &"left to the kernel, for the reasons"]),
        row([&"", &"", &passes]),
        row([&"consumed", &number(totals.consumed), &"processed here, no reply needed"]),
        row([&"dropped", &number(totals.dropped()), &"not delivered; see the reasons below"]),
        row([&"held", &number(totals.waiting()), &"waiting for a MAC address, a first fragment or another worker"]),
        row([&"", &number(went), &"= total out"]),
    ];
    table(&rows)
}

fn tell_drops(totals: &Totals, page: &mut Page) {
    page.say("Dropped, by reason:");
    for &reason in DropReason::ALL.iter().filter(|&&reason| totals.drops_of(reason) > 0) {
        page.say(&format!("{} {}: {}", totals.drops_of(reason), reason.name(), reason.sentence()));
    }
}

fn all_worked(stage: &Stage) -> Checked {
    let opened: Vec<u64> = stage.gateway.counters().workers().map(|worker| worker.flows_opened.value()).collect();
    match opened.iter().all(|&flows| flows > 0) {
        true => Ok(()),
        false => Err(format!("flows opened, by worker: {opened:?}")),
    }
}

/// Whether exactly the expected drops happened, and no frame was lost on the way in.
fn lost_nothing(totals: &Totals) -> Checked {
    let expected = |reason| EXPECTED.iter().find(|(other, _)| *other == reason).map_or(0, |&(_, count)| count);
    let odd = DropReason::ALL.iter().filter(|&&reason| totals.drops_of(reason) != expected(reason));
    let mut odd: Vec<String> = odd
        .map(|&reason| {
            format!(
                "{} {} (expected {}): {}",
                totals.drops_of(reason),
                reason.name(),
                expected(reason),
                reason.action()
            )
        })
        .collect();
    if totals.missed > 0 {
        odd.push(format!("{} frames were lost because a receive ring was full", totals.missed));
    }
    if totals.flows_evicted > 0 {
        odd.push(format!("{} flows were evicted", totals.flows_evicted));
    }
    if odd.is_empty() { Ok(()) } else { Err(odd.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        let mut totals = Totals::default();
        EXPECTED.iter().for_each(|&(reason, count)| totals.drops[reason.index()] = count);
        totals
    }

    #[test]
    fn anything_but_the_expected_drops_is_told() {
        assert_eq!(lost_nothing(&totals()), Ok(()));
        assert!(
            lost_nothing(&Totals::default()).is_err_and(|told| told.contains("0 reject_no_endpoints (expected 1)"))
        );
        let mut full = totals();
        full.drops[DropReason::TxFull.index()] = 2;
        assert!(lost_nothing(&full).is_err_and(|told| told.contains("2 tx_full (expected 0)")));
        let missed = Totals { missed: 1, ..totals() };
        assert!(lost_nothing(&missed).is_err());
    }

    #[test]
    fn the_sum_fits_the_page() {
        let mut totals = totals();
        totals.passes.iter_mut().for_each(|count| *count = 10);
        let text = sum(&totals, 2, 2);
        assert!(text.lines().all(|line| line.len() <= 98), "{text}");
        assert!(text.contains("dropped            2"), "{text}");
    }
}
