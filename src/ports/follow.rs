//! State outside the tables that follows them.
//!
//! ```text
//!                                           ┌─▶ network: which neighbours and addresses to watch
//!  publication: what it changed, no more ───┼─▶ thread `ports`: which worker (AF_PACKET, io_uring), which links there are
//!                                           ├─▶ steering programs: whose frame (AF_XDP)
//!                                           ├─▶ multicast groups: in which hosts ask for IPv6 addresses
//!                                           └─▶ announcer: where the addresses now are
//! ```
//!
//! Called on the control thread after each publication. Its cost depends on what the publication changed, not on the size
//! of the tables.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::channel::Sender;
use pollgate_common::tables::Tables;
use pollgate_control::compile::{PublicationListener, Replaced};
use pollgate_control::netlink::OwnedAddresses;

use super::announce::Announcer;
use super::fanout::Rules;
use super::groups::Groups;
use super::keeper::Event;
use super::programs::Programs;

/// What chooses frames for the workers and lets them come.
pub struct Steered {
    /// `None`: there is one worker.
    fanout: Option<Rules>,
    /// `None`: there is no AF_XDP.
    programs: Option<Programs>,
    groups: Groups,
    /// To the thread that opens ports.
    events: Sender<Event>,
    net_generation: u64,
}

impl Steered {
    pub(super) fn new(
        fanout: Option<Rules>,
        programs: Option<Programs>,
        groups: Groups,
        events: Sender<Event>,
    ) -> Steered {
        Steered { fanout, programs, groups, events, net_generation: 0 }
    }

    fn follow(&mut self, removed: &[IpAddr], added: &[IpAddr], tables: &Tables, replaced: &[Replaced]) {
        self.groups.follow(removed, added, tables);
        if let Some(fanout) = &mut self.fanout
            && fanout.follow(removed, added, replaced)
        {
            // The thread lives as long as the workers.
            drop(self.events.send(Event::Fanout(Box::new(fanout.clone()))));
        }
        if let Some(programs) = &mut self.programs {
            programs.follow(removed, added, replaced, tables.net());
        }
        if tables.net().generation() != self.net_generation {
            self.net_generation = tables.net().generation();
            self.groups.follow_network(tables.net());
            drop(self.events.send(Event::Network(Arc::clone(tables.net()))));
        }
    }
}

/// Keeps `owned`, `steered` and `announcer` synchronized with what is published.
pub fn follow(
    owned: OwnedAddresses,
    mut steered: Steered,
    announcer: &Announcer,
    from_start: &[IpAddr],
) -> PublicationListener {
    let mut announcements = announcer.follower();
    let mut known: HashSet<IpAddr> = from_start.iter().copied().collect();
    Box::new(move |tables, replaced| {
        let (removed, added) = owned_since(&mut known, tables, replaced);
        if !removed.is_empty() || !added.is_empty() {
            owned.change(removed.iter().copied(), added.iter().copied());
        }
        steered.follow(&removed, &added, tables, replaced);
        // Last: frames to an address that is announced must find everything ready.
        announcements.follow(&removed, &added, tables);
    })
}

/// The addresses that are not owned any more, and those that now are.
fn owned_since(known: &mut HashSet<IpAddr>, tables: &Tables, replaced: &[Replaced]) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let services = replaced.iter().flat_map(|replaced| replaced.before.iter().chain(&replaced.after));
    for (key, _) in services.flat_map(|service| &service.frontends) {
        match tables.owned(key.address) {
            Some(_) if known.insert(key.address) => added.push(key.address),
            None if known.remove(&key.address) => removed.push(key.address),
            _ => {}
        }
    }
    (removed, added)
}
