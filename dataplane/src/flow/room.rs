//! Limits that the flows of both families share.
//!
//! Each family has its own table, since the size of an entry differs. Each table is as large as the limits allow, so that
//! either family can use all of it, and the kernel gives it memory as it fills. The limits hold for the sum: before a flow is
//! opened, the family that has more flows to spare gives way. So a flood of one family costs that family first, and a gateway without IPv6
//! has exactly its IPv4 table.

use pollgate_common::flow::Address;
use pollgate_common::time::Ticks;

use super::table::{FlowTable, Full};

/// What a table of any family can tell and do about the limits.
pub trait Room {
    /// Connections in the table.
    fn live(&self) -> u64;

    /// Connections that their client has not confirmed.
    fn unconfirmed(&self) -> u64;

    /// Connections that may be evicted.
    fn spare(&self) -> u64;

    /// Ends the flow that has been unconfirmed longest, if there is one.
    fn displace(&mut self, now: Ticks);

    /// Ends a flow that is over, or unconfirmed for longer than a handshake takes; returns whether there was one.
    fn evict_spent(&mut self, now: Ticks) -> bool;

    /// Ends the least useful flow.
    fn evict(&mut self, now: Ticks) -> Result<(), Full>;
}

impl<A: Address> Room for FlowTable<A> {
    fn live(&self) -> u64 {
        FlowTable::live(self)
    }

    fn unconfirmed(&self) -> u64 {
        FlowTable::unconfirmed(self)
    }

    fn spare(&self) -> u64 {
        FlowTable::spare(self)
    }

    fn displace(&mut self, now: Ticks) {
        FlowTable::displace(self, now);
    }

    fn evict_spent(&mut self, now: Ticks) -> bool {
        FlowTable::evict_spent(self, now)
    }

    fn evict(&mut self, now: Ticks) -> Result<(), Full> {
        FlowTable::evict(self, now)
    }
}

/// Makes room for one more flow of `flows`, which has the same limits as `other`. The table's own limits are its own affair
/// ([`FlowTable::open`]): without flows in `other` there is nothing to do.
#[inline]
pub fn make<A: Address>(flows: &mut FlowTable<A>, other: &mut dyn Room, now: Ticks) -> Result<(), Full> {
    if other.live() == 0 {
        return Ok(());
    }
    share(flows, other, now)
}

#[cold]
fn share<A: Address>(flows: &mut FlowTable<A>, other: &mut dyn Room, now: Ticks) -> Result<(), Full> {
    if flows.unconfirmed() + other.unconfirmed() >= flows.most_unconfirmed() {
        let more: &mut dyn Room = if other.unconfirmed() > flows.unconfirmed() { other } else { flows };
        more.displace(now);
    }
    if flows.live() + other.live() < flows.capacity() {
        return Ok(());
    }
    if flows.evict_spent(now) || other.evict_spent(now) {
        return Ok(());
    }
    let (more, fewer): (&mut dyn Room, &mut dyn Room) =
        if other.spare() > flows.spare() { (other, flows) } else { (flows, other) };
    more.evict(now).or_else(|Full| fewer.evict(now))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use pollgate_common::flow::{FlowKey, Protocol, V4, V6};
    use pollgate_common::tables::ServiceId;

    use super::*;
    use crate::flow::sequence::Numbers;
    use crate::flow::table::{FlowOrigin, Limits, Timeouts};
    use crate::wire::tcp::{ACK, SYN, Segment};

    const NOW: Ticks = Ticks(1);
    const ORIGIN: FlowOrigin = FlowOrigin {
        service: ServiceId { index: 0, incarnation: 0 },
        backend: 0,
        backend_incarnation: 0,
        generation: 1,
    };

    fn table<A: Address>(connections: usize, unconfirmed: usize) -> FlowTable<A> {
        let long = Duration::from_secs(3600);
        let timeouts =
            Timeouts { tcp_established: long, tcp_opening: long, tcp_closing: long, udp: long, udp_stream: long };
        FlowTable::new(&Limits { connections, unconfirmed, new_per_second: 1, timeouts }, [1, 2, 3, 4]).expect("memory")
    }

    trait Family: Address {
        fn host(number: u16) -> Self;
    }

    impl Family for V4 {
        fn host(number: u16) -> V4 {
            V4(Ipv4Addr::from_bits(u32::from(number)))
        }
    }

    impl Family for V6 {
        fn host(number: u16) -> V6 {
            V6(Ipv6Addr::from_bits(u128::from(number)))
        }
    }

    fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
        Segment { seq, ack, flags, scale: 0 }
    }

    /// Opens a TCP flow within the limits that `other` shares.
    fn open<A: Family>(flows: &mut FlowTable<A>, other: &mut dyn Room, port: u16) -> Result<u32, Full> {
        make(flows, other, NOW)?;
        let [src, dst, backend] = [1, 2, 3].map(A::host);
        let key = FlowKey { src, dst, src_port: port, dst_port: 80, protocol: Protocol::Tcp.number() };
        flows.open(key, FlowKey { dst: backend, ..key }, ORIGIN, Numbers::opened_by(&segment(SYN, 10, 0)), NOW)
    }

    /// Has backend and client confirm the flow.
    fn establish<A: Family>(flows: &mut FlowTable<A>, client: u32) {
        flows.touch(client ^ 1, NOW, &segment(SYN | ACK, 20, 11));
        flows.touch(client, NOW, &segment(ACK, 11, 21));
    }

    #[test]
    fn the_limit_holds_for_both_families_together_and_the_larger_gives_way() {
        let (mut v4, mut v6) = (table::<V4>(8, 8), table::<V6>(8, 8));
        for port in 0..8 {
            open(&mut v4, &mut v6, port).expect("room");
        }
        for port in 0..6 {
            open(&mut v6, &mut v4, port).expect("the other family has more, or as many");
            assert_eq!(v4.live() + v6.live(), 8);
        }
        assert_eq!((v4.live(), v6.live()), (4, 4), "then each family evicts its own");
        for port in 8..12 {
            open(&mut v4, &mut v6, port).expect("its own make room");
        }
        assert_eq!((v4.live(), v6.live()), (4, 4));
    }

    #[test]
    fn unconfirmed_flows_are_bounded_together() {
        let (mut v4, mut v6) = (table::<V4>(100, 8), table::<V6>(100, 8));
        for port in 0..8 {
            open(&mut v4, &mut v6, port).expect("room");
        }
        for port in 0..20 {
            open(&mut v6, &mut v4, port).expect("room");
            assert_eq!(v4.unconfirmed() + v6.unconfirmed(), 8);
        }
        assert_eq!(v4.totals().displaced + v6.totals().displaced, 20);
    }

    #[test]
    fn an_established_connection_of_either_family_stays() {
        let (mut v4, mut v6) = (table::<V4>(4, 4), table::<V6>(4, 4));
        for port in 0..3 {
            let client = open(&mut v4, &mut v6, port).expect("room");
            establish(&mut v4, client);
        }
        assert_eq!(v4.unconfirmed(), 0);
        open(&mut v6, &mut v4, 0).expect("room");
        open(&mut v6, &mut v4, 1).expect("the larger family has nothing to give: its own first");
        assert_eq!((v4.live(), v6.live(), v6.totals().evicted), (3, 1, 1));
        let client = v6.live_index(&key_of(1), NOW).expect("the newer one");
        establish(&mut v6, client);
        assert_eq!(open(&mut v6, &mut v4, 2), Err(Full));
        assert_eq!(open(&mut v4, &mut v6, 9), Err(Full));
    }

    #[test]
    fn idle_datagram_flows_of_a_nearly_empty_table_make_room() {
        const MOST: u16 = 4000;
        let (mut v4, mut v6) = (table::<V4>(MOST.into(), MOST.into()), table::<V6>(MOST.into(), MOST.into()));
        for port in 0..2 {
            let client = v6.open(udp(port), udp(port), ORIGIN, Numbers::default(), Ticks(0)).expect("room");
            v6.touch(client ^ 1, Ticks(0), &Segment::default());
            v6.touch(client, Ticks(0), &Segment::default());
        }
        for port in 0..MOST - 2 {
            let client = open(&mut v4, &mut v6, port).expect("room");
            establish(&mut v4, client);
        }
        for port in MOST..MOST + 2 {
            let client = open(&mut v4, &mut v6, port).expect("a datagram flow makes room");
            establish(&mut v4, client);
        }
        assert_eq!((v4.live(), v6.live()), (MOST.into(), 0));
        assert_eq!(open(&mut v4, &mut v6, MOST + 2), Err(Full));
    }

    fn udp(port: u16) -> FlowKey<V6> {
        FlowKey { protocol: Protocol::Udp.number(), ..key_of(port) }
    }

    fn key_of(port: u16) -> FlowKey<V6> {
        let [src, dst] = [1, 2].map(V6::host);
        FlowKey { src, dst, src_port: port, dst_port: 80, protocol: Protocol::Tcp.number() }
    }
}
