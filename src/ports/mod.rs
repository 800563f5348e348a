//! The ports of all workers, and the programs in the kernel that choose frames for them.
//!
//! ```text
//!  configuration, host ─▶ choice per interface ─┬─ packet, uring ─▶ one socket per worker, all in one fanout group
//!                                               └─ xdp ─▶ one steering program, sockets on each worker's queues
//! ```
//!
//! A worker's AF_XDP ports are opened together, since they share their frame memory; ports of the other kinds in the order
//! of the workers, since that is how the kernel numbers the members of a group.

pub mod announce;
mod fanout;
pub mod follow;
mod groups;
mod programs;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::net::PortId;
use pollgate_common::pair;
use pollgate_common::settings::DataplaneSettings;
use pollgate_dataplane::bpf::classic::Program as FanoutProgram;
use pollgate_dataplane::ethtool::{self, OffloadSwitch};
use pollgate_dataplane::port::packet::{Fanout, PacketOptions, PacketPort};
use pollgate_dataplane::port::uring::UringPort;
use pollgate_dataplane::port::xdp::{self, Program, Rules, XdpOptions};
use pollgate_dataplane::port::{OpenError, Port};
use pollgate_dataplane::steer::Steering;
use tracing::{info, warn};

use crate::config::{Backend, Config, Interface};
use crate::host::{self, Choice, Machine, Mode, Nic};
use fanout::Fanouts;
use groups::Groups;
use programs::Programs;

/// Slots of a receive ring, each for one frame of the interface's MTU.
const RING_FRAMES: u32 = 1024;

/// Chunks of AF_XDP frame memory per port and worker: half wait for frames, half are on their way.
const CHUNKS: u32 = 4096;

/// Why the ports could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The configured backend does not work here.
    #[error("{}", .0.join("\n"))]
    Backend(Vec<String>),
    /// An interface could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The fanout group could not be shared, so its program could not be changed later.
    #[error("sharing the fanout group of {interface}: {source}")]
    Group {
        /// The interface.
        interface: String,
        /// The error of the system.
        source: io::Error,
    },
}

/// What chooses frames for the workers and lets them come, to be kept in step with the tables ([`follow::follow`]).
pub struct Steered {
    fanouts: Fanouts,
    programs: Option<Programs>,
    groups: Groups,
}

/// Opens ports, worker by worker.
pub struct Opener<'a> {
    config: &'a Config,
    choices: Vec<Choice>,
    workers: u16,
    fanouts: Fanouts,
    /// How the kernel is to choose among the workers from the start.
    fanout: FanoutProgram,
    rules: Option<Rules>,
    programs: Vec<(PortId, Program)>,
}

impl<'a> Opener<'a> {
    /// Chooses how each interface is polled, logs it, and attaches the steering programs. The frames they take
    /// are lost until the ports are open.
    pub fn new(
        config: &'a Config,
        settings: &Arc<DataplaneSettings>,
        steering: Steering,
        workers: u16,
    ) -> Result<Opener<'a>, PortsError> {
        let choices = choose(config, usize::from(workers))?;
        let fanouts = Fanouts::new(config, settings, steering);
        let fanout = fanouts.program();
        let mut opener = Opener { config, choices, workers, fanouts, fanout, rules: None, programs: Vec::new() };
        opener.attach()?;
        for (interface, choice) in config.interfaces.iter().zip(&opener.choices) {
            info!("{} is polled by {}: {}", interface.name, choice.mode, choice.reason);
        }
        Ok(opener)
    }

    fn attach(&mut self) -> Result<(), PortsError> {
        if !self.choices.iter().any(|choice| matches!(choice.mode, Mode::Xdp(_))) {
            return Ok(());
        }
        let rules = Rules::new()?;
        for (at, interface) in self.config.interfaces.iter().enumerate() {
            if !matches!(self.choices[at].mode, Mode::Xdp(_)) {
                continue;
            }
            match Program::attach(&interface.name, &rules) {
                Ok(program) => self.programs.push((port_id(at), program)),
                Err(error) if interface.backend == Backend::Auto => {
                    warn!("{}: AF_XDP would be best, but is not available: {error}", interface.name);
                    self.choices[at] = Choice { mode: Mode::Packet, reason: "AF_XDP is not available".to_owned() };
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.rules = Some(rules);
        if self.config.has_pair() {
            split_segments();
        }
        Ok(())
    }

    /// The ports of one worker, in the order of the configuration. To be called in the order of the workers.
    pub fn open(&mut self, worker: u16) -> Result<Vec<Box<dyn Port>>, PortsError> {
        let mut by_xdp = self.open_xdp(worker)?.into_iter();
        let mut ports = Vec::with_capacity(self.choices.len());
        for (at, interface) in self.config.interfaces.iter().enumerate() {
            let port = match self.choices[at].mode {
                Mode::Xdp(_) => by_xdp.next(),
                Mode::Packet | Mode::Uring => Some(self.open_socket(worker, at, interface)?),
            };
            ports.extend(port);
        }
        Ok(ports)
    }

    fn open_xdp(&self, worker: u16) -> Result<Vec<Box<dyn Port>>, OpenError> {
        let interfaces: Vec<(&Program, PortId)> =
            self.programs.iter().map(|(port, program)| (program, *port)).collect();
        let busy_poll = self.config.workers.busy_poll;
        let options = XdpOptions { interfaces: &interfaces, worker, workers: self.workers, frames: CHUNKS, busy_poll };
        let ports = xdp::open(&options)?;
        for (port, (program, _)) in ports.iter().zip(&interfaces).filter(|_| worker == 0) {
            info!("{}: AF_XDP in mode {}", program.interface(), port.mode());
        }
        Ok(ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect())
    }

    fn open_socket(&mut self, worker: u16, at: usize, interface: &Interface) -> Result<Box<dyn Port>, PortsError> {
        let (port, workers) = (port_id(at), self.workers);
        let interface = &interface.name;
        let options =
            PacketOptions { interface, port, worker, workers, fanout: Some(&self.fanout), ring_frames: RING_FRAMES };
        let (port, group) = socket_port(self.choices[at].mode, &options)?;
        if worker == 0 && workers > 1 {
            let group = group.map_err(|source| PortsError::Group { interface: interface.clone(), source })?;
            self.fanouts.add(interface, group);
        }
        Ok(port)
    }

    /// Once all workers have their ports: what is left to be kept in step.
    pub fn finish(mut self) -> Steered {
        self.fanouts.start();
        let owned = self.config.owned_addresses();
        let patience = self.config.flows.tcp_established;
        let programs = self.rules.map(|rules| Programs::new(rules, self.programs, &owned, patience));
        // The kernel has no IPv6 on the workers' end of the host pair, and no host asks there.
        let asked = self.config.interfaces.iter().filter(|interface| interface.name != pair::DATA);
        let mut groups = Groups::new(asked.filter_map(indexed));
        let on_link: Vec<IpAddr> = owned.iter().copied().filter(|address| !self.config.is_routed(*address)).collect();
        groups.join_all(&on_link);
        Steered { fanouts: self.fanouts, programs, groups }
    }
}

/// Has the host split its large segments before they enter the host pair: an AF_XDP port sends only single frames.
fn split_segments() {
    let off = ethtool::Interface::new(pair::HOST).and_then(|host| host.set(OffloadSwitch::Tso, false));
    if let Err(error) = off {
        warn!(
            "{}: cannot switch segmentation off ({error}), so large segments of the host's processes are lost: ethtool -K {} tso \
             off",
            pair::HOST,
            pair::HOST
        );
    }
}

/// An interface's name and index.
fn indexed(interface: &Interface) -> Option<(String, u32)> {
    let index = ethtool::Interface::new(&interface.name).and_then(|device| device.index()).ok()?;
    Some((interface.name.clone(), index))
}

/// How each interface is to be polled.
fn choose(config: &Config, workers: usize) -> Result<Vec<Choice>, PortsError> {
    let machine = Machine::ask();
    let (mut choices, mut faults) = (Vec::new(), Vec::new());
    for interface in &config.interfaces {
        let nic = Nic::ask(&interface.name);
        let nic =
            nic.map_err(|error| format!("{}: the kernel does not report its capabilities: {error}", interface.name));
        match nic.and_then(|nic| host::choose(interface.backend, &nic, workers, &machine)) {
            // Nobody configures how the pair is polled.
            Ok(choice) if interface.name == pair::DATA => {
                choices.push(Choice { reason: "it is the workers' end of the host pair".to_owned(), ..choice });
            }
            Ok(choice) => choices.push(choice),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(choices) } else { Err(PortsError::Backend(faults)) }
}

type WithGroup = (Box<dyn Port>, io::Result<Fanout>);

fn socket_port(mode: Mode, options: &PacketOptions<'_>) -> Result<WithGroup, OpenError> {
    if mode == Mode::Uring {
        let port = UringPort::open(options)?;
        let group = port.fanout();
        return Ok((Box::new(port), group));
    }
    let port = PacketPort::open(options)?;
    let group = port.fanout();
    Ok((Box::new(port), group))
}

/// The port of the interface at this place in the configuration.
pub fn port_id(at: usize) -> PortId {
    PortId(u16::try_from(at).unwrap_or(u16::MAX))
}
