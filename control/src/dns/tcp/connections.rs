//! The connections that are open, and which of them gives way to a new one.

use std::net::IpAddr;
use std::time::Instant;

use tokio::task::AbortHandle;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) all: usize,
    pub(super) per_client: usize,
}

#[derive(Debug)]
struct Open {
    number: u64,
    client: IpAddr,
    /// When it last sent a whole query; before that, when it was accepted.
    used: Instant,
    task: AbortHandle,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    next: u64,
    open: Vec<Open>,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Connections {
        Connections { limits, next: 0, open: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The number of the next connection.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Adds a connection. If the client, or all clients together, have as many as allowed, the one of them that was used least
    /// recently is closed. Returns whether one was.
    pub(super) fn admit(&mut self, number: u64, client: IpAddr, task: AbortHandle, now: Instant) -> bool {
        let own = self.open.iter().filter(|open| open.client == client).count();
        let displaced = match (own >= self.limits.per_client, self.open.len() >= self.limits.all) {
            (true, _) => self.remove_oldest(|open| open.client == client),
            (false, true) => self.remove_oldest(|_| true),
            (false, false) => false,
        };
        self.open.push(Open { number, client, used: now, task });
        displaced
    }

    fn remove_oldest(&mut self, is_eligible: impl Fn(&Open) -> bool) -> bool {
        let eligible = self.open.iter().enumerate().filter(|(_, open)| is_eligible(open));
        let Some((at, _)) = eligible.min_by_key(|(_, open)| open.used) else { return false };
        self.open.swap_remove(at).task.abort();
        true
    }

    /// Notes that a connection has sent a query.
    pub(super) fn used(&mut self, number: u64, now: Instant) {
        if let Some(open) = self.open.iter_mut().find(|open| open.number == number) {
            open.used = now;
        }
    }

    /// Removes a connection that has ended.
    pub(super) fn ended(&mut self, number: u64) {
        self.open.retain(|open| open.number != number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::JoinHandle;

    use super::*;

    struct Bench {
        runtime: Runtime,
        connections: Connections,
        tasks: Vec<JoinHandle<()>>,
        start: Instant,
    }

    impl Bench {
        fn new(all: usize, per_client: usize) -> Bench {
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            let connections = Connections::new(Limits { all, per_client });
            Bench { runtime, connections, tasks: Vec::new(), start: Instant::now() }
        }

        /// Admits a connection of the client with this last byte at this second.
        fn admit(&mut self, client: u8, second: u64) -> bool {
            let task = self.runtime.spawn(pending::<()>());
            let number = self.connections.number();
            let handle = task.abort_handle();
            self.tasks.push(task);
            let at = self.start + Duration::from_secs(second);
            self.connections.admit(number, IpAddr::from([192, 0, 2, client]), handle, at)
        }

        /// The numbers of those that were closed.
        fn closed(&mut self) -> Vec<usize> {
            self.runtime.block_on(tokio::task::yield_now());
            (1..).zip(&self.tasks).filter(|(_, task)| task.is_finished()).map(|(number, _)| number).collect()
        }
    }

    #[test]
    fn a_client_with_too_many_loses_its_own_oldest() {
        let mut bench = Bench::new(10, 2);
        assert!(!bench.admit(1, 0) && !bench.admit(2, 1) && !bench.admit(2, 2));
        assert!(bench.admit(2, 3));
        assert_eq!(bench.closed(), [2], "not the other client's, which is older");
        let later = bench.start + Duration::from_secs(4);
        bench.connections.used(3, later);
        assert!(bench.admit(2, 5));
        assert_eq!(bench.closed(), [2, 4], "the other one has been used since");
        assert_eq!(bench.connections.len(), 3);
    }

    #[test]
    fn all_clients_together_lose_the_oldest() {
        let mut bench = Bench::new(3, 2);
        assert!(!bench.admit(1, 0) && !bench.admit(2, 1) && !bench.admit(3, 2));
        assert!(bench.admit(4, 3));
        assert_eq!((bench.closed(), bench.connections.len()), (vec![1], 3));
        bench.connections.ended(2);
        assert!(!bench.admit(5, 4), "one has ended");
        bench.connections.ended(77);
        assert_eq!((bench.closed(), bench.connections.len()), (vec![1], 3));
    }
}
