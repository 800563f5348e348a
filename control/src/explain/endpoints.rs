//! Why an endpoint of a Service port gets no new flows: the first rule that decided.
//!
//! The rules are those of `compile::draft`, in its order; which endpoints are chosen, only the tables say.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::locality::locality;
use super::{PodVerdict, Verdict, explain};
use crate::cluster::Cluster;
use crate::compile::resolve::{Family, ResolvedEndpoint, ResolvedPort, ServiceName, resolve};
use crate::compile::topology::{Locality, Preference, preference, preferred};

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
    let rules = Rules::new(cluster, &endpoints, is_local);
    let mut pod_of: HashMap<&str, &str> = HashMap::new();
    for pod in &pods {
        for endpoint in &pod.endpoints {
            pod_of.entry(endpoint).or_insert(&pod.name);
        }
    }
    let candidate = |endpoint: &&ResolvedEndpoint| {
        let at = SocketAddr::new(endpoint.address, endpoint.port);
        let pod = pod_of.get(&*format!("{at}/{protocol}")).copied().unwrap_or_default();
        Candidate { endpoint: Some(at), pod: pod.to_owned(), why: rules.why(endpoint) }
    };
    let near = |pod: &&PodVerdict| !pod.verdict.is_endpoint() && pod.matched > 0;
    let no_endpoint = pods.iter().filter(near).map(|pod| Candidate {
        endpoint: None,
        pod: pod.name.clone(),
        why: format!("no endpoint: {}", pod.verdict.reason()),
    });
    endpoints.iter().map(candidate).chain(no_endpoint).collect()
}

/// What is the same for all endpoints of a port.
struct Rules<'a> {
    locality: Locality<'a>,
    is_local: bool,
    preference: Preference,
    /// The endpoints that the policy and the hints leave, in order of address and port.
    set: Vec<&'a ResolvedEndpoint>,
    has_ready: bool,
}

impl<'a> Rules<'a> {
    fn new(cluster: &'a Cluster, all: &[&'a ResolvedEndpoint], is_local: bool) -> Rules<'a> {
        let locality = locality(cluster.settings());
        let open: Vec<&ResolvedEndpoint> = all.iter().copied().filter(|endpoint| endpoint.weight > 0).collect();
        let set: Vec<&ResolvedEndpoint> = match is_local {
            true => open.iter().copied().filter(|endpoint| locality.is_local(endpoint)).collect(),
            false => preferred(&open, locality),
        };
        let has_ready = set.iter().any(|endpoint| endpoint.ready);
        Rules { locality, is_local, preference: preference(&open, locality), set, has_ready }
    }

    /// The first rule that keeps new flows from an endpoint; empty if none does.
    fn why(&self, endpoint: &ResolvedEndpoint) -> String {
        if endpoint.weight == 0 {
            return "weight 0: it keeps its flows and gets no new ones".to_owned();
        }
        if endpoint.terminating && !endpoint.ready && !endpoint.serving {
            return "terminating, and it no longer serves".to_owned();
        }
        if !endpoint.is_usable() {
            return Verdict::NotReady.reason();
        }
        let place = |endpoint: &ResolvedEndpoint| (endpoint.address, endpoint.port);
        if self.set.binary_search_by_key(&place(endpoint), |other| place(other)).is_err() {
            return if self.is_local { elsewhere(endpoint, self.locality.node) } else { self.not_for_us() };
        }
        match !endpoint.ready && self.has_ready {
            true => Verdict::Terminating.reason(),
            false => String::new(),
        }
    }

    fn not_for_us(&self) -> String {
        let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
        match self.preference {
            Preference::SameNode => format!("its topology hints are not for node {}", name(self.locality.node)),
            Preference::SameZone => format!("its topology hints are not for zone {}", name(self.locality.zone)),
            Preference::None => String::new(),
        }
    }
}

fn elsewhere(endpoint: &ResolvedEndpoint, node: Option<&str>) -> String {
    let on = endpoint.node.as_deref().map_or_else(|| "on no node".to_owned(), |node| format!("on node {node}"));
    format!("{on}: policy Local uses only those on {}", node.unwrap_or_default())
}
