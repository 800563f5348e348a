//! The names that dashboards of kube-proxy and CoreDNS use, with the values that there are here (`metrics.compatible`).
//!
//! Only what means the same has the name. A label that is not known here is left out: a query that sums over it, or does not name it, works
//! as it did. What has no equivalent is listed in the guide.

use std::fmt;

use super::list::{Kind, Metric, Series, Snapshot, metric, seconds};

/// All of them.
pub const COMPATIBLE: &[Metric] = &[
    metric(
        "kubeproxy_network_programming_duration_seconds",
        Kind::Histogram,
        &[],
        "As pollgate_network_programming_duration_seconds, in the buckets of kube-proxy.",
        |from, to| to.put_histogram(&from.stats.publications.programming),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_duration_seconds",
        Kind::Histogram,
        &[],
        "As pollgate_publish_duration_seconds.",
        |from, to| to.put_histogram(&from.stats.publications.publish),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        Kind::Gauge,
        &[],
        "As pollgate_last_publication_timestamp_seconds.",
        |from, to| to.put_seconds(seconds(from.stats.publications.last_publication * 1000)),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        Kind::Gauge,
        &[],
        "When a change was compiled last, in seconds since 1970; 0: never.",
        |from, to| to.put_seconds(seconds(from.stats.publications.last_change * 1000)),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_service_changes",
        Kind::Counter,
        &[],
        "As pollgate_changes_total of Services.",
        |from, to| to.put(&[], from.stats.publications.services_changed),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        Kind::Gauge,
        &[],
        "As pollgate_changes_pending of Services.",
        |from, to| to.put(&[], from.stats.publications.services_pending),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_endpoint_changes",
        Kind::Counter,
        &[],
        "As pollgate_changes_total of EndpointSlices.",
        |from, to| to.put(&[], from.stats.publications.slices_changed),
    ),
    metric(
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        Kind::Gauge,
        &[],
        "As pollgate_changes_pending of EndpointSlices.",
        |from, to| to.put(&[], from.stats.publications.slices_pending),
    ),
    metric(
        "coredns_dns_requests",
        Kind::Counter,
        &["type"],
        "DNS queries by type, over UDP and TCP: pollgate_dns_a_total and the four after it.",
        |from, to| {
            let types =
                [("A", "dns_a"), ("AAAA", "dns_aaaa"), ("SRV", "dns_srv"), ("PTR", "dns_ptr"), ("other", "dns_other")];
            types.into_iter().try_for_each(|(label, counter)| sums(from, to, &[label], &[counter]))
        },
    ),
    metric(
        "coredns_dns_responses",
        Kind::Counter,
        &["rcode"],
        "DNS responses by code: pollgate_dns_answered_total and the ten after it.",
        |from, to| RCODES.iter().try_for_each(|(label, counters)| sums(from, to, &[label], counters)),
    ),
    metric(
        "coredns_cache_requests",
        Kind::Counter,
        &[],
        "As pollgate_dns_forwarded_total: all of these are looked up in the cache.",
        |from, to| sums(from, to, &[], &["dns_forwarded"]),
    ),
    metric("coredns_cache_hits", Kind::Counter, &[], "As pollgate_dns_cached_total.", |from, to| {
        sums(from, to, &[], &["dns_cached"])
    }),
    metric("coredns_cache_served_stale", Kind::Counter, &[], "As pollgate_dns_stale_total.", |from, to| {
        sums(from, to, &[], &["dns_stale"])
    }),
    metric("coredns_cache_prefetch", Kind::Counter, &[], "As pollgate_dns_prefetched_total.", |from, to| {
        sums(from, to, &[], &["dns_prefetched"])
    }),
    metric(
        "coredns_forward_max_concurrent_rejects",
        Kind::Counter,
        &[],
        "As pollgate_dns_no_room_total.",
        |from, to| sums(from, to, &[], &["dns_no_room"]),
    ),
];

/// The codes of responses (RFC 1035 §4.1.1, RFC 6891 §9), each with the counters that together count it.
const RCODES: [(&str, &[&str]); 7] = [
    ("NOERROR", &["dns_answered", "dns_no_data"]),
    ("NXDOMAIN", &["dns_nxdomain"]),
    ("SERVFAIL", &["dns_servfail"]),
    ("REFUSED", &["dns_refused"]),
    ("NOTIMP", &["dns_notimp"]),
    ("BADVERS", &["dns_badvers"]),
    ("FORMERR", &["dns_bad_name", "dns_bad_counts", "dns_bad_opt", "dns_trailing"]),
];

/// The sum of counters of all threads.
fn sums(from: &Snapshot, to: &mut Series<'_>, labels: &[&str], counters: &[&str]) -> fmt::Result {
    to.put(labels, counters.iter().map(|name| from.stats.counters.counter(name)).sum())
}
