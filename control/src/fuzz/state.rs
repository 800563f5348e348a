//! The target of the state file: one that is damaged in any way opens with what it held, or is refused and left as it is.

use std::fs;
use std::sync::{Arc, LazyLock};

use serde_json::json;

use super::choices::Choices;
use crate::cluster::{Change, Cluster, ClusterSettings, Commit};
use crate::objects::Object;
use crate::store::Store;

/// The bytes of a state file with a few objects, some of them deleted.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.db");
    let (mut store, _) = Store::open(&path).expect("a new file");
    for revision in 2..30 {
        let name = format!("map{}", revision % 20);
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x".repeat(500)}});
        let object = Object::from_value(&value, "default").expect("an object");
        let key = object.key();
        let new = (revision % 3 > 0).then(|| Arc::new(object));
        let changes = vec![Change { key: key.clone(), old: None, new }];
        store.commit(&[Arc::new(Commit { revision, changes, written: vec![key] })]).expect("a working disk");
    }
    drop(store);
    fs::read(&path).expect("the file")
});

/// The target: the bytes are a file, or say how a whole one is damaged.
pub(super) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let file = if choices.byte() & 1 == 0 { choices.rest().to_vec() } else { damaged(&mut choices) };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.db");
    fs::write(&path, &file).expect("room");
    match Store::open(&path) {
        Ok((mut store, restored)) => {
            let _ = store.pods();
            // What is in it need not fit together; that is for the cluster to say.
            let _ = Cluster::restore(ClusterSettings::default(), restored.objects, restored.revision);
            let _ = store.compact();
        }
        Err(error) => {
            assert!(error.to_string().contains("state.db"), "{error}");
            assert!(fs::read(&path).expect("still there") == file, "a file that is refused is left as it is: {error}");
        }
    }
}

fn damaged(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut file = WHOLE.clone();
    while !choices.is_empty() {
        let at = place(choices, file.len());
        match choices.below(8) {
            0 => file.truncate(at),
            1 => file.extend(choices.bytes(16)),
            // A page of another time or place.
            2 => {
                let from = place(choices, file.len());
                let length = 4096.min(file.len() - at.max(from));
                file.copy_within(from..from + length, at);
            }
            3 => {
                let end = (at + 4096).min(file.len());
                file[at..end].fill(0);
            }
            _ => {
                if let Some(byte) = file.get_mut(at) {
                    *byte = choices.byte();
                }
            }
        }
    }
    file
}

/// Somewhere in the file; mostly where something is: its header, and the beginnings of its pages.
fn place(choices: &mut Choices<'_>, length: usize) -> usize {
    let at = match choices.below(4) {
        0 => usize::from(choices.half()) % 400,
        1 => usize::from(choices.byte()) * 4096 + usize::from(choices.byte()) % 64,
        2 => usize::from(choices.byte()) * 4096 + usize::from(choices.half()) % 4096,
        _ => usize::from(choices.half()) * 64,
    };
    at.min(length)
}
