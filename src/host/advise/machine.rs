//! Advice about the machine.

use super::advice::{Advice, advice, listed, named};
use crate::host::Machine;

/// What to change for the machine, with workers on these CPUs.
pub fn for_machine(machine: &Machine, workers: &[usize]) -> Vec<Advice> {
    let all = [
        kernel(machine),
        absent(machine, workers),
        sharing(workers),
        cores(machine, workers),
        governor(machine, workers),
        isolation(machine, workers),
        huge_pages(machine),
        receive_buffer(machine),
        aes(machine),
    ];
    all.into_iter().flatten().collect()
}

fn kernel(machine: &Machine) -> Option<Advice> {
    let (major, minor) = machine.kernel;
    if machine.kernel >= (5, 16) {
        return None;
    }
    let finding = format!("Linux {major}.{minor}, should be 5.16 or newer");
    advice(finding, "install a newer kernel".to_owned(), "pollgate is not tested with older kernels")
}

/// Only if the kernel has reported its CPUs.
fn absent(machine: &Machine, workers: &[usize]) -> Option<Advice> {
    let absent: Vec<usize> = workers.iter().copied().filter(|&cpu| machine.cpu(cpu).is_none()).collect();
    if absent.is_empty() || machine.cpus.is_empty() {
        return None;
    }
    let finding = format!("there is no {} for a worker", named(&absent));
    let command = "correct workers.cpus in the configuration (lscpu -e lists the CPUs)".to_owned();
    advice(finding, command, "this worker is not pinned, and shares a CPU with the others")
}

fn sharing(workers: &[usize]) -> Option<Advice> {
    let twice = workers.iter().enumerate().find(|(at, cpu)| workers[..*at].contains(cpu))?.1;
    let finding = format!("two workers share CPU {twice}");
    let command = "workers.count or workers.cpus in the configuration; or give the process more CPUs".to_owned();
    advice(finding, command, "each worker waits while the other polls")
}

fn cores(machine: &Machine, workers: &[usize]) -> Option<Advice> {
    let shares = |cpu: &&usize| {
        let core = machine.cpu(**cpu).map_or(&[][..], |cpu| &cpu.core);
        workers.iter().any(|other| other != *cpu && core.contains(other))
    };
    let sharing: Vec<usize> = workers.iter().filter(shares).copied().collect();
    if sharing.is_empty() {
        return None;
    }
    let finding = format!("the workers on {} share cores (SMT)", named(&sharing));
    let command = "workers.cpus in the configuration: one CPU of each core (lscpu -e lists them)".to_owned();
    advice(finding, command, "two threads of one core process little more than one")
}

fn governor(machine: &Machine, workers: &[usize]) -> Option<Advice> {
    let governor = |cpu: &usize| machine.cpu(*cpu).and_then(|cpu| cpu.governor.as_deref());
    let slow: Vec<usize> =
        workers.iter().copied().filter(|cpu| governor(cpu).is_some_and(|word| word != "performance")).collect();
    let first = slow.first()?;
    let finding = format!("the frequency governor of {} is {}, should be performance", named(&slow), governor(first)?);
    let command = format!(
        "for c in {}; do echo performance > /sys/devices/system/cpu/cpu$c/cpufreq/scaling_governor; done",
        slow.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
    );
    advice(finding, command, "after an idle time a CPU runs slowly at first, and the first packets wait")
}

fn isolation(machine: &Machine, workers: &[usize]) -> Option<Advice> {
    let disturbed: Vec<usize> = workers.iter().copied().filter(|cpu| !machine.isolated.contains(cpu)).collect();
    if disturbed.is_empty() || machine.cpus.len() < 2 {
        return None;
    }
    let list = listed(workers);
    let finding = format!("the scheduler also runs other tasks on the workers' {}, but should not", named(&disturbed));
    let command = format!("isolcpus={list} nohz_full={list} rcu_nocbs={list} on the kernel's command line, and reboot");
    advice(finding, command, "another task on a worker's CPU delays packets by milliseconds")
}

fn huge_pages(machine: &Machine) -> Option<Advice> {
    if machine.transparent_huge_pages.as_deref() != Some("never") {
        return None;
    }
    advice(
        "transparent huge pages: never, should be madvise".to_owned(),
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".to_owned(),
        "flow tables are accessed at random; with small pages most look-ups also miss the TLB",
    )
}

/// The buffer that a worker's socket requests; see the packet port of the dataplane.
const RECEIVE_BUFFER: u64 = 16 << 20;

fn receive_buffer(machine: &Machine) -> Option<Advice> {
    let limit = machine.receive_buffer_limit.filter(|&limit| limit < RECEIVE_BUFFER)?;
    let finding = format!("net.core.rmem_max is {limit}, should be {RECEIVE_BUFFER}");
    let why = "in a user namespace, socket buffers cannot be larger than this, and bursts are lost";
    advice(finding, format!("sysctl -w net.core.rmem_max={RECEIVE_BUFFER}    # outside, as root"), why)
}

fn aes(machine: &Machine) -> Option<Advice> {
    if machine.has_aes {
        return None;
    }
    let finding = "the CPU does not have AES instructions".to_owned();
    let command = "in a virtual machine: give it the host's CPU model (QEMU: -cpu host)".to_owned();
    advice(finding, command, "the flow table's hash uses them; without them every look-up takes longer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sample::machine;

    const WORKERS: [usize; 2] = [3, 2];

    #[test]
    fn each_shortcoming_of_the_machine_has_its_advice() {
        let cpus = |change: fn(&mut crate::host::Cpu)| {
            let mut machine = machine();
            machine.cpus.iter_mut().for_each(change);
            machine
        };
        for (machine, finding, command) in [
            (Machine { kernel: (5, 15), ..machine() }, "Linux 5.15, should be 5.16 or newer", "install a newer kernel"),
            (
                cpus(|cpu| cpu.governor = Some("powersave".to_owned())),
                "the frequency governor of CPUs 2-3 is powersave, should be performance",
                "for c in 3 2; do echo performance > /sys/devices/system/cpu/cpu$c/cpufreq/scaling_governor; done",
            ),
            (
                cpus(|cpu| cpu.core = if cpu.number < 2 { vec![0, 1] } else { vec![2, 3] }),
                "the workers on CPUs 2-3 share cores (SMT)",
                "workers.cpus in the configuration: one CPU of each core (lscpu -e lists them)",
            ),
            (
                Machine { isolated: vec![3], ..machine() },
                "the scheduler also runs other tasks on the workers' CPU 2, but should not",
                "isolcpus=2-3 nohz_full=2-3 rcu_nocbs=2-3 on the kernel's command line, and reboot",
            ),
            (
                Machine { transparent_huge_pages: Some("never".to_owned()), ..machine() },
                "transparent huge pages: never, should be madvise",
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            ),
            (
                Machine { receive_buffer_limit: Some(212_992), ..machine() },
                "net.core.rmem_max is 212992, should be 16777216",
                "sysctl -w net.core.rmem_max=16777216    # outside, as root",
            ),
            (
                Machine { has_aes: false, ..machine() },
                "the CPU does not have AES instructions",
                "in a virtual machine: give it the host's CPU model (QEMU: -cpu host)",
            ),
        ] {
            let told = for_machine(&machine, &WORKERS);
            assert_eq!(told.len(), 1, "{finding}: {told:#?}");
            assert_eq!((told[0].finding.as_str(), told[0].command.as_str()), (finding, command));
        }
        let missing = for_machine(&machine(), &[3, 9]);
        assert_eq!(missing[0].finding, "there is no CPU 9 for a worker");
        let shared = for_machine(&machine(), &[3, 3]);
        assert_eq!(shared[0].finding, "two workers share CPU 3");
    }
}
