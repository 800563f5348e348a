//! Pods that were deleted with a grace period: terminating first, gone when it is over.
//!
//! ```text
//! DELETE …?gracePeriodSeconds=30 ─▶ deletionTimestamp, annotation ─▶ endpoints terminating ─ 30 s ─▶ gone
//! ```
//!
//! There is no kubelet to report that the containers have ended, so the time alone decides. It is written into the Pod, so
//! that a restart in between changes nothing, and into an annotation of ours, because `deletionTimestamp` alone does not
//! tell who wrote it: a Pod dumped from a cluster while it was terminating keeps its state for as long as it is there.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cluster::{Cluster, Commit};
use crate::objects::{Key, Kind, Object};

/// When the Pod goes.
const ENDS_AT: &str = "pollgate.io/ends-at";

/// Makes the object terminating for `grace` seconds from now; if it is already, for no longer than that.
pub(crate) fn begin(object: &mut Object, grace: u32, now: Timestamp) {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let end = second.saturating_add(SignedDuration::from_secs(grace.into())).unwrap_or(Timestamp::MAX);
    if ends_at(object).is_some_and(|before| before <= end) {
        return;
    }
    let metadata = object.metadata_mut();
    metadata.deletion_timestamp = Some(Time(end));
    metadata.deletion_grace_period_seconds = Some(grace.into());
    metadata.annotations.get_or_insert_default().insert(ENDS_AT.to_owned(), end.to_string());
}

/// When the object goes by itself, if it does.
pub(crate) fn ends_at(object: &Object) -> Option<Timestamp> {
    object.as_pod()?.metadata.annotations.as_ref()?.get(ENDS_AT)?.parse().ok()
}

/// A deletion is not taken back: whoever writes the object writes a terminating one.
pub(crate) fn keep(before: &Object, object: &mut Object) {
    let (Some(end), after) = (ends_at(before), ends_at(object)) else {
        return;
    };
    if after.is_some_and(|after| after <= end) {
        return;
    }
    let (old, new) = (before.metadata(), object.metadata_mut());
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    new.annotations.get_or_insert_default().insert(ENDS_AT.to_owned(), end.to_string());
}

/// The Pods that will go, in the order of their time.
#[derive(Debug, Default)]
pub(crate) struct Schedule(BTreeSet<(Timestamp, Key)>);

impl Schedule {
    /// Those of a restored cluster.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let pods = cluster.objects(Kind::Pod, None);
        Self(pods.filter_map(|pod| Some((ends_at(pod)?, pod.key()))).collect())
    }

    /// Follows what a commit did.
    pub(crate) fn follow(&mut self, commit: &Commit) {
        for change in commit.changes.iter().filter(|change| change.key.kind == Kind::Pod) {
            if let Some(end) = change.old.as_deref().and_then(ends_at) {
                self.0.remove(&(end, change.key.clone()));
            }
            if let Some(end) = change.new.as_deref().and_then(ends_at) {
                self.0.insert((end, change.key.clone()));
            }
        }
    }

    /// Takes out those whose time is over.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Key> {
        let mut due = Vec::new();
        while let Some((_, key)) =
            self.0.first().is_some_and(|(end, _)| *end <= now).then(|| self.0.pop_first()).flatten()
        {
            due.push(key);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Write;
    use crate::testing::{World, now, object, pod, web};

    fn terminating(grace: u32) -> (World, Key) {
        let mut world = World::new();
        world.apply([web("a"), pod("p", "a", "10.1.0.1")]);
        let key = Key::new(Kind::Pod, "default", "p");
        world.write(vec![Write::Terminate(key.clone(), grace)]).unwrap();
        (world, key)
    }

    fn after(seconds: i64) -> Timestamp {
        now() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn a_terminating_pod_is_a_terminating_endpoint_until_its_time_is_over() {
        let (mut world, key) = terminating(30);
        let metadata = world.cluster.object(&key).unwrap().metadata().clone();
        assert_eq!(
            (metadata.deletion_timestamp.unwrap().0, metadata.deletion_grace_period_seconds),
            (after(30), Some(30))
        );
        let conditions = world.slices("a")[0].endpoints[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
        let early = world.cluster.plan(vec![Write::Expire(key.clone())], after(29)).unwrap();
        assert!(early.changes.is_empty());
        let commit = world.cluster.plan(vec![Write::Expire(key.clone())], after(30)).unwrap();
        world.cluster.adopt(&commit);
        assert!(world.cluster.object(&key).is_none());
        assert!(world.slices("a")[0].endpoints.is_empty());
    }

    #[test]
    fn a_second_deletion_may_only_be_sooner_and_no_write_takes_it_back() {
        let (mut world, key) = terminating(30);
        for (grace, left) in [(60, 30), (5, 5)] {
            world.write(vec![Write::Terminate(key.clone(), grace)]).unwrap();
            assert_eq!(ends_at(world.cluster.object(&key).unwrap()), Some(after(left)));
        }
        world.write(vec![Write::Replace(object(pod("p", "a", "10.1.0.1")))]).unwrap();
        let pod = world.cluster.object(&key).unwrap();
        assert_eq!((ends_at(pod), pod.metadata().deletion_grace_period_seconds), (Some(after(5)), Some(5)));
        world.delete(Kind::Pod, "p");
        assert!(world.cluster.object(&key).is_none());
    }

    #[test]
    fn a_schedule_follows_commits_and_is_the_same_after_a_restart() {
        let (mut world, key) = terminating(30);
        let mut schedule = Schedule::of(&world.cluster);
        let saved: Vec<Object> = world.cluster.objects(Kind::Pod, None).map(|pod| (**pod).clone()).collect();
        let restored = Cluster::restore(world.cluster.settings().clone(), saved, 9).unwrap();
        assert_eq!(Schedule::of(&restored).0, schedule.0);
        assert!(schedule.due(after(29)).is_empty());
        let commit = world.write(vec![Write::Terminate(key.clone(), 10)]).unwrap();
        schedule.follow(&commit);
        assert_eq!((schedule.due(after(10)), schedule.due(after(99))), (vec![key], vec![]));
    }

    #[test]
    fn a_dumped_pod_stays() {
        let mut world = World::new();
        let mut dumped = pod("p", "a", "10.1.0.1");
        dumped["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
        dumped["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        world.apply([dumped]);
        assert!(Schedule::of(&world.cluster).due(Timestamp::MAX).is_empty());
    }
}
