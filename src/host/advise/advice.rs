//! One piece of advice, and the words that all of them share.

use std::fmt;

use crate::host::cpulist;
use crate::host::machine::Machine;

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

pub(super) fn advice(finding: String, command: String, why: &'static str) -> Option<Advice> {
    Some(Advice { finding, command, why })
}

/// CPUs without a worker, unless the operator keeps them free.
pub(super) fn free_cpus(workers: &[usize], machine: &Machine) -> Vec<usize> {
    let numbers = machine.cpus.iter().map(|cpu| cpu.number);
    numbers.filter(|cpu| !workers.contains(cpu) && !machine.isolated.contains(cpu)).collect()
}

/// `CPU 3` or `CPUs 2-3`.
pub(super) fn named(cpus: &[usize]) -> String {
    let list = listed(cpus);
    if list.contains(['-', ',']) { format!("CPUs {list}") } else { format!("CPU {list}") }
}

pub(super) fn listed(cpus: &[usize]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    cpulist::write(&cpus)
}
