//! What one interface is and can do.
//!
//! ```text
//!  ioctl, generic netlink: of the calling thread's network namespace ─┐
//!  /sys/bus/pci/…, /proc/irq/…, /proc/interrupts: of the machine     ─┼─▶ Nic
//!  /sys/class/net/IF/…: only if it is the same interface             ─┘
//! ```
//!
//! /sys/class/net shows the namespace that /sys was mounted in. It is used for what no other interface reports (RPS), and only
//! if the interface of that name there has the same number and hardware address.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pollgate_dataplane::ethtool::{Feature, Interface, Queues, Rings};

use super::netdev::{self, XdpFeatures};
use super::{cpulist, query};

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its driver; for a device made of software, its kind.
    pub driver: String,
    /// Where the device is; empty: nowhere.
    pub bus: String,
    /// Largest packet without its Ethernet header.
    pub mtu: u32,
    /// In Mb/s, if the driver reports it.
    pub speed: Option<u32>,
    /// Whether there is a carrier.
    pub has_link: bool,
    /// Receive queues, if the driver reports it.
    pub queues: Option<Queues>,
    /// Ring sizes, if it has rings.
    pub rings: Option<Rings>,
    /// Every offload.
    pub features: Vec<Feature>,
    /// Slots of its table that spreads packets over queues; 0: none.
    pub indirection: u32,
    /// What its XDP can do; `None`: this kernel does not report it.
    pub xdp: Option<XdpFeatures>,
    /// The NUMA node of its bus.
    pub node: Option<usize>,
    /// Its interrupts.
    pub interrupts: Vec<Interrupt>,
    /// CPUs that the kernel spreads its received packets over (RPS); empty: those of the interrupts.
    pub receive_cpus: Vec<usize>,
    /// The stricter of the namespace's and the interface's reverse-path filter, 0 to 2.
    pub reverse_path_filter: u32,
}

/// An interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// CPUs that may handle it.
    pub cpus: Vec<usize>,
}

impl Nic {
    /// Reads the facts of the interface `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the interface does not exist, or the kernel refuses to report it.
    pub fn ask(name: &str) -> io::Result<Nic> {
        let interface = Interface::new(name)?;
        let index = interface.index()?;
        let (driver, bus) = interface.driver()?;
        let shown = shown_in_sys(name, index);
        let shown = shown.as_deref();
        Ok(Nic {
            name: name.to_owned(),
            mtu: interface.mtu()?,
            speed: interface.speed()?,
            has_link: interface.has_link()?,
            queues: interface.queues()?.or_else(|| queues_in_sys(shown?)),
            rings: interface.rings()?,
            features: interface.features()?,
            indirection: interface.indirection()?,
            xdp: netdev::xdp_features(index)?,
            node: node_of(&bus),
            interrupts: interrupts(Path::new("/"), name, &bus),
            receive_cpus: shown.map_or_else(Vec::new, receive_cpus),
            reverse_path_filter: reverse_path_filter(name),
            driver,
            bus,
        })
    }

    /// Receive queues; one, if the driver does not report them.
    pub fn receive_queues(&self) -> usize {
        self.queues.map_or(1, |queues| queues.now.max(1) as usize)
    }

    /// Whether the offload of that name is on.
    pub fn has(&self, feature: &str) -> bool {
        self.feature(feature).is_some_and(|feature| feature.is_on)
    }

    /// Whether the offload of that name could be switched.
    pub fn can_change(&self, feature: &str) -> bool {
        self.feature(feature).is_some_and(|feature| feature.can_change)
    }

    fn feature(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|feature| feature.name == name)
    }
}

/// Receive queues of the interface `name`; one, if neither driver nor /sys reports them.
pub fn receive_queues(name: &str) -> usize {
    let Ok(interface) = Interface::new(name) else { return 1 };
    let queues = interface.queues().ok().flatten();
    let queues = queues.or_else(|| queues_in_sys(&shown_in_sys(name, interface.index().ok()?)?));
    queues.map_or(1, |queues| queues.now.max(1) as usize)
}

/// The interface's directory in /sys, if it is this interface's and not another namespace's.
fn shown_in_sys(name: &str, index: u32) -> Option<PathBuf> {
    let directory = Path::new("/sys/class/net").join(name);
    let text = |file: &str| fs::read_to_string(directory.join(file)).ok().map(|text| text.trim().to_owned());
    let same = text("ifindex")? == index.to_string() && text("address")? == query::hardware_address(name)?;
    same.then_some(directory)
}

fn queues_in_sys(directory: &Path) -> Option<Queues> {
    let now = u32::try_from(receive_queue_directories(directory).len()).ok().filter(|&now| now > 0)?;
    Some(Queues { now, max: now, are_combined: false })
}

fn receive_queue_directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("queues")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).map(|entry| entry.path()).collect()
}

fn receive_cpus(directory: &Path) -> Vec<usize> {
    let masks =
        receive_queue_directories(directory).into_iter().map(|queue| fs::read_to_string(queue.join("rps_cpus")));
    let mut cpus: Vec<usize> = masks.flatten().flat_map(|mask| cpulist::mask(&mask)).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// −1 in the file: the machine has only one node.
fn node_of(bus: &str) -> Option<usize> {
    let path = Path::new("/sys/bus/pci/devices").join(non_empty(bus)?).join("numa_node");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A PCI device lists its interrupts. Others are found by name in /proc/interrupts; a device of software has none.
fn interrupts(root: &Path, name: &str, bus: &str) -> Vec<Interrupt> {
    let Some(bus) = non_empty(bus) else { return Vec::new() };
    let listed =
        fs::read_dir(root.join("sys/bus/pci/devices").join(bus).join("msi_irqs")).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    if numbers.is_empty() {
        numbers = interrupts_by_name(&fs::read_to_string(root.join("proc/interrupts")).unwrap_or_default(), name, bus);
    }
    numbers.sort_unstable();
    let affinity = |number: u32| fs::read_to_string(root.join(format!("proc/irq/{number}/smp_affinity_list")));
    let interrupt = |number| Some(Interrupt { number, cpus: cpulist::list(&affinity(number).ok()?) });
    numbers.into_iter().filter_map(interrupt).collect()
}

/// ```text
///  24:   1041   0   PCI-MSIX-0000:00:03.0   1-edge   virtio1-input.0
/// ```
fn interrupts_by_name(table: &str, name: &str, bus: &str) -> Vec<u32> {
    let is_of = |action: &str, owner: &str| {
        let rest = action.strip_prefix(owner);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', '@', ':']))
    };
    let line = |line: &str| {
        let (number, rest) = line.trim_start().split_once(':')?;
        let action = rest.split_whitespace().last()?;
        (is_of(action, name) || is_of(action, bus)).then(|| number.parse().ok()).flatten()
    };
    table.lines().filter_map(line).collect()
}

/// The kernel takes the greater of the two.
fn reverse_path_filter(name: &str) -> u32 {
    let scopes = ["all".to_owned(), name.replace('.', "/")];
    let values =
        scopes.iter().filter_map(|scope| query::sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"))?.parse().ok());
    values.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_found_by_the_bus_or_by_name() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        };
        write("sys/bus/pci/devices/0000:01:00.0/msi_irqs/31", "");
        write("sys/bus/pci/devices/0000:01:00.0/msi_irqs/30", "");
        write("proc/irq/30/smp_affinity_list", "0-3\n");
        write("proc/irq/31/smp_affinity_list", "2\n");
        write("proc/irq/9/smp_affinity_list", "1\n");
        write(
            "proc/interrupts",
            "      CPU0  CPU1\n  9:  5  6  IO-APIC 9-edge  virtio2-input.0\n 10: 1 1 IO-APIC virtio21\n",
        );
        let by_bus = interrupts(root.path(), "eth1", "0000:01:00.0");
        let at = |number, cpus: &[usize]| Interrupt { number, cpus: cpus.to_vec() };
        assert_eq!(by_bus, [at(30, &[0, 1, 2, 3]), at(31, &[2])]);
        assert_eq!(interrupts(root.path(), "eth1", "virtio2"), [at(9, &[1])], "not virtio21");
        assert_eq!(interrupts(root.path(), "eth1", ""), [], "a device of software");
    }
}
