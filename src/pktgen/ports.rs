//! Opening a side's port.

use std::net::IpAddr;

use pnet::datalink;
use pollgate_common::net::{Mac, PortId};
use pollgate_dataplane::port::packet::{PacketOptions, PacketPort};
use pollgate_dataplane::port::uring::UringPort;
use pollgate_dataplane::port::xdp::{self, Program, RuleError, Rules, XdpOptions};
use pollgate_dataplane::port::{OpenError, Port};

/// Slots of a receive ring: some milliseconds at a million packets per second, so that a generator that is not scheduled
/// for a moment loses nothing.
const RING_FRAMES: u32 = 8192;

/// How frames get to an interface and from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// AF_PACKET with memory-mapped rings.
    Packet,
    /// AF_PACKET through io_uring.
    Uring,
    /// AF_XDP.
    Xdp,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No interface of that name.
    #[error(
        "the interface {name:?} does not exist; the host has {}: correct {option} or create it",
        present.join(", ")
    )]
    Missing {
        /// Where it was named.
        option: &'static str,
        /// The name.
        name: String,
        /// Those that are there.
        present: Vec<String>,
    },
    /// Switched off.
    #[error("{name} is down, so nothing can be sent or received ({option}): `ip link set {name} up`")]
    Down {
        /// Where it was named.
        option: &'static str,
        /// The name.
        name: String,
    },
    /// The port could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The steering program takes no more addresses.
    #[error("{name}: {source}: use fewer addresses in --from and --answer, or --backend packet")]
    Addresses {
        /// The interface.
        name: String,
        /// The error of the kernel.
        source: RuleError,
    },
    /// It has no hardware address.
    #[error("{name} has no hardware address ({option}): pktgen needs an Ethernet device")]
    NoMac {
        /// Where it was named.
        option: &'static str,
        /// The name.
        name: String,
    },
}

/// An open side: what it polls, its hardware address, and what makes frames come (for as long as it is kept).
pub(super) type Opened = (Box<dyn Port>, Mac, Option<Program>);

/// Opens the interface `name`, given by `option`, for frames to `addresses`.
pub(super) fn open(
    backend: Backend,
    option: &'static str,
    name: &str,
    port: PortId,
    addresses: impl Iterator<Item = IpAddr>,
) -> Result<Opened, InterfaceError> {
    let mac = hardware_address(option, name)?;
    let options = PacketOptions {
        interface: name,
        port,
        worker: 0,
        workers: 1,
        group: None,
        fanout: None,
        ring_frames: RING_FRAMES,
    };
    match backend {
        Backend::Packet => Ok((Box::new(PacketPort::open(&options)?), mac, None)),
        Backend::Uring => Ok((Box::new(UringPort::open(&options)?), mac, None)),
        Backend::Xdp => {
            let (port, program) = open_xdp(name, port, addresses)?;
            Ok((port, mac, Some(program)))
        }
    }
}

fn open_xdp(
    name: &str,
    port: PortId,
    addresses: impl Iterator<Item = IpAddr>,
) -> Result<(Box<dyn Port>, Program), InterfaceError> {
    let addresses: Vec<IpAddr> = addresses.collect();
    let rules = Rules::with_room(u32::try_from(addresses.len()).unwrap_or(u32::MAX))?;
    let refused = |source| InterfaceError::Addresses { name: name.to_owned(), source };
    addresses.into_iter().try_for_each(|address| rules.own(address)).map_err(refused)?;
    let program = Program::attach(name, &rules)?;
    let interfaces = [(&program, port)];
    let options = XdpOptions { interfaces: &interfaces, worker: 0, workers: 1, frames: RING_FRAMES, busy_poll: false };
    let port = xdp::open(&options)?.remove(0);
    Ok((Box::new(port), program))
}

fn hardware_address(option: &'static str, name: &str) -> Result<Mac, InterfaceError> {
    let all = datalink::interfaces();
    let Some(interface) = all.iter().find(|interface| interface.name == name) else {
        let present = all.into_iter().map(|interface| interface.name).collect();
        return Err(InterfaceError::Missing { option, name: name.to_owned(), present });
    };
    if !interface.is_up() {
        return Err(InterfaceError::Down { option, name: name.to_owned() });
    }
    let mac = interface.mac.filter(|mac| !mac.is_zero());
    mac.map(|mac| Mac(mac.octets())).ok_or_else(|| InterfaceError::NoMac { option, name: name.to_owned() })
}
