//! The whole gateway on real sockets, in network laboratories: its threads in one namespace, clients and Pods in others.
//!
//! Unlike the packet tests, nothing here is virtual: the kernel sends and checks every packet at both ends, so a wrong
//! checksum, a lost translation or a frame too long is a connection that does not work. Each test has a network of its
//! own and ends with the counters: they balance, and nothing was dropped that the test did not expect.
//!
//! As an ordinary user the same tests run in a user namespace (see `pollgate::lab`).

mod behind;
mod bulk;
mod changes;
mod dns_life;
mod dns_outside;
mod dns_tcp;
mod dual_stack;
mod dump;
mod flood;
mod fragments;
mod health;
mod host_pair;
mod manifests;
mod many;
mod metrics;
mod neighbourhood;
mod pktgen;
mod privileges;
pub(crate) mod process;
mod real_clients;
mod resolvers;
mod services;
mod signals;
mod state;
pub(crate) mod support;
mod taken_up;
mod takeover;
mod trace;

use crate::shared::harness::Test;

/// The tests of all modules.
pub(crate) fn tests() -> Vec<Test> {
    [
        behind::TESTS,
        bulk::TESTS,
        changes::TESTS,
        dns_life::TESTS,
        dns_outside::TESTS,
        dns_tcp::TESTS,
        dual_stack::TESTS,
        dump::TESTS,
        flood::TESTS,
        fragments::TESTS,
        health::TESTS,
        host_pair::TESTS,
        manifests::TESTS,
        many::TESTS,
        metrics::TESTS,
        neighbourhood::TESTS,
        pktgen::TESTS,
        privileges::TESTS,
        process::TESTS,
        real_clients::TESTS,
        resolvers::TESTS,
        services::TESTS,
        signals::TESTS,
        state::TESTS,
        taken_up::TESTS,
        takeover::TESTS,
        trace::TESTS,
    ]
    .concat()
}
