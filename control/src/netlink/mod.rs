//! The mirror: what the kernel knows about links, addresses, routes and neighbours, kept as a [`Net`].
//!
//! ```text
//!  kernel ──events──▶ ┌────────┐ ──Net, when a hop could differ──▶ control thread ─▶ workers
//!         ◀──dumps─── │ mirror │
//!         ◀─resolve── └────────┘ ◀──"who has this address?"── workers
//! ```
//!
//! The kernel stays the owner (rtnetlink(7)); the mirror reads, and asks one thing of it: to resolve a neighbour.
//!
//! **Links, addresses and routes are read anew** whenever any of them is reported to have changed; a burst of reports is
//! one reading. Following the reports themselves looks cheaper and is wrong: the kernel drops IPv4 routes of a link that
//! went down without a word, and says that a route replaced another only by a flag. **Neighbours** change often and
//! are reported faithfully, so those reports are followed. When reports were lost (ENOBUFS), everything is read anew.
//!
//! **A neighbour that is asked for is kept resolved by the kernel** (NTF_EXT_MANAGED): asked only once (NTF_USE), its
//! entry would go stale, and after a change of the peer's MAC stay FAILED for seconds. An entry that stays FAILED for
//! a minute (a Pod that is gone) is let go; so is every one when the mirror ends.
//!
//! The thread has its own runtime and lives in the network namespace of whoever starts it.

mod event;
mod facts;
mod kernel;
mod owned;
mod resolver;
mod watch;

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use pollgate_common::net::{Net, PortId};
use tokio::sync::oneshot;

pub use event::{HostEvent, HostNetworkError, Listener};
pub use owned::OwnedAddresses;
pub use resolver::Resolver;

/// The running mirror; dropping it ends its thread.
#[derive(Debug)]
pub struct HostNetwork {
    resolver: Resolver,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HostNetwork {
    /// Reads everything and goes on listening. Answers the first [`Net`], of generation 1; later ones come as news.
    /// `interfaces` are those that ports poll; one that is not there (yet) is simply not in the `Net`.
    pub fn start(
        interfaces: Vec<(String, PortId)>,
        owned: OwnedAddresses,
        news: Listener,
    ) -> Result<(HostNetwork, Arc<Net>), HostNetworkError> {
        let (resolver, questions) =
            resolver::channel().map_err(|e| HostNetworkError::new("creating the resolver's queue", e))?;
        let (stop, stopped) = oneshot::channel();
        let (first, ready) = mpsc::sync_channel(1);
        let work = move || watch::run(watch::Watcher::new(interfaces, owned, news), questions, stopped, &first);
        let thread = thread::Builder::new().name("mirror".to_owned()).spawn(work);
        let thread = Some(thread.map_err(|e| HostNetworkError::new("starting the netlink thread", e))?);
        let mirror = HostNetwork { resolver, stop: Some(stop), thread };
        let gone = |_| HostNetworkError::new("reading links, routes and neighbours", io::ErrorKind::BrokenPipe);
        let net = ready.recv().map_err(gone)??;
        Ok((mirror, net))
    }

    /// By which workers ask for a neighbour.
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
