//! Objects that are applied, or an object that is deleted, in one generation.

use std::path::Path;

use jiff::Timestamp;
use pollgate_control::cluster::{Cluster, Commit, Refusal, Write};
use pollgate_control::objects::fault::Fault;
use pollgate_control::objects::manifest::{self, Document};
use pollgate_control::objects::{Key, Object};

/// Writes, and the document of each that came from a file.
#[derive(Debug)]
pub(super) struct Batch {
    writes: Vec<Write>,
    documents: Vec<Document>,
}

impl Batch {
    /// Applies the objects of a file or directory. The error is what is wrong with them, in lines.
    pub(super) fn apply(path: &Path) -> Result<Batch, String> {
        let documents = manifest::read(path).map_err(|error| error.to_string())?;
        let mut faults = Vec::new();
        let mut writes = Vec::new();
        for document in &documents {
            match Object::from_value(&document.value, "default") {
                Ok(object) => writes.push(Write::Apply(object)),
                Err(found) => faults.extend(found.iter().map(|fault: &Fault| document.tell(fault))),
            }
        }
        if faults.is_empty() { Ok(Batch { writes, documents }) } else { Err(faults.join("\n")) }
    }

    /// Deletes an object, at once.
    pub(super) fn delete(key: Key) -> Batch {
        Batch { writes: vec![Write::delete(key)], documents: Vec::new() }
    }

    /// What the batch leads to. The error is why it is refused, in lines.
    pub(super) fn plan(&self, cluster: &Cluster, now: Timestamp) -> Result<Commit, String> {
        let plan = cluster.plan(self.writes.clone(), now);
        plan.map_err(|refusals| refusals.iter().flat_map(|refusal| self.told(refusal)).collect::<Vec<_>>().join("\n"))
    }

    fn told(&self, refusal: &Refusal) -> Vec<String> {
        let Some(document) = self.documents.get(refusal.index) else { return vec![refusal.message.clone()] };
        if refusal.faults.is_empty() {
            return vec![format!("{}:{}: {}", document.source(), document.line_of(""), refusal.message)];
        }
        refusal.faults.iter().map(|fault| document.tell(fault)).collect()
    }
}
