//! Keeps the kernel's choice among the workers in step with what is owned.
//!
//! ```text
//!  configuration: service CIDRs, gateway and DNS addresses, pools ─┐
//!  tables: owned addresses outside those (external IPs), in order ──┴─▶ rules ─▶ one program for every interface
//! ```
//!
//! An address that the program does not know yet, or has no room for, costs a hand-over between workers and nothing else:
//! so a program that is refused is worth a line in the log and no more.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use pollgate_common::tables::{FrontendKey, Service, Settings};
use pollgate_control::compile::Replaced;
use pollgate_dataplane::bpf::classic::Program;
use pollgate_dataplane::port::packet::{Fanout, FanoutRules};
use pollgate_dataplane::steer::Steering;
use tracing::warn;

use crate::config::Config;

/// The groups of all interfaces, and the rules they have.
pub(super) struct Fanouts {
    steering: Steering,
    settings: Arc<Settings>,
    /// What is owned whatever the tables say.
    fixed: Vec<RangeInclusive<IpAddr>>,
    /// What else is owned.
    singles: Vec<IpAddr>,
    services: Vec<FrontendKey>,
    groups: Vec<(String, Fanout)>,
}

impl Fanouts {
    /// With what the configuration says; no group has it yet.
    pub(super) fn new(config: &Config, settings: &Arc<Settings>, steering: Steering) -> Fanouts {
        let networks = config.cluster.service_cidrs.iter().map(|cidr| cidr.network()..=cidr.broadcast());
        let addresses = config.addresses.iter().chain(&config.dns.addresses).map(|&address| address..=address);
        let fixed = networks.chain(addresses).chain(config.cluster.load_balancer_pools.iter().cloned()).collect();
        let (singles, services, groups) = (Vec::new(), Vec::new(), Vec::new());
        Fanouts { steering, settings: Arc::clone(settings), fixed, singles, services, groups }
    }

    /// The program for the rules as they are.
    pub(super) fn program(&self) -> Program {
        self.rules(&self.owned()).program()
    }

    /// One more group to keep in step.
    pub(super) fn add(&mut self, interface: &str, group: Fanout) {
        self.groups.push((interface.to_owned(), group));
    }

    /// Follows a publication: addresses that are not owned any more, that now are, and the Services that changed.
    pub(super) fn follow(&mut self, gone: &[IpAddr], come: &[IpAddr], replaced: &[Replaced]) {
        if self.groups.is_empty() || !(self.follow_addresses(gone, come) | self.follow_services(replaced)) {
            return;
        }
        let owned = self.owned();
        for (interface, group) in &self.groups {
            if let Err(error) = group.update(&self.rules(&owned)) {
                warn!("{interface}: the kernel refuses the new fanout program, more frames change workers: {error}");
            }
        }
    }

    fn follow_addresses(&mut self, gone: &[IpAddr], come: &[IpAddr]) -> bool {
        let before = self.singles.len();
        self.singles.retain(|address| !gone.contains(address));
        let left = self.singles.len();
        let is_new = |address: &IpAddr| !self.fixed.iter().any(|range| range.contains(address));
        self.singles.extend(come.iter().copied().filter(is_new));
        left != before || self.singles.len() != left
    }

    /// What clients connect to at a gateway address where otherwise replies come in: external IPs can be there.
    fn follow_services(&mut self, replaced: &[Replaced]) -> bool {
        let before = self.services.clone();
        for Replaced { before, after } in replaced {
            let keys = |service: &Option<Arc<Service>>| {
                let keys = service.iter().flat_map(|service| service.frontends.iter().map(|(key, _)| *key));
                keys.filter(|key| self.is_among_replies(key)).collect::<Vec<_>>()
            };
            let (gone, come) = (keys(before), keys(after));
            self.services.retain(|key| !gone.contains(key));
            self.services.extend(come);
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

    fn owned(&self) -> Vec<RangeInclusive<IpAddr>> {
        let singles = self.singles.iter().map(|&address| address..=address);
        self.fixed.iter().cloned().chain(singles).collect()
    }

    fn rules<'a>(&'a self, owned: &'a [RangeInclusive<IpAddr>]) -> FanoutRules<'a> {
        FanoutRules { steering: &self.steering, settings: &self.settings, owned, services: &self.services }
    }
}
