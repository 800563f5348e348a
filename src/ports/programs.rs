//! Keeps the steering programs of AF_XDP synchronized: what they take from the kernel.
//!
//! ```text
//!  owned addresses ─────────────────────┐
//!  endpoints, and those that were one ──┼─▶ rules ─▶ the program of each interface
//!  the host's own addresses ────────────┘
//! ```
//!
//! **Frames of a removed endpoint are still taken for a while**: a change does not cut off its connections (an established
//! flow outlives its endpoint), and its replies must come here to be translated back. It is forgotten once the longest
//! time-out has passed. Should another Pod get its address meanwhile, and send from the same port to a client that is
//! routed here, the worker finds no flow and counts a drop; the kernel, which does not forward here, would do the same.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollgate_common::flow::Protocol;
use pollgate_common::net::Net;
use pollgate_common::tables::ServicePort;
use pollgate_control::compile::Replaced;
use pollgate_dataplane::port::xdp::{RuleError, Rules};
use tracing::warn;

type Endpoint = (IpAddr, u16, Protocol);

/// The rules that the programs of all interfaces share.
pub(super) struct Programs {
    rules: Rules,
    /// How many Service ports have an endpoint; zero: it will be removed.
    served: HashMap<Endpoint, usize>,
    /// How many of them each address has: its fragments name no port.
    addresses: HashMap<IpAddr, usize>,
    leaving: VecDeque<(Instant, Endpoint)>,
    /// How long that takes.
    patience: Duration,
    host: HashSet<IpAddr>,
    net_generation: u64,
}

impl Programs {
    /// With what is owned from the start. `patience`: how long a flow may be idle.
    pub(super) fn new(rules: Rules, owned: &[IpAddr], patience: Duration) -> Programs {
        let (served, addresses, leaving, host) = (HashMap::new(), HashMap::new(), VecDeque::new(), HashSet::new());
        let programs = Programs { rules, served, addresses, leaving, patience, host, net_generation: 0 };
        programs.own(&[], owned);
        programs
    }

    /// Follows a publication: addresses that are not owned any more, that now are, the Services that changed, and the
    /// kernel's network.
    pub(super) fn follow(&mut self, removed: &[IpAddr], added: &[IpAddr], replaced: &[Replaced], net: &Net) {
        self.own(removed, added);
        for Replaced { before, after } in replaced {
            // New ones first, so that those that stay are never missing.
            endpoints(after).into_iter().for_each(|endpoint| self.serve(endpoint));
            endpoints(before).into_iter().for_each(|endpoint| self.leave(endpoint));
        }
        self.forget();
        if net.generation() != self.net_generation {
            self.net_generation = net.generation();
            self.follow_network(net);
        }
    }

    fn own(&self, removed: &[IpAddr], added: &[IpAddr]) {
        removed.iter().for_each(|&ip| log_failure(self.rules.disown(ip)));
        added.iter().for_each(|&ip| log_failure(self.rules.own(ip)));
    }

    fn serve(&mut self, endpoint: Endpoint) {
        if !self.served.contains_key(&endpoint) {
            self.take_fragments(endpoint.0);
        }
        let users = self.served.entry(endpoint).or_default();
        *users += 1;
        // Already served, or not forgotten yet: then the rules have it.
        if *users == 1 {
            let (address, port, protocol) = endpoint;
            log_failure(self.rules.serve(address, port, protocol));
        }
    }

    fn leave(&mut self, endpoint: Endpoint) {
        let Some(users) = self.served.get_mut(&endpoint) else { return };
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.leaving.push_back((Instant::now(), endpoint));
        }
    }

    fn take_fragments(&mut self, address: IpAddr) {
        let endpoints = self.addresses.entry(address).or_default();
        *endpoints += 1;
        if *endpoints == 1 {
            log_failure(self.rules.take_fragments(address));
        }
    }

    fn leave_fragments(&mut self, address: IpAddr) {
        let Some(endpoints) = self.addresses.get_mut(&address) else { return };
        *endpoints = endpoints.saturating_sub(1);
        if *endpoints == 0 {
            self.addresses.remove(&address);
            log_failure(self.rules.leave_fragments(address));
        }
    }

    /// Those whose time is over and that are not served again.
    fn forget(&mut self) {
        while let Some((_, endpoint)) = self.leaving.pop_front_if(|(since, _)| since.elapsed() > self.patience) {
            if self.served.get(&endpoint) == Some(&0) && !self.leaving.iter().any(|(_, later)| *later == endpoint) {
                self.served.remove(&endpoint);
                let (address, port, protocol) = endpoint;
                log_failure(self.rules.unserve(address, port, protocol));
                self.leave_fragments(address);
            }
        }
    }

    fn follow_network(&mut self, net: &Net) {
        let host: HashSet<IpAddr> = net.facts().addresses.iter().map(|(_, address)| address.addr()).collect();
        self.host.difference(&host).for_each(|&ip| log_failure(self.rules.remove_host_address(ip)));
        host.difference(&self.host).for_each(|&ip| log_failure(self.rules.add_host_address(ip)));
        self.host = host;
    }
}

/// Where a Service port's replies come from.
fn endpoints(service: &Option<Arc<ServicePort>>) -> Vec<Endpoint> {
    let Some(service) = service else { return Vec::new() };
    let Some((frontend, _)) = service.frontends.first() else { return Vec::new() };
    let endpoint = |backend: &pollgate_common::tables::Backend| (backend.address, backend.port, frontend.protocol);
    let serving = service.backends.iter().filter(|backend| backend.serving);
    serving.map(endpoint).collect()
}

fn log_failure(result: Result<(), RuleError>) {
    if let Err(error) = result {
        warn!("steering program: {error}");
    }
}
