//! ExternalName Services whose target is of no use to clients.
//!
//! | target | what clients get |
//! |---|---|
//! | an address | NXDOMAIN: there is no record |
//! | the Service itself | the name exists, without records |
//! | an ExternalName Service that leads back | aliases, and no address |
//! | one label | an alias of a name outside the cluster: search lists are not for targets |

use std::net::IpAddr;

use crate::cluster::Cluster;
use crate::compile::resolve::resolve;
use crate::objects::service::ServiceName;

/// What a target is, as far as it says so alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Address,
    Itself,
    OneLabel,
    Name,
}

impl Target {
    /// Of the Service `own` in the zone `domain`; `target` without its final dot.
    pub(super) fn of(own: &ServiceName, target: &str, domain: &str) -> Target {
        if target.parse::<IpAddr>().is_ok() {
            return Target::Address;
        }
        if service_of(target, domain).as_ref() == Some(own) {
            return Target::Itself;
        }
        if target.contains('.') { Target::Name } else { Target::OneLabel }
    }

    /// What is wrong with it.
    pub(super) fn fault(self, target: &str) -> Option<String> {
        match self {
            Target::Address => Some(format!(
                "{target} is an address and not a name, so the Service has no record in DNS: use a Service without a selector, \
                 and an EndpointSlice with the address"
            )),
            Target::Itself => Some("the Service is an alias of itself, so its name has no records".to_owned()),
            Target::OneLabel => Some(format!(
                "{target:?} is looked up as it is, outside the cluster: the target of an alias needs its whole name, such as \
                 SERVICE.NAMESPACE.svc.DOMAIN"
            )),
            Target::Name => None,
        }
    }
}

/// The Service that a name of the zone names.
fn service_of(name: &str, domain: &str) -> Option<ServiceName> {
    let name = name.to_ascii_lowercase();
    let (service, namespace) = name.strip_suffix(domain)?.strip_suffix(".svc.")?.split_once('.')?;
    (!namespace.contains('.')).then(|| ServiceName::new(namespace, service))
}

/// The Services that the aliases of `own` go through before one comes again, if they do and `own` is not its own target.
pub(super) fn circle(cluster: &Cluster, own: &ServiceName) -> Option<String> {
    let next = |name: &ServiceName| {
        let target = resolve(cluster, name)?.external_name?;
        service_of(&target, &cluster.settings().domain)
    };
    let mut seen = vec![own.clone()];
    while let Some(target) = seen.last().and_then(next) {
        if let Some(at) = seen.iter().position(|known| *known == target) {
            let ring: Vec<String> = seen[at..].iter().chain([&target]).map(ToString::to_string).collect();
            return (seen.len() > 1)
                .then(|| format!("the aliases lead in a circle and to no address: {}", ring.join(" → ")));
        }
        seen.push(target);
    }
    None
}
