//! The DNS messages of the fuzz target's corpus, by way of a worker: each query gets a response, all else is counted.

use super::support::builder::udp;
use super::support::lab::{Lab, PODS};
use super::zone::objects;
use crate::fuzz::dns::{check, corpus, is_query};

#[test]
fn every_query_gets_a_response() {
    let mut lab = Lab::new(&objects());
    for query in corpus() {
        let before = lab.totals();
        lab.send(PODS, udp("10.244.1.5:40000", "10.96.0.10:53").payload(query.as_slice()));
        let seen = lab.take(PODS);
        assert_eq!(seen.len(), usize::from(is_query(&query)), "{query:02x?}");
        assert_eq!(lab.totals().dropped() - before.dropped(), u64::from(seen.is_empty()), "{query:02x?}");
        seen.iter().for_each(|seen| check(&query, &seen.payload));
    }
    lab.balance();
}
