//! The 5-tuple of a flow is computed from its number.
//!
//! ```text
//!  flow ─▶ target (VIP and port)  ─▶ client address ─▶ client port 1024…65535
//!          changes fastest            next             slowest
//! ```
//!
//! Flows with different numbers have different tuples until all of them are used up; then they repeat.

use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

const FIRST_PORT: u16 = 1024;
const PORTS: u64 = 65536 - FIRST_PORT as u64;

/// IPv4 addresses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    first: u32,
    count: u32,
}

impl Block {
    fn new(first: Ipv4Addr, last: Ipv4Addr) -> Option<Block> {
        let (first, last) = (u32::from(first), u32::from(last));
        let count = last.checked_sub(first)?.checked_add(1)?;
        Some(Block { first, count })
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.count)
    }

    /// The `n`th address, counting round.
    pub(super) fn nth(&self, n: u64) -> Ipv4Addr {
        let offset = u32::try_from(n % u64::from(self.count)).unwrap_or(0);
        Ipv4Addr::from(self.first + offset)
    }

    /// Which one `address` is.
    pub(super) fn position(&self, address: Ipv4Addr) -> Option<usize> {
        let offset = u32::from(address).checked_sub(self.first).filter(|offset| *offset < self.count)?;
        usize::try_from(offset).ok()
    }
}

/// The addresses of hosts in a network: without its first and last, if it is large enough.
impl From<Ipv4Net> for Block {
    fn from(net: Ipv4Net) -> Block {
        let spare = u32::from(net.prefix_len() < 31);
        let first = u32::from(net.network()) + spare;
        Block { first, count: (u32::from(net.broadcast()) - first).saturating_add(1 - spare) }
    }
}

/// `10.0.0.1`, `10.0.0.0/24` (its hosts) or `10.0.0.1-10.0.0.9`.
impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Block, String> {
        let wanted =
            || format!("expected IPv4 addresses such as 10.0.0.1, 10.0.0.0/24 or 10.0.0.1-10.0.0.9, not {text:?}");
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (first.parse().map_err(|_| wanted())?, last.parse().map_err(|_| wanted())?);
            return Block::new(first, last).ok_or_else(|| format!("{text}: the first address is after the last"));
        }
        if let Ok(net) = text.parse::<Ipv4Net>() {
            return Ok(net.into());
        }
        let address: Ipv4Addr = text.parse().map_err(|_| wanted())?;
        Ok(Block { first: address.into(), count: 1 })
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

/// `ADDRESS:PORT`, `NETWORK/LENGTH:PORT` or `FIRST-LAST:PORT`.
impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (block, port) = text.rsplit_once(':').ok_or_else(|| format!("expected ADDRESS:PORT, not {text:?}"))?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("{text:?}: expected a port from 1 to 65535 after the colon"))?;
        Ok(Target { block: block.parse()?, port })
    }
}

/// A flow's addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    /// The client's address.
    pub(super) src: Ipv4Addr,
    /// The Service's address.
    pub(super) dst: Ipv4Addr,
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
    /// From every client to every target. There is at least one target.
    pub(super) fn new(clients: Block, targets: Vec<Target>) -> Tuples {
        let addresses = targets.iter().map(|target| target.block.count()).sum();
        Tuples { clients, targets, addresses }
    }

    /// How many differ.
    pub(super) fn count(&self) -> u64 {
        (self.addresses * self.clients.count()).saturating_mul(PORTS)
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

    fn target(&self, mut n: u64) -> (Ipv4Addr, u16) {
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
        assert_eq!(block("10.0.0.1-10.0.0.3").nth(4), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(block("10.0.0.1-10.0.0.3").position(Ipv4Addr::new(10, 0, 0, 3)), Some(2));
        assert_eq!(block("10.0.0.1-10.0.0.3").position(Ipv4Addr::new(10, 0, 0, 4)), None);
        for wrong in ["", "10.0.0.2-10.0.0.1", "10.0.0.0/33", "::1", "host"] {
            assert!(wrong.parse::<Block>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn targets_need_a_port() {
        let target: Target = "10.96.0.0/16:80".parse().expect("a target");
        assert_eq!((target.block.count(), target.port), (65534, 80));
        for wrong in ["10.96.0.1", "10.96.0.1:0", "10.96.0.1:http", "[::1]:80"] {
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
                assert_eq!(tuple.dst_port, if tuple.dst == Ipv4Addr::new(10, 96, 0, 1) { 80 } else { 443 });
                (tuple.src, tuple.dst, tuple.src_port)
            })
            .collect();
        assert_eq!(seen.len(), 100_000);
        assert_eq!(tuples.of(0), tuples.of(3 * 5 * 64512), "and then they come again");
    }
}
