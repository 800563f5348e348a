//! Why an endpoint of a Service port gets no new flows: the first rule that decided.
//!
//! The rules are those of `compile::draft`, in its order; which endpoints are chosen, only the tables say.

use std::net::SocketAddr;

use super::locality::locality;
use super::{PodVerdict, Verdict, explain};
use crate::cluster::Cluster;
use crate::compile::resolve::{Family, ResolvedEndpoint, ResolvedPort, ServiceName, resolve};
use crate::compile::topology::{Preference, preference, preferred};

/// An endpoint of a Service port, or a Pod that is none although it carries a label of the selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its address; `None` for a Pod that is no endpoint.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Its Pod; empty if it is not known.
    pub(crate) pod: String,
    /// Why it gets no new flows, if it gets none.
    pub(crate) why: String,
}

/// The candidates of the port named `namespace/name:port` in the tables, under policy Local or Cluster. Nothing if the Service is gone.
pub(crate) fn candidates(
    cluster: &Cluster,
    name: &str,
    protocol: crate::compile::resolve::Protocol,
    family: Family,
    is_local: bool,
) -> Vec<Candidate> {
    let named = || {
        let (service, port) = name.rsplit_once(':')?;
        let (namespace, service) = service.split_once('/')?;
        let service = ServiceName::new(namespace, service);
        let resolved = resolve(cluster, &service)?;
        let is_meant = |known: &&ResolvedPort| {
            known.protocol == protocol
                && (known.name == port || known.name.is_empty() && known.port.to_string() == port)
        };
        Some((resolved.ports.iter().find(is_meant)?.clone(), explain(cluster, &service)?.pods))
    };
    let Some((port, pods)) = named() else { return Vec::new() };
    let endpoints: Vec<&ResolvedEndpoint> =
        port.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family).collect();
    let candidate = |endpoint: &&ResolvedEndpoint| {
        let at = SocketAddr::new(endpoint.address, endpoint.port);
        let text = format!("{at}/{protocol}");
        let pod = pods.iter().find(|pod| pod.endpoints.contains(&text)).map(|pod| pod.name.clone());
        Candidate {
            endpoint: Some(at),
            pod: pod.unwrap_or_default(),
            why: why(cluster, endpoint, &endpoints, is_local),
        }
    };
    let near = |pod: &&PodVerdict| !pod.verdict.is_endpoint() && pod.matched > 0;
    let no_endpoint = pods.iter().filter(near).map(|pod| Candidate {
        endpoint: None,
        pod: pod.name.clone(),
        why: format!("no endpoint: {}", pod.verdict.reason()),
    });
    endpoints.iter().map(candidate).chain(no_endpoint).collect()
}

/// The first rule that keeps new flows from an endpoint; empty if none does.
fn why(cluster: &Cluster, endpoint: &ResolvedEndpoint, all: &[&ResolvedEndpoint], is_local: bool) -> String {
    let locality = locality(cluster.settings());
    if endpoint.weight == 0 {
        return "weight 0: it keeps its flows and gets no new ones".to_owned();
    }
    if endpoint.terminating && !endpoint.ready && !endpoint.serving {
        return "terminating, and it no longer serves".to_owned();
    }
    if !(endpoint.ready || endpoint.serving && endpoint.terminating) {
        return Verdict::NotReady.reason();
    }
    let open: Vec<&ResolvedEndpoint> = all.iter().copied().filter(|other| other.weight > 0).collect();
    let set: Vec<&ResolvedEndpoint> = match is_local {
        true => open.into_iter().filter(|other| locality.is_local(other)).collect(),
        false => preferred(&open, locality),
    };
    if !set.contains(&endpoint) {
        return if is_local { elsewhere(endpoint, locality.node) } else { not_for_us(all, cluster) };
    }
    match !endpoint.ready && set.iter().any(|other| other.ready) {
        true => Verdict::Terminating.reason(),
        false => String::new(),
    }
}

fn elsewhere(endpoint: &ResolvedEndpoint, node: Option<&str>) -> String {
    let on = endpoint.node.as_deref().map_or_else(|| "on no node".to_owned(), |node| format!("on node {node}"));
    format!("{on}: policy Local uses only those on {}", node.unwrap_or_default())
}

fn not_for_us(all: &[&ResolvedEndpoint], cluster: &Cluster) -> String {
    let open: Vec<&ResolvedEndpoint> = all.iter().copied().filter(|other| other.weight > 0).collect();
    let (locality, name) = (locality(cluster.settings()), |name: Option<&str>| name.unwrap_or_default().to_owned());
    match preference(&open, locality) {
        Preference::SameNode => format!("its topology hints are not for node {}", name(locality.node)),
        Preference::SameZone => format!("its topology hints are not for zone {}", name(locality.zone)),
        Preference::None => String::new(),
    }
}
