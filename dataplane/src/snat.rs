//! Source translation: when it is done, and which address and port it uses.
//!
//! **When**: Kubernetes' matrix (`pkg/proxy/iptables/proxier_test.go`, TestInternalExternalMasquerade), with the gateway in
//! the role of the node:
//!
//! | source → destination | policy Cluster | policy Local |
//! |---|---|---|
//! | Pod → ClusterIP | all endpoints | local endpoints |
//! | outside → ClusterIP | all, SNAT | local, SNAT |
//! | Pod → node port, load balancer, external IP | all, SNAT | all |
//! | outside → the same | all, SNAT | local |
//! | process of the gateway host → ClusterIP | all, SNAT | local, SNAT |
//! | process of the gateway host → the others | all, SNAT | all, SNAT |
//!
//! The host is the "node" of Kubernetes' matrix. Its source is translated whatever the settings are: a reply must not reach the
//! host past the gateway.
//!
//! The source is also translated if the chosen backend is the client itself (hairpin). `nat.masquerade: never` leaves it at that.
//! If the backend is a process of the host, the new source is the workers' address on the host pair: the host would
//! reply to any other address by another interface.
//! If a source is not translated but the backend knows this client's port from another Service, the client keeps its address and
//! gets another port ([`client_ports`]).
//!
//! **Which port**: a random port of the worker's share for which the key of the reply is free. Ports that were not used
//! recently are preferred, because the backend remembers closed connections. Keys contain the backend's address and port,
//! so one gateway address has a full set of ports *per backend*. Port `p` belongs to worker `(p − first) mod workers`, so
//! the destination port of a reply identifies its worker.

use std::ops::RangeInclusive;

use pollgate_common::flow::Address;
use pollgate_common::pair;
use pollgate_common::settings::{DataplaneSettings, Masquerade};
use pollgate_common::tables::{FrontendKind, ServicePort};

/// Ports tried before the pool counts as exhausted. If nine tenths of a share are established TCP
/// connections towards one backend, one flow in 800 is refused.
pub(crate) const TRIES: u32 = 64;

/// Which endpoints may serve, and whether the source is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Only endpoints on this gateway's node.
    pub(crate) local: bool,
    /// Translate the source.
    pub(crate) snat: bool,
}

/// Who opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A Pod.
    Pod,
    /// A process of the gateway host.
    Node,
    /// Any other host.
    Outside,
}

/// The source that a flow's packets get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client's own address.
    Client,
    /// A gateway address.
    Gateway,
    /// The workers' address on the host pair.
    Pair,
}

/// Looks up the matrix above.
pub(crate) fn policy(kind: FrontendKind, service: &ServicePort, sender: Sender, masquerade: Masquerade) -> Policy {
    let policy = kubernetes(kind, service, sender, masquerade == Masquerade::All);
    Policy { snat: policy.snat && (masquerade != Masquerade::Never || sender == Sender::Node), ..policy }
}

fn kubernetes(kind: FrontendKind, service: &ServicePort, sender: Sender, masquerade_all: bool) -> Policy {
    if kind.is_internal() {
        return Policy { local: service.internal_local, snat: sender != Sender::Pod || masquerade_all };
    }
    match (service.external_local, sender) {
        (false, _) => Policy { local: false, snat: true },
        (true, Sender::Pod) => Policy { local: false, snat: false },
        (true, Sender::Node) => Policy { local: false, snat: true },
        (true, Sender::Outside) => Policy { local: true, snat: false },
    }
}

/// The gateway addresses of one family.
fn addresses<A: Address>(settings: &DataplaneSettings) -> impl Iterator<Item = A> + Clone {
    settings.gateway_addresses().filter_map(A::from_ip)
}

/// The source address of ICMP errors; `None` if the family has no gateway address.
pub(crate) fn first_address<A: Address>(settings: &DataplaneSettings) -> Option<A> {
    addresses(settings).next()
}

/// The gateway address for a client whose hash is `hash`; `None` if the family has no gateway address.
pub(crate) fn address<A: Address>(settings: &DataplaneSettings, hash: u64) -> Option<A> {
    let count = addresses::<A>(settings).count() as u64;
    addresses(settings).nth(usize::try_from(hash.checked_rem(count)?).ok()?)
}

/// The workers' address on the host pair.
pub(crate) fn pair_address<A: Address>() -> Option<A> {
    pair::DATA_ADDRESSES.into_iter().find_map(A::from_ip)
}

/// A worker's share of the source ports.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    first: u16,
    workers: u16,
    worker: u16,
    /// Number of ports in the share.
    count: u32,
}

impl Ports {
    pub(crate) fn new(range: &RangeInclusive<u16>, worker: u16, workers: u16) -> Ports {
        let size = u32::from(*range.end()).saturating_sub(u32::from(*range.start())) + 1;
        let count = (size + u32::from(workers) - 1).saturating_sub(u32::from(worker)) / u32::from(workers.max(1));
        Ports { first: *range.start(), workers: workers.max(1), worker, count }
    }

    /// The ports to try for a random `seed`: up to [`TRIES`] ports of the share, in order from a random one
    /// on.
    pub(crate) fn candidates(&self, seed: u64) -> impl Iterator<Item = u16> + Clone + use<> {
        let (first, workers, worker, count) =
            (u32::from(self.first), u32::from(self.workers), u32::from(self.worker), self.count);
        let start = u32::try_from(seed.checked_rem(u64::from(count)).unwrap_or(0)).unwrap_or(0);
        (0..count.min(TRIES))
            .filter_map(move |step| u16::try_from(first + worker + (start + step) % count * workers).ok())
    }
}

/// The ports to try for a client that keeps its address, for a random `seed`: all but the privileged ones, from a random one on.
pub(crate) fn client_ports(seed: u64) -> impl Iterator<Item = u16> + Clone {
    const FIRST: u64 = 1024;
    const COUNT: u64 = (1 << 16) - FIRST;
    (0..COUNT).filter_map(move |step| u16::try_from(FIRST + (seed % COUNT + step) % COUNT).ok())
}

/// The worker whose share contains `port`; `None` if it is not a SNAT port.
pub(crate) fn worker_of(port: u16, range: &RangeInclusive<u16>, workers: u16) -> Option<u16> {
    range.contains(&port).then(|| (port - range.start()) % workers.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollgate_common::hash::{HashSet, RingHash};
    use pollgate_common::tables::{Pool, ServiceId};

    fn service(internal_local: bool, external_local: bool) -> ServicePort {
        ServicePort {
            id: ServiceId::default(),
            name: "ns/s:".into(),
            frontends: Box::default(),
            internal_local,
            external_local,
            client_ip_affinity: None,
            source_ranges: Box::default(),
            backends: Box::default(),
            cluster: Pool::empty(),
            local: Pool::empty(),
            has_any: false,
            closed_to_family: false,
            counted: Default::default(),
        }
    }

    #[test]
    fn the_matrix_is_kubernetes() {
        use FrontendKind::{ClusterIp, External, LoadBalancer, NodePort};
        let sender = |pod| if pod { Sender::Pod } else { Sender::Outside };
        let at = |kind, itp, etp, pod| {
            let Policy { local, snat } = policy(kind, &service(itp, etp), sender(pod), Masquerade::Kubernetes);
            (if local { "local" } else { "all" }, if snat { "SNAT" } else { "" })
        };
        assert_eq!(at(ClusterIp, false, false, true), ("all", ""));
        assert_eq!(at(ClusterIp, false, true, true), ("all", ""));
        assert_eq!(at(ClusterIp, true, false, true), ("local", ""));
        assert_eq!(at(ClusterIp, false, true, false), ("all", "SNAT"));
        assert_eq!(at(ClusterIp, true, false, false), ("local", "SNAT"));
        for kind in [NodePort, LoadBalancer, External] {
            assert_eq!(at(kind, false, false, true), ("all", "SNAT"));
            assert_eq!(at(kind, false, true, true), ("all", ""));
            assert_eq!(at(kind, true, false, true), ("all", "SNAT"));
            assert_eq!(at(kind, false, false, false), ("all", "SNAT"));
            assert_eq!(at(kind, false, true, false), ("local", ""));
        }
        assert!(policy(ClusterIp, &service(false, false), Sender::Pod, Masquerade::All).snat, "masqueradeAll");
        for kind in [ClusterIp, NodePort, LoadBalancer, External] {
            for (local, pod) in [(false, false), (false, true), (true, false), (true, true)] {
                let service = service(local, local);
                let kubernetes = policy(kind, &service, sender(pod), Masquerade::Kubernetes);
                let never = policy(kind, &service, sender(pod), Masquerade::Never);
                assert_eq!(never, Policy { snat: false, ..kubernetes }, "the endpoints are the same");
            }
        }
    }

    /// Kubernetes `pkg/proxy/iptables/proxier_test.go`, TestInternalExternalMasquerade, the rows "node to …".
    #[test]
    fn the_node_is_always_translated() {
        use FrontendKind::{ClusterIp, External, LoadBalancer, NodePort};
        for masquerade in [Masquerade::Kubernetes, Masquerade::All, Masquerade::Never] {
            for (itp, etp) in [(false, false), (false, true), (true, false)] {
                let at = |kind| policy(kind, &service(itp, etp), Sender::Node, masquerade);
                assert_eq!(at(ClusterIp), Policy { local: itp, snat: true }, "{masquerade:?}");
                for kind in [NodePort, LoadBalancer, External] {
                    assert_eq!(at(kind), Policy { local: false, snat: true }, "{kind:?}, {masquerade:?}");
                }
            }
        }
    }

    #[test]
    fn the_shares_are_disjoint_and_complete() {
        for workers in 1..=5u16 {
            let range = 1024..=1124u16;
            let mut seen = HashSet::default();
            for worker in 0..workers {
                let ports = Ports::new(&range, worker, workers);
                for seed in 0..300 {
                    for port in ports.candidates(seed) {
                        assert_eq!(worker_of(port, &range, workers), Some(worker));
                        seen.insert(port);
                    }
                }
            }
            assert_eq!(seen.len(), 101, "{workers} workers");
        }
        assert_eq!(worker_of(30000, &(1024..=29999), 2), None);
    }

    #[test]
    fn the_address_is_chosen_by_hash_within_the_family() {
        use pollgate_common::flow::{V4, V6};
        let gateway: Vec<std::net::Ipv4Addr> =
            ["192.168.50.10", "192.168.50.11"].map(|a| a.parse().expect("an address")).to_vec();
        let settings = DataplaneSettings {
            gateway_v4: gateway.clone(),
            gateway_v6: vec![],
            dns: vec![],
            pod_cidrs: vec![],
            service_cidrs: vec![],
            masquerade: Masquerade::Kubernetes,
            host_pair: false,
            snat_ports: 1024..=29999,
            ring_hash: RingHash::new(""),
        };
        let seen: HashSet<V4> = (0..100).filter_map(|hash| address(&settings, hash)).collect();
        assert_eq!(seen, gateway.into_iter().map(V4).collect());
        assert_eq!(address::<V6>(&settings, 7), None);
    }
}
