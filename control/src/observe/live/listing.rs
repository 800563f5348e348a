//! The list of all Services, and what changed in it since a version.
//!
//! ```text
//!  version  3    7    8    9   12        each row has the version of its last change; a removed one keeps its place
//!           web  dns  api  ✗   db        since(7) ─▶ api, ✗, db
//! ```
//!
//! A reader is a version and nothing more: it gets what changed after it, in parts of bounded size, and may be as slow as it likes.
//! Removed rows are forgotten once they are many; a reader from before that begins anew.

use std::collections::BTreeMap;

use pollgate_common::hash::{HashMap, random_seed};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::compile::resolve::{ServiceName, resolve};
use crate::explain;

/// Removed rows that are kept.
const REMOVED: usize = 4096;

/// A Service in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its number in this list.
    pub id: u32,
    /// `namespace/name`.
    pub name: String,
    /// Its type, or `headless`.
    pub kind: String,
    /// Its ports, `80/TCP, 53/UDP`.
    pub ports: String,
    /// Endpoints that take new connections; of a Service with several ports, of the port that has most.
    pub ready: usize,
    /// All endpoints, counted alike.
    pub endpoints: usize,
    /// What is wrong, in a sentence; empty if nothing is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

/// What changed since a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delta {
    /// Which list: after a restart there is another one.
    pub epoch: u64,
    /// The version that the reader has with this.
    pub version: u64,
    /// Whether what the reader had before is void.
    pub reset: bool,
    /// Whether there is more.
    pub more: bool,
    /// New and changed rows.
    pub rows: Vec<Row>,
    /// Numbers of removed ones.
    pub gone: Vec<u32>,
}

/// All Services.
#[derive(Debug)]
pub struct Listing {
    epoch: u64,
    version: u64,
    /// Readers from before this version have to begin anew.
    floor: u64,
    numbers: HashMap<String, u32>,
    names: u64,
    next: u32,
    /// By the version of their last change; nothing for a removed one.
    rows: BTreeMap<u64, (u32, Option<Row>)>,
    versions: HashMap<u32, u64>,
    removed: usize,
}

impl Default for Listing {
    fn default() -> Listing {
        Listing {
            // A number that JavaScript keeps exactly.
            epoch: random_seed()[0] >> 11,
            version: 0,
            floor: 0,
            numbers: HashMap::default(),
            names: 0,
            next: 0,
            rows: BTreeMap::new(),
            versions: HashMap::default(),
            removed: 0,
        }
    }
}

impl Listing {
    /// Which list this is.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes whenever a name gets another number.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    /// The number of a Service.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// Looks at a Service again, because it or its endpoints may have changed.
    pub fn update(&mut self, cluster: &Cluster, name: &ServiceName) {
        let text = name.to_string();
        match row(cluster, name, &text) {
            Some(row) => {
                let id = self.number(&text);
                self.put(Row { id, ..row });
            }
            None => self.remove(&text),
        }
    }

    fn put(&mut self, row: Row) {
        let before = self.versions.get(&row.id).and_then(|version| self.rows.get(version));
        if before.is_some_and(|(_, before)| before.as_ref() == Some(&row)) {
            return;
        }
        self.set(row.id, Some(row));
    }

    fn remove(&mut self, name: &str) {
        let Some(number) = self.numbers.remove(name) else { return };
        self.names += 1;
        if !self.versions.contains_key(&number) {
            return;
        }
        self.set(number, None);
        self.removed += 1;
        while self.removed > REMOVED {
            self.forget_oldest();
        }
    }

    fn set(&mut self, number: u32, row: Option<Row>) {
        self.version += 1;
        if let Some(before) = self.versions.insert(number, self.version) {
            self.rows.remove(&before);
        }
        self.rows.insert(self.version, (number, row));
    }

    fn forget_oldest(&mut self) {
        let oldest = self.rows.iter().find(|(_, (_, row))| row.is_none());
        let Some((version, number)) = oldest.map(|(version, (number, _))| (*version, *number)) else { return };
        self.rows.remove(&version);
        self.versions.remove(&number);
        (self.floor, self.removed) = (version, self.removed - 1);
    }

    /// At most `limit` of the changes after `seen`, of the list `epoch`.
    pub fn since(&self, epoch: u64, seen: u64, limit: usize) -> Delta {
        let is_known = epoch == self.epoch && (self.floor..=self.version).contains(&seen);
        // A reader that begins has nothing that could be void, but it is told all the same.
        let (seen, reset) = if is_known && seen > 0 { (seen, false) } else { (0, true) };
        let mut delta =
            Delta { epoch: self.epoch, version: seen, reset, more: false, rows: Vec::new(), gone: Vec::new() };
        for (taken, (version, (number, row))) in self.rows.range(seen + 1..).enumerate() {
            if taken == limit {
                delta.more = true;
                break;
            }
            delta.version = *version;
            match row {
                Some(row) => delta.rows.push(row.clone()),
                None => delta.gone.push(*number),
            }
        }
        delta
    }
}

fn row(cluster: &Cluster, name: &ServiceName, text: &str) -> Option<Row> {
    let resolved = resolve(cluster, name)?;
    let ports = resolved.published_ports.iter().map(|port| match port.port {
        Some(number) => format!("{number}/{}", port.protocol),
        None => port.protocol.to_string(),
    });
    let ready = resolved.ports.iter().map(|port| port.endpoints.iter().filter(|endpoint| endpoint.ready).count());
    let all = resolved.ports.iter().map(|port| port.endpoints.len()).max().unwrap_or(0);
    let ready = ready.max().unwrap_or(0);
    Some(Row {
        id: 0,
        name: text.to_owned(),
        kind: if resolved.headless { "headless".to_owned() } else { resolved.kind.as_str().to_owned() },
        ports: ports.collect::<Vec<String>>().join(", "),
        ready: if resolved.headless { resolved.ready_addresses.len() } else { ready },
        endpoints: if resolved.headless { all.max(resolved.ready_addresses.len()) } else { all },
        trouble: explain::trouble(cluster, name, &resolved).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::Kind;
    use crate::testing::World;

    fn service(name: &str) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
    }

    fn names(delta: &Delta) -> Vec<&str> {
        delta.rows.iter().map(|row| row.name.as_str()).collect()
    }

    #[test]
    fn a_reader_gets_what_changed_after_its_version() {
        let mut world = World::new();
        let mut listing = Listing::default();
        let name = |name: &str| ServiceName::new("default", name);
        world.apply([service("a"), service("b"), service("c")]);
        ["a", "b", "c"].iter().for_each(|own| listing.update(&world.cluster, &name(own)));
        let all = listing.since(0, 0, 10);
        assert_eq!((names(&all), all.reset, all.more), (vec!["default/a", "default/b", "default/c"], true, false));
        assert_eq!(all.rows[0].trouble, "No endpoint is ready: connections are refused.");
        assert_eq!((all.rows[0].ports.as_str(), all.rows[0].kind.as_str()), ("80/TCP", "ClusterIP"));

        // In parts.
        let part = listing.since(0, 0, 2);
        assert_eq!((part.rows.len(), part.more), (2, true));
        let rest = listing.since(part.epoch, part.version, 2);
        assert_eq!((names(&rest), rest.reset, rest.more), (vec!["default/c"], false, false));

        // Nothing new is no change.
        listing.update(&world.cluster, &name("a"));
        assert_eq!(listing.version(), all.version);
        assert!(listing.since(all.epoch, all.version, 10).rows.is_empty());

        // A removed one is named by its number, and its name gets another.
        let b = all.rows[1].id;
        world.delete(Kind::Service, "b");
        listing.update(&world.cluster, &name("b"));
        let delta = listing.since(all.epoch, all.version, 10);
        assert_eq!((delta.gone, delta.rows.len(), delta.reset), (vec![b], 0, false));
        world.apply([service("b")]);
        listing.update(&world.cluster, &name("b"));
        assert_ne!(listing.since(all.epoch, all.version, 10).rows[0].id, b);

        // Of another list, or of one that is older than what is kept.
        assert!(listing.since(all.epoch + 1, all.version, 10).reset);
        assert!(listing.since(all.epoch, listing.version() + 1, 10).reset);
    }

    #[test]
    fn removed_rows_are_bounded() {
        let mut listing = Listing::default();
        let row = |id: u32| Row {
            id,
            name: format!("n/{id}"),
            kind: String::new(),
            ports: String::new(),
            ready: 0,
            endpoints: 0,
            trouble: String::new(),
        };
        for _ in 0..REMOVED + 10 {
            let name = format!("n/{}", listing.next);
            let id = listing.number(&name);
            listing.put(row(id));
            listing.remove(&name);
        }
        assert_eq!((listing.rows.len(), listing.versions.len(), listing.removed), (REMOVED, REMOVED, REMOVED));
        assert!(listing.since(listing.epoch, 1, 10).reset, "what is forgotten cannot be told");
        assert!(!listing.since(listing.epoch, listing.floor, 10).reset);
    }
}
