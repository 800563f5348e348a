//! Keeps the kernel's choice among the workers in step with what is owned.
//!
//! ```text
//!  configuration: service CIDRs, gateway and DNS addresses, pools ─┐
//!  tables: owned addresses outside those (external IPs), in order ──┴─▶ rules ─▶ one program for every interface
//! ```
//!
//! An address that the program does not know yet, or has no room for, costs a hand-over between workers and nothing else:
//! so a refused program is only logged. The kernel takes milliseconds to change one (it
//! waits for all readers of the old one), for each interface; so a separate thread does it, with the newest rules there
//! are, and the control thread continues.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{self, Receiver, Sender};
use pollgate_common::settings::DataplaneSettings;
use pollgate_common::tables::{FrontendKey, ServicePort};
use pollgate_control::compile::Replaced;
use pollgate_control::threads::{self, Role};
use pollgate_dataplane::bpf::classic::Program;
use pollgate_dataplane::port::packet::{Fanout, FanoutRules};
use pollgate_dataplane::steer::Steering;
use tracing::warn;

use crate::config::Config;

/// The groups of all interfaces, and the rules they have.
pub(super) struct Fanouts {
    rules: Rules,
    /// Those not given to the thread.
    groups: Vec<(String, Fanout)>,
    updater: Option<Updater>,
}

#[derive(Clone)]
struct Rules {
    steering: Steering,
    settings: Arc<DataplaneSettings>,
    /// What is owned whatever the tables say.
    fixed: Vec<RangeInclusive<IpAddr>>,
    /// What else is owned.
    singles: Vec<IpAddr>,
    services: Vec<FrontendKey>,
}

struct Updater {
    news: Sender<Rules>,
    thread: JoinHandle<()>,
}

impl Fanouts {
    /// With the rules of the configuration; no group has them yet.
    pub(super) fn new(config: &Config, settings: &Arc<DataplaneSettings>, steering: Steering) -> Fanouts {
        let networks = config.cluster.service_cidrs.iter().map(|cidr| cidr.network()..=cidr.broadcast());
        let addresses = config.addresses.iter().chain(&config.dns.addresses).map(|&address| address..=address);
        let fixed = networks.chain(addresses).chain(config.cluster.load_balancer_pools.iter().cloned()).collect();
        let (singles, services) = (Vec::new(), Vec::new());
        let rules = Rules { steering, settings: Arc::clone(settings), fixed, singles, services };
        Fanouts { rules, groups: Vec::new(), updater: None }
    }

    /// The program for the rules as they are.
    pub(super) fn program(&self) -> Program {
        self.rules.with(|rules| rules.program())
    }

    /// One more group to keep in step.
    pub(super) fn add(&mut self, interface: &str, group: Fanout) {
        self.groups.push((interface.to_owned(), group));
    }

    /// Starts the thread that changes the programs, if there are any.
    pub(super) fn start(&mut self) {
        if !self.groups.is_empty() {
            self.updater = Updater::start(std::mem::take(&mut self.groups));
        }
    }

    /// Follows a publication: addresses that are not owned any more, that now are, and the Services that changed. Does not
    /// wait.
    pub(super) fn follow(&mut self, gone: &[IpAddr], come: &[IpAddr], replaced: &[Replaced]) {
        if self.updater.is_none() || !(self.follow_addresses(gone, come) | self.follow_services(replaced)) {
            return;
        }
        if let Some(updater) = &self.updater {
            // The thread lives as long as this.
            drop(updater.news.send(self.rules.clone()));
        }
    }

    fn follow_addresses(&mut self, gone: &[IpAddr], come: &[IpAddr]) -> bool {
        let before = self.rules.singles.len();
        self.rules.singles.retain(|address| !gone.contains(address));
        let left = self.rules.singles.len();
        let is_new = |address: &IpAddr| !self.rules.fixed.iter().any(|range| range.contains(address));
        self.rules.singles.extend(come.iter().copied().filter(is_new));
        left != before || self.rules.singles.len() != left
    }

    /// Ports that clients connect to at a gateway address, where otherwise replies arrive: external IPs can be there.
    fn follow_services(&mut self, replaced: &[Replaced]) -> bool {
        let before = self.rules.services.clone();
        for Replaced { before, after } in replaced {
            let keys = |service: &Option<Arc<ServicePort>>| {
                let keys = service.iter().flat_map(|service| service.frontends.iter().map(|(key, _)| *key));
                keys.filter(|key| self.is_among_replies(key)).collect::<Vec<_>>()
            };
            let (gone, come) = (keys(before), keys(after));
            self.rules.services.retain(|key| !gone.contains(key));
            self.rules.services.extend(come);
        }
        self.rules.services != before
    }

    fn is_among_replies(&self, key: &FrontendKey) -> bool {
        let is_gateway = match key.address {
            IpAddr::V4(v4) => self.rules.settings.gateway_v4.contains(&v4),
            IpAddr::V6(v6) => self.rules.settings.gateway_v6.contains(&v6),
        };
        is_gateway && self.rules.settings.snat_ports.contains(&key.port)
    }
}

impl Drop for Fanouts {
    fn drop(&mut self) {
        if let Some(Updater { news, thread }) = self.updater.take() {
            drop(news);
            // A panic of it has been printed.
            drop(thread.join());
        }
    }
}

impl Updater {
    fn start(groups: Vec<(String, Fanout)>) -> Option<Updater> {
        let (news, received) = channel::unbounded();
        let thread = threads::spawn(Role::Fanout, "fanout", move || update(&groups, &received));
        match thread {
            Ok(thread) => Some(Updater { news, thread }),
            Err(error) => {
                warn!(
                    "cannot start the thread that updates fanout programs, so more frames are handed over between \
                       workers: {error}"
                );
                None
            }
        }
    }
}

/// Until the sender of rules is gone.
fn update(groups: &[(String, Fanout)], received: &Receiver<Rules>) {
    while let Ok(first) = received.recv() {
        let newest = received.try_iter().last().unwrap_or(first);
        for (interface, group) in groups {
            if let Err(error) = newest.with(|rules| group.update(rules)) {
                warn!(
                    "{interface}: the kernel refuses the new fanout program, so more frames are handed over between \
                       workers: {error}"
                );
            }
        }
    }
}

impl Rules {
    fn with<R>(&self, f: impl FnOnce(&FanoutRules<'_>) -> R) -> R {
        let singles = self.singles.iter().map(|&address| address..=address);
        let owned: Vec<_> = self.fixed.iter().cloned().chain(singles).collect();
        let (steering, settings, services) = (&self.steering, &self.settings, &self.services);
        f(&FanoutRules { steering, settings, owned: &owned, services })
    }
}
