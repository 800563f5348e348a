//! How an interface is polled: as configured, or for `auto` the best way that is sure to work.
//!
//! ```text
//!  xdp      eBPF permitted, driver runs XDP itself, one queue per worker, peer not software, MTU of a page
//!  packet   otherwise
//!  uring    only if set in the configuration: it was measured no faster than packet
//! ```
//!
//! The kernel reports whether a driver runs XDP itself, so that new drivers work as well. "Unknown" counts as no:
//! the emulation is slower than AF_PACKET, and a gateway must not become slower by an automatic choice.
//!
//! **A peer of software** (veth, virtio, tun) leaves checksums incomplete and segments whole. AF_PACKET carries such a
//! segment of up to 64 kB as one frame; for AF_XDP it has to be split, which is 20 to 30 times as many frames for the same
//! bytes.

use std::fmt;

use super::machine::Machine;
use super::nic::Nic;
use crate::config::Backend;

/// The largest MTU whose frame fits a page with what XDP needs around it.
const XDP_MTU: u32 = 3498;

/// A way to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// AF_XDP.
    Xdp(Copying),
    /// AF_PACKET with memory-mapped rings.
    Packet,
    /// AF_PACKET through io_uring.
    Uring,
}

/// Who moves the bytes of an AF_XDP frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// No copy: the device writes into the socket's memory.
    Zero,
    /// The driver's program copies.
    Driver,
    /// The kernel emulates XDP on finished packets.
    Generic,
    /// This kernel does not report it.
    Unknown,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Xdp(Copying::Zero) => "xdp, zero copy",
            Mode::Xdp(Copying::Driver) => "xdp, copy in the driver",
            Mode::Xdp(Copying::Generic) => "xdp, emulated by the kernel",
            Mode::Xdp(Copying::Unknown) => "xdp",
            Mode::Packet => "packet, memory-mapped rings",
            Mode::Uring => "uring",
        })
    }
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How the interface is polled.
    pub mode: Mode,
    /// Why, as the end of a sentence.
    pub reason: String,
}

/// How to poll `nic` with `workers` workers.
///
/// # Errors
/// The configuration names a backend that cannot work here: why, and what to do. `auto` always works.
pub fn choose(wanted: Backend, nic: &Nic, workers: usize, machine: &Machine) -> Result<Choice, String> {
    let configured = |mode| Choice { mode, reason: "set in the configuration".to_owned() };
    match wanted {
        Backend::Auto => Ok(best(nic, workers, machine)),
        Backend::Packet => Ok(configured(Mode::Packet)),
        Backend::Uring => match &machine.io_uring {
            Ok(()) => Ok(configured(Mode::Uring)),
            Err(why) => Err(format!("{}: backend: uring: {why}, or use backend: packet", nic.name)),
        },
        Backend::Xdp => match obstacle(nic, workers, machine) {
            None => Ok(configured(Mode::Xdp(copying(nic)))),
            Some(why) => Err(format!("{}: backend: xdp: {why}, or use backend: packet", nic.name)),
        },
    }
}

fn best(nic: &Nic, workers: usize, machine: &Machine) -> Choice {
    let packet = |reason| Choice { mode: Mode::Packet, reason };
    if let Some(why) = obstacle(nic, workers, machine).or_else(|| software_peer(nic)) {
        return packet(why);
    }
    let copying = copying(nic);
    match copying {
        Copying::Zero => {
            let reason = format!("{} supports zero-copy XDP and has a receive queue for every worker", nic.driver);
            Choice { mode: Mode::Xdp(copying), reason }
        }
        Copying::Driver => {
            let reason = format!("{} supports XDP natively and has a receive queue for every worker", nic.driver);
            Choice { mode: Mode::Xdp(copying), reason }
        }
        Copying::Generic => packet(format!("{} does not support XDP natively", nic.driver)),
        Copying::Unknown => packet(format!(
            "Linux before 6.3 does not report what XDP can do with {}; backend: xdp tries it",
            nic.driver
        )),
    }
}

/// What makes AF_XDP impossible.
fn obstacle(nic: &Nic, workers: usize, machine: &Machine) -> Option<String> {
    if let Err(why) = &machine.bpf {
        return Some(why.clone());
    }
    let queues = nic.receive_queues();
    if queues < workers {
        return Some(format!(
            "AF_XDP needs a receive queue for every worker, but there {} for {workers} workers: configure more queues \
             (ethtool -L), or fewer workers",
            if queues == 1 { "is 1".to_owned() } else { format!("are {queues}") },
        ));
    }
    (nic.mtu > XDP_MTU)
        .then(|| format!("a frame with MTU {} does not fit in a page, as AF_XDP requires: at most {XDP_MTU}", nic.mtu))
}

/// virtio reports whether its peer may leave checksums incomplete. veth and tun do not, and their peers do so by default.
fn software_peer(nic: &Nic) -> Option<String> {
    let is_software = match nic.driver.as_str() {
        "veth" | "tun" => true,
        "virtio_net" => nic.has("rx-checksum") || nic.has("rx-gro-hw") || nic.has("rx-lro"),
        _ => false,
    };
    is_software.then(|| {
        format!(
            "a {} peer sends segments of up to 64 kB with incomplete checksums, which AF_PACKET carries as one frame",
            nic.driver
        )
    })
}

fn copying(nic: &Nic) -> Copying {
    match nic.xdp {
        None => Copying::Unknown,
        Some(features) if !features.is_native() => Copying::Generic,
        Some(features) if features.has_zero_copy() => Copying::Zero,
        Some(_) => Copying::Driver,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{machine, nic};
    use super::super::{Feature, Queues, XdpFeatures};
    use super::*;

    fn chosen(wanted: Backend, nic: &Nic, workers: usize, machine: &Machine) -> (Mode, String) {
        let choice = choose(wanted, nic, workers, machine).expect("a choice");
        (choice.mode, choice.reason)
    }

    #[test]
    fn auto_takes_xdp_where_it_is_sure_to_be_better() {
        const OWN: &str = "ice supports XDP natively and has a receive queue for every worker";
        const ZERO: &str = "ice supports zero-copy XDP and has a receive queue for every worker";
        const SOFT: &str = "segments of up to 64 kB with incomplete checksums, which AF_PACKET carries as one frame";
        let full = nic(); // ice, four queues, zero copy
        let driver = |driver: &str| Nic { driver: driver.to_owned(), ..nic() };
        let xdp = |xdp| Nic { xdp, ..nic() };
        let queues = |now| Nic { queues: Some(Queues { now, max: 8, are_combined: true }), ..nic() };
        let strict = Feature { name: "rx-checksum".to_owned(), is_on: false, can_change: true };
        let forbidden = Machine { bpf: Err("the kernel refuses eBPF".to_owned()), ..machine() };
        for (what, nic, workers, machine, mode, reason) in [
            ("zero copy", &full, 4, &machine(), Mode::Xdp(Copying::Zero), ZERO),
            ("more queues than workers", &full, 3, &machine(), Mode::Xdp(Copying::Zero), ZERO),
            ("copy", &xdp(Some(XdpFeatures::of(true, false))), 1, &machine(), Mode::Xdp(Copying::Driver), OWN),
            (
                "no XDP",
                &xdp(Some(XdpFeatures::of(false, false))),
                1,
                &machine(),
                Mode::Packet,
                "ice does not support XDP natively",
            ),
            (
                "old kernel",
                &xdp(None),
                1,
                &machine(),
                Mode::Packet,
                "Linux before 6.3 does not report what XDP can do with ice",
            ),
            ("no eBPF", &full, 1, &forbidden, Mode::Packet, "the kernel refuses eBPF"),
            ("one queue", &queues(1), 2, &machine(), Mode::Packet, "but there is 1 for 2 workers"),
            ("too few queues", &queues(2), 3, &machine(), Mode::Packet, "but there are 2 for 3 workers"),
            ("queues unknown", &Nic { queues: None, ..nic() }, 1, &machine(), Mode::Xdp(Copying::Zero), ZERO),
            (
                "jumbo",
                &Nic { mtu: 9000, ..nic() },
                1,
                &machine(),
                Mode::Packet,
                "a frame with MTU 9000 does not fit in a page",
            ),
            ("veth", &driver("veth"), 1, &machine(), Mode::Packet, SOFT),
            ("tun", &driver("tun"), 1, &machine(), Mode::Packet, SOFT),
            ("virtio", &driver("virtio_net"), 1, &machine(), Mode::Packet, SOFT),
            (
                "virtio, strict",
                &Nic { features: vec![strict], ..driver("virtio_net") },
                1,
                &machine(),
                Mode::Xdp(Copying::Zero),
                "virtio_net supports zero-copy XDP and has a receive queue for every worker",
            ),
        ] {
            let (is, why) = chosen(Backend::Auto, nic, workers, machine);
            assert_eq!(is, mode, "{what}: {why}");
            assert!(why.contains(reason), "{what}: {why}");
        }
    }

    #[test]
    fn the_configuration_is_followed_or_refused() {
        let veth = Nic { driver: "veth".to_owned(), xdp: None, ..nic() };
        let told = "set in the configuration".to_owned();
        assert_eq!(chosen(Backend::Packet, &nic(), 9, &machine()), (Mode::Packet, told.clone()));
        assert_eq!(chosen(Backend::Uring, &nic(), 9, &machine()), (Mode::Uring, told.clone()));
        assert_eq!(chosen(Backend::Xdp, &veth, 1, &machine()), (Mode::Xdp(Copying::Unknown), told));
        let no_uring = Machine { io_uring: Err("kernel.io_uring_disabled is 2".to_owned()), ..machine() };
        assert_eq!(
            choose(Backend::Uring, &nic(), 1, &no_uring),
            Err("eth1: backend: uring: kernel.io_uring_disabled is 2, or use backend: packet".to_owned())
        );
        assert_eq!(
            choose(Backend::Xdp, &nic(), 5, &machine()),
            Err("eth1: backend: xdp: AF_XDP needs a receive queue for every worker, but there are 4 for 5 workers: \
                 configure more queues (ethtool -L), or fewer workers, or use backend: packet"
                .to_owned())
        );
    }
}
