//! Opening a side's port.

use pnet::datalink;
use pollgate_common::net::{Mac, PortId};
use pollgate_dataplane::port::Port;
use pollgate_dataplane::port::packet::{OpenError, PacketOptions, PacketPort};

/// Slots of a receive ring: some milliseconds at a million packets a second, so that a generator that is not scheduled
/// for a moment loses nothing.
const RING_FRAMES: u32 = 8192;

/// How frames get to an interface and from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// AF_PACKET.
    Packet,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No interface of that name.
    #[error("there is no interface {name:?} here; there is {}: correct {option} or create it", present.join(", "))]
    Missing {
        /// Where it was named.
        option: &'static str,
        /// The name.
        name: String,
        /// Those that are there.
        present: Vec<String>,
    },
    /// Switched off.
    #[error("{name} is down: nothing would come or go ({option}); `ip link set {name} up`")]
    Down {
        /// Where it was named.
        option: &'static str,
        /// The name.
        name: String,
    },
    /// The port could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It has no hardware address.
    #[error("{name} has no hardware address ({option}): pktgen needs an Ethernet device")]
    NoMac {
        /// Where it was named.
        option: &'static str,
        /// The name.
        name: String,
    },
}

/// Opens the interface `name`, given by `option`.
pub(super) fn open(
    backend: Backend,
    option: &'static str,
    name: &str,
    id: PortId,
) -> Result<(Box<dyn Port>, Mac), InterfaceError> {
    let mac = hardware_address(option, name)?;
    let port = match backend {
        Backend::Packet => PacketPort::open(&PacketOptions {
            interface: name,
            port: id,
            worker: 0,
            workers: 1,
            fanout: None,
            ring_frames: RING_FRAMES,
        })?,
    };
    Ok((Box::new(port), mac))
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
