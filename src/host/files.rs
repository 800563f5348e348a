//! How many files this process may have open: a client of the API is one.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, if it is lower than `needed`.
///
/// # Errors
/// The system's, with the limit as it was.
pub fn allow_open_files(needed: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // `None` is unlimited.
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hard_limit_allows_is_had() {
        let limits = || {
            let text = std::fs::read_to_string("/proc/self/limits").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap().to_owned();
            let numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(u64::MAX)).take(2);
            numbers.collect::<Vec<_>>()
        };
        let before = limits();
        allow_open_files(before[0]).unwrap();
        assert_eq!(limits(), before, "enough is left alone");
        allow_open_files(u64::MAX - 1).unwrap();
        assert_eq!(limits(), [before[1], before[1]]);
    }
}
