//! Packet in, packet out: the whole gateway in memory, without privileges.
//!
//! Each test sends packets that `etherparse` built, reads what comes out with `etherparse`, and asserts every counter:
//! those it does not name must be zero.
//!
//! What holds for both families is one test, compiled into a suite for each; see [`v6::support::family`].

#![allow(clippy::duplicate_mod, reason = "one source, two suites")]

#[path = "."]
mod v4 {
    const IS_V6: bool = false;

    mod affinity;
    mod arp_icmp;
    mod changes;
    mod clusterip;
    mod corpus;
    mod dns;
    mod dns_forward;
    mod drain;
    mod errors;
    mod flood;
    mod flows;
    mod fragments;
    mod host_pair;
    mod malformed;
    mod model;
    mod neighbours;
    mod outside;
    mod overload;
    mod ports;
    mod reasons;
    mod refusals;
    mod sctp;
    mod support;
    mod trace;
    mod workers;
    mod zone;
}

#[path = "."]
mod v6 {
    const IS_V6: bool = true;

    mod affinity;
    mod changes;
    mod clusterip;
    mod dns_forward;
    mod dns_v6;
    mod drain;
    mod errors;
    mod flood;
    mod flows;
    mod fragments;
    mod host_pair;
    mod malformed_v6;
    mod model;
    mod nd_icmpv6;
    mod neighbours;
    mod outside;
    mod overload;
    mod ports;
    mod refusals;
    mod sctp;
    #[allow(dead_code, reason = "damage, ARP and DNS are shown in the IPv4 suite")]
    mod support;
    mod trace;
    mod workers;
}
