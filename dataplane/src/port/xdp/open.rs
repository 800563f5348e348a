//! Opens all ports of a worker together, because they share their frame memory.
//!
//! ```text
//!  devices ─▶ chunk size ─▶ memory ─▶ first socket registers it ─▶ the others share it ─▶ each into its program's table
//! ```
//!
//! **The mode.** The first socket sets the mode, and the kernel requires the same of the others. So zero copy is tried first,
//! on every device. If one device does not support it, all are opened again with copying.
//!
//! **EBUSY.** The kernel removes a closed socket in the background, so the queue of a gateway that has just ended stays in use
//! for a moment. Binding is tried again for up to two seconds.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use pollgate_common::net::PortId;

use super::super::device::{Device, OpenError};
use super::port::XdpPort;
use super::program::Program;
use super::socket::{Memory, Socket};
use super::umem::{self, Share, Umem};

/// How to open a worker's AF_XDP ports.
#[derive(Clone, Copy, Debug)]
pub struct XdpOptions<'a> {
    /// The program of each interface, and the port's number in the configuration.
    pub interfaces: &'a [(&'a Program, PortId)],
    /// Number of the worker, from 0. It polls the receive queues whose number modulo `workers` is this.
    pub worker: u16,
    /// How many workers share the interfaces.
    pub workers: u16,
    /// Chunks of frame memory per port: 128 to 65536, rounded up to a power of two. Half of them are for receiving, half for
    /// frames being sent.
    pub frames: u32,
    /// Whether receiving drives the device's NAPI itself (SO_PREFER_BUSY_POLL) instead of waiting for its interrupts. Only
    /// useful with `napi_defer_hard_irqs` and `gro_flush_timeout` set on the device, and not on veth.
    pub busy_poll: bool,
}

/// Pauses between two attempts to bind: about two seconds in all.
const PAUSES: [u64; 9] = [1, 2, 5, 12, 30, 80, 200, 600, 1100];

/// Opens all ports of a worker, in the given order. From then on they receive the frames that the programs take.
pub fn open(options: &XdpOptions<'_>) -> Result<Vec<XdpPort>, OpenError> {
    if options.interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let plans =
        options.interfaces.iter().map(|(program, _)| Plan::new(program, options)).collect::<Result<Vec<_>, _>>()?;
    let chunk_size = plans.iter().map(|plan| plan.chunk_size).max().unwrap_or(0);
    let attempt = |copy| attempt(options, &plans, chunk_size, copy);
    let opened = match attempt(false) {
        Err(Failure { may_need_copy: true, .. }) => attempt(true),
        other => other,
    };
    let ports = opened.map_err(|failure| failure.error)?;
    options.interfaces.iter().zip(&ports).try_for_each(|((program, _), port)| connect(program, port, options))?;
    Ok(ports)
}

/// The parameters of one port.
struct Plan {
    chunk_size: usize,
    queues: Vec<u32>,
}

impl Plan {
    fn new(program: &Program, options: &XdpOptions<'_>) -> Result<Plan, OpenError> {
        // Looked up again: MTU and queues may have changed since the program was attached.
        let device = Device::find(program.interface(), options.worker)?;
        let interface = || device.name.clone();
        let too_large = || OpenError::MtuTooLarge { interface: interface(), mtu: device.mtu, most: umem::most() };
        let chunk_size = umem::chunk_size(device.mtu).ok_or_else(too_large)?;
        let count = device.receive_queues();
        let (worker, workers) = (u32::from(options.worker), u32::from(options.workers.max(1)));
        if workers > count {
            let workers = options.workers;
            return Err(OpenError::TooFewQueues { interface: interface(), queues: count, workers });
        }
        Ok(Plan { chunk_size, queues: (0..count).filter(|queue| queue % workers == worker).collect() })
    }
}

struct Failure {
    error: OpenError,
    /// Whether the cause may be that this device does not support zero copy and another one does.
    may_need_copy: bool,
}

fn attempt(options: &XdpOptions<'_>, plans: &[Plan], chunk_size: usize, copy: bool) -> Result<Vec<XdpPort>, Failure> {
    let final_error = |error| Failure { error, may_need_copy: false };
    let chunks = options.frames.clamp(128, 1 << 16).next_power_of_two();
    let numbers: Vec<PortId> = options.interfaces.iter().map(|&(_, port)| port).collect();
    let mapping = |source| final_error(OpenError::xdp("mapping the frame memory", source));
    let umem = Arc::new(Umem::new(&numbers, chunks, chunk_size).map_err(mapping)?);
    let mut ports: Vec<XdpPort> = Vec::with_capacity(plans.len());
    for (index, (plan, &(program, number))) in plans.iter().zip(options.interfaces).enumerate() {
        let mut sockets: Vec<Socket> = Vec::with_capacity(plan.queues.len());
        for &queue in &plan.queues {
            let first = ports.first().map(XdpPort::first_socket).or_else(|| sockets.first());
            let memory = match first {
                Some(first) => Memory::Share(first.as_fd()),
                None => Memory::Register { umem: &umem, copy },
            };
            let zero_copy = first.is_some_and(Socket::is_zero_copy);
            let socket = Socket::new(memory, chunks / 2, sockets.is_empty(), options.busy_poll)
                .map_err(|source| final_error(not_made(source)))?;
            bind(&socket, memory, program, queue, options.worker)
                .map_err(|error| Failure { may_need_copy: zero_copy && !copy, error })?;
            sockets.push(socket);
        }
        let share = Share::new(Arc::clone(&umem), index);
        ports
            .push(XdpPort::new(number, program, sockets, &plan.queues, share, options.busy_poll).map_err(final_error)?);
    }
    Ok(ports)
}

fn bind(socket: &Socket, memory: Memory<'_>, program: &Program, queue: u32, worker: u16) -> Result<(), OpenError> {
    let device = program.device();
    let mut pauses = PAUSES.iter();
    loop {
        let error = match socket.bind(memory, device.index, queue) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let busy = error.raw_os_error() == Some(libc::EBUSY);
        match pauses.next() {
            Some(&pause) if busy => wait(Duration::from_millis(pause)),
            _ if busy => {
                let (interface, waited) = (device.name.clone(), PAUSES.iter().sum());
                return Err(OpenError::QueueTaken { interface, queue, waited });
            }
            _ => {
                let (interface, step) = (device.name.clone(), "binding an AF_XDP socket");
                return Err(OpenError::System { interface, worker, step, source: error });
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no worker opens ports")]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

fn connect(program: &Program, port: &XdpPort, options: &XdpOptions<'_>) -> Result<(), OpenError> {
    port.queues().try_for_each(|(queue, socket)| program.add_socket(queue, socket)).map_err(|source| {
        let (interface, step) = (program.interface().to_owned(), "adding a socket to the steering program");
        OpenError::System { interface, worker: options.worker, step, source }
    })
}

fn not_made(error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => {
            let why = "the frame memory exceeds what this process may lock: add CAP_IPC_LOCK, or raise LimitMEMLOCK=";
            OpenError::xdp("registering the frame memory", io::Error::new(error.kind(), why))
        }
        _ => OpenError::xdp("creating an AF_XDP socket", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_is_missing() {
        let message =
            |error| OpenError::xdp("creating an AF_XDP socket", io::Error::from_raw_os_error(error)).to_string();
        assert!(
            message(libc::EPERM).starts_with("creating an AF_XDP socket needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW")
        );
        assert!(message(libc::EAFNOSUPPORT).contains("AF_XDP ports need Linux 5.10 or later"));
        assert_eq!(message(libc::ENOMEM), "creating an AF_XDP socket: Cannot allocate memory (os error 12)");
        let locked = not_made(io::Error::from_raw_os_error(libc::ENOBUFS)).to_string();
        assert!(locked.contains("add CAP_IPC_LOCK, or raise LimitMEMLOCK="), "{locked}");
    }
}
