//! A gateway with one worker over an endless port. The bench calls its polls.

use std::sync::Arc;

use pollgate::config::{Config, Purpose};
use pollgate::replay::Offline;
use pollgate_common::counters::Totals;
use pollgate_common::net::PortId;
use pollgate_common::time::Instant;
use pollgate_dataplane::port::{BURST, Port};

use super::cluster::Family;
use super::{Endless, Make, Order, Remote, Source, cluster, without_allocation};

/// The gateway's MAC.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The ranges of Pods and Services have room for 10 000 Services of ten endpoints. All traffic goes through one router. DNS queries
/// pass the limiter of every default gateway, with the largest rate there is.
fn config(most_flows: u32) -> Config {
    let text = format!(
        "
interfaces:
  - name: eth0
    mac: 02:00:00:00:00:01
    ip: 192.168.0.1/24
    neighbours: {{ 192.168.0.254: '02:00:00:00:00:fe' }}
    routes: [ {{ to: 0.0.0.0/0, via: 192.168.0.254 }} ]
addresses: 192.168.50.10
cluster: {{ podCIDRs: 10.240.0.0/12 }}
dns: {{ responsesPerSecond: 4294967295 }}
flows: {{ max: {most_flows}, newPerSecond: 100000000, unconfirmedPercent: 100 }}
"
    );
    Config::parse("bench", &text, Purpose::Replay).expect("a valid configuration")
}

/// The same with the IPv6 addresses that stand for those ([`Family::address`]).
fn config_v6(most_flows: u32) -> Config {
    let text = format!(
        "
interfaces:
  - name: eth0
    mac: 02:00:00:00:00:01
    ip: '2001:db8::192.168.0.1/120'
    neighbours: {{ '2001:db8::192.168.0.254': '02:00:00:00:00:fe' }}
    routes: [ {{ to: '::/0', via: '2001:db8::192.168.0.254' }} ]
addresses: '2001:db8::192.168.50.10'
cluster: {{ podCIDRs: '2001:db8::10.240.0.0/108', serviceCIDRs: '2001:db8::10.96.0.0/112' }}
dns: {{ address: '2001:db8::10.96.0.10', responsesPerSecond: 4294967295 }}
flows: {{ max: {most_flows}, newPerSecond: 100000000, unconfirmedPercent: 100 }}
"
    );
    Config::parse("bench", &text, Purpose::Replay).expect("a valid configuration")
}

/// The packets, and the size of the gateway.
pub(crate) struct Scene {
    pub(crate) source: Source,
    /// Bytes of a buffer.
    pub(crate) stride: usize,
    /// `flows.max`.
    pub(crate) most_flows: u32,
}

impl Scene {
    /// 64-byte frames. The flow table is at most half full.
    pub(crate) fn new(source: Source) -> Scene {
        let most_flows = (source.flows * 2).max(1 << 21);
        Scene { source, stride: 128, most_flows }
    }
}

/// A gateway with one worker, whose polls the bench calls.
pub(crate) struct Site {
    pub(crate) offline: Offline,
    pub(crate) remote: Arc<Remote>,
    /// The time of the next poll.
    pub(crate) now: Instant,
}

impl Site {
    /// With `services` Services of ten endpoints, and frames from `make` in buffers of `stride` bytes.
    pub(crate) fn of(family: Family, make: impl Make + 'static, stride: usize, services: u32, most_flows: u32) -> Site {
        let (port, remote) = Endless::new(PortId(0), make, stride);
        let ports: Vec<Box<dyn Port>> = vec![Box::new(port)];
        let config = match family {
            Family::V4 => config(most_flows),
            Family::V6 => config_v6(most_flows),
        };
        let mut offline = Offline::empty(&config, ports).expect("memory for the flow table");
        offline.write(cluster::services_of(family, services, 10)).expect("valid objects");
        Site { offline, remote, now: Instant(0) }
    }

    /// Processes one frame of every flow, so that all flows are open. After that, frames are of random flows.
    pub(crate) fn opened(scene: &Scene) -> Site {
        let source = &scene.source;
        let mut site = Site::of(source.family, source.clone(), scene.stride, source.services, scene.most_flows);
        site.remote.tcp_flags(SYN);
        for _ in 0..source.flows.div_ceil(BURST as u32) {
            site.poll();
        }
        assert_eq!(site.totals().flows_live, u64::from(source.flows), "every flow is open");
        site.all_sent();
        site.remote.tcp_flags(ACK);
        site.remote.order(Order::Random);
        site
    }

    /// Processes one burst.
    #[inline]
    pub(crate) fn poll(&mut self) {
        self.offline.poll_once(self.now);
    }

    pub(crate) fn totals(&self) -> Totals {
        self.offline.counters().totals()
    }

    /// Checks that the bench measures the intended path: no frame was dropped, passed or held.
    pub(crate) fn all_sent(&self) {
        let totals = self.totals();
        assert!(totals.rx > 0 && totals.rx == totals.tx, "{totals:?}");
    }

    /// The same check, and that a burst allocates nothing.
    pub(crate) fn check(&mut self) {
        without_allocation("640 000 packets", || {
            for _ in 0..10_000 {
                self.poll();
            }
        });
        self.all_sent();
    }
}
