//! What the host should change to be a good gateway: each with what is, what should be, the command, and why.
//!
//! Pure functions of the facts, so that a table can test them. Nothing here keeps a gateway from starting; what does is a
//! [`HostFault`](super::HostFault). Advice is given only where its command can work: never for a switch that the driver
//! does not have.

mod interface;
mod machine;

use std::fmt;

use super::{Machine, cpulist};
pub use interface::for_interface;
pub use machine::for_machine;

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What it is about, and how it is now and should be.
    pub finding: String,
    /// What to type.
    pub command: String,
    /// What it is good for.
    pub why: &'static str,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    {}\n    {}", self.finding, self.command, self.why)
    }
}

fn advice(finding: String, command: String, why: &'static str) -> Option<Advice> {
    Some(Advice { finding, command, why })
}

/// CPUs without a worker, unless the operator keeps them free.
fn free_cpus(workers: &[usize], machine: &Machine) -> Vec<usize> {
    let numbers = machine.cpus.iter().map(|cpu| cpu.number);
    numbers.filter(|cpu| !workers.contains(cpu) && !machine.isolated.contains(cpu)).collect()
}

/// `CPU 3` or `CPUs 2-3`.
fn named(cpus: &[usize]) -> String {
    let list = listed(cpus);
    if list.contains(['-', ',']) { format!("CPUs {list}") } else { format!("CPU {list}") }
}

fn listed(cpus: &[usize]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    cpulist::write(&cpus)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{machine, nic};
    use super::super::{Copying, Mode};
    use super::*;

    #[test]
    fn nothing_is_said_of_a_host_that_is_as_it_should_be() {
        for mode in [Mode::Xdp(Copying::Zero), Mode::Packet, Mode::Uring] {
            assert_eq!(for_interface(&nic(), mode, &[3, 2], &machine()), [], "{mode}");
        }
        assert_eq!(for_machine(&machine(), &[3, 2]), []);
    }
}
