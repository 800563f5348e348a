//! Keeps the kernel's choice among the workers synchronized with what is owned.
//!
//! ```text
//!  configuration: service CIDRs, gateway and DNS addresses, pools ─┐
//!  tables: owned addresses outside those (external IPs), in order ──┴─▶ rules ─▶ one program for every interface
//! ```
//!
//! An address that the program does not know yet, or has no room for, costs a hand-over between workers and nothing else:
//! so a refused program is only logged. The kernel takes milliseconds to change one (it
//! waits for all readers of the old one), for each interface; so the thread `ports` does it, with the newest rules there
//! are ([`super::keeper`]), and the control thread continues.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{FrontendKey, ServicePort};
use pollgate_control::compile::Replaced;
use pollgate_dataplane::bpf::classic::Program;
use pollgate_dataplane::port::packet::FanoutRules;
use pollgate_dataplane::steer::Steering;

use crate::config::Config;

/// What the programs are made of.
#[derive(Clone)]
pub(super) struct Rules {
    steering: Steering,
    settings: Arc<DataplaneSettings>,
    /// What is owned whatever the tables say.
    fixed: Vec<RangeInclusive<IpAddr>>,
    /// What else is owned.
    singles: Vec<IpAddr>,
    services: Vec<FrontendKey>,
}

impl Rules {
    /// Those of the configuration.
    pub(super) fn new(config: &Config, settings: &Arc<DataplaneSettings>, steering: Steering) -> Rules {
        let networks = config.cluster.service_cidrs.iter().map(|cidr| cidr.network()..=cidr.broadcast());
        let addresses = config.addresses.iter().chain(&config.dns.addresses).map(|&address| address..=address);
        let fixed = networks.chain(addresses).chain(config.cluster.load_balancer_pools.iter().cloned()).collect();
        let (singles, services) = (Vec::new(), Vec::new());
        Rules { steering, settings: Arc::clone(settings), fixed, singles, services }
    }

    /// The program.
    pub(super) fn program(&self) -> Program {
        self.with(|rules| rules.program())
    }

    /// Calls `f` with the rules as the dataplane knows them.
    pub(super) fn with<R>(&self, f: impl FnOnce(&FanoutRules<'_>) -> R) -> R {
        let singles = self.singles.iter().map(|&address| address..=address);
        let owned: Vec<_> = self.fixed.iter().cloned().chain(singles).collect();
        let (steering, settings, services) = (&self.steering, &self.settings, &self.services);
        f(&FanoutRules { steering, settings, owned: &owned, services })
    }

    /// Follows a publication: addresses that are not owned any more, that now are, and the Services that changed. Returns whether
    /// that changes the program.
    pub(super) fn follow(&mut self, removed: &[IpAddr], added: &[IpAddr], replaced: &[Replaced]) -> bool {
        self.follow_addresses(removed, added) | self.follow_services(replaced)
    }

    fn follow_addresses(&mut self, removed: &[IpAddr], added: &[IpAddr]) -> bool {
        let before = self.singles.len();
        self.singles.retain(|address| !removed.contains(address));
        let left = self.singles.len();
        let is_new = |address: &IpAddr| !self.fixed.iter().any(|range| range.contains(address));
        self.singles.extend(added.iter().copied().filter(is_new));
        left != before || self.singles.len() != left
    }

    /// Ports that clients connect to at a gateway address, where otherwise replies arrive: external IPs can be there.
    fn follow_services(&mut self, replaced: &[Replaced]) -> bool {
        let before = self.services.clone();
        for Replaced { before, after } in replaced {
            let keys = |service: &Option<Arc<ServicePort>>| {
                let keys = service.iter().flat_map(|service| service.frontends.iter().map(|(key, _)| *key));
                keys.filter(|key| self.is_among_replies(key)).collect::<Vec<_>>()
            };
            let (removed, added) = (keys(before), keys(after));
            self.services.retain(|key| !removed.contains(key));
            self.services.extend(added);
        }
        self.services != before
    }

    fn is_among_replies(&self, key: &FrontendKey) -> bool {
        let is_gateway = match key.address {
            IpAddr::V4(v4) => self.settings.gateway_v4.contains(&v4),
            IpAddr::V6(v6) => self.settings.gateway_v6.contains(&v6),
        };
        is_gateway && self.settings.snat_ports.contains(&key.port)
    }
}
