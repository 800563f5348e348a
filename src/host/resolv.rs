//! The host's DNS servers.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use pollgate_common::dns::message::PORT;

const FILE: &str = "/etc/resolv.conf";
/// The most that are used, as with CoreDNS.
const MOST: usize = 15;

/// Those of `/etc/resolv.conf`, in its order; none if it cannot be read.
pub fn upstreams() -> Vec<SocketAddr> {
    fs::read_to_string(FILE).map(|text| servers(&text)).unwrap_or_default()
}

/// resolv.conf(5). An address with a scope is left out: it depends on an interface.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|keyword| *keyword == "nameserver").and_then(|_| words.next())?;
        address.parse().ok().map(|address: IpAddr| SocketAddr::new(address, PORT))
    };
    text.lines().filter_map(server).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_their_order() {
        let text = "# nameserver 192.0.2.1\nsearch example.com\nnameserver 192.0.2.2\n\
                    nameserver\t2001:db8::53  # mine\noptions ndots:5\nnameserver fe80::1%eth0\nnameservers 192.0.2.3\n\
                    nameserver dns.example\n nameserver 127.0.0.53";
        let expected = ["192.0.2.2:53", "[2001:db8::53]:53", "127.0.0.53:53"].map(|server| server.parse().unwrap());
        assert_eq!(servers(text), expected);
        assert_eq!(servers(&"nameserver 192.0.2.2\n".repeat(20)).len(), MOST);
    }
}
