//! Only the newest Events are kept.
//!
//! Kubernetes keeps each for an hour. A number needs no clock and bounds the memory, however many are written.

use crate::cluster::overlay::Overlay;
use crate::objects::Kind;

/// Events kept.
const KEPT: usize = 1000;

/// Removes the oldest Events if the batch brought too many.
pub(super) fn run(view: &mut Overlay<'_>) {
    if !view.touched().any(|(key, old)| key.kind == Kind::Event && old.is_none()) {
        return;
    }
    for key in view.surplus_events(KEPT) {
        view.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::World;

    fn event(n: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("e{n:04}")}, "reason": "Test",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}})
    }

    #[test]
    fn the_newest_thousand_are_kept() {
        let mut world = World::new();
        for start in (0..990).step_by(90) {
            world.apply((start..start + 90).map(event));
        }
        // Written again, the first is news.
        let mut again = event(0);
        again["count"] = json!(2);
        world.apply([again]);
        let commit = world.apply((990..1020).map(event));
        let names: Vec<String> = world.cluster.objects(Kind::Event, None).map(|e| e.name().to_owned()).collect();
        assert_eq!((names.len(), names[0].as_str(), names[1].as_str()), (KEPT, "e0000", "e0021"));
        assert_eq!(commit.changes.iter().filter(|change| change.new.is_none()).count(), 20);
        world.apply((2000..3500).map(event));
        let names: Vec<String> = world.cluster.objects(Kind::Event, None).map(|e| e.name().to_owned()).collect();
        assert_eq!((names.len(), names[0].as_str()), (KEPT, "e2500"));
    }
}
