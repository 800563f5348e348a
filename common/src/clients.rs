//! Which client is behind a source port: written by the workers, read by the listeners at the other end of the host pair.
//!
//! ```text
//!  client ─▶ worker ── source translated to 169.254.112.2 : port ──▶ listener
//!              └──────── of_port[port] = client ────────────────────────┘
//! ```
//!
//! A listener behind the pair ([`crate::pair`]) sees the workers' address only. What it limits or answers per client needs the
//! client's own. A port belongs to one worker, which writes it when it opens the flow, and so before the listener sees its first
//! packet. A port that was given to another client in the meantime shows that one.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

/// The clients of one local service, by source port, in both families.
#[derive(Debug, Default)]
pub struct Clients {
    first: u16,
    v4: Box<[Slot]>,
    v6: Box<[Slot]>,
}

/// The client of one port, under a sequence lock with a single writer.
#[derive(Debug, Default)]
struct Slot {
    /// Odd while the client is written, 0 before the first.
    sequence: AtomicU32,
    /// As an IPv6 address, IPv4 mapped.
    high: AtomicU64,
    low: AtomicU64,
}

impl Clients {
    /// For the source ports that the workers may choose.
    pub fn new(ports: &RangeInclusive<u16>) -> Clients {
        let slots = || ports.clone().map(|_| Slot::default()).collect();
        Clients { first: *ports.start(), v4: slots(), v6: slots() }
    }

    /// Notes the client of a port. Only the worker that the port belongs to may call it.
    pub fn note(&self, port: u16, client: IpAddr) {
        if let Some(slot) = self.slot(port, client.is_ipv4()) {
            slot.write(client);
        }
    }

    /// The client of a port, if one is known.
    pub fn of_port(&self, port: u16, is_ipv4: bool) -> Option<IpAddr> {
        self.slot(port, is_ipv4)?.read()
    }

    fn slot(&self, port: u16, is_ipv4: bool) -> Option<&Slot> {
        let slots = if is_ipv4 { &self.v4 } else { &self.v6 };
        slots.get(usize::from(port.checked_sub(self.first)?))
    }
}

impl Slot {
    fn write(&self, client: IpAddr) {
        let bits = match client {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let [high, low] = [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        self.high.store(high, Relaxed);
        self.low.store(low, Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    fn read(&self) -> Option<IpAddr> {
        let before = self.sequence.load(Acquire);
        let (high, low) = (self.high.load(Relaxed), self.low.load(Relaxed));
        fence(Acquire);
        let is_whole = before.is_multiple_of(2) && before != 0 && self.sequence.load(Relaxed) == before;
        let address = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        is_whole.then(|| address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_family_has_its_ports() {
        let clients = Clients::new(&(1024..=1026));
        clients.note(1024, ip("10.244.1.5"));
        clients.note(1024, ip("2001:db8::5"));
        clients.note(1026, ip("192.0.2.1"));
        clients.note(1026, ip("192.0.2.2"));
        // No port of the workers.
        clients.note(1023, ip("192.0.2.3"));
        clients.note(1027, ip("192.0.2.3"));
        let found = |port, is_ipv4| clients.of_port(port, is_ipv4).map(|address| address.to_string());
        assert_eq!(found(1024, true).as_deref(), Some("10.244.1.5"));
        assert_eq!(found(1024, false).as_deref(), Some("2001:db8::5"));
        assert_eq!(found(1026, true).as_deref(), Some("192.0.2.2"), "the last");
        for (port, is_ipv4) in [(1025, true), (1026, false), (1023, true), (1027, true)] {
            assert_eq!(found(port, is_ipv4), None, "{port}");
        }
        assert_eq!(Clients::default().of_port(1024, true), None);
    }

    #[test]
    fn no_reader_sees_half_of_a_client() {
        let clients = Clients::new(&(1024..=1024));
        let stop = AtomicBool::new(false);
        let both = [Ipv6Addr::from_bits(0), Ipv6Addr::from_bits(u128::MAX)].map(IpAddr::V6);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    both.iter().for_each(|&client| clients.note(1024, client));
                }
            });
            let mut seen = 0;
            while seen < 10_000 {
                if let Some(client) = clients.of_port(1024, false) {
                    seen += 1;
                    if !both.contains(&client) {
                        stop.store(true, Relaxed);
                        panic!("half of each: {client}");
                    }
                }
            }
            stop.store(true, Relaxed);
        });
    }
}
