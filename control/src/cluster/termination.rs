//! Pods that were deleted with a grace period: terminating first, removed when it is over.
//!
//! ```text
//! DELETE …?gracePeriodSeconds=30 ─▶ deletionTimestamp, annotation ─▶ endpoints terminating ─ 30 s ─▶ gone
//! ```
//!
//! There is no kubelet to report that the containers have ended, so the time alone decides. It is written into the Pod, so
//! that a restart in between changes nothing, and into an annotation, because `deletionTimestamp` alone does not
//! show who wrote it: a Pod dumped from a cluster while it was terminating keeps its state for as long as it is there.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::objects::Object;

/// When the Pod is to be removed.
const ENDS_AT: &str = "pollgate.io/ends-at";

/// Whether there is nothing to wait for: a Pod that has ended, or that no Node runs (K `pkg/registry/core/pod/strategy.go`).
pub(crate) fn is_over_at_once(object: &Object) -> bool {
    object.as_pod().is_some_and(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        matches!(phase, Some("Failed" | "Succeeded")) || node.is_none_or(str::is_empty)
    })
}

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

/// When the object is to be removed, if it is terminating.
pub(crate) fn ends_at(object: &Object) -> Option<Timestamp> {
    object.as_pod()?.metadata.annotations.as_ref()?.get(ENDS_AT)?.parse().ok()
}

/// A deletion cannot be undone: a write of a terminating object leaves it terminating.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Preconditions, Write};
    use crate::objects::{Key, Kind};
    use crate::testing::{World, now, object, pod, web};

    fn terminating(grace: u32) -> (World, Key) {
        let mut world = World::new();
        world.apply([web("a"), placed()]);
        let key = Key::new(Kind::Pod, "default", "p");
        world.write(vec![Write::Terminate(key.clone(), grace, Preconditions::default())]).unwrap();
        (world, key)
    }

    fn placed() -> serde_json::Value {
        let mut value = pod("p", "a", "10.1.0.1");
        value["spec"]["nodeName"] = "n".into();
        value
    }

    #[test]
    fn a_pod_that_has_ended_or_never_began_goes_at_once() {
        let mut ended = placed();
        ended["status"]["phase"] = "Succeeded".into();
        for value in [ended, pod("p", "a", "10.1.0.1")] {
            let mut world = World::new();
            world.apply([value]);
            let key = Key::new(Kind::Pod, "default", "p");
            world.write(vec![Write::Terminate(key.clone(), 30, Preconditions::default())]).unwrap();
            assert!(world.cluster.object(&key).is_none());
        }
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
            world.write(vec![Write::Terminate(key.clone(), grace, Preconditions::default())]).unwrap();
            assert_eq!(ends_at(world.cluster.object(&key).unwrap()), Some(after(left)));
        }
        world.write(vec![Write::Replace(object(placed()))]).unwrap();
        let pod = world.cluster.object(&key).unwrap();
        assert_eq!((ends_at(pod), pod.metadata().deletion_grace_period_seconds), (Some(after(5)), Some(5)));
        world.delete(Kind::Pod, "p");
        assert!(world.cluster.object(&key).is_none());
    }
}
