//! The steering program on one interface.

use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::net::Mac;

use super::super::device::{Device, OpenError};
use super::rules::{RuleError, Rules};
use super::steering::{self, XDP_REDIRECT};
use crate::bpf::{self, Kind, Link, Map, XdpMode};

/// Most receive queues a device may have for its frames to be taken.
const QUEUES: u32 = 1024;

/// The steering program of one interface, attached until this is dropped; shared by all workers. Without the process it
/// is gone as well: nothing is left behind by a kill.
///
/// Ports keep working when it is dropped before them; they just receive nothing more.
#[derive(Debug)]
pub struct Program {
    program: bpf::Program,
    link: Link,
    mac: Map<4, 8>,
    sockets: Map<4, 4>,
    rules: Rules,
    device: Device,
}

impl Program {
    /// Attaches it to an interface of the calling thread's network namespace. Frames go to the kernel as before until a
    /// port is open and `rules` say otherwise.
    pub fn attach(interface: &str, rules: &Rules) -> Result<Program, OpenError> {
        let device = Device::find(interface, 0)?;
        let making = |source| OpenError::xdp("creating the steering program's tables", source);
        let mac = Map::new(Kind::Array, "pg_mac", 1).map_err(making)?;
        let sockets = Map::new(Kind::Sockets, "pg_sockets", QUEUES).map_err(making)?;
        mac.insert(&[0; 4], &value(device.mac)).map_err(making)?;
        let code = steering::assemble(rules.tables(&mac, &sockets));
        let code =
            code.map_err(|error| OpenError::xdp("assembling the steering program", std::io::Error::other(error)))?;
        let program = bpf::Program::load("pg_steering", &code).map_err(|source| not_loaded(interface, source))?;
        let link = program.attach_xdp(device.index).map_err(|source| not_attached(interface, source))?;
        Ok(Program { program, link, mac, sockets, rules: rules.clone(), device })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.device.name
    }

    /// Whether it runs in the driver or in the stack.
    pub fn mode(&self) -> XdpMode {
        self.link.mode()
    }

    /// Whether the device takes VLAN tags out of frames before the program sees them: then tagged frames are taken for
    /// untagged ones, and `ethtool -K INTERFACE rxvlan off` is to be advised.
    pub fn strips_tags(&self) -> bool {
        self.device.strips_tags()
    }

    /// The rules it follows.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The interface's hardware address is another now. A frame that arrives at this very moment may be left to the kernel.
    pub fn set_mac(&self, mac: Mac) -> Result<(), RuleError> {
        let written = self.mac.insert(&[0; 4], &value(mac));
        written.map_err(RuleError::doing(|| format!("setting the MAC of {} to {mac}", self.interface())))
    }

    /// Whether it would give this frame to the worker of receive queue 0: the program itself is run on it. False as well
    /// while no port polls that queue. The frame must have an Ethernet header.
    pub fn takes(&self, frame: &[u8]) -> std::io::Result<bool> {
        Ok(self.program.run(frame)? == XDP_REDIRECT)
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Frames of `queue` go to this socket from now on.
    pub(super) fn add_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        self.sockets.insert(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }
}

fn value(mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [a, b, c, d, e, f, 0, 0]
}

fn not_loaded(interface: &str, error: bpf::LoadError) -> OpenError {
    match error.source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if error.log.is_none() => {
            OpenError::XdpNotPermitted { step: "loading the steering program" }
        }
        _ => OpenError::Program { interface: interface.to_owned(), source: error },
    }
}

fn not_attached(interface: &str, error: std::io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => OpenError::ProgramAttached { interface: interface.to_owned() },
        _ => OpenError::xdp("attaching the steering program", error),
    }
}
