//! What each endpoint of each Service port carried by way of one worker.
//!
//! ```text
//!                                    ┌ of each Service port ┬ of endpoints ─────────────┐
//!  extents[service] = (start, mask)  │ all its endpoints    │ slot 0 │ slot 1 │ slot 2 │ …   places[start + (slot & mask)]
//!                                    └──────────────────────┴────────────────────────────┘
//! ```
//!
//! A packet is counted once, at its endpoint; a Service port's numbers are the sums of its endpoints'. The worker gives an endpoint a
//! place when it opens a flow to it: a Service port whose extent is too short gets a longer one, and the numbers go along. Places are
//! not given back: there are [`MAX_PLACES`]. Only Services and endpoints use them up, not packets. A Service port that gets no longer
//! extent any more counts all its endpoints in one place.

use std::iter::Sum;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use zerocopy::FromZeros;

use super::Counter;

/// The most Service ports the tables can hold: ten times what Kubernetes is tested with (10 000 Services).
pub const MAX_SERVICES: usize = 1 << 17;

/// Places of endpoints in each worker: 48 MiB of addresses, of memory only the pages that are used.
const MAX_PLACES: usize = 1 << 21;

/// Places of the first extent.
const FIRST: u32 = 4;

/// What was carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets translated, both directions.
    pub packets: u64,
    /// Bytes of these packets, Ethernet headers included.
    pub bytes: u64,
    /// Flows opened.
    pub flows: u64,
}

impl Add for Carried {
    type Output = Carried;

    fn add(self, more: Carried) -> Carried {
        Carried { packets: self.packets + more.packets, bytes: self.bytes + more.bytes, flows: self.flows + more.flows }
    }
}

/// What was carried since. Numbers are read while workers count: what was read later is not less, but nothing depends on it.
impl Sub for Carried {
    type Output = Carried;

    fn sub(self, before: Carried) -> Carried {
        Carried {
            packets: self.packets.saturating_sub(before.packets),
            bytes: self.bytes.saturating_sub(before.bytes),
            flows: self.flows.saturating_sub(before.flows),
        }
    }
}

impl Sum for Carried {
    fn sum<I: Iterator<Item = Carried>>(all: I) -> Carried {
        all.fold(Carried::default(), Add::add)
    }
}

/// One endpoint's numbers.
#[derive(Debug, FromZeros)]
#[repr(C)]
struct Place {
    packets: Counter,
    bytes: Counter,
    flows: Counter,
}

impl Place {
    fn add(&self, more: Carried) {
        self.packets.add(more.packets);
        self.bytes.add(more.bytes);
        self.flows.add(more.flows);
    }

    fn value(&self) -> Carried {
        Carried { packets: self.packets.value(), bytes: self.bytes.value(), flows: self.flows.value() }
    }
}

/// Where a Service port's endpoints have their places. `mask` is one less than their number, a power of two; 0: all in one place.
#[derive(Clone, Copy)]
struct Extent {
    start: u32,
    mask: u32,
}

impl Extent {
    fn pack(self) -> u64 {
        u64::from(self.mask) << 32 | u64::from(self.start)
    }

    #[inline]
    fn unpack(packed: u64) -> Extent {
        let [mask, start] = [packed >> 32, packed & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
        Extent { start, mask }
    }

    #[inline]
    fn index(self, slot: u16) -> usize {
        self.start as usize + (u32::from(slot) & self.mask) as usize
    }

    fn has(self, slot: u16) -> bool {
        self.mask > 0 && u32::from(slot) <= self.mask
    }
}

/// What the endpoints of all Service ports carried by way of one worker. Written only by the worker, read by any thread.
#[derive(Debug)]
pub struct ServiceCounters {
    extents: Box<[AtomicU64]>,
    places: Box<[Place]>,
    used: Counter,
}

impl ServiceCounters {
    pub(super) fn new() -> ServiceCounters {
        ServiceCounters::with(MAX_PLACES)
    }

    /// With room for so many endpoints.
    fn with(endpoints: usize) -> ServiceCounters {
        let together = |service| AtomicU64::new(Extent { start: service, mask: 0 }.pack());
        let used = Counter::default();
        used.set(MAX_SERVICES as u64);
        let extents = (0..).take(MAX_SERVICES).map(together).collect();
        ServiceCounters { extents, places: zeroed(MAX_SERVICES + endpoints), used }
    }

    /// Counts a packet of the endpoint in the slot of a Service port. Only the owning worker may call it.
    #[inline]
    pub fn add(&self, service: u32, slot: u16, packets: u64, bytes: u64) {
        let Some(extent) = self.extents.get(service as usize) else { return };
        let index = Extent::unpack(extent.load(Relaxed)).index(slot);
        if let Some(place) = self.places.get(index) {
            place.packets.add(packets);
            place.bytes.add(bytes);
        }
    }

    /// Counts a flow that is opened to the endpoint, before its first packet. Only the owning worker may call it.
    #[inline]
    pub fn open(&self, service: u32, slot: u16) {
        let Some(extent) = self.extents.get(service as usize) else { return };
        let mut extent = Extent::unpack(extent.load(Relaxed));
        if !extent.has(slot) {
            extent = self.lengthen(service, extent, slot);
        }
        if let Some(place) = self.places.get(extent.index(slot)) {
            place.flows.add(1);
        }
    }

    /// Gives the Service port an extent with a place for the slot. Without room for one, all its endpoints are counted together.
    #[cold]
    fn lengthen(&self, service: u32, old: Extent, slot: u16) -> Extent {
        let together = Extent { start: service, mask: 0 };
        let length = (u32::from(slot) + 1).next_power_of_two().max(FIRST);
        let start = self.used.value();
        let end = start + u64::from(length);
        let new = match u32::try_from(start) {
            Ok(start) if end <= self.places.len() as u64 => Extent { start, mask: length - 1 },
            _ => together,
        };
        // Without room for this one there is none for smaller ones either: what is counted together stays so.
        self.used.set(if new.mask > 0 { end } else { self.places.len() as u64 });
        for (slot, from) in (0..).zip(self.places(old)) {
            if let Some(to) = self.places.get(new.index(slot)) {
                to.add(from.value());
            }
        }
        if let Some(extent) = self.extents.get(service as usize) {
            extent.store(new.pack(), Release);
        }
        new
    }

    /// A Service port that cannot be has none.
    fn extent(&self, service: u32) -> Option<Extent> {
        Some(Extent::unpack(self.extents.get(service as usize)?.load(Acquire)))
    }

    /// The places of single endpoints.
    fn places(&self, extent: Extent) -> &[Place] {
        let (start, length) = (extent.start as usize, if extent.mask == 0 { 0 } else { extent.mask as usize + 1 });
        self.places.get(start..start + length).unwrap_or_default()
    }

    /// By the endpoint in a slot.
    pub(super) fn of(&self, service: u32, slot: u16) -> Carried {
        let places = self.extent(service).map(|extent| self.places(extent)).unwrap_or_default();
        places.get(usize::from(slot)).map(Place::value).unwrap_or_default()
    }

    /// By endpoints in the slots from this one on, and by those that are counted together.
    pub(super) fn from(&self, service: u32, slot: usize) -> Carried {
        let Some(extent) = self.extent(service) else { return Carried::default() };
        let places = self.places(extent).get(slot..).unwrap_or_default();
        places.iter().chain(self.places.get(service as usize)).map(Place::value).sum()
    }
}

/// So many zeroes, whose memory is taken when they are first written. Without memory, the process is ended as by any other allocation.
fn zeroed<T: FromZeros>(length: usize) -> Box<[T]> {
    <[T]>::new_box_zeroed_with_elems(length).unwrap_or_else(|_| (0..length).map(|_| T::new_zeroed()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn carried(packets: u64, flows: u64) -> Carried {
        Carried { packets, bytes: packets * 100, flows }
    }

    fn add(counters: &ServiceCounters, service: u32, slot: u16, packets: u64, opens: bool) {
        if opens {
            counters.open(service, slot);
        }
        counters.add(service, slot, packets, packets * 100);
    }

    #[test]
    fn without_room_for_more_endpoints_those_of_a_service_port_are_counted_together() {
        let counters = ServiceCounters::with(8);
        add(&counters, 7, 0, 1, true);
        add(&counters, 9, 3, 2, true);
        assert_eq!((counters.of(7, 0), counters.of(9, 3)), (carried(1, 1), carried(2, 1)));
        add(&counters, 7, 4, 3, true);
        add(&counters, 7, 0, 5, false);
        add(&counters, 8, 0, 6, true);
        assert_eq!(
            (counters.of(7, 0), counters.of(7, 4), counters.of(9, 3)),
            (carried(0, 0), carried(0, 0), carried(2, 1))
        );
        assert_eq!((counters.from(7, 0), counters.from(8, 0)), (carried(9, 2), carried(6, 1)));
        assert_eq!((counters.from(7, 5), counters.from(9, 4)), (carried(9, 2), carried(0, 0)));
    }

    #[test]
    fn there_is_no_service_port_beyond_the_last() {
        let counters = ServiceCounters::new();
        add(&counters, u32::MAX, 0, 1, true);
        assert_eq!((counters.from(u32::MAX, 0), counters.used.value()), (Carried::default(), MAX_SERVICES as u64));
    }

    proptest! {
        #[test]
        fn every_endpoint_has_what_it_carried(
            adds in prop::collection::vec((0u32..4, 0u16..40, 0u64..5, any::<bool>()), 0..200),
            room in 0usize..700,
        ) {
            let counters = ServiceCounters::with(room);
            let mut expected = std::collections::BTreeMap::<(u32, u16), Carried>::new();
            for (service, slot, packets, opens) in adds {
                // The first packet of an endpoint opens a flow.
                let opens = opens || !expected.contains_key(&(service, slot));
                add(&counters, service, slot, packets, opens);
                let sum = expected.entry((service, slot)).or_default();
                *sum = *sum + carried(packets, u64::from(opens));
            }
            for service in 0..4 {
                let mine = || expected.iter().filter(|((of, _), _)| *of == service);
                let all = mine().map(|(_, sum)| *sum).sum::<Carried>();
                prop_assert_eq!(counters.from(service, 0), all);
                let is_together = counters.extent(service).is_some_and(|extent| extent.mask == 0);
                for (&(_, slot), &sum) in mine() {
                    prop_assert_eq!(counters.of(service, slot), if is_together { Carried::default() } else { sum });
                }
                prop_assert_eq!(counters.from(service, 1) + counters.of(service, 0), all);
            }
            // Four times 4 + 8 + … + 64.
            prop_assert!(room < 496 || (0..4).all(|service| counters.from(service, 64) == Carried::default()));
        }
    }
}
