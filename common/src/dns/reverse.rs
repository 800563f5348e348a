//! Addresses in names: the reverse zones (RFC 1035 §3.5, RFC 3596 §2.5), and labels with dashes in place of dots or colons.
//!
//! ```text
//!  50.0.96.10.in-addr.arpa      10-96-0-50.default.pod.cluster.local
//!  └ 1 digit each, from the right └ one label
//! ```

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;

use ipnet::IpNet;

use super::name::{MAX_LABEL, Name};

/// A name below `in-addr.arpa` or `ip6.arpa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverse {
    /// The address as far as the name has it; the rest is zero.
    address: IpAddr,
    /// Labels of the name in front of the suffix.
    labels: usize,
    /// How many of them, from the right, are digits of the address.
    digits: usize,
}

/// What a reverse name is within a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The zone's own name.
    Apex,
    /// Above addresses that the zone may have.
    Above,
    /// This address.
    Address(IpAddr),
    /// Nothing that can exist.
    Nothing,
}

impl Reverse {
    /// Reads `name`; `None` if it is not below one of the suffixes.
    pub fn read(name: &Name) -> Option<Reverse> {
        let labels = name.count().checked_sub(2).filter(|_| name.label(name.count() - 1) == b"arpa")?;
        let digits = (0..labels).rev().map(|label| name.label(label));
        match name.label(labels) {
            b"in-addr" => {
                let mut octets = [0; 4];
                let digits = fill(&mut octets, digits.map(octet));
                Some(Reverse { address: IpAddr::from(octets), labels, digits })
            }
            b"ip6" => {
                let mut nibbles = [0; 32];
                let digits = fill(&mut nibbles, digits.map(nibble));
                let bits = nibbles.iter().fold(0u128, |bits, nibble| bits << 4 | u128::from(*nibble));
                Some(Reverse { address: Ipv6Addr::from_bits(bits).into(), labels, digits })
            }
            _ => None,
        }
    }

    /// What the name is in the reverse zone of `net`, and which of its labels the zone's name starts with; `None` if it is outside.
    /// The zone is cut at the label that has the last bit of the prefix.
    pub fn within(&self, net: &IpNet) -> Option<(Place, usize)> {
        let (bits, most) = if self.address.is_ipv4() { (8, 4) } else { (4, 32) };
        let cut = usize::from(net.prefix_len()).div_ceil(bits);
        if self.digits < cut || !net.contains(&self.address) {
            return None;
        }
        let place = match self.labels {
            labels if labels == cut => Place::Apex,
            labels if labels != self.digits => Place::Nothing,
            labels if labels == most => Place::Address(self.address),
            _ => Place::Above,
        };
        Some((place, self.labels - cut))
    }
}

/// Fills `to` with digits up to the first that is none. Returns how many there were.
fn fill(to: &mut [u8], digits: impl Iterator<Item = Option<u8>>) -> usize {
    let digits = digits.map_while(|digit| digit);
    to.iter_mut().zip(digits).map(|(to, digit)| *to = digit).count()
}

/// A decimal number up to 255 without leading zeros.
fn octet(label: &[u8]) -> Option<u8> {
    let is_plain = label == b"0" || label.first().is_some_and(|first| (b'1'..=b'9').contains(first));
    str::from_utf8(label).ok().filter(|_| is_plain)?.parse().ok()
}

/// One hexadecimal digit, in lower case.
fn nibble(label: &[u8]) -> Option<u8> {
    match label {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        [digit @ b'a'..=b'f'] => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The address that a label spells with dashes. Cheap for a label that cannot be one.
pub fn from_label(label: &[u8]) -> Option<IpAddr> {
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    if label.len() > 39 || !label.iter().all(is_hex) {
        return None;
    }
    let dashes = label.iter().filter(|&&byte| byte == b'-').count();
    let is_v4 = dashes == 3 && !label.windows(2).any(|two| two == b"--");
    let mut text = [0; 39];
    let text = text.get_mut(..label.len())?;
    for (to, from) in text.iter_mut().zip(label) {
        *to = match (from, is_v4) {
            (b'-', true) => b'.',
            (b'-', false) => b':',
            (other, _) => *other,
        };
    }
    let text = str::from_utf8(text).ok()?;
    match is_v4 {
        true => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        false => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

/// A label, with its length byte.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    bytes: [u8; MAX_LABEL + 1],
    len: usize,
}

impl Label {
    /// The address with dashes, as CoreDNS names an endpoint without a hostname (`plugin/kubernetes/kubernetes.go`,
    /// `endpointHostname`): no label may end with a dash, so an address that ends with colons gets a zero.
    pub fn of(address: IpAddr) -> Label {
        let mut label = Label { bytes: [0; MAX_LABEL + 1], len: 1 };
        // It fits: an address has 39 characters at most.
        let _ = write!(label, "{address}");
        if label.bytes.get(label.len - 1) == Some(&b'-') {
            let _ = label.write_char('0');
        }
        label.bytes[0] = u8::try_from(label.len - 1).unwrap_or(0);
        label
    }

    /// Its bytes, the length byte first.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for Label {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            let byte = if matches!(byte, b'.' | b':') { b'-' } else { byte };
            *self.bytes.get_mut(self.len).ok_or(std::fmt::Error)? = byte;
            self.len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::{Seed, to_wire};
    use super::*;

    fn place(name: &str, net: &str) -> Option<(Place, usize)> {
        let wire = to_wire(name).expect("a name");
        let name = Name::of(&[&wire], Seed::random()).expect("a name");
        Reverse::read(&name)?.within(&net.parse().expect("a net"))
    }

    #[test]
    fn reverse_names_have_their_place_in_the_zone_of_a_prefix() {
        let address = |text: &str| Place::Address(text.parse().expect("an address"));
        let cases = [
            ("50.0.96.10.in-addr.arpa", "10.96.0.0/16", Some((address("10.96.0.50"), 2))),
            ("0.96.10.in-addr.arpa", "10.96.0.0/16", Some((Place::Above, 1))),
            ("96.10.in-addr.arpa", "10.96.0.0/16", Some((Place::Apex, 0))),
            ("10.in-addr.arpa", "10.96.0.0/16", None),
            ("x.0.96.10.in-addr.arpa", "10.96.0.0/16", Some((Place::Nothing, 2))),
            ("1.50.0.96.10.in-addr.arpa", "10.96.0.0/16", Some((Place::Nothing, 3))),
            ("050.0.96.10.in-addr.arpa", "10.96.0.0/16", Some((Place::Nothing, 2))),
            ("256.0.96.10.in-addr.arpa", "10.96.0.0/16", Some((Place::Nothing, 2))),
            ("50.0.97.10.in-addr.arpa", "10.96.0.0/16", None),
            ("1.2.243.10.in-addr.arpa", "10.240.0.0/12", Some((address("10.243.2.1"), 2))),
            ("243.10.in-addr.arpa", "10.240.0.0/12", Some((Place::Apex, 0))),
            ("239.10.in-addr.arpa", "10.240.0.0/12", None),
            ("50.0.96.10.ip6.arpa", "10.96.0.0/16", None),
            ("50.0.96.10.in-addr.example", "10.96.0.0/16", None),
            ("6.9.0.0.0.0.d.f.ip6.arpa", "fd00:0:96::/112", None),
            ("0.0.d.f.ip6.arpa", "fd00::/16", Some((Place::Apex, 0))),
            ("1.0.0.d.f.ip6.arpa", "fd00::/16", Some((Place::Above, 1))),
            ("g.0.0.d.f.ip6.arpa", "fd00::/16", Some((Place::Nothing, 1))),
        ];
        for (name, net, expected) in cases {
            assert_eq!(place(name, net), expected, "{name} in {net}");
        }
        let v6 = format!("{}0.0.d.f.ip6.arpa", "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.");
        assert_eq!(place(&v6, "fd00::/16"), Some((address("fd00::a"), 28)));
    }

    #[test]
    fn labels_spell_addresses_with_dashes() {
        for (address, label) in [
            ("172.0.0.2", "172-0-0-2"),
            ("5678:abcd::1", "5678-abcd--1"),
            ("fd00::", "fd00--0"),
            ("1:2:3:4:5:6:7:8", "1-2-3-4-5-6-7-8"),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(&Label::of(address).as_bytes()[1..], label.as_bytes());
            assert_eq!(usize::from(Label::of(address).as_bytes()[0]), label.len());
            assert_eq!(from_label(label.as_bytes()), Some(address), "{label}");
        }
        for label in ["web-0", "a-b-c", "256-0-0-1", "1-2-3", "---", "1-2-3-4-5", "01-2-3-4", &"1-".repeat(30)] {
            assert_eq!(from_label(label.as_bytes()), None, "{label}");
        }
    }
}
