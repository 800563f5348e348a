//! The ports of all workers, and the programs in the kernel that choose frames for them.
//!
//! ```text
//!  configuration, host ─▶ choice per interface ─┬─ packet, uring ─▶ one socket per worker, all in one fanout group
//!                                               └─ xdp ─▶ one steering program, sockets on each worker's queues
//! ```
//!
//! An interface that is deleted and created again, or gets a larger MTU, is opened again ([`keeper`]).

pub mod announce;
mod fanout;
pub mod follow;
mod groups;
pub mod keeper;
pub mod opener;
mod programs;
mod replace;
pub mod status;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use pollgate_common::net::PortId;
use pollgate_common::pair;
use pollgate_dataplane::egress::exchange::Exchange;
use pollgate_dataplane::port::OpenError;

use self::announce::Announcer;
use self::follow::Steered;
use self::groups::Groups;
use self::keeper::Keeper;
use self::opener::Opener;
use self::programs::Programs;
use crate::config::Config;
use crate::host::pair::Remaker;

/// Why the ports could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The configured backend does not work here.
    #[error("{}", .0.join("\n"))]
    Backend(Vec<String>),
    /// An interface could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The fanout group could not be shared, so its program could not be changed later.
    #[error("sharing the fanout group of {interface}: {source}")]
    Group {
        /// The interface.
        interface: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The interface could not be looked at.
    #[error("{interface}: looking up the device: {source}")]
    Unknown {
        /// The interface.
        interface: String,
        /// The error of the system.
        source: io::Error,
    },
}

/// Once all workers have their ports: keeps the interfaces polled, and what chooses their frames synchronized with the tables
/// ([`follow::follow`]). `exchanges`: of the workers, in their order. `pair`: makes the host pair again,
/// if there is one.
pub fn keep(
    opener: Opener,
    config: &Config,
    exchanges: Vec<Arc<Exchange>>,
    announcer: &Announcer,
    pair: Option<Remaker>,
) -> io::Result<(Keeper, Steered)> {
    let owned = config.owned_addresses();
    let patience = config.flows.tcp_established;
    let programs = opener.steering.clone().map(|rules| Programs::new(rules, &owned, patience));
    // The kernel has no IPv6 on the workers' end of the host pair, and no host asks there.
    let asked = config.interfaces.iter().enumerate().filter(|(_, interface)| interface.name != pair::DATA);
    let polled = opener.polled();
    let mut groups = Groups::new(asked.map(|(at, interface)| (interface.name.clone(), port_id(at), polled[at].index)));
    let on_link: Vec<IpAddr> = owned.iter().copied().filter(|address| !config.is_routed(*address)).collect();
    groups.join_all(&on_link);
    // With one worker there is nothing to choose.
    let fanout = (exchanges.len() > 1).then(|| opener.fanout.clone());
    let keeper = Keeper::start(opener, exchanges, announcer.polls(), pair)?;
    let steered = Steered::new(fanout, programs, groups, keeper.events());
    Ok((keeper, steered))
}

/// The port of the interface at this place in the configuration.
pub fn port_id(at: usize) -> PortId {
    PortId(u16::try_from(at).unwrap_or(u16::MAX))
}
