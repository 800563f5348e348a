//! Which Service ports have series of their own.
//!
//! A series that vanishes and comes back with a larger number, or a sum that falls because a part of it is shown elsewhere now, would be
//! taken for traffic by `rate()`. So a Service port that has series keeps them while it exists, one that has none gets none later, and
//! what was added to the sum of the others stays in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::observe::stats::{ServiceStats, Values};

/// The choice, kept from scrape to scrape.
#[derive(Debug)]
pub(super) struct Named {
    most: usize,
    named: BTreeSet<String>,
    /// The others, each with what it had when it was added last.
    others: BTreeMap<String, Values>,
    /// What all others have had.
    sum: Values,
}

/// What is shown of Service ports.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Shares {
    /// Those with series of their own, by name.
    pub(super) named: Vec<(String, Values)>,
    /// How many others there are.
    pub(super) others: u64,
    /// What all others have carried, those that are gone too.
    pub(super) sum: Values,
}

impl Named {
    /// At most so many have series.
    pub(super) fn new(most: usize) -> Named {
        Named { most, named: BTreeSet::new(), others: BTreeMap::new(), sum: Values::default() }
    }

    /// Shares out what was carried. New Service ports get series in the order of their names, as long as there are any left.
    pub(super) fn share(&mut self, services: ServiceStats) -> Shares {
        self.named.retain(|name| services.contains_key(name));
        self.others.retain(|name, _| services.contains_key(name));
        let mut shares = Shares::default();
        for (name, values) in services {
            let now = values.all;
            if !self.named.contains(&name) {
                if self.others.contains_key(&name) || self.named.len() >= self.most {
                    let before = self.others.entry(name).or_default();
                    self.sum = sum(self.sum, since(now, *before));
                    *before = now;
                    continue;
                }
                self.named.insert(name.clone());
            }
            shares.named.push((name, now));
        }
        Shares { others: self.others.len() as u64, sum: self.sum, ..shares }
    }
}

fn sum(a: Values, b: Values) -> Values {
    let (packets, bytes, flows) = (a.packets + b.packets, a.bytes + b.bytes, a.flows + b.flows);
    Values { packets, bytes, flows, live: None }
}

/// What was carried after `before`. A number that is smaller now began anew: the Service was deleted and created again.
fn since(now: Values, before: Values) -> Values {
    let one = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
    Values {
        packets: one(now.packets, before.packets),
        bytes: one(now.bytes, before.bytes),
        flows: one(now.flows, before.flows),
        live: None,
    }
}

/// Namespace, Service and port of a name such as `default/web:80`. The gateway's own services have no namespace.
pub(super) fn parts(name: &str) -> [&str; 3] {
    let (namespace, rest) = name.split_once('/').unwrap_or(("", name));
    let (service, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    [namespace, service, port]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::stats::ServiceValues;

    fn values(n: u64) -> Values {
        Values { packets: n, bytes: 100 * n, flows: n, live: None }
    }

    fn stats(services: &[(&str, u64)]) -> ServiceStats {
        let one = |(name, n): &(&str, u64)| {
            ((*name).to_owned(), ServiceValues { all: values(*n), ..ServiceValues::default() })
        };
        services.iter().map(one).collect()
    }

    fn shown(named: &mut Named, services: &[(&str, u64)]) -> (Vec<(String, u64)>, u64, u64) {
        let Shares { named, others, sum } = named.share(stats(services));
        (named.into_iter().map(|(name, values)| (name, values.packets)).collect(), others, sum.packets)
    }

    fn owned(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn no_series_comes_back_and_no_sum_falls() {
        let mut named = Named::new(2);
        assert_eq!(shown(&mut named, &[("b", 5), ("c", 7), ("d", 1)]), (owned(&[("b", 5), ("c", 7)]), 1, 1));
        // One that sorts first, and carries most, comes too late.
        assert_eq!(
            shown(&mut named, &[("a", 900), ("b", 6), ("c", 7), ("d", 3)]),
            (owned(&[("b", 6), ("c", 7)]), 2, 903)
        );
        // One of the others is gone: what it carried is not.
        assert_eq!(shown(&mut named, &[("b", 6), ("c", 8), ("d", 4)]), (owned(&[("b", 6), ("c", 8)]), 1, 904));
        // A series becomes free: those in the sum stay there, a new one gets it.
        assert_eq!(
            shown(&mut named, &[("b", 6), ("d", 5), ("e", 2), ("f", 1)]),
            (owned(&[("b", 6), ("e", 2)]), 2, 906)
        );
        // Deleted and created again between two scrapes.
        assert_eq!(shown(&mut named, &[("b", 1), ("d", 2), ("f", 1)]), (owned(&[("b", 1)]), 2, 908));
    }

    #[test]
    fn without_series_everything_is_in_the_sum() {
        let mut named = Named::new(0);
        assert_eq!(shown(&mut named, &[("a", 1), ("b", 2)]), (vec![], 2, 3));
        assert_eq!(shown(&mut named, &[]), (vec![], 0, 3));
    }

    #[test]
    fn a_name_has_three_parts() {
        assert_eq!(parts("default/web:http"), ["default", "web", "http"]);
        assert_eq!(parts("gateway:healthz"), ["", "gateway", "healthz"]);
        assert_eq!(parts("odd"), ["", "odd", ""]);
    }
}
