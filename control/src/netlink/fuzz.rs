//! The target of netlink messages: what the kernel sends, or something like it, by the way that reports and dumps take.

use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::hash::new_map;
use pollgate_common::net::{Facts, Net, PortId};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::time::Instant;

use super::facts;
use super::owned::OwnedAddresses;
use super::watch::Watcher;
use crate::fuzz::choices::Choices;

/// RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_DELNEIGH, NLMSG_ERROR, NLMSG_DONE,
/// NLMSG_OVERRUN.
const TYPES: [u16; 11] = [16, 17, 20, 21, 24, 25, 28, 29, 2, 3, 4];

/// The length of the fixed part behind the header, by type.
fn fixed(kind: u16) -> usize {
    match kind {
        16 | 17 => 16,
        20 | 21 => 8,
        24..=29 => 12,
        _ => 4,
    }
}

/// The target: a message as it is, or several made of attributes.
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let interface = ("eth0".to_owned(), PortId(0));
    let owned = OwnedAddresses::new([IpAddr::from([10, 96, 0, 10])]);
    let mut watcher = Watcher::new(vec![interface], owned, Box::new(|_| {}), Arc::default());
    let mut known = Facts::default();
    if choices.byte() & 1 == 0 {
        hear(choices.rest(), &mut watcher, &mut known);
    }
    while !choices.is_empty() {
        hear(&message(&mut choices), &mut watcher, &mut known);
    }
    watcher.report(known, Instant::now());
}

fn message(choices: &mut Choices<'_>) -> Vec<u8> {
    let kind = choices.of_list(&TYPES);
    let family = choices.of_list(&[2, 10, 0, 7]);
    let mut body = vec![family];
    body.extend(choices.bytes(fixed(kind) - 1));
    body.resize(fixed(kind), 0);
    if kind == 24 && !choices.one_in(8) {
        // A unicast route of the main table.
        (body[4], body[7]) = (254, 1);
    }
    for _ in 0..choices.below(8) {
        attribute(&mut body, choices, 0);
    }
    let length = u32::try_from(16 + body.len()).expect("short");
    let length = if choices.one_in(12) { choices.word() % 200 } else { length };
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2], &[0; 8], &body].concat()
}

fn attribute(body: &mut Vec<u8>, choices: &mut Choices<'_>, depth: usize) {
    let kind = u16::from(choices.byte() % 64);
    let mut value = Vec::new();
    match choices.below(6) {
        0 => value.extend(choices.of_list(&[&b"eth0\0"[..], b"pg-host\0", b"x", b""])),
        1 => value.extend([10, 96, 0, 10]),
        2 => value.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        3 if depth < 3 => (0..choices.below(4)).for_each(|_| attribute(&mut value, choices, depth + 1)),
        _ => {
            let length = choices.of_list(&[0, 1, 2, 4, 6, 8, 16, 20, 64]);
            value.extend(choices.bytes(length));
        }
    }
    let length = u16::try_from(4 + value.len()).expect("short");
    let length = if choices.one_in(16) { choices.half() % 64 } else { length };
    body.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Reads a message, as a report and as a part of a dump.
fn hear(bytes: &[u8], watcher: &mut Watcher, known: &mut Facts) {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return };
    let _ = watcher.understand(&message);
    let NetlinkPayload::InnerMessage(inner) = &message.payload else { return };
    let mut ports = new_map();
    ports.insert("eth0".to_owned(), PortId(0));
    match inner {
        RouteNetlinkMessage::NewLink(link) => known.links.push(facts::link(link, &ports)),
        RouteNetlinkMessage::NewAddress(address) => known.addresses.extend(facts::address(address)),
        RouteNetlinkMessage::NewRoute(route) => known.routes.extend(facts::route(route)),
        _ => {}
    }
}

impl Watcher {
    /// Publishes what a dump would have said, and looks up some next hops in it.
    fn report(&mut self, known: Facts, now: Instant) {
        self.take(known, now);
        let net = Net::new(1, self.facts());
        let hosts = [[10, 96, 0, 10], [192, 168, 0, 1], [255, 255, 255, 255]].map(IpAddr::from);
        let more = ["::", "fd00::1", "fe80::1", "ff02::1"].map(|address| address.parse().expect("an address"));
        for host in hosts.into_iter().chain(more) {
            let _ = (net.next_hop(host), net.kernel_has(host));
        }
    }
}
