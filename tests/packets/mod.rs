//! Packet in, packet out: the whole gateway in memory, without privileges.
//!
//! Each test sends packets that `etherparse` built, reads what comes out with `etherparse`, and asserts every counter:
//! those it does not name must be zero.

mod arp_icmp;
mod changes;
mod clusterip;
mod dns;
mod flood;
mod flows;
mod malformed;
mod neighbours;
mod outside;
mod reasons;
mod refusals;
mod support;
mod workers;
