//! The syntax of single values: durations, ranges, prefixes, hardware addresses.
//!
//! Each is a pure function from trimmed text to `Option`; the caller reports what was expected.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use pollgate_common::dns::message;

/// Longest path of a Unix socket: `sun_path` is 108 bytes with its final zero (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;

/// `24h`, `60s`, `1h30m`, `500ms`: whole numbers with a unit, greatest unit first, none twice.
/// A bare number is refused: it could be seconds or milliseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut units: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    while !rest.is_empty() {
        let (number, behind) = split_where(rest, |c| !c.is_ascii_digit());
        let (unit, behind) = split_where(behind, |c| c.is_ascii_digit());
        let position = units.iter().position(|(name, _)| *name == unit)?;
        let millis = number.parse::<u64>().ok()?.checked_mul(units[position].1)?;
        total = total.checked_add(Duration::from_millis(millis))?;
        units = &units[position + 1..];
        rest = behind;
    }
    (!text.is_empty()).then_some(total)
}

fn split_where(text: &str, at: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(at).unwrap_or(text.len()))
}

/// `30000-32767`: two ports, the first not above the second, neither of them 0.
pub(super) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (decimal(first)?, decimal(last)?);
    (0 < first && first <= last).then_some(first..=last)
}

/// `3` or `2-5`: CPUs by number.
pub(super) fn cpu_range(text: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (decimal(first)?, decimal(last)?);
    (first <= last).then_some(first..=last)
}

/// Digits only: `+5` and `5 ` parse in Rust, but are typing errors here.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `10.96.0.0/16` with no bit set after the prefix.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    (net.trunc() == net).then_some(net)
}

/// Destination of a route: a network, or `default`, of the family of the next hop.
pub(super) fn destination(text: &str, via: Option<IpAddr>) -> Option<IpNet> {
    match (text, via) {
        ("default", Some(IpAddr::V6(_))) => "::/0".parse().ok(),
        ("default", _) => "0.0.0.0/0".parse().ok(),
        _ => network(text),
    }
}

/// The name of a user or group, or its number: nothing that has a meaning in `/etc/passwd` or in a path.
pub(super) fn account(text: &str) -> Option<String> {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | '/' | ',');
    (!text.is_empty() && text.chars().all(is_plain)).then(|| text.to_owned())
}

/// A pool of addresses: `192.0.2.0/28`, `192.0.2.10-192.0.2.20`, or one address.
pub(super) fn address_range(text: &str) -> Option<RangeInclusive<IpAddr>> {
    if let Some(net) = network(text) {
        return Some(net.network()..=net.broadcast());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(first..=last)
}

/// `02:00:00:00:00:01`; not a group address, no interface has one.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut bytes = text.split([':', '-']);
    for slot in &mut mac {
        let byte = bytes.next().filter(|byte| byte.len() == 2)?;
        if !byte.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *slot = u8::from_str_radix(byte, 16).ok()?;
    }
    (bytes.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// `9.9.9.9`, `9.9.9.9:5353`, `2620:fe::fe`, `[2620:fe::fe]` or `[2620:fe::fe]:53`: a server of DNS. One that is written as an
/// IPv4-mapped IPv6 address is the IPv4 one.
pub(super) fn dns_server(text: &str) -> Option<SocketAddr> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    let server = address.map(|address| SocketAddr::new(address, message::PORT)).or_else(|| text.parse().ok())?;
    let server = SocketAddr::new(server.ip().to_canonical(), server.port());
    (server.port() != 0 && !server.ip().is_unspecified()).then_some(server)
}

/// What is expected instead of an address that cannot be a DNS server's, or not without an interface.
pub(super) fn instead_of_server(address: IpAddr) -> Option<&'static str> {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    match (address.is_multicast() || is_broadcast, is_link_local) {
        (true, _) => Some("the address of one server, not a group's"),
        (false, true) => Some("an address that means the same on every interface; a link-local one does not"),
        (false, false) => None,
    }
}

/// `127.0.0.1:6443` or `[::1]:6443`: a place that only this host can reach.
pub(super) fn loopback(text: &str) -> Option<SocketAddr> {
    let place: SocketAddr = text.parse().ok()?;
    (place.ip().is_loopback() && place.port() != 0).then_some(place)
}

/// An address that one host can have and others can reach: not the unspecified one, loopback,
/// multicast or broadcast, and no IPv4-mapped IPv6 address (its frames would be IPv4).
pub(super) fn host_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let unusable = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    (!unusable && !special).then_some(address)
}

/// A domain name (RFC 1123 labels, 253 bytes): lower case, without its final dot.
pub(super) fn domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

/// The name of a zone: as [`domain`], but a label may have underscores (`_msdcs.corp.example`), which are legal in DNS (RFC 2181 §11)
/// and not in names of hosts.
pub(super) fn zone_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_zone_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    (name.len() <= 253 && name.split('.').all(is_zone_label)).then_some(name)
}

/// A label of RFC 1123: letters, digits and inner hyphens, at most 63.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// A value of a Kubernetes label, such as a zone: 63 of letters, digits, `-`, `_` and `.`,
/// with a letter or digit at both ends.
pub(super) fn label_value(text: &str) -> Option<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let whole = bytes.len() <= 63 && bytes.iter().copied().all(inner);
    (whole && edge(bytes.first()) && edge(bytes.last())).then(|| text.to_owned())
}

/// A name the kernel takes for a device (`dev_valid_name`): 1–15 bytes, no `/`, `:` or space.
pub(super) fn device(text: &str) -> Option<String> {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
    (fits && !text.contains(odd)).then(|| text.to_owned())
}

/// A path that a Unix socket can have.
pub(super) fn socket_path(text: &str) -> Option<PathBuf> {
    path(text).filter(|path| path.as_os_str().len() <= LONGEST_SOCKET_PATH)
}

/// A path of a file.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.ends_with('/') && !text.contains('\0')).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("24h", 86_400), ("60s", 60), ("1h30m", 5_400), ("2d", 172_800), ("1m30s", 90)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1s500ms"), Some(Duration::from_millis(1_500)));
        for text in ["", "5", "s", "5 s", "-5s", "1.5h", "5x", "30s1m", "1s1s", "99999999999999999999d"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("30000-32767"), Some(30000..=32767));
        assert_eq!(port_range("80 - 80"), Some(80..=80));
        for text in ["", "80", "0-5", "5-4", "1-65536", "+1-5", "-1-5", "1-2-3", "a-b"] {
            assert_eq!(port_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn pools_are_networks_ranges_or_single_addresses() {
        let ends = |text| address_range(text).map(|r| (r.start().to_string(), r.end().to_string()));
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(ends("192.0.2.0/30"), pair("192.0.2.0", "192.0.2.3"));
        assert_eq!(ends("192.0.2.9-192.0.2.20"), pair("192.0.2.9", "192.0.2.20"));
        assert_eq!(ends("2001:db8::1"), pair("2001:db8::1", "2001:db8::1"));
        for text in ["", "192.0.2.1/30", "192.0.2.2-192.0.2.1", "192.0.2.1-::1", "1-2"] {
            assert_eq!(ends(text), None, "{text:?}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("02:00:00:00:00:fE"), Some([2, 0, 0, 0, 0, 0xfe]));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00:00:00:+1",
        ] {
            assert_eq!(mac(text), None, "{text:?}");
        }
    }

    #[test]
    fn host_addresses() {
        for text in ["192.168.50.10", "169.254.20.10", "2001:db8::1", "fe80::1"] {
            assert!(host_address(text).is_some(), "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "10.0.0.1/24",
            "x",
        ] {
            assert!(host_address(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(domain("Cluster.Local."), Some("cluster.local".to_owned()));
        for text in ["", ".", "a..b", "-a", "a-", "a_b", &"a".repeat(64)] {
            assert_eq!(domain(text), None, "{text:?}");
        }
        assert!(device("eth1.100").is_some() && device("a-very-long-name").is_none());
        assert!(label_value("eu-west_1.a").is_some() && label_value("-a").is_none());
        assert!(socket_path("/run/x.sock").is_some() && socket_path(&"x".repeat(108)).is_none());
    }

    #[test]
    fn loopback_places() {
        for text in ["127.0.0.1:6443", "127.1.2.3:1", "[::1]:6443"] {
            assert_eq!(loopback(text), text.parse().ok(), "{text}");
        }
        for text in [
            "",
            "6443",
            "127.0.0.1",
            "127.0.0.1:0",
            "0.0.0.0:6443",
            "192.168.50.1:6443",
            "[::]:6443",
            "[fe80::1]:6443",
            "[::ffff:127.0.0.1]:6443",
            "localhost:6443",
            "127.0.0.1:70000",
        ] {
            assert_eq!(loopback(text), None, "{text:?}");
        }
    }

    #[test]
    fn dns_servers() {
        for (text, server) in [
            ("9.9.9.9", "9.9.9.9:53"),
            ("9.9.9.9:5353", "9.9.9.9:5353"),
            ("2620:fe::fe", "[2620:fe::fe]:53"),
            ("[2620:fe::fe]:54", "[2620:fe::fe]:54"),
            ("[2620:fe::fe]", "[2620:fe::fe]:53"),
            ("::ffff:9.9.9.9", "9.9.9.9:53"),
            ("[::ffff:9.9.9.9]:54", "9.9.9.9:54"),
        ] {
            assert_eq!(dns_server(text), server.parse().ok(), "{text}");
        }
        for text in ["", "dns.example", "9.9.9.9:0", "0.0.0.0", "9.9.9.9:99999", "[9.9.9.9]", "[]", "[2620:fe::fe"] {
            assert_eq!(dns_server(text), None, "{text:?}");
        }
    }

    #[test]
    fn zone_names_may_have_underscores() {
        for text in ["corp.example", "_msdcs.Corp.Example.", "_tcp.corp.example", "10.in-addr.arpa"] {
            assert_eq!(zone_name(text), Some(text.trim_end_matches('.').to_ascii_lowercase()), "{text}");
        }
        for text in ["", ".", "a..b", "-a.example", "a b.example", &"a".repeat(64)] {
            assert_eq!(zone_name(text), None, "{text:?}");
        }
        assert_eq!(domain("_msdcs.corp.example"), None, "no host's");
    }
}
