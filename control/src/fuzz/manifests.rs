//! The target of manifests: any text is read or refused with a line; what is read is admitted or refused; what is admitted is compiled,
//! explained and printed.

use std::sync::Arc;

use jiff::tz::TimeZone;
use pollgate_common::counters::Counters;

use super::choices::Choices;
use super::values::{OBJECTS, changed, damaged};
use crate::cluster::Write;
use crate::compile::Compiler;
use crate::compile::sink::TableSink;
use crate::explain::explain;
use crate::objects::service::ServiceName;
use crate::objects::{Kind, Object, manifest};
use crate::observe::dump::tests::options;
use crate::printers::{Table, describe};
use crate::testing::{World, now};

/// The target: a text as it is, or objects that are nearly valid, in one of two steps.
pub(super) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let mut world = World::new();
    let mut compiler = Compiler::new(options(), Arc::new(Counters::new(1)));
    if choices.byte() & 1 == 0 {
        apply(&mut world, &mut compiler, &String::from_utf8_lossy(choices.rest()));
        return;
    }
    for _ in 0..2 {
        let text = text(&mut choices);
        apply(&mut world, &mut compiler, &text);
    }
}

fn text(choices: &mut Choices<'_>) -> String {
    let object =
        |choices: &mut Choices<'_>| changed(choices.of_list(&OBJECTS.iter().collect::<Vec<_>>()).clone(), choices);
    let count = 1 + choices.below(5);
    let objects: Vec<_> = (0..count).map(|_| object(choices)).collect();
    let is_json = choices.one_in(3);
    let text = |value: &serde_json::Value| match is_json {
        true => value.to_string(),
        false => serde_saphyr::to_string(value).unwrap_or_default(),
    };
    let all = objects.iter().map(text).collect::<Vec<_>>().join("\n---\n");
    String::from_utf8_lossy(&damaged(all.into_bytes(), choices)).into_owned()
}

fn apply(world: &mut World, compiler: &mut Compiler, text: &str) {
    let lines = text.lines().count() + 1;
    let read = manifest::parse_all("fuzz.yaml", text);
    for error in &read.errors {
        assert!((1..=lines).contains(&error.line()), "{error} is in none of {lines} lines");
    }
    let decoded = read.documents.iter().map(|document| Object::from_value(&document.value, "default"));
    let writes: Vec<Write> = decoded.filter_map(Result::ok).map(Write::Apply).collect();
    // All or none; so that one that is refused does not hide the others, each by itself, too.
    if world.write(writes.clone()).is_err() {
        writes.into_iter().for_each(|write| drop(world.write(vec![write])));
    }
    compile(world, compiler);
}

fn compile(world: &World, compiler: &mut Compiler) {
    compiler.changed(&world.cluster, &world.cluster.all_of(Kind::ALL));
    compiler.publish();
    compiler.tick();
    let at = now().to_zoned(TimeZone::UTC);
    for kind in Kind::ALL {
        let objects: Vec<Object> = world.cluster.objects(kind, None).map(|object| Object::clone(object)).collect();
        let _ = Table::of(kind, &objects, true, now()).text(true, true);
        for object in &objects {
            let _ = describe(object, &[], Some(&[]), &at);
            let again = Object::from_value(&object.to_value(), "default").expect("what is stored can be read");
            assert_eq!(again, *object);
            if kind == Kind::Service {
                let name = ServiceName::new(object.namespace(), object.name());
                let _ = explain(&world.cluster, &name).expect("a Service").text();
            }
        }
    }
}
