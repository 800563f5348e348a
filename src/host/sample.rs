//! A machine and an interface for tests, as they should be.

use super::{Cpu, Feature, Interrupt, Machine, Nic, Queues, Rings, XdpFeatures};

/// Four CPUs, of which 2 and 3 are kept free.
pub(crate) fn machine() -> Machine {
    let cpu = |number| Cpu { number, governor: Some("performance".to_owned()), core: vec![number], node: Some(0) };
    Machine {
        kernel: (6, 18),
        cpus: (0..4).map(cpu).collect(),
        isolated: vec![2, 3],
        has_aes: true,
        transparent_huge_pages: Some("madvise".to_owned()),
        huge_pages: (0, 0),
        receive_buffer_limit: None,
        bpf: Ok(()),
        io_uring: Ok(()),
    }
}

/// A good card with four queues, served by CPUs 0 and 1.
pub(crate) fn nic() -> Nic {
    let feature = |(name, is_on): (&str, bool)| Feature { name: name.to_owned(), is_on, can_change: true };
    let features = [
        ("rx-checksum", true),
        ("rx-gro", true),
        ("rx-gro-hw", false),
        ("rx-lro", false),
        ("rx-vlan-hw-parse", false),
        ("tx-checksum-ip-generic", true),
        ("tx-generic-segmentation", true),
        ("tx-tcp-segmentation", true),
    ];
    Nic {
        name: "eth1".to_owned(),
        driver: "ice".to_owned(),
        bus: "0000:01:00.0".to_owned(),
        mtu: 1500,
        speed: Some(25_000),
        has_link: true,
        queues: Some(Queues { now: 4, max: 8, are_combined: true }),
        rings: Some(Rings { rx: 4096, rx_max: 8160, tx: 4096, tx_max: 8160 }),
        features: features.into_iter().map(feature).collect(),
        indirection: 512,
        xdp: Some(XdpFeatures::of(true, true)),
        node: Some(0),
        interrupts: vec![Interrupt { number: 30, cpus: vec![0, 1] }, Interrupt { number: 31, cpus: vec![0, 1] }],
        receive_cpus: Vec::new(),
        reverse_path_filter: 0,
    }
}
