//! The 5-tuple of a flow is computed from its number.
//!
//! ```text
//!  flow ─▶ target (VIP and port)  ─▶ client address ─▶ client port 1024…65535
//!          changes fastest            next             slowest
//! ```
//!
//! Flows with different numbers have different tuples until all of them are used up; then they repeat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

const FIRST_PORT: u16 = 1024;
const PORTS: u64 = 65536 - FIRST_PORT as u64;

/// The most addresses of a block: more than any run uses, and few enough to count.
const MOST: u128 = 1 << 32;

/// The IP family of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Of an address.
    pub(super) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn address(self, bits: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Addresses of one family in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    family: Family,
    first: u128,
    count: u64,
}

impl Block {
    /// `None`: of two families, in the wrong order, or too many.
    fn new(first: IpAddr, last: IpAddr) -> Option<Block> {
        let family = Family::of(first);
        let (first, count) = (bits(first), bits(last).checked_sub(bits(first))?.checked_add(1)?);
        let fits = family == Family::of(last) && count <= MOST;
        fits.then_some(Block { family, first, count: u64::try_from(count).ok()? })
    }

    /// The hosts of a network: without its first address if it is large enough, and in IPv4 without its last.
    fn of_net(net: IpNet) -> Option<Block> {
        let is_large = net.prefix_len() + 1 < net.max_prefix_len();
        let (first, last) = (bits(net.network()), bits(net.broadcast()));
        let family = Family::of(net.addr());
        let spare = u128::from(is_large && family == Family::V4);
        Block::new(family.address(first + u128::from(is_large)), family.address(last - spare))
    }

    /// Their family.
    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The `n`th address, counting round.
    pub(super) fn nth(&self, n: u64) -> IpAddr {
        self.family.address(self.first + u128::from(n % self.count))
    }

    /// Which one `address` is.
    pub(super) fn position(&self, address: IpAddr) -> Option<usize> {
        let offset = bits(address).checked_sub(self.first).filter(|offset| *offset < u128::from(self.count))?;
        usize::try_from(offset).ok().filter(|_| Family::of(address) == self.family)
    }
}

/// `10.0.0.1`, `10.0.0.0/24` (its hosts) or `10.0.0.1-10.0.0.9`; IPv6 likewise.
impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Block, String> {
        let wanted =
            || format!("expected addresses such as 10.0.0.1, 10.0.0.0/24 or 2001:db8::1-2001:db8::9, not {text:?}");
        let too_many = || format!("{text}: at most {MOST} addresses, of one family, the first before the last");
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (first.parse().map_err(|_| wanted())?, last.parse().map_err(|_| wanted())?);
            return Block::new(first, last).ok_or_else(too_many);
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Block::of_net(net).ok_or_else(too_many);
        }
        let address: IpAddr = text.parse().map_err(|_| wanted())?;
        Ok(Block { family: Family::of(address), first: bits(address), count: 1 })
    }
}

/// Addresses of Services, at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The addresses.
    pub(super) block: Block,
    /// The port.
    pub(super) port: u16,
}

/// `ADDRESS:PORT`, `NETWORK/LENGTH:PORT` or `FIRST-LAST:PORT`; what is before the port in brackets if it is IPv6.
impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (block, port) = text.rsplit_once(':').ok_or_else(|| format!("expected ADDRESS:PORT, not {text:?}"))?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("{text:?}: expected a port from 1 to 65535 after the colon"))?;
        let in_brackets = block.strip_prefix('[').and_then(|block| block.strip_suffix(']'));
        let block: Block = in_brackets.unwrap_or(block).parse()?;
        match (block.family(), in_brackets) {
            (Family::V6, None) => Err(format!("{text:?}: expected IPv6 addresses in brackets: [2001:db8::1]:80")),
            (Family::V4, _) | (Family::V6, Some(_)) => Ok(Target { block, port }),
        }
    }
}

/// A flow's addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    /// The client's address.
    pub(super) src: IpAddr,
    /// The Service's address.
    pub(super) dst: IpAddr,
    /// The client's port.
    pub(super) src_port: u16,
    /// The Service's port.
    pub(super) dst_port: u16,
}

/// The number of all tuples.
#[derive(Clone, Debug)]
pub(super) struct Tuples {
    clients: Block,
    targets: Vec<Target>,
    addresses: u64,
}

impl Tuples {
    /// From every client to every target, of the same family. There is at least one target.
    pub(super) fn new(clients: Block, targets: Vec<Target>) -> Tuples {
        let addresses = targets.iter().map(|target| target.block.count()).sum();
        Tuples { clients, targets, addresses }
    }

    /// How many differ.
    pub(super) fn count(&self) -> u64 {
        self.addresses.saturating_mul(self.clients.count()).saturating_mul(PORTS)
    }

    /// Their family.
    pub(super) fn family(&self) -> Family {
        self.clients.family()
    }

    /// That of a flow.
    pub(super) fn of(&self, flow: u32) -> Tuple {
        let flow = u64::from(flow);
        let (dst, dst_port) = self.target(flow % self.addresses);
        let rest = flow / self.addresses;
        let port = rest / self.clients.count() % PORTS;
        let src_port = FIRST_PORT + u16::try_from(port).unwrap_or(0);
        Tuple { src: self.clients.nth(rest), dst, src_port, dst_port }
    }

    fn target(&self, mut n: u64) -> (IpAddr, u16) {
        for target in &self.targets {
            if n < target.block.count() {
                return (target.block.nth(n), target.port);
            }
            n -= target.block.count();
        }
        unreachable!("n is below the sum of all counts");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn block(text: &str) -> Block {
        text.parse().expect(text)
    }

    #[test]
    fn blocks_are_written_in_three_ways() {
        assert_eq!(block("10.0.0.7"), block("10.0.0.7/32"));
        assert_eq!(block("10.0.0.0/30"), block("10.0.0.1-10.0.0.2"), "hosts only");
        assert_eq!(block("10.0.0.0/31").count(), 2);
        assert_eq!(block("10.1.0.0/16").count(), 65534);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(block("10.0.0.1-10.0.0.3").nth(4), ip("10.0.0.2"));
        assert_eq!(block("10.0.0.1-10.0.0.3").position(ip("10.0.0.3")), Some(2));
        assert_eq!(block("10.0.0.1-10.0.0.3").position(ip("10.0.0.4")), None);
        assert_eq!(block("2001:db8::/126"), block("2001:db8::1-2001:db8::3"), "all but the routers' (RFC 4291 §2.6.1)");
        assert_eq!(block("2001:db8::/127").count(), 2);
        assert_eq!(block("2001:db8::ffff-2001:db8::1:1").nth(2), ip("2001:db8::1:1"));
        assert_eq!(block("::a00:1").position(ip("10.0.0.1")), None, "another family");
        for wrong in ["", "10.0.0.2-10.0.0.1", "10.0.0.0/33", "10.0.0.1-2001:db8::1", "2001:db8::/64", "host"] {
            assert!(wrong.parse::<Block>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn targets_need_a_port() {
        let target: Target = "10.96.0.0/16:80".parse().expect("a target");
        assert_eq!((target.block.count(), target.port), (65534, 80));
        let target: Target = "[2001:db8::1-2001:db8::4]:443".parse().expect("a target");
        assert_eq!((target.block.count(), target.port), (4, 443));
        for wrong in ["10.96.0.1", "10.96.0.1:0", "10.96.0.1:http", "[::1]", "2001:db8::1:80"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_flow_has_a_tuple_of_its_own() {
        let targets = vec!["10.96.0.1:80".parse().expect("one"), "10.96.0.8-10.96.0.9:443".parse().expect("two")];
        let tuples = Tuples::new(block("192.168.0.1-192.168.0.5"), targets);
        assert_eq!(tuples.count(), 3 * 5 * 64512);
        let seen: HashSet<_> = (0..100_000)
            .map(|flow| {
                let tuple = tuples.of(flow);
                assert!(tuple.src_port >= 1024);
                assert_eq!(tuple.dst_port, if tuple.dst == IpAddr::from([10, 96, 0, 1]) { 80 } else { 443 });
                (tuple.src, tuple.dst, tuple.src_port)
            })
            .collect();
        assert_eq!(seen.len(), 100_000);
        assert_eq!(tuples.of(0), tuples.of(3 * 5 * 64512), "and then they come again");
    }
}
