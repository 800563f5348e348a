//! Opens ports: those of all workers at start, and those of one interface again later.
//!
//! A worker's AF_XDP ports are opened together at start, since they share their frame memory; ports of the other kinds in the order
//! of the workers, since that is how the kernel numbers the members of a group. An AF_XDP port that is opened again has memory of its
//! own: frames between it and the worker's other AF_XDP ports are copied.

use std::sync::Arc;

use pollgate_common::net::{Mac, PortId};
use pollgate_common::pair;
use pollgate_common::settings::DataplaneSettings;
use pollgate_dataplane::ethtool::{self, OffloadSwitch};
use pollgate_dataplane::port::packet::{Fanout, PacketOptions, PacketPort};
use pollgate_dataplane::port::uring::UringPort;
use pollgate_dataplane::port::xdp::{self, Program, Rules as SteeringRules, XdpOptions};
use pollgate_dataplane::port::{OpenError, Port};
use pollgate_dataplane::steer::Steering;
use tracing::{info, warn};

use super::fanout::Rules as FanoutRules;
use super::status::Polled;
use super::{PortsError, port_id};
use crate::config::{Backend, Config};
use crate::host::{self, Choice, HostFault, Machine, Mode, Needs, Nic};

/// Slots of a receive ring, each for one frame of the interface's MTU: 8 MiB at 1500 bytes. At 350,000 frames per second it holds
/// what comes in 12 ms, in which a worker may have to wait for its CPU.
const RING_FRAMES: u32 = 4096;

/// Chunks of AF_XDP frame memory per port and worker: half wait for frames, half are on their way.
const CHUNKS: u32 = 4096;

/// Opens ports, and has what chooses their frames.
pub struct Opener {
    config: Config,
    workers: u16,
    interfaces: Vec<Interface>,
    /// How the kernel is to choose among the workers.
    pub(super) fanout: FanoutRules,
    /// Which frames the steering programs take; `None` if there was no AF_XDP at start.
    pub(super) steering: Option<SteeringRules>,
}

/// An interface, as it was opened last.
struct Interface {
    choice: Choice,
    polled: Polled,
    mac: Mac,
    /// Takes frames for AF_XDP.
    program: Option<Program>,
    /// Changes the program of the workers' group.
    group: Option<Fanout>,
}

impl Opener {
    /// Chooses how each interface is polled, logs it, and attaches the steering programs. The frames they take
    /// are lost until the ports are open.
    pub fn new(
        config: &Config,
        settings: &Arc<DataplaneSettings>,
        steering: Steering,
        workers: u16,
    ) -> Result<Opener, PortsError> {
        let choices = choose_all(config, usize::from(workers))?;
        let fanout = FanoutRules::new(config, settings, steering);
        let closed =
            |choice| Interface { choice, polled: Polled::new(0, 0), mac: Mac::default(), program: None, group: None };
        let interfaces = choices.into_iter().map(closed).collect();
        let mut opener = Opener { config: config.clone(), workers, interfaces, fanout, steering: None };
        opener.attach_all()?;
        for (interface, Interface { choice, .. }) in config.interfaces.iter().zip(&opener.interfaces) {
            info!("{} is polled by {}: {}", interface.name, choice.mode, choice.reason);
        }
        Ok(opener)
    }

    fn attach_all(&mut self) -> Result<(), PortsError> {
        if !self.interfaces.iter().any(|interface| matches!(interface.choice.mode, Mode::Xdp(_))) {
            return Ok(());
        }
        let rules = SteeringRules::new()?;
        self.steering = Some(rules);
        if self.config.has_pair() {
            split_segments();
        }
        (0..self.interfaces.len()).try_for_each(|at| self.attach(at))
    }

    /// Attaches the steering program, if the interface is to be polled by AF_XDP; if that is not possible, it may be polled otherwise.
    fn attach(&mut self, at: usize) -> Result<(), PortsError> {
        let interface = &self.config.interfaces[at];
        let opened = &mut self.interfaces[at];
        let Some(rules) = self.steering.as_ref().filter(|_| matches!(opened.choice.mode, Mode::Xdp(_))) else {
            return Ok(());
        };
        match Program::attach(&interface.name, rules) {
            Ok(program) => opened.program = Some(program),
            Err(error) if interface.backend == Backend::Auto => {
                warn!("{}: AF_XDP would be best, but is not available: {error}", interface.name);
                opened.choice = Choice { mode: Mode::Packet, reason: "AF_XDP is not available".to_owned() };
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The ports of one worker, in the order of the configuration. To be called in the order of the workers.
    pub fn open(&mut self, worker: u16) -> Result<Vec<Box<dyn Port>>, PortsError> {
        if worker == 0 {
            // Once, and before any port is open: what changes after that is noticed.
            (0..self.interfaces.len()).try_for_each(|at| self.note(at))?;
        }
        let mut by_xdp = self.open_xdp(worker)?.into_iter();
        let mut ports = Vec::with_capacity(self.interfaces.len());
        for at in 0..self.interfaces.len() {
            let port = match self.interfaces[at].choice.mode {
                Mode::Xdp(_) => by_xdp.next(),
                Mode::Packet | Mode::Uring => Some(self.open_socket(worker, at)?),
            };
            ports.extend(port);
        }
        Ok(ports)
    }

    /// Remembers what the interface is now.
    fn note(&mut self, at: usize) -> Result<(), PortsError> {
        let name = &self.config.interfaces[at].name;
        let look = || {
            let device = ethtool::Interface::new(name)?;
            Ok((Polled::new(device.index()?, device.mtu()?), device.hardware_address()?.1))
        };
        let looked = look().map_err(|source| PortsError::Unknown { interface: name.clone(), source })?;
        let opened = &mut self.interfaces[at];
        (opened.polled, opened.mac) = looked;
        Ok(())
    }

    fn open_xdp(&self, worker: u16) -> Result<Vec<Box<dyn Port>>, OpenError> {
        let attached = self.interfaces.iter().enumerate();
        let programs: Vec<(&Program, PortId)> =
            attached.filter_map(|(at, interface)| Some((interface.program.as_ref()?, port_id(at)))).collect();
        self.open_by(&programs, worker)
    }

    fn open_by(&self, interfaces: &[(&Program, PortId)], worker: u16) -> Result<Vec<Box<dyn Port>>, OpenError> {
        let busy_poll = self.config.workers.busy_poll;
        let options = XdpOptions { interfaces, worker, workers: self.workers, frames: CHUNKS, busy_poll };
        let ports = xdp::open(&options)?;
        for (port, (program, _)) in ports.iter().zip(interfaces).filter(|_| worker == 0) {
            info!("{}: AF_XDP in mode {}", program.interface(), port.mode());
        }
        Ok(ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect())
    }

    fn open_socket(&mut self, worker: u16, at: usize) -> Result<Box<dyn Port>, PortsError> {
        let (port, workers) = (port_id(at), self.workers);
        let interface = &self.config.interfaces[at].name;
        let program = self.fanout.program();
        let fanout = Some(&program);
        // The first worker's port makes the group that the others join.
        let group = self.interfaces[at].group.as_ref().filter(|_| worker > 0);
        let options = PacketOptions { interface, port, worker, workers, group, fanout, ring_frames: RING_FRAMES };
        let (port, group) = socket_port(self.interfaces[at].choice.mode, &options)?;
        if worker == 0 && workers > 1 {
            let shared = group.map_err(|source| PortsError::Group { interface: interface.clone(), source })?;
            self.interfaces[at].group = Some(shared);
        }
        Ok(port)
    }

    /// The interfaces as they were opened.
    pub(super) fn polled(&self) -> Vec<Polled> {
        self.interfaces.iter().map(|interface| interface.polled.clone()).collect()
    }

    /// The interface's name.
    pub(super) fn name(&self, at: usize) -> &str {
        &self.config.interfaces[at].name
    }

    /// How the interface is polled.
    pub(super) fn choice(&self, at: usize) -> &Choice {
        &self.interfaces[at].choice
    }

    /// Whether the interface can be polled as it is now, and how: the checks of the start.
    ///
    /// # Errors
    /// What is in the way.
    pub(super) fn check(&self, at: usize) -> Result<Choice, String> {
        let interface = &self.config.interfaces[at];
        let needs = Needs { interfaces: vec![(&interface.name, interface.backend)], ..Needs::from(&self.config) };
        let (changed, mut faults) = host::keep(&needs);
        changed.iter().for_each(|changed| warn!("{}", changed.what));
        // An address that the kernel has elsewhere is no reason to leave this interface alone.
        faults.retain(
            |fault| !matches!(fault, HostFault::AddressTaken { interface: other, .. } if *other != interface.name),
        );
        if !faults.is_empty() {
            return Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        let workers = usize::from(self.workers);
        let choice = choose(&self.config, at, workers, &machine(&self.config, workers))?;
        match choice.mode {
            Mode::Xdp(_) if self.steering.is_none() => {
                let reason = "for AF_XDP, which has become possible, the gateway must be restarted".to_owned();
                Ok(Choice { mode: Mode::Packet, reason })
            }
            Mode::Xdp(_) | Mode::Packet | Mode::Uring => Ok(choice),
        }
    }

    /// Opens the interface's ports for all workers, as it is now. Those before must be closed.
    pub(super) fn open_again(&mut self, at: usize, choice: Choice) -> Result<(Vec<Box<dyn Port>>, Polled), PortsError> {
        let opened = &mut self.interfaces[at];
        (opened.program, opened.group, opened.choice) = (None, None, choice);
        if self.steering.is_some() && self.name(at) == pair::DATA {
            split_segments();
        }
        self.attach(at)?;
        self.note(at)?;
        let ports = (0..self.workers).map(|worker| self.open_one(worker, at)).collect::<Result<Vec<_>, _>>();
        if ports.is_err() {
            // A program without sockets would take nothing, but would still be listed.
            (self.interfaces[at].program, self.interfaces[at].group) = (None, None);
        }
        Ok((ports?, self.interfaces[at].polled.clone()))
    }

    fn open_one(&mut self, worker: u16, at: usize) -> Result<Box<dyn Port>, PortsError> {
        match &self.interfaces[at].program {
            Some(program) => {
                let opened = self.open_by(&[(program, port_id(at))], worker)?.pop();
                // `xdp::open` returns one port per interface.
                opened.ok_or_else(|| PortsError::Backend(vec![format!("{}: no port", program.interface())]))
            }
            None => self.open_socket(worker, at),
        }
    }

    /// Has the kernel choose among the workers by these rules from now on.
    pub(super) fn update_fanout(&mut self, rules: FanoutRules) {
        self.fanout = rules;
        for (interface, opened) in self.config.interfaces.iter().zip(&self.interfaces) {
            let Some(group) = &opened.group else { continue };
            if let Err(error) = self.fanout.with(|rules| group.update(rules)) {
                warn!(
                    "{}: the kernel refuses the new fanout program, so more frames are handed over between workers: {error}",
                    interface.name
                );
            }
        }
    }

    /// The interface has this hardware address now.
    pub(super) fn set_mac(&mut self, at: usize, mac: Mac) {
        let opened = &mut self.interfaces[at];
        if opened.mac == mac {
            return;
        }
        opened.mac = mac;
        if let Some(Err(error)) = opened.program.as_ref().map(|program| program.set_mac(mac)) {
            warn!("steering program: {error}");
        }
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

/// How each interface is to be polled.
fn choose_all(config: &Config, workers: usize) -> Result<Vec<Choice>, PortsError> {
    let machine = machine(config, workers);
    let (mut choices, mut faults) = (Vec::new(), Vec::new());
    for at in 0..config.interfaces.len() {
        match choose(config, at, workers, &machine) {
            Ok(choice) => choices.push(choice),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(choices) } else { Err(PortsError::Backend(faults)) }
}

/// This machine, for ports of so many workers.
fn machine(config: &Config, workers: usize) -> Machine {
    Machine::ask(Needs::from(config).locked_memory(workers))
}

fn choose(config: &Config, at: usize, workers: usize, machine: &Machine) -> Result<Choice, String> {
    let interface = &config.interfaces[at];
    let nic = Nic::ask(&interface.name)
        .map_err(|error| format!("{}: the kernel does not report its capabilities: {error}", interface.name))?;
    let choice = host::choose(interface.backend, &nic, workers, machine)?;
    // How the pair is polled is not configured.
    if interface.name == pair::DATA {
        return Ok(Choice { reason: "it is the workers' end of the host pair".to_owned(), ..choice });
    }
    Ok(choice)
}

type WithGroup = (Box<dyn Port>, std::io::Result<Fanout>);

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
