//! Idle connections, and which of them is closed if a new client needs its slot.
//!
//! ```text
//! accepted ──▶ idle ──request──▶ busy ──answered──▶ idle …
//!               └─ the longest idle one is closed when a new client finds every slot in use
//! ```
//!
//! A limit on connections alone protects the gateway, but not its clients from each other: a client that opens connections
//! and sends nothing would keep all others out for as long as a connection may be idle. So only a connection with a request
//! in progress keeps its slot; new connections displace idle ones. A client whose idle connection was closed opens another
//! one, as after any keep-alive time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The idle connections, in the order in which they became idle.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    seats: BTreeMap<u64, Arc<Notify>>,
}

/// A connection's entry among them.
#[derive(Debug)]
pub(super) struct Seat {
    idle: Arc<Idle>,
    leave: Arc<Notify>,
    /// Its number while it is idle.
    number: Mutex<Option<u64>>,
}

/// A request in progress; at its end the connection is idle again.
#[derive(Debug)]
pub(super) struct Busy(Arc<Seat>);

impl Idle {
    /// A seat for a new connection, which is idle until its first request.
    pub(super) fn seat(self: &Arc<Self>) -> Arc<Seat> {
        let seat = Seat { idle: Arc::clone(self), leave: Arc::default(), number: Mutex::default() };
        seat.rest();
        Arc::new(seat)
    }

    /// Asks the connection that has been idle for longest to close.
    pub(super) fn displace_one(&self) {
        if let Some((_, leave)) = self.lock().seats.pop_first() {
            leave.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// A request has arrived.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.leave_list();
        Busy(Arc::clone(self))
    }

    /// Waits until the slot is needed.
    pub(super) async fn displaced(&self) {
        self.leave.notified().await;
    }

    fn rest(&self) {
        let mut waiting = self.idle.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.seats.insert(number, Arc::clone(&self.leave));
        *self.number() = Some(number);
    }

    fn leave_list(&self) {
        if let Some(number) = self.number().take() {
            self.idle.lock().seats.remove(&number);
        }
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave_list();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn displaced(seat: &Seat) -> bool {
        pin!(seat.displaced()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_longest_idle_leaves_first_and_the_busy_never() {
        let idle = Arc::new(Idle::default());
        let [first, second, third] = [idle.seat(), idle.seat(), idle.seat()];
        let busy = first.busy();
        idle.displace_one();
        assert_eq!([displaced(&first), displaced(&second), displaced(&third)], [false, true, false]);
        drop(busy);
        idle.displace_one();
        assert_eq!([displaced(&first), displaced(&third)], [false, true], "its time began anew");
        idle.displace_one();
        assert!(displaced(&first));
        idle.displace_one();
    }

    #[test]
    fn a_connection_that_ended_is_forgotten() {
        let idle = Arc::new(Idle::default());
        let (gone, stays) = (idle.seat(), idle.seat());
        let busy = gone.busy();
        drop((gone, busy));
        assert_eq!(idle.lock().seats.len(), 1);
        idle.displace_one();
        assert!(displaced(&stays));
    }
}
