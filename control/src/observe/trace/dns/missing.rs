//! Why a name of the zone does not exist, or exists without records, by the objects of the cluster.

use std::net::IpAddr;

use pollgate_common::dns::name::Name;
use pollgate_common::dns::zone::PodRecords;

use super::{ENDPOINT, Tracer, label};
use crate::compile::resolve::{ResolvedService, ServiceName, resolve};
use crate::objects::{Key, Kind};

impl Tracer<'_> {
    /// Why `name`, which is in the zone, does not exist.
    pub(super) fn why_missing(&self, name: &Name) -> String {
        let Some(above) = self.zone.above(name).filter(|above| *above > 0) else {
            return "it is not in the zone".to_owned();
        };
        match (name.label(above - 1), above) {
            (b"svc", 2) => no_namespace(&label(name, 0)),
            (b"svc", 3..) => self.why_no_service(name, above),
            (b"pod", 2..) => self.why_no_pod(name, above),
            _ => format!("Services are SERVICE.NAMESPACE.svc.{}", self.origin()),
        }
    }

    /// Why a Service's name has no records at all.
    pub(super) fn why_empty(&self, name: &Name) -> Option<String> {
        let above = self.zone.above(name).filter(|above| *above == 3)?;
        let service = self.service(name, above)?;
        let target = service.external_name?;
        Some(format!("its externalName, {target}, is the Service itself"))
    }

    fn service(&self, name: &Name, above: usize) -> Option<ResolvedService> {
        resolve(self.cluster, &ServiceName::new(label(name, above - 2), label(name, above - 3)))
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.cluster.object(&Key::new(Kind::Namespace, "", namespace)).is_some()
    }

    fn why_no_service(&self, name: &Name, above: usize) -> String {
        let (namespace, own) = (label(name, above - 2), label(name, above - 3));
        let Some(service) = self.service(name, above) else {
            return match self.has_namespace(&namespace) {
                true => format!("there is no Service {namespace}/{own}"),
                false => no_namespace(&namespace),
            };
        };
        if let Some(why) = why_no_records(&service) {
            return format!("Service {namespace}/{own} {why}");
        }
        match above {
            ENDPOINT => format!("no ready endpoint of Service {namespace}/{own} has this hostname or address"),
            5 if service.headless => format!("no ready endpoint of Service {namespace}/{own} has a port of this name"),
            5 => format!("Service {namespace}/{own} has no port of this name"),
            _ => format!("nothing is below the ports and endpoints of Service {namespace}/{own}"),
        }
    }

    fn why_no_pod(&self, name: &Name, above: usize) -> String {
        let namespace = label(name, above - 2);
        match self.zone.settings().pods {
            PodRecords::Disabled => "`dns.pods` is disabled: Pods have no names".to_owned(),
            PodRecords::Insecure | PodRecords::Verified if !self.has_namespace(&namespace) => no_namespace(&namespace),
            PodRecords::Insecure => "it spells no address: a Pod's name is its address with dashes".to_owned(),
            PodRecords::Verified => {
                format!("no Pod of Namespace {namespace} has this address (`dns.pods` is verified)")
            }
        }
    }
}

fn no_namespace(name: &str) -> String {
    format!("there is no Namespace {name}")
}

/// Why a Service that exists has no name in DNS; `None` if it has one.
fn why_no_records(service: &ResolvedService) -> Option<String> {
    if let Some(target) = &service.external_name {
        let is_address = target.parse::<IpAddr>().is_ok();
        return Some(match is_address {
            true => format!("has the externalName {target}: an address is no name, so there is no record"),
            false => format!("is an alias of {target}, and has no ports or endpoints of its own"),
        });
    }
    if service.headless {
        return service.ready_addresses.is_empty().then(|| "is headless, and has no ready endpoint".to_owned());
    }
    service.cluster_ips.is_empty().then(|| "has no ClusterIP".to_owned())
}
