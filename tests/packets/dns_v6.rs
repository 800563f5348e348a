//! DNS over UDP/IPv6, as in `dns.rs` and `zone.rs`: headers, sums, and names of IPv6 addresses.

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};
use domain::rdata::AllRecordData;

use super::support::builder::{query, udp};
use super::support::family::wire;
use super::support::lab::{Lab, OUTSIDE, PODS};
use super::support::objects::web;

const SERVER: &str = "10.96.0.10:53";

/// The answers to a query from a Pod, as text.
fn answers(lab: &mut Lab, name: &str, rtype: Rtype) -> (Rcode, Vec<String>) {
    // The lab refuses a wrong sum, and IPv6 has no datagrams without one (RFC 8200 §8.1).
    let seen = lab.through(PODS, udp("10.244.1.5:40000", SERVER).payload(query(name, rtype, 7)), PODS);
    assert_eq!(seen.to_string(), "udp 10.96.0.10:53 > 10.244.1.5:40000 ttl 64");
    let message = Message::from_octets(seen.payload).expect("a message");
    let mut data = Vec::new();
    for record in message.answer().expect("sound") {
        let record = record.expect("sound");
        data.push(record.to_any_record::<AllRecordData<_, _>>().expect("sound").data().to_string());
    }
    (message.header().rcode(), data)
}

/// The reverse name of what `address` is on the wire.
fn reverse(address: &str) -> String {
    let octets = match wire(address.parse().expect("an address")) {
        std::net::IpAddr::V6(v6) => v6.octets(),
        std::net::IpAddr::V4(_) => panic!("the wire has IPv6"),
    };
    let nibbles = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
    nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa."
}

#[test]
fn names_and_ipv6_addresses_lead_to_each_other() {
    let mut lab = Lab::new(&web(&["10.244.1.10"]));
    let name = "web.default.svc.cluster.local.";
    let [vip, endpoint] = ["10.96.0.50", "10.244.1.10"].map(|ip| wire(ip.parse().expect("an address")));
    // RFC 3596 §2.2, §2.5; Kubernetes DNS specification §2.3.
    assert_eq!(answers(&mut lab, name, Rtype::AAAA), (Rcode::NOERROR, vec![vip.to_string()]));
    assert_eq!(answers(&mut lab, name, Rtype::A), (Rcode::NOERROR, vec![]));
    assert_eq!(answers(&mut lab, &reverse("10.96.0.50"), Rtype::PTR), (Rcode::NOERROR, vec![name.to_owned()]));
    let label = endpoint.to_string().replace(':', "-");
    let target = format!("{label}.{name}");
    assert_eq!(answers(&mut lab, &reverse("10.244.1.10"), Rtype::PTR), (Rcode::NOERROR, vec![target.clone()]));
    assert_eq!(answers(&mut lab, &target, Rtype::AAAA), (Rcode::NOERROR, vec![endpoint.to_string()]));
    assert_eq!(answers(&mut lab, &reverse("10.96.0.51"), Rtype::PTR).0, Rcode::NXDOMAIN);
    lab.send(OUTSIDE, udp("192.168.50.100:40000", SERVER));
    lab.counters(&[
        ("rx", 7),
        ("tx", 6),
        ("dns_a", 1),
        ("dns_aaaa", 2),
        ("dns_ptr", 3),
        ("dns_answered", 4),
        ("dns_no_data", 1),
        ("dns_nxdomain", 1),
        ("dns_malformed", 1),
    ]);
}
