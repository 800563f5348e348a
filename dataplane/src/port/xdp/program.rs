//! The steering program of one interface.

use std::os::fd::{AsRawFd, BorrowedFd};

use pollgate_common::net::Mac;

use super::super::device::{Device, OpenError};
use super::rules::{RuleError, Rules};
use super::steering::{self, XDP_REDIRECT};
use crate::bpf::{self, Kind, Link, Map, XdpMode};

/// Maximum number of a device's receive queues. Frames of further queues are not taken.
const QUEUES: u32 = 1024;

/// The steering program of one interface, attached until this is dropped. All workers share it. It also ends with the
/// process: a killed process leaves nothing attached.
///
/// Ports that outlive it stay valid, but receive nothing more.
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
    /// Attaches the program to an interface of the calling thread's network namespace. Frames still go to the kernel until
    /// a port is open and `rules` match.
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

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.device.name
    }

    /// Whether the program runs in the driver or in the stack.
    pub fn mode(&self) -> XdpMode {
        self.link.mode()
    }

    /// Whether the device removes VLAN tags before the program sees the frames. The program then mistakes tagged frames for
    /// untagged ones, and the user should run `ethtool -K INTERFACE rxvlan off`.
    pub fn strips_tags(&self) -> bool {
        self.device.strips_tags()
    }

    /// The rules that the program uses.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sets the interface's hardware address after a change. A frame that arrives at this moment may go to the kernel.
    pub fn set_mac(&self, mac: Mac) -> Result<(), RuleError> {
        let written = self.mac.insert(&[0; 4], &value(mac));
        written.map_err(RuleError::doing(|| format!("setting the MAC of {} to {mac}", self.interface())))
    }

    /// Whether the program would give this frame to the worker of receive queue 0. Runs the program on the frame. Also false
    /// while no port polls that queue. The frame must have an Ethernet header.
    pub fn takes(&self, frame: &[u8]) -> std::io::Result<bool> {
        Ok(self.program.run(frame)? == XDP_REDIRECT)
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Gives the frames of `queue` to this socket from now on.
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
