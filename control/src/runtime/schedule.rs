//! When terminating Pods are removed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::cluster::termination::ends_at;
use crate::cluster::{Cluster, Commit};
use crate::objects::{Key, Kind};

/// The Pods that are to be removed, in the order of their time.
#[derive(Debug, Default)]
pub struct Schedule(BTreeSet<(Timestamp, Key)>);

impl Schedule {
    /// Those of a restored cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let pods = cluster.objects(Kind::Pod, None);
        Self(pods.filter_map(|pod| Some((ends_at(pod)?, pod.key()))).collect())
    }

    /// Applies the changes of a commit.
    pub fn follow(&mut self, commit: &Commit) {
        for change in commit.changes.iter().filter(|change| change.key.kind == Kind::Pod) {
            if let Some(end) = change.old.as_deref().and_then(ends_at) {
                self.0.remove(&(end, change.key.clone()));
            }
            if let Some(end) = change.new.as_deref().and_then(ends_at) {
                self.0.insert((end, change.key.clone()));
            }
        }
    }

    /// When the next one is to be removed.
    pub fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(end, _)| *end)
    }

    /// Removes and returns those whose time is over.
    pub fn due(&mut self, now: Timestamp) -> Vec<Key> {
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
    use jiff::SignedDuration;

    use super::*;
    use crate::cluster::{Preconditions, Write};
    use crate::objects::Object;
    use crate::testing::{World, now, pod, web};

    fn terminating(grace: u32) -> (World, Key) {
        let mut world = World::new();
        let mut placed = pod("p", "a", "10.1.0.1");
        placed["spec"]["nodeName"] = "n".into();
        world.apply([web("a"), placed]);
        let key = Key::new(Kind::Pod, "default", "p");
        world.write(vec![Write::Terminate(key.clone(), grace, Preconditions::default())]).unwrap();
        (world, key)
    }

    fn after(seconds: i64) -> Timestamp {
        now() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn a_schedule_follows_commits_and_is_the_same_after_a_restart() {
        let (mut world, key) = terminating(30);
        let mut schedule = Schedule::of(&world.cluster);
        let saved: Vec<Object> = world.cluster.objects(Kind::Pod, None).map(|pod| (**pod).clone()).collect();
        let restored = Cluster::restore(world.cluster.settings().clone(), saved, 9).unwrap();
        assert_eq!(Schedule::of(&restored).0, schedule.0);
        assert!(schedule.due(after(29)).is_empty());
        let commit = world.write(vec![Write::Terminate(key.clone(), 10, Preconditions::default())]).unwrap();
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
