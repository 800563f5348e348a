//! The CPUs this process may use, and pinning a thread to one.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs this process may run on (sched_getaffinity(2)), ascending.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPU of each of `workers` workers. `chosen` by the configuration come first; otherwise the allowed ones from the
/// top, so that the lowest, where the kernel and the control threads do most, stays free as long as there are enough.
/// With more workers than CPUs they share.
pub fn worker_cpus(allowed: &[usize], chosen: &[usize], workers: usize) -> Vec<usize> {
    if !chosen.is_empty() {
        return chosen.iter().copied().cycle().take(workers).collect();
    }
    let spare = if allowed.len() > 1 { &allowed[1..] } else { allowed };
    let enough = if workers > spare.len() { allowed } else { spare };
    enough.iter().rev().copied().cycle().take(workers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_cpu_is_left_to_control_while_there_are_enough() {
        assert_eq!(worker_cpus(&[0, 1, 2, 3], &[], 2), [3, 2]);
        assert_eq!(worker_cpus(&[0, 1], &[], 1), [1]);
        assert_eq!(worker_cpus(&[0, 1], &[], 2), [1, 0]);
        assert_eq!(worker_cpus(&[5], &[], 2), [5, 5], "they share");
        assert_eq!(worker_cpus(&[0, 1, 2], &[2, 0], 2), [2, 0], "chosen");
        assert_eq!(worker_cpus(&[], &[], 2), Vec::<usize>::new(), "unknown: nobody is pinned");
    }

    #[test]
    fn a_pinned_thread_has_one_cpu() {
        let cpus = allowed_cpus().expect("the allowed CPUs");
        let last = *cpus.last().expect("at least the one we run on");
        let pinned = std::thread::spawn(move || pin_to_cpu(last).and_then(|()| allowed_cpus())).join();
        assert_eq!(pinned.expect("the thread").expect("pinned"), [last]);
        assert!(pin_to_cpu(usize::MAX).is_err());
        assert_eq!(allowed_cpus().expect("the allowed CPUs"), cpus, "other threads are as they were");
    }
}
