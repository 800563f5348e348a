//! Advice about the host's routes.

use std::net::IpAddr;

use super::advice::{Advice, advice};

/// What to change if the kernel has no route to these owned addresses. For IPv4 nothing: with forwarding off the kernel is
/// silent there.
pub fn for_unrouted(addresses: &[IpAddr]) -> Option<Advice> {
    let first = addresses.iter().find(|address| address.is_ipv6())?;
    let finding = format!("the kernel has no route to {first}, which pollgate owns");
    let command = "ip -6 route add blackhole ::/0 metric 4294967295".to_owned();
    let why = "beside pollgate the kernel would answer packets for it with \"no route\" (ICMPv6), even with forwarding \
               off, and clients would give up; a route that discards keeps it silent";
    advice(finding, command, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv6_needs_a_route_that_discards() {
        let [v4, v6] = ["10.96.0.10", "fd00::10"].map(|text| text.parse().expect("an address"));
        assert_eq!(for_unrouted(&[v4]), None);
        let found = for_unrouted(&[v4, v6]).expect("advice");
        assert_eq!(found.finding, "the kernel has no route to fd00::10, which pollgate owns");
    }
}
