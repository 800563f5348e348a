//! One Service whole: what `explain` says, and what the tables have.

use std::collections::BTreeMap;

use pollgate_common::counters::Counters;
use pollgate_common::tables::Tables;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::compile::resolve::ServiceName;
use crate::explain::{Explanation, explain};
use crate::objects::{Key, Kind};
use crate::observe::dump::{Filter, Items, Query, RingItem, ServiceItem, Table, ZoneItem, page};
use crate::observe::stats::{ServiceStats, ServiceValues, Values};

/// Pods of a Service that are shown, endpoints of one of its ports, and its DNS records.
const SHOWN: usize = 300;
/// Lines of what `explain` prints.
const LINES: usize = 100;

/// A Service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    /// `namespace/name`.
    pub name: String,
    /// The revision of the objects.
    pub revision: u64,
    /// The generation of the tables.
    pub generation: u64,
    /// What `explain` says of it, but the Pods; `None` if there is no such Service.
    pub explanation: Option<Explanation>,
    /// The first lines of what `explain` prints.
    pub text: String,
    /// Its Pods, those of `explain` in its order.
    pub pods: Vec<PodLine>,
    /// How many there are.
    pub pod_count: usize,
    /// Its ports, as `dump services` has them.
    pub ports: Vec<ServiceItem>,
    /// Their rings, as `dump rings` has them.
    pub rings: Vec<RingItem>,
    /// Its DNS records, as `dump zone` has them.
    pub records: Vec<ZoneItem>,
}

/// A Pod, as `explain` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLine {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub address: String,
    /// `yes`, `not ready`, `leaving` or `no`.
    pub endpoint: &'static str,
    /// How many pairs of the selector it carries.
    pub matched: usize,
    /// Why it is no endpoint that takes connections; empty if it is one.
    pub reason: String,
    /// Where connections to it go.
    pub endpoints: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What is known of a Service. `tables` are made from the objects of `cluster`.
pub fn detail(tables: &Tables, cluster: &Cluster, name: &ServiceName) -> Detail {
    let mut explanation = explain(cluster, name);
    let text = explanation.as_ref().map(|explanation| first_lines(&explanation.text())).unwrap_or_default();
    let pods = explanation.as_mut().map(|explanation| std::mem::take(&mut explanation.pods)).unwrap_or_default();
    let pod_count = pods.len();
    let labels = |pod: &str| {
        let object = cluster.object(&Key::new(Kind::Pod, &*name.namespace, pod));
        object.and_then(|object| object.metadata().labels.clone()).unwrap_or_default()
    };
    let line = |pod: crate::explain::PodVerdict| PodLine {
        labels: labels(&pod.name),
        endpoint: pod.verdict.word(),
        reason: pod.verdict.reason(),
        name: pod.name,
        address: pod.address,
        matched: pod.matched,
        endpoints: pod.endpoints,
    };
    let mut shown = Detail {
        name: name.to_string(),
        revision: cluster.revision(),
        generation: tables.generation(),
        explanation,
        text,
        pods: pods.into_iter().take(SHOWN).map(line).collect(),
        pod_count,
        ports: Vec::new(),
        rings: Vec::new(),
        records: Vec::new(),
    };
    let filter = Filter { service: Some(name.to_string()), ..Filter::default() };
    for table in [Table::Services, Table::Rings, Table::Zone] {
        let query = Query { filter: filter.clone(), limit: SHOWN, after: None };
        match page(tables, table, &query).ok().flatten().map(|page| page.items) {
            Some(Items::Services(items)) => shown.ports = items,
            Some(Items::Rings(items)) => shown.rings = items,
            Some(Items::Zone(items)) => shown.records = items,
            Some(Items::Frontends(_) | Items::Owned(_) | Items::Flows(_)) | None => {}
        }
    }
    shown.ports.iter_mut().for_each(|port| port.backends.truncate(SHOWN));
    shown.rings.iter_mut().for_each(|ring| ring.backends.truncate(SHOWN));
    shown
}

/// As many as fit a page.
fn first_lines(text: &str) -> String {
    text.lines().take(LINES).flat_map(|line| [line, "\n"]).collect()
}

/// The counters of a Service's ports, as in `stats`; of each the endpoints that carried most.
pub fn values(counters: &Counters, tables: &Tables, name: &ServiceName) -> ServiceStats {
    let mut all = ServiceStats::new();
    let prefix = format!("{name}:");
    for service in tables.services().filter(|service| service.name.starts_with(&prefix)) {
        all.entry(service.name.to_string()).or_default().add(counters, service);
    }
    all.values_mut().for_each(bound);
    all
}

/// Counts all but the first endpoints together.
fn bound(values: &mut ServiceValues) {
    if values.backends.len() <= SHOWN {
        return;
    }
    let mut order: Vec<(String, Values)> = std::mem::take(&mut values.backends).into_iter().collect();
    order.sort_by_key(|(_, values)| std::cmp::Reverse(values.packets));
    let rest = order.split_off(SHOWN);
    let others = values.others.get_or_insert_default();
    for (_, more) in rest {
        others.packets += more.packets;
        others.bytes += more.bytes;
        others.flows += more.flows;
    }
    values.backends = order.into_iter().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_together() {
        let one = |packets| Values { packets, bytes: packets * 10, flows: 1, live: None };
        let backends = (0..SHOWN as u64 + 20).map(|n| (format!("10.0.{}.{}:80", n / 256, n % 256), one(n))).collect();
        let mut values = ServiceValues { backends, ..ServiceValues::default() };
        bound(&mut values);
        let smallest = values.backends.values().map(|values| values.packets).min();
        assert_eq!((values.backends.len(), smallest), (SHOWN, Some(20)));
        let others = values.others.expect("others");
        assert_eq!((others.packets, others.bytes, others.flows), ((0..20).sum(), (0..20).sum::<u64>() * 10, 20));
    }
}
