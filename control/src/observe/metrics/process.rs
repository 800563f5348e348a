//! What the process takes of the machine, by the names that client libraries of Prometheus use.
//!
//! procfs is opened once: the thread that serves metrics may open no files later.

use std::fs::{self, File};
use std::io::{self, Read, Seek};

use rustix::param::{clock_ticks_per_second, page_size};

/// Where it is read.
#[derive(Debug)]
pub(super) struct Process {
    stat: File,
    units: Units,
}

/// What the kernel's numbers mean; to ask for it may take a file, too.
#[derive(Debug, Clone, Copy)]
struct Units {
    /// When the machine was started, seconds since the epoch.
    boot: f64,
    ticks_per_second: u64,
    page_bytes: u64,
}

/// What it has taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// CPU time of all threads, in the kernel too.
    pub(super) cpu_seconds: f64,
    /// When it was started, seconds since the epoch.
    pub(super) start_seconds: f64,
    pub(super) virtual_bytes: u64,
    pub(super) resident_bytes: u64,
}

impl Process {
    /// Of the calling process.
    pub(super) fn open() -> io::Result<Process> {
        let boot = fs::read_to_string("/proc/stat")?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let boot = boot.ok_or_else(|| io::Error::other("/proc/stat has no btime"))?;
        let units = Units { boot, ticks_per_second: clock_ticks_per_second(), page_bytes: page_size() as u64 };
        Ok(Process { stat: File::open("/proc/self/stat")?, units })
    }

    /// Reads it; `None` if the kernel has another format.
    pub(super) fn usage(&self) -> Option<Usage> {
        let mut text = String::new();
        let mut file = &self.stat;
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        parse(&text, self.units)
    }
}

/// proc_pid_stat(5). The name, in parentheses, may hold anything.
#[expect(clippy::cast_precision_loss, reason = "ticks are far from 2^53")]
fn parse(stat: &str, units: Units) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // The first field behind the name is the third.
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    let seconds = |ticks: u64| ticks as f64 / units.ticks_per_second as f64;
    Some(Usage {
        cpu_seconds: seconds(field(14)? + field(15)?),
        start_seconds: units.boot + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * units.page_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: Units = Units { boot: 1000.0, ticks_per_second: 100, page_bytes: 4096 };

    #[test]
    fn this_process_is_read_again_and_again() {
        let process = Process::open().expect("procfs");
        let first = process.usage().expect("numbers");
        assert!(first.resident_bytes > 1 << 20 && first.virtual_bytes >= first.resident_bytes, "{first:?}");
        let again = process.usage().expect("numbers");
        assert!(again.start_seconds == first.start_seconds && again.cpu_seconds >= first.cpu_seconds, "{again:?}");
    }

    #[test]
    fn a_name_may_hold_anything() {
        let numbers: Vec<String> = (4..30).map(|n| n.to_string()).collect();
        let usage = parse(&format!("7 (a) S (b)) R {}", numbers.join(" ")), UNITS).expect("numbers");
        let expected =
            Usage { cpu_seconds: 0.29, start_seconds: 1000.22, virtual_bytes: 23, resident_bytes: 24 * 4096 };
        assert_eq!(usage, expected);
        assert_eq!(parse("7 (a) R 4 5", UNITS), None);
    }
}
