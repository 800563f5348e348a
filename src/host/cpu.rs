//! The CPUs this process may use, and pinning a thread to one.

#![allow(unsafe_code, reason = "the CPUs of a thread are read and set by system calls")]

use std::io;
use std::mem::size_of;

/// The CPUs this process may run on (sched_getaffinity(2)), ascending.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = empty();
    // SAFETY: the set is live and of the size given; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every number is below the size of the set.
    Ok((0..LIMIT).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= LIMIT {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = empty();
    // SAFETY: the number is below the size of the set; the set is live and of the size given.
    let failed = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
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

/// CPUs a `cpu_set_t` can name.
const LIMIT: usize = 8 * size_of::<libc::cpu_set_t>();

fn empty() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is a bit field; all zero is the empty set.
    unsafe { std::mem::zeroed() }
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
