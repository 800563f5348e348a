//! The host's network as the kernel knows it (links, addresses, routes, neighbours), kept as a [`Net`].
//!
//! ```text
//!  kernel ──events──▶ ┌─────────────┐ ──Net, when a next hop may differ──▶ control thread ─▶ workers
//!         ◀──dumps─── │ HostNetwork │
//!         ◀─resolve── └─────────────┘ ◀──"who has this address?"── workers
//! ```
//!
//! The kernel owns all of it (rtnetlink(7)). This module reads, and requests only one thing: to resolve a neighbour.
//!
//! **Links, addresses and routes are read again** whenever any of them is reported to have changed; a burst of reports
//! causes one reading. Applying the reports themselves looks cheaper and is wrong: the kernel drops the IPv4 routes of a
//! link that went down without reporting it, and reports a replaced route only by a flag. **Neighbours** change often and
//! are reported completely, so their reports are applied. When reports were lost (ENOBUFS), everything is read again.
//!
//! **A requested neighbour is kept resolved by the kernel** (NTF_EXT_MANAGED): requested only once (NTF_USE), its entry
//! would go stale, and after a change of the peer's MAC stay FAILED for seconds. An entry that stays FAILED for a minute
//! (a Pod that is gone) is released; all are when [`HostNetwork`] is dropped.
//!
//! The thread has its own runtime and runs in the network namespace of the caller.

mod event;
mod facts;
mod kernel;
mod lag;
mod owned;
mod resolver;
mod watch;

#[cfg(test)]
pub(crate) mod fuzz;

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use pollgate_common::net::{Net, PortId};
use tokio::sync::oneshot;

use crate::threads::{self, Role};

pub use event::{HostEvent, HostNetworkError, Listener};
pub use lag::Lag;
pub use owned::OwnedAddresses;
pub use resolver::Resolver;

/// Follows the kernel's view of the network on a thread of its own; dropping it ends the thread.
#[derive(Debug)]
pub struct HostNetwork {
    resolver: Resolver,
    lag: Arc<Lag>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HostNetwork {
    /// Reads everything and starts to follow changes. Returns the first [`Net`], of generation 1; later ones are events.
    /// `interfaces` are those that ports poll; one that does not exist (yet) is not in the `Net`.
    pub fn start(
        interfaces: Vec<(String, PortId)>,
        owned: OwnedAddresses,
        listener: Listener,
    ) -> Result<(HostNetwork, Arc<Net>), HostNetworkError> {
        let (resolver, questions) =
            resolver::channel().map_err(|e| HostNetworkError::new("creating the resolver's queue", e))?;
        let (stop, stopped) = oneshot::channel();
        let (first, ready) = mpsc::sync_channel(1);
        let lag = Arc::new(Lag::default());
        let watcher = watch::Watcher::new(interfaces, owned, listener, Arc::clone(&lag));
        let work = move || watch::run(watcher, questions, stopped, &first);
        let thread = threads::spawn(Role::Network, "network", work);
        let thread = Some(thread.map_err(|e| HostNetworkError::new("starting the netlink thread", e))?);
        let network = HostNetwork { resolver, lag, stop: Some(stop), thread };
        let gone = |_| HostNetworkError::new("reading links, routes and neighbours", io::ErrorKind::BrokenPipe);
        let net = ready.recv().map_err(gone)??;
        Ok((network, net))
    }

    /// Whether it is synchronized with the kernel.
    pub fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }

    /// The handle by which workers request a neighbour.
    pub fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}
