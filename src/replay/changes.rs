//! `--then`: changes of objects at points of the virtual time.
//!
//! Frames do not change objects, so all changes are planned before the first frame: each on what those before it lead to, with
//! the virtual time as the clock. What is wrong is found then, and nothing is replayed. Between them, the Pods whose grace
//! period ends are removed, as the running gateway does.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use pollgate_common::time::Instant;
use pollgate_control::cluster::{Cluster, Commit, Write};
use pollgate_control::objects::{Key, Kind};
use pollgate_control::runtime::Schedule;

use super::ReplayError;
use super::batch::Batch;

/// From this number of seconds on (the year 2001), a moment is a time stamp of the capture.
const TIME_STAMPS: Duration = Duration::from_secs(1_000_000_000);

/// One `--then`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Then {
    /// As it was typed.
    text: String,
    /// Since the first frame, or since 1970.
    moment: Duration,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Apply(PathBuf),
    Delete(Key),
}

impl Then {
    /// Reads `SECONDS=PATH` or `SECONDS=-KIND/NAMESPACE/NAME`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Then, String> {
        let expected = || {
            "expected SECONDS=PATH, such as 2.5=more.yaml, or SECONDS=-KIND/NAMESPACE/NAME, such as 2.5=-pod/default/web-1"
                .to_owned()
        };
        let (seconds, what) = text.split_once('=').ok_or_else(expected)?;
        let moment = decimal(seconds)
            .ok_or_else(|| format!("{seconds:?} is not a number of seconds from 0 on, with at most nine decimals"))?;
        let what = match what.strip_prefix('-') {
            Some(name) => What::Delete(key(name)?),
            None if what.is_empty() => return Err(expected()),
            None => What::Apply(what.into()),
        };
        Ok(Then { text: text.to_owned(), moment, what })
    }

    fn time(&self, first: Instant) -> Instant {
        if self.moment >= TIME_STAMPS { Instant(0).plus(self.moment) } else { first.plus(self.moment) }
    }

    fn batch(&self) -> Result<Batch, ReplayError> {
        match &self.what {
            What::Apply(path) => Batch::apply(path).map_err(|text| ReplayError::Manifests(self.told(&text))),
            What::Delete(key) => Ok(Batch::delete(key.clone())),
        }
    }

    /// `text`, which may have several lines, each with what was typed.
    fn told(&self, text: &str) -> String {
        text.lines().map(|line| format!("--then {}: {line}", self.text)).collect::<Vec<_>>().join("\n")
    }
}

fn decimal(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: u32 = whole.parse().ok()?;
    Some(Duration::new(seconds.into(), format!("{fraction:0<9}").parse().ok()?))
}

fn key(text: &str) -> Result<Key, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (alias, namespace, name) = match parts[..] {
        [alias, namespace, name] => (alias, namespace, name),
        [alias, name] => (alias, "", name),
        _ => return Err(format!("-{text} is not -KIND/NAMESPACE/NAME")),
    };
    let kind = Kind::from_alias(alias).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.singular()).collect();
        format!("unknown kind {alias:?}; the kinds are {}", known.join(", "))
    })?;
    if name.is_empty() || kind.namespaced() && namespace.is_empty() {
        return Err(format!("-{text} is not -KIND/NAMESPACE/NAME"));
    }
    Ok(Key::new(kind, namespace, name))
}

/// A commit, and when it is to be made.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) time: Instant,
    pub(super) commit: Commit,
}

/// Plans `changes` on top of `cluster`, in the order of their times; and until `end` the removal of Pods whose grace period is over.
pub(super) fn plan(
    cluster: &Cluster,
    changes: &[Then],
    first: Instant,
    end: Instant,
) -> Result<Vec<Planned>, ReplayError> {
    let mut due: Vec<(Instant, &Then)> = changes.iter().map(|then| (then.time(first), then)).collect();
    // Stable: of one time, the first on the command line is the first.
    due.sort_by_key(|(time, _)| *time);
    let batches: Vec<Result<Batch, ReplayError>> = due.iter().map(|(_, then)| then.batch()).collect();
    let batches = whole(batches)?;
    let mut planner = Planner { cluster: cluster.clone(), terminating: Schedule::of(cluster), planned: Vec::new() };
    for ((time, then), batch) in due.iter().zip(batches) {
        planner.expire_until(first, *time);
        let plan = batch.plan(&planner.cluster, timestamp(*time));
        planner.add(*time, plan.map_err(|text| ReplayError::Manifests(then.told(&text)))?);
    }
    planner.expire_until(first, end);
    Ok(planner.planned)
}

/// All batches, or all that is wrong with any.
fn whole(batches: Vec<Result<Batch, ReplayError>>) -> Result<Vec<Batch>, ReplayError> {
    let mut faults = Vec::new();
    let read = batches.into_iter().filter_map(|batch| batch.map_err(|error| faults.push(error.to_string())).ok());
    let read: Vec<Batch> = read.collect();
    if faults.is_empty() { Ok(read) } else { Err(ReplayError::Manifests(faults.join("\n"))) }
}

struct Planner {
    cluster: Cluster,
    terminating: Schedule,
    planned: Vec<Planned>,
}

impl Planner {
    fn add(&mut self, time: Instant, commit: Commit) {
        self.cluster.adopt(&commit);
        self.terminating.follow(&commit);
        self.planned.push(Planned { time, commit });
    }

    /// Removes Pods whose time is over by `until`, each when it is; what was over before `first` then.
    fn expire_until(&mut self, first: Instant, until: Instant) {
        while let Some(end) = self.terminating.next().map(|end| instant(end).max(first)).filter(|end| *end <= until) {
            let writes = self.terminating.due(timestamp(end)).into_iter().map(Write::Expire).collect();
            // It is never refused: a Pod that is gone is no error.
            if let Ok(commit) = self.cluster.plan(writes, timestamp(end)) {
                self.add(end, commit);
            }
        }
    }
}

/// The virtual time as control's clock. Captures count from 1970 too.
pub(super) fn timestamp(time: Instant) -> Timestamp {
    Timestamp::from_nanosecond(time.0.into()).unwrap_or(Timestamp::MAX)
}

fn instant(time: Timestamp) -> Instant {
    Instant(u64::try_from(time.as_nanosecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_moment_and_a_path_or_an_object_to_delete() {
        let then = Then::parse("2.5=a=b.yaml").unwrap();
        assert_eq!((then.moment, then.what), (Duration::from_millis(2500), What::Apply("a=b.yaml".into())));
        let deleted = |text| match Then::parse(text).unwrap().what {
            What::Delete(key) => key.to_string(),
            What::Apply(path) => panic!("{}", path.display()),
        };
        assert_eq!(deleted("0=-svc/default/web"), "service/default/web");
        assert_eq!((deleted("0=-Node/n1"), deleted("0=-node//n1")), ("node/n1".to_owned(), "node/n1".to_owned()));
        for wrong in
            ["", "5", "5=", "=a", "x=a", "-1=a", "1e3=a", "1.=a", ".5=a", "1.0000000001=a", "99999999999=a", "5=-"]
        {
            assert!(Then::parse(wrong).is_err(), "{wrong}");
        }
        for wrong in ["web", "svc/web", "gizmo/default/web", "svc/default/", "svc//web", "svc/a/b/c"] {
            assert!(Then::parse(&format!("1=-{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_counts_from_the_first_frame_unless_it_is_a_time_stamp() {
        let first = Instant(1_700_000_000_000_000_000);
        let time = |text: &str| Then::parse(text).unwrap().time(first).0 - first.0;
        assert_eq!((time("0=a"), time("0.000000001=a"), time("3600=a")), (0, 1, 3_600_000_000_000));
        assert_eq!((time("1700000000=a"), time("1700000001.25=a")), (0, 1_250_000_000));
    }
}
