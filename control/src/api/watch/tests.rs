//! Pagers and watchers against the whole truth: random commits between their steps, random selectors, short memories.

use std::collections::BTreeMap;

use crossbeam::channel::unbounded;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::Api;
use crate::api::history::Bounds;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::server::Limits;
use crate::api::view::{Page, Replica};
use crate::cluster::Write;
use crate::objects::{Kind, Object};
use crate::testing::{World, object, web};

/// A write: to which of a few objects, and its new label; without one it is deleted.
#[derive(Debug, Clone)]
struct Step {
    namespace: &'static str,
    name: &'static str,
    color: Option<&'static str>,
}

fn step() -> impl Strategy<Value = Step> {
    let color = proptest::option::weighted(0.7, prop_oneof![Just("red"), Just("blue"), Just("green")]);
    (prop_oneof![Just("default"), Just("other")], prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")], color)
        .prop_map(|(namespace, name, color)| Step { namespace, name, color })
}

/// Commits of one to three writes each.
fn commits(most: usize) -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(step(), 1..4), 0..most)
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let kind = prop_oneof![4 => Just(Kind::Service), 1 => Just(Kind::EndpointSlice), 1 => Just(Kind::Namespace)];
    let labels = prop_oneof![Just(""), Just("color=red"), Just("color in (red, blue)"), Just("color!=green")];
    let fields = prop_oneof![3 => Just(""), 1 => Just("metadata.name=a"), 1 => Just("metadata.name!=b")];
    let namespace = proptest::option::of(Just("default"));
    (kind, namespace, labels, fields).prop_map(|(kind, namespace, labels, fields)| Wanted {
        kind,
        namespace: namespace.filter(|_| kind.namespaced()).map(str::to_owned),
        labels: LabelSelector::parse(labels).unwrap(),
        fields: FieldSelector::parse(fields, kind).unwrap(),
    })
}

/// A history that forgets soon, or never.
fn bounds() -> impl Strategy<Value = Bounds> {
    prop_oneof![Just(usize::MAX), 1..12_usize].prop_map(|changes| Bounds { changes, bytes: usize::MAX })
}

/// The control thread and the replica in one.
struct Both {
    world: World,
    api: Api,
    /// Kept open, or every watch would end.
    _stop: watch::Sender<()>,
}

impl Both {
    fn new(bounds: Bounds) -> Self {
        let world = World::new();
        let (stop, stopped) = watch::channel(());
        let replica = Replica::bounded(world.cluster.clone(), bounds);
        let stats = Arc::new(crate::observe::stats::Stats::default);
        let api = Api::new(replica, unbounded().0, (stats, Arc::default()), None, Limits::default(), stopped);
        Self { world, api, _stop: stop }
    }

    /// One commit of all steps; of two for one object the last counts.
    fn commit(&mut self, steps: &[Step]) {
        let steps: BTreeMap<Key, &Step> =
            steps.iter().map(|step| (Key::new(Kind::Service, step.namespace, step.name), step)).collect();
        let writes: Vec<Write> = steps.into_iter().filter_map(|(key, step)| self.write(key, step)).collect();
        let commit = self.world.write(writes).expect("allowed");
        if !commit.changes.is_empty() {
            self.api.replica.apply(&[Arc::new(commit)]);
        }
    }

    fn write(&self, key: Key, step: &Step) -> Option<Write> {
        let Some(color) = step.color else {
            return self.world.cluster.object(&key).is_some().then_some(Write::delete(key));
        };
        let mut service = web(step.name);
        service["metadata"]["namespace"] = json!(step.namespace);
        service["metadata"]["labels"] = json!({"color": color});
        Some(Write::Apply(object(service)))
    }

    fn watcher(&self, wanted: &Wanted, revision: u64) -> Watcher {
        let options =
            Options { revision, initial: false, mark: false, bookmarks: false, lasts: Duration::from_secs(3600) };
        let permit = Arc::clone(&self.api.watches).try_acquire_owned().expect("the only one");
        Watcher::new(&self.api, wanted.clone(), Form::default(), &options, permit)
    }
}

fn named(object: &Object) -> (String, String) {
    (object.namespace().to_owned(), object.name().to_owned())
}

/// What a client knows: objects by namespace and name.
type Known = BTreeMap<(String, String), Value>;

fn known(objects: &[Arc<Object>]) -> Known {
    objects.iter().map(|object| (named(object), crate::objects::shown::shown(object))).collect()
}

/// Takes an event into account as a client does, and checks that it fits what is known.
fn learn(known: &mut Known, event: &Value) {
    let object = event["object"].clone();
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let name = (text("namespace"), text("name"));
    let before = match event["type"].as_str() {
        Some("DELETED") => known.remove(&name),
        _ => known.insert(name, object),
    };
    assert_eq!(before.is_some(), event["type"] != "ADDED", "{event}");
}

/// Reads at most `most` events.
fn read(watcher: &mut Watcher, most: usize) -> Result<Vec<Value>, Status> {
    let mut events = Vec::new();
    while events.len() < most {
        match watcher.news()? {
            News::Line(line) => events.push(serde_json::from_slice(&line).expect("JSON")),
            News::More => {}
            News::None => break,
        }
    }
    Ok(events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_pager_sees_the_state_of_its_first_page(
        before in commits(8), between in proptest::collection::vec(commits(5), 8), limit in 1..4_usize,
        wanted in wanted(), bounds in bounds(),
    ) {
        let forgets = bounds.changes < usize::MAX;
        let mut both = Both::new(bounds);
        before.iter().for_each(|steps| both.commit(steps));
        let (revision, expected) = both.api.replica.list(&wanted);
        let (mut seen, mut after, mut between) = (Vec::new(), None, between.iter());
        loop {
            let page = both.api.replica.page(&wanted, Some(revision), after.as_ref(), limit);
            let Ok(Page { objects, last, .. }) = page else {
                prop_assert!(forgets, "{:?}", page);
                break;
            };
            seen.extend(objects);
            prop_assert_eq!(&seen[..], &expected[..seen.len()]);
            prop_assert_eq!(last.is_none(), seen.len() == expected.len());
            let Some(last) = last else { break };
            if wanted.selects_all() {
                let behind = both.api.replica.count_behind(&wanted, revision, &last);
                prop_assert_eq!(behind, Ok(expected.len() - seen.len()));
            }
            after = Some(last);
            between.next().into_iter().flatten().for_each(|steps| both.commit(steps));
        }
    }

    #[test]
    fn a_watcher_that_replays_the_events_knows_the_state(
        before in commits(4), then in commits(12), wanted in wanted(), bounds in bounds(),
        pace in proptest::collection::vec(0..5_usize, 12),
    ) {
        let forgets = bounds.changes < usize::MAX;
        let mut both = Both::new(bounds);
        before.iter().for_each(|steps| both.commit(steps));
        let (revision, objects) = both.api.replica.list(&wanted);
        let mut known = known(&objects);
        let mut watcher = both.watcher(&wanted, revision);
        let mut last = revision;
        for (steps, pace) in then.iter().zip(pace.iter().copied()).chain([(&Vec::new(), usize::MAX)]) {
            both.commit(steps);
            let events = match read(&mut watcher, pace) {
                Ok(events) => events,
                Err(status) => {
                    prop_assert!(forgets);
                    prop_assert_eq!(&status.to_value()["code"], &json!(410));
                    return Ok(());
                }
            };
            for event in &events {
                let revision = event["object"]["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
                prop_assert!(revision.is_some_and(|revision: u64| revision >= last), "{} after {}", event, last);
                last = revision.unwrap_or(last);
                learn(&mut known, event);
            }
        }
        prop_assert_eq!(known, self::known(&both.api.replica.list(&wanted).1));
    }
}

#[test]
fn equal_lines_are_encoded_once() {
    let mut both = Both::new(Bounds::default());
    let services = Wanted {
        kind: Kind::Service,
        namespace: None,
        labels: LabelSelector::default(),
        fields: FieldSelector::default(),
    };
    let revision = *both.api.replica.revision().borrow();
    both.commit(&[Step { namespace: "default", name: "a", color: Some("red") }]);
    let line = || match both.watcher(&services, revision).news() {
        Ok(News::Line(line)) => line,
        Ok(News::More | News::None) | Err(_) => panic!("no event"),
    };
    let (one, other) = (line(), line());
    assert_eq!((one.as_ptr(), one.len()), (other.as_ptr(), other.len()));
}

#[test]
fn a_time_that_is_not_named_is_between_half_an_hour_and_an_hour() {
    for text in ["", "0", "-1"] {
        let lasts = lasts(text).expect("a time").as_secs();
        assert!((1800..3600).contains(&lasts), "{text}: {lasts}");
    }
    assert_eq!(lasts("7").expect("a time").as_secs(), 7);
    assert!(lasts("soon").is_err());
}
