//! Advice about one interface.

use super::advice::{Advice, advice, free_cpus, named};
use crate::host::{Machine, Mode, Nic, cpulist};

/// What to change for an interface polled in this mode, by workers on these CPUs.
pub fn for_interface(nic: &Nic, mode: Mode, workers: &[usize], machine: &Machine) -> Vec<Advice> {
    let all = [
        link(nic),
        receive_ring(nic),
        transmit_ring(nic),
        large_receive(nic),
        queues(nic, mode, workers.len()),
        interrupts(nic, mode, workers, machine),
        receive_cpus(nic, workers, machine),
        node(nic, workers, machine),
        reverse_path(nic),
    ];
    let by_mode = match mode {
        Mode::Xdp(_) => [hardware_merging(nic), vlan_stripping(nic), None],
        Mode::Packet | Mode::Uring => [merging(nic), segmentation(nic), transmit_checksum(nic)],
    };
    all.into_iter().chain(by_mode).flatten().collect()
}

fn link(nic: &Nic) -> Option<Advice> {
    if nic.has_link {
        return None;
    }
    let finding = format!("{}: no link", nic.name);
    advice(
        finding,
        format!("ip link show {}", nic.name),
        "nothing is received until the cable is connected and the \
                                                           peer is up",
    )
}

/// Rings longer than this only hold packets that are late already.
const ENOUGH_SLOTS: u32 = 4096;

fn receive_ring(nic: &Nic) -> Option<Advice> {
    let rings = nic.rings?;
    let best = rings.rx_max.min(ENOUGH_SLOTS);
    if rings.rx >= best {
        return None;
    }
    let name = &nic.name;
    let finding = format!("{name}: receive ring of {} slots, can have {best}", rings.rx);
    advice(
        finding,
        format!("ethtool -G {name} rx {best}"),
        "packets of a burst longer than the ring are lost before \
                                                             they are polled",
    )
}

fn transmit_ring(nic: &Nic) -> Option<Advice> {
    let rings = nic.rings?;
    let best = rings.tx_max.min(ENOUGH_SLOTS);
    if rings.tx >= best {
        return None;
    }
    let name = &nic.name;
    let finding = format!("{name}: transmit ring of {} slots, can have {best}", rings.tx);
    advice(finding, format!("ethtool -G {name} tx {best}"), "packets are dropped while it is full (tx_full)")
}

fn large_receive(nic: &Nic) -> Option<Advice> {
    if !nic.has("rx-lro") {
        return None;
    }
    let finding = format!("{}: LRO is on, must be off", nic.name);
    let why = "it merges segments irreversibly, so forwarded packets are too long; the kernel switches it off by \
               itself only if the kernel forwards";
    advice(finding, format!("ethtool -K {} lro off", nic.name), why)
}

fn queues(nic: &Nic, mode: Mode, workers: usize) -> Option<Advice> {
    let queues = nic.queues?;
    let (now, wanted) = (queues.now as usize, u32::try_from(workers).ok()?);
    let is_even = match mode {
        Mode::Xdp(_) => now.is_multiple_of(workers.max(1)),
        Mode::Packet | Mode::Uring => now >= workers,
    };
    if is_even || queues.max < wanted {
        return None;
    }
    let (name, what) = (&nic.name, if queues.are_combined { "combined" } else { "rx" });
    let finding = format!("{name}: {now} receive queues for {workers} workers, should be {workers}");
    let why = match mode {
        Mode::Xdp(_) => "each worker polls its own queues; with uneven shares one worker has more work than the others",
        Mode::Packet | Mode::Uring => {
            "the kernel's receive work runs on one CPU per queue; with fewer queues than workers it is the bottleneck"
        }
    };
    advice(finding, format!("ethtool -L {name} {what} {workers}"), why)
}

/// With AF_XDP the driver's work belongs where its queue is polled; with a copy of the kernel's it only takes time away.
fn interrupts(nic: &Nic, mode: Mode, workers: &[usize], machine: &Machine) -> Option<Advice> {
    let disturbing: Vec<_> =
        nic.interrupts.iter().filter(|irq| irq.cpus.iter().any(|cpu| workers.contains(cpu))).collect();
    let free = cpulist::write(&free_cpus(workers, machine));
    if matches!(mode, Mode::Xdp(_)) || disturbing.is_empty() || free.is_empty() {
        return None;
    }
    let numbers: Vec<_> = disturbing.iter().map(|irq| irq.number.to_string()).collect();
    let cpus: Vec<usize> = disturbing.iter().flat_map(|irq| irq.cpus.iter().copied()).collect();
    let finding = format!(
        "{}: interrupts {} may run on {}, workers are on {}; should be {free}",
        nic.name,
        numbers.join(" "),
        named(&cpus),
        named(workers)
    );
    let command = format!("for i in {}; do echo {free} > /proc/irq/$i/smp_affinity_list; done", numbers.join(" "));
    advice(
        finding,
        command,
        "the kernel's receive work takes CPU time from a worker (also stop irqbalance, which would move them back)",
    )
}

fn receive_cpus(nic: &Nic, workers: &[usize], machine: &Machine) -> Option<Advice> {
    let free = free_cpus(workers, machine);
    if !nic.receive_cpus.iter().any(|cpu| workers.contains(cpu)) || free.is_empty() {
        return None;
    }
    let name = &nic.name;
    let finding = format!(
        "{name}: RPS sends packets to {}, workers are on {}; should be {}",
        named(&nic.receive_cpus),
        named(workers),
        cpulist::write(&free)
    );
    let command = format!(
        "for q in /sys/class/net/{name}/queues/rx-*; do echo {} > $q/rps_cpus; done",
        cpulist::write_mask(&free)
    );
    advice(finding, command, "the kernel's receive work takes CPU time from a worker")
}

fn node(nic: &Nic, workers: &[usize], machine: &Machine) -> Option<Advice> {
    let home = nic.node?;
    let node = |cpu: &usize| machine.cpu(*cpu).and_then(|cpu| cpu.node);
    let far: Vec<usize> = workers.iter().copied().filter(|cpu| node(cpu).is_some_and(|node| node != home)).collect();
    let near: Vec<usize> = machine.cpus.iter().filter(|cpu| cpu.node == Some(home)).map(|cpu| cpu.number).collect();
    if far.is_empty() || near.is_empty() {
        return None;
    }
    let finding = format!("{}: the interface is on NUMA node {home}, the workers on {} are not", nic.name, named(&far));
    let command = format!("workers.cpus: [{}] in the configuration", cpulist::write(&near));
    advice(finding, command, "every packet crosses between the nodes twice")
}

fn reverse_path(nic: &Nic) -> Option<Advice> {
    if nic.reverse_path_filter != 1 {
        return None;
    }
    let finding = format!("{}: the reverse-path filter is strict (1), should be loose (2)", nic.name);
    let command = format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", nic.name.replace('.', "/"));
    let why = "with several networks, the kernel drops packets to the host if the route back uses another interface; \
               pollgate's own packets are not affected";
    advice(finding, command, why)
}

fn hardware_merging(nic: &Nic) -> Option<Advice> {
    if !nic.has("rx-gro-hw") {
        return None;
    }
    let finding = format!("{}: the card merges segments (rx-gro-hw), but should not", nic.name);
    advice(finding, format!("ethtool -K {} rx-gro-hw off", nic.name), "a merged frame is longer than an AF_XDP buffer")
}

fn vlan_stripping(nic: &Nic) -> Option<Advice> {
    if !nic.has("rx-vlan-hw-parse") || !nic.can_change("rx-vlan-hw-parse") {
        return None;
    }
    let finding = format!("{}: the card strips VLAN tags, but should not", nic.name);
    let why = "AF_XDP does not see the tag, so a tagged frame looks like an untagged one";
    advice(finding, format!("ethtool -K {} rxvlan off", nic.name), why)
}

/// A device of software gets whole super-frames from its peer and has nothing to merge.
fn merging(nic: &Nic) -> Option<Advice> {
    if nic.bus.is_empty() || nic.has("rx-gro") || !nic.can_change("rx-gro") {
        return None;
    }
    let finding = format!("{}: GRO is off, should be on", nic.name);
    let why = "without it, bulk TCP arrives as one packet per segment; merged segments pass through as one packet, at \
               the cost of one";
    advice(finding, format!("ethtool -K {} gro on", nic.name), why)
}

fn segmentation(nic: &Nic) -> Option<Advice> {
    if nic.has("tx-tcp-segmentation") || !nic.can_change("tx-tcp-segmentation") {
        return None;
    }
    let finding = format!("{}: TSO is off, should be on", nic.name);
    let why = "the kernel splits every large segment when it is sent, on the worker's CPU";
    advice(finding, format!("ethtool -K {} tso on", nic.name), why)
}

fn transmit_checksum(nic: &Nic) -> Option<Advice> {
    let names = ["tx-checksum-ip-generic", "tx-checksum-ipv4"];
    if names.iter().any(|name| nic.has(name)) || !names.iter().any(|name| nic.can_change(name)) {
        return None;
    }
    let finding = format!("{}: transmit checksums are off, should be on", nic.name);
    let why = "the kernel computes the missing checksum of every such packet when it is sent, on the worker's CPU";
    advice(finding, format!("ethtool -K {} tx on", nic.name), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sample::{machine, nic};
    use crate::host::{Copying, Feature, Interrupt, Queues, Rings};

    const XDP: Mode = Mode::Xdp(Copying::Zero);
    const WORKERS: [usize; 2] = [3, 2];

    fn with(feature: &str, is_on: bool) -> Nic {
        let mut nic = nic();
        let found = nic.features.iter_mut().find(|other| other.name == feature);
        found.expect("a feature of the sample").is_on = is_on;
        nic
    }

    #[test]
    fn each_shortcoming_of_an_interface_has_its_advice() {
        let queues = |now, max, are_combined| Nic { queues: Some(Queues { now, max, are_combined }), ..nic() };
        let rings = |rx, tx| Nic { rings: Some(Rings { rx, rx_max: 8160, tx, tx_max: 1024 }), ..nic() };
        let interrupt = |number, cpus: &[usize]| Interrupt { number, cpus: cpus.to_vec() };
        let everywhere = vec![interrupt(30, &[0]), interrupt(31, &[2]), interrupt(32, &[0, 1, 2, 3])];
        let packet = Mode::Packet;
        for (nic, mode, finding, command) in [
            (Nic { has_link: false, ..nic() }, packet, "eth1: no link", "ip link show eth1"),
            (rings(256, 1024), packet, "eth1: receive ring of 256 slots, can have 4096", "ethtool -G eth1 rx 4096"),
            (rings(4096, 512), packet, "eth1: transmit ring of 512 slots, can have 1024", "ethtool -G eth1 tx 1024"),
            (with("rx-lro", true), packet, "eth1: LRO is on, must be off", "ethtool -K eth1 lro off"),
            (
                with("rx-gro-hw", true),
                XDP,
                "eth1: the card merges segments (rx-gro-hw), but should not",
                "ethtool -K eth1 rx-gro-hw off",
            ),
            (
                with("rx-vlan-hw-parse", true),
                XDP,
                "eth1: the card strips VLAN tags, but should not",
                "ethtool -K eth1 rxvlan off",
            ),
            (with("tx-tcp-segmentation", false), packet, "eth1: TSO is off, should be on", "ethtool -K eth1 tso on"),
            (
                with("tx-checksum-ip-generic", false),
                packet,
                "eth1: transmit checksums are off, should be on",
                "ethtool -K eth1 tx on",
            ),
            (
                queues(3, 8, true),
                XDP,
                "eth1: 3 receive queues for 2 workers, should be 2",
                "ethtool -L eth1 combined 2",
            ),
            (queues(1, 2, false), packet, "eth1: 1 receive queues for 2 workers, should be 2", "ethtool -L eth1 rx 2"),
            (with("rx-gro", false), packet, "eth1: GRO is off, should be on", "ethtool -K eth1 gro on"),
            (
                Nic { interrupts: everywhere, ..nic() },
                packet,
                "eth1: interrupts 31 32 may run on CPUs 0-3, workers are on CPUs 2-3; should be 0-1",
                "for i in 31 32; do echo 0-1 > /proc/irq/$i/smp_affinity_list; done",
            ),
            (
                Nic { receive_cpus: vec![1, 2], ..nic() },
                packet,
                "eth1: RPS sends packets to CPUs 1-2, workers are on CPUs 2-3; should be 0-1",
                "for q in /sys/class/net/eth1/queues/rx-*; do echo 3 > $q/rps_cpus; done",
            ),
            (
                Nic { reverse_path_filter: 1, name: "eth1.7".to_owned(), ..nic() },
                packet,
                "eth1.7: the reverse-path filter is strict (1), should be loose (2)",
                "sysctl -w net.ipv4.conf.eth1/7.rp_filter=2",
            ),
        ] {
            let told = for_interface(&nic, mode, &WORKERS, &machine());
            assert_eq!(told.len(), 1, "{finding}: {told:#?}");
            assert_eq!((told[0].finding.as_str(), told[0].command.as_str()), (finding, command));
        }
    }

    #[test]
    fn advice_is_for_its_mode_and_only_where_it_can_be_followed() {
        let fixed = |name: &str, is_on| {
            let mut nic = with(name, is_on);
            nic.features.iter_mut().for_each(|feature: &mut Feature| feature.can_change = false);
            nic
        };
        let busy = Nic { interrupts: vec![Interrupt { number: 30, cpus: vec![3] }], ..nic() };
        let few = Nic { queues: Some(Queues { now: 1, max: 1, are_combined: true }), ..nic() };
        for (what, nic, mode) in [
            ("XDP: interrupts may be with the worker", busy, XDP),
            ("packet: merged frames are fine", with("rx-gro-hw", true), Mode::Packet),
            ("packet: the kernel gives the tag", with("rx-vlan-hw-parse", true), Mode::Packet),
            ("XDP: nothing is cut up", with("tx-tcp-segmentation", false), XDP),
            ("nothing to merge", Nic { bus: String::new(), ..with("rx-gro", false) }, Mode::Packet),
            ("TSO cannot be switched", fixed("tx-tcp-segmentation", false), Mode::Packet),
            ("VLAN stripping cannot be switched", fixed("rx-vlan-hw-parse", true), XDP),
            ("there cannot be more queues", few, Mode::Packet),
            ("no rings", Nic { rings: None, ..nic() }, Mode::Packet),
        ] {
            assert_eq!(for_interface(&nic, mode, &WORKERS, &machine()), [], "{what}");
        }
        let all_busy = Nic { interrupts: vec![Interrupt { number: 30, cpus: vec![0] }], ..nic() };
        assert_eq!(for_interface(&all_busy, Mode::Packet, &[0, 1, 2, 3], &machine()), [], "there is no other CPU");
    }

    #[test]
    fn a_card_on_another_node_is_told_where_that_node_has_cpus() {
        let far = Nic { node: Some(1), ..nic() };
        assert_eq!(for_interface(&far, XDP, &WORKERS, &machine()), [], "the other node has no CPUs to offer");
        let mut two = machine();
        two.cpus[0].node = Some(1);
        let told = for_interface(&far, XDP, &WORKERS, &two);
        assert_eq!(told[0].finding, "eth1: the interface is on NUMA node 1, the workers on CPUs 2-3 are not");
        assert_eq!(told[0].command, "workers.cpus: [0] in the configuration");
    }
}
