//! `pollgate run --check`: what `run` would do on this host, and what the host should change. Touches no packet.
//!
//! ```text
//!  Config ─┐                    ┌─▶ per interface: what it is, how it would be polled, why   ┐
//!          ├─▶ look ──▶ Plan ───┼─▶ advice: what is, what should be, the command, why        ┴▶ stdout, exit code 0
//!  host ───┘                    └─▶ faults: everything that `run` would refuse for            ─▶ stderr, exit code 1
//! ```
//!
//! It calls the same functions as `run` ([`host::look`], [`host::choose`]), so the two cannot disagree. The state file is not
//! opened, and no socket stays open: a running gateway is not affected.

use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::config::{self, Config};
use crate::failure::Failure;
use crate::gateway;
use crate::host::advise::{self, Advice};
use crate::host::pair::PairPlan;
use crate::host::{self, Choice, Machine, Needs, Nic};
use crate::privileges::Privileges;

/// Checks the host and prints the result. `Ok`: `run` would start.
///
/// # Errors
/// Every reason for which `run` would refuse to start, one per line.
pub fn run(config: &Config, out: &mut dyn io::Write) -> Result<(), Failure> {
    let plan = look(config);
    write!(out, "{plan}")?;
    if plan.faults.is_empty() {
        writeln!(out, "\nIt would run.")?;
        return Ok(());
    }
    Err(Failure::refused(format!("it would not run:\n{}", plan.faults.join("\n"))))
}

/// What would be done, and what was found on the way.
#[derive(Debug)]
struct Plan {
    machine: Machine,
    interfaces: Vec<Interface>,
    /// The CPU of each worker.
    workers: Vec<usize>,
    /// Sysctls that `run` would set to 0.
    switched_off: Vec<String>,
    /// The host pair that would be made.
    pair: Option<PairPlan>,
    /// Owned addresses that the kernel has no route to.
    unrouted: Vec<IpAddr>,
    /// What threads would not be limited to.
    gaps: Vec<String>,
    /// What the configuration says and probably does not mean.
    warnings: Vec<String>,
    faults: Vec<String>,
}

/// An existing interface, and how it would be polled; `None`: it could not be, there is a fault.
#[derive(Debug)]
struct Interface {
    nic: Nic,
    choice: Option<Choice>,
}

fn look(config: &Config) -> Plan {
    let cpus = host::allowed_cpus().unwrap_or_default();
    let workers = host::worker_cpus(&cpus, &config.workers.cpus, gateway::worker_count(config, cpus.len()));
    let needs = Needs::from(config);
    let machine = Machine::ask(needs.locked_memory(workers.len()));
    let mut faults = Vec::new();
    let privileges = Privileges::of(config);
    faults.extend(privileges.obstacle().map(|obstacle| obstacle.to_string()));
    faults.extend(listener_faults(config));
    let switched_off = host_faults(&needs, workers.len(), &mut faults);
    let names = config.interfaces.iter().filter(|interface| gateway::is_claimed(&interface.name));
    faults
        .extend(names.map(|interface| gateway::GatewayError::Taken { interface: interface.name.clone() }.to_string()));
    let ask = |interface| ask(interface, workers.len(), &machine, &mut faults);
    let interfaces = config.interfaces.iter().filter_map(ask).collect();
    let pair = PairPlan::of(config);
    if pair.is_some() {
        faults.extend(pair_fault());
    }
    // The pair brings routes to them.
    let unrouted = if pair.is_some() { Vec::new() } else { host::unrouted(&config.owned_addresses()) };
    let (gaps, warnings) = (privileges.gaps(), config.warnings());
    Plan { interfaces, workers, switched_off, pair, unrouted, gaps, warnings, faults, machine }
}

/// Why an address of the configuration cannot be listened on.
fn listener_faults(config: &Config) -> Vec<String> {
    let listeners = [("api.listen", config.api.listen), ("metrics.listen", config.metrics.listen)];
    let fault = |(key, address): (&str, Option<SocketAddr>)| {
        let address = address?;
        let error = TcpListener::bind(address).err()?;
        Some(format!("{key}: cannot listen on {address}: {error}"))
    };
    listeners.into_iter().filter_map(fault).collect()
}

fn host_faults(needs: &Needs<'_>, workers: usize, faults: &mut Vec<String>) -> Vec<String> {
    host::look(needs, workers).unwrap_or_else(|found| {
        faults.extend(found.iter().map(ToString::to_string));
        Vec::new()
    })
}

fn pair_fault() -> Option<String> {
    if gateway::is_claimed(pollgate_common::pair::DATA) {
        return Some(gateway::GatewayError::PairTaken.to_string());
    }
    host::pair::look().err().map(|error| error.to_string())
}

fn ask(
    interface: &config::Interface,
    workers: usize,
    machine: &Machine,
    faults: &mut Vec<String>,
) -> Option<Interface> {
    let nic = match Nic::ask(&interface.name) {
        Ok(nic) => nic,
        // Reported among the host's faults already.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return None,
        Err(error) => {
            faults.push(format!("{}: the kernel does not report its capabilities: {error}", interface.name));
            return None;
        }
    };
    let choice = host::choose(interface.backend, &nic, workers, machine).map_err(|why| faults.push(why)).ok();
    Some(Interface { nic, choice })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for interface in &self.interfaces {
            write!(f, "{interface}")?;
        }
        writeln!(f, "workers: {}", workers(&self.workers))?;
        writeln!(f, "host: {}", machine(&self.machine))?;
        if let Some(pair) = &self.pair {
            writeln!(f, "at start: makes the host pair {pair}; removes it at stop (host.pair)")?;
        }
        for sysctl in &self.switched_off {
            writeln!(f, "at start: sets {sysctl}=0, and leaves it set (host.disableForwarding)")?;
        }
        for gap in &self.gaps {
            writeln!(f, "at start: {gap}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let advice = self.advice();
        let heading = if advice.is_empty() {
            "No changes to the host are recommended."
        } else {
            "Recommended changes to the host:"
        };
        writeln!(f, "\n{heading}")?;
        advice.iter().try_for_each(|advice| writeln!(f, "\n  {}", advice.to_string().replace('\n', "\n  ")))
    }
}

impl Plan {
    fn advice(&self) -> Vec<Advice> {
        let of = |interface: &Interface| {
            let mode = interface.choice.as_ref()?.mode;
            Some(advise::for_interface(&interface.nic, mode, &self.workers, &self.machine))
        };
        let interfaces = self.interfaces.iter().filter_map(of).flatten();
        let machine = advise::for_machine(&self.machine, &self.workers);
        interfaces.chain(machine).chain(advise::for_unrouted(&self.unrouted)).collect()
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.nic.name, nic(&self.nic))?;
        writeln!(f, "    offloads on: {}", offloads(&self.nic))?;
        match &self.choice {
            Some(choice) => writeln!(f, "    polled by {}: {}", choice.mode, choice.reason),
            None => writeln!(f, "    not polled: see the error"),
        }
    }
}

fn nic(nic: &Nic) -> String {
    let mut text = nic.driver.clone();
    // Writing to a string cannot fail.
    if !nic.bus.is_empty() {
        let _ = write!(text, " at {}", nic.bus);
    }
    if let Some(node) = nic.node {
        let _ = write!(text, " on NUMA node {node}");
    }
    if let Some(speed) = nic.speed {
        let _ = write!(text, ", {}", gigabits(speed));
    }
    let _ = write!(text, ", MTU {}", nic.mtu);
    if let Some(queues) = nic.queues {
        let spread = if nic.indirection > 0 { " with RSS" } else { "" };
        let _ = write!(text, ", {} of {} receive queues{spread}", queues.now, queues.max);
    }
    if let Some(rings) = nic.rings {
        let _ = write!(text, ", rings of {} and {} slots (rx, tx)", rings.rx, rings.tx);
    }
    text
}

/// Those that matter to a gateway, by the kernel's names.
fn offloads(nic: &Nic) -> String {
    const KNOWN: [&str; 9] = [
        "rx-checksum",
        "rx-gro",
        "rx-gro-hw",
        "rx-lro",
        "rx-vlan-hw-parse",
        "tx-checksum-ip-generic",
        "tx-checksum-ipv4",
        "tx-generic-segmentation",
        "tx-tcp-segmentation",
    ];
    let on: Vec<&str> = KNOWN.into_iter().filter(|name| nic.has(name)).collect();
    if on.is_empty() { "none".to_owned() } else { on.join(", ") }
}

fn gigabits(megabits: u32) -> String {
    if megabits.is_multiple_of(1000) { format!("{} Gb/s", megabits / 1000) } else { format!("{megabits} Mb/s") }
}

fn workers(cpus: &[usize]) -> String {
    let one = |(worker, cpu): (usize, &usize)| format!("{worker} on CPU {cpu}");
    cpus.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

fn machine(machine: &Machine) -> String {
    let (major, minor) = machine.kernel;
    let pages = machine.transparent_huge_pages.as_deref().unwrap_or("not there");
    let (reserved, free) = machine.huge_pages;
    let permitted = |what: &Result<(), String>| if what.is_ok() { "permitted" } else { "not permitted" };
    format!(
        "Linux {major}.{minor}, {} CPUs, transparent huge pages {pages}, {free} of {reserved} reserved huge pages free, \
         eBPF {}, io_uring {}",
        machine.cpus.len(),
        permitted(&machine.bpf),
        permitted(&machine.io_uring),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backend;
    use crate::host::{Rings, sample};

    fn plan(nics: Vec<Nic>, workers: &[usize]) -> Plan {
        let machine = sample::machine();
        let chosen =
            |nic: Nic| Interface { choice: host::choose(Backend::Auto, &nic, workers.len(), &machine).ok(), nic };
        let interfaces = nics.into_iter().map(chosen).collect();
        Plan {
            interfaces,
            workers: workers.to_vec(),
            switched_off: Vec::new(),
            pair: None,
            unrouted: Vec::new(),
            gaps: Vec::new(),
            warnings: Vec::new(),
            faults: Vec::new(),
            machine,
        }
    }

    #[test]
    fn doubts_about_the_configuration_come_before_advice() {
        let plan = Plan { warnings: vec!["dns.address: odd".to_owned()], ..plan(vec![sample::nic()], &[3, 2]) };
        let told = plan.to_string();
        assert!(told.contains("\nwarning: dns.address: odd\n\nNo changes to the host are recommended.\n"), "{told}");
    }

    #[test]
    fn a_host_as_it_should_be() {
        let told = plan(vec![sample::nic()], &[3, 2]).to_string();
        assert_eq!(
            told,
            "\
eth1: ice at 0000:01:00.0 on NUMA node 0, 25 Gb/s, MTU 1500, 4 of 8 receive queues with RSS, rings of 4096 and 4096 slots (rx, tx)
    offloads on: rx-checksum, rx-gro, tx-checksum-ip-generic, tx-generic-segmentation, tx-tcp-segmentation
    polled by xdp, zero copy: ice supports zero-copy XDP and has a receive queue for every worker
workers: 0 on CPU 3, 1 on CPU 2
host: Linux 6.18, 4 CPUs, transparent huge pages madvise, 0 of 0 reserved huge pages free, eBPF permitted, io_uring permitted

No changes to the host are recommended.
"
        );
    }

    #[test]
    fn a_host_with_work_to_do() {
        let rings = Some(Rings { rx: 256, rx_max: 4096, tx: 4096, tx_max: 4096 });
        let nic = Nic { rings, speed: None, driver: "igb".to_owned(), xdp: None, ..sample::nic() };
        let veth = Nic {
            name: "eth2".to_owned(),
            driver: "veth".to_owned(),
            bus: String::new(),
            node: None,
            queues: None,
            rings: None,
            interrupts: Vec::new(),
            speed: Some(2500),
            reverse_path_filter: 1,
            ..sample::nic()
        };
        let mut plan = plan(vec![nic, veth], &[3, 2]);
        plan.switched_off.push("net.ipv4.conf.eth1.forwarding".to_owned());
        plan.machine.transparent_huge_pages = Some("never".to_owned());
        assert_eq!(
            plan.to_string(),
            "\
eth1: igb at 0000:01:00.0 on NUMA node 0, MTU 1500, 4 of 8 receive queues with RSS, rings of 256 and 4096 slots (rx, tx)
    offloads on: rx-checksum, rx-gro, tx-checksum-ip-generic, tx-generic-segmentation, tx-tcp-segmentation
    polled by packet, memory-mapped rings: Linux before 6.3 does not report what XDP can do with igb; backend: xdp tries it
eth2: veth, 2500 Mb/s, MTU 1500
    offloads on: rx-checksum, rx-gro, tx-checksum-ip-generic, tx-generic-segmentation, tx-tcp-segmentation
    polled by packet, memory-mapped rings: AF_XDP needs a receive queue for every worker, but there is 1 for 2 workers: configure more queues (ethtool -L), or fewer workers
workers: 0 on CPU 3, 1 on CPU 2
host: Linux 6.18, 4 CPUs, transparent huge pages never, 0 of 0 reserved huge pages free, eBPF permitted, io_uring permitted
at start: sets net.ipv4.conf.eth1.forwarding=0, and leaves it set (host.disableForwarding)

Recommended changes to the host:

  eth1: receive ring of 256 slots, can have 4096
      ethtool -G eth1 rx 4096
      packets of a burst longer than the ring are lost before they are polled

  eth2: the reverse-path filter is strict (1), should be loose (2)
      sysctl -w net.ipv4.conf.eth2.rp_filter=2
      with several networks, the kernel drops packets to the host if the route back uses another interface; pollgate's own packets are not affected

  transparent huge pages: never, should be madvise
      echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
      flow tables are accessed at random; with small pages most look-ups also miss the TLB
"
        );
    }
}
