//! How endpoints are packed into EndpointSlices, and which slices are the controller's.
//!
//! Endpoints stay in the slice and at the index they have, room is filled before slices are made, and an emptied slice is
//! reused, so that watchers see one small change for one Pod (kubernetes/endpointslice `reconciler.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::membership::{Ports, SlicePort};
use crate::cluster::names::generated_name;
use crate::cluster::overlay::Overlay;
use crate::cluster::settings::SliceManager;
use crate::objects::service::ServiceName;
use crate::objects::weight::WEIGHT_ANNOTATION;
use crate::objects::{Key, Kind, Object};

/// The label that names the manager of a slice.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Endpoints packed into one slice; kube-controller-manager's default.
const SLICE_SIZE: usize = 100;

/// What the endpoints of a slice have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) ports: Ports,
    /// The weight, if Pods have one: a slice can say it, an endpoint cannot.
    pub(super) weight: Option<String>,
}

impl Group {
    fn of(slice: &EndpointSlice) -> Group {
        let weight = slice.metadata.annotations.as_ref().and_then(|annotations| annotations.get(WEIGHT_ANNOTATION));
        Group { ports: ports_of(slice), weight: weight.cloned() }
    }

    fn write(&self, slice: &mut EndpointSlice) {
        slice.ports = Some(self.ports.iter().cloned().map(port_of).collect());
        match &self.weight {
            Some(weight) => {
                let annotations = slice.metadata.annotations.get_or_insert_default();
                annotations.insert(WEIGHT_ANNOTATION.to_owned(), weight.clone());
            }
            None => {
                if let Some(annotations) = &mut slice.metadata.annotations {
                    annotations.remove(WEIGHT_ANNOTATION);
                }
            }
        }
    }
}

/// Endpoints by Pod.
pub(super) type Endpoints = BTreeMap<String, Endpoint>;

/// The slices of one family as they should be, and those no longer needed.
pub(super) struct Packing {
    pub(super) keep: Vec<EndpointSlice>,
    pub(super) spare: Vec<EndpointSlice>,
}

/// Puts endpoints into slices, disturbing as little as can be. Slices that are new have no name yet.
pub(super) fn pack(own: Vec<EndpointSlice>, mut wanted: BTreeMap<Group, Endpoints>) -> Packing {
    let mut packing = Packing { keep: Vec::new(), spare: Vec::new() };
    let mut by_group: BTreeMap<Group, Vec<(bool, EndpointSlice)>> = BTreeMap::new();
    for mut slice in own {
        let group = Group::of(&slice);
        let before = slice.endpoints.len();
        let Some(endpoints) = wanted.get_mut(&group) else {
            packing.spare.push(slice);
            continue;
        };
        let old = std::mem::take(&mut slice.endpoints);
        slice.endpoints = old.iter().filter_map(|endpoint| endpoints.remove(pod_of(endpoint)?)).collect();
        let changed = slice.endpoints.len() != before || slice.endpoints != old;
        match slice.endpoints.is_empty() {
            true => packing.spare.push(slice),
            false => by_group.entry(group).or_default().push((changed, slice)),
        }
    }
    for (group, endpoints) in wanted {
        let slices = by_group.remove(&group).unwrap_or_default();
        fill(&mut packing, &group, slices, endpoints.into_values().collect());
    }
    if packing.keep.is_empty() {
        let mut placeholder = packing.spare.pop().unwrap_or_default();
        placeholder.endpoints = Vec::new();
        Group::default().write(&mut placeholder);
        packing.keep.push(placeholder);
    }
    packing
}

/// New endpoints go where something changes anyway, then into the fullest slice with room, then into fresh ones.
fn fill(packing: &mut Packing, group: &Group, mut slices: Vec<(bool, EndpointSlice)>, endpoints: Vec<Endpoint>) {
    slices.sort_by_key(|(changed, slice)| (!*changed, std::cmp::Reverse(slice.endpoints.len())));
    let mut endpoints = endpoints.into_iter().peekable();
    for (_, mut slice) in slices {
        let room = SLICE_SIZE.saturating_sub(slice.endpoints.len());
        slice.endpoints.extend(endpoints.by_ref().take(room));
        packing.keep.push(slice);
    }
    while endpoints.peek().is_some() {
        let mut slice = packing.spare.pop().unwrap_or_default();
        slice.endpoints = endpoints.by_ref().take(SLICE_SIZE).collect();
        group.write(&mut slice);
        packing.keep.push(slice);
    }
}

pub(super) fn ports_of(slice: &EndpointSlice) -> Ports {
    let ports = slice.ports.iter().flatten();
    ports.map(|p| (p.name.clone().unwrap_or_default(), p.port, p.protocol.clone(), p.app_protocol.clone())).collect()
}

pub(super) fn port_of((name, port, protocol, app_protocol): SlicePort) -> EndpointPort {
    EndpointPort { name: Some(name), port, protocol, app_protocol }
}

fn pod_of(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?.name.as_deref()
}

/// `<service>-` and five characters that follow from the name and `salt`; the next five while those are taken.
pub(super) fn free_name(view: &Overlay<'_>, service: &ServiceName, salt: &str) -> String {
    let prefix = format!("{}-", service.name);
    let names = (0u64..).map(|n| generated_name(&prefix, &format!("{service}/{salt}/{n}")));
    let mut free =
        names.filter(|name| view.object(&Key::new(Kind::EndpointSlice, &*service.namespace, &**name)).is_none());
    free.next().unwrap_or_default()
}

/// Whether the endpoint controller made the slice.
pub(crate) fn is_ours(manager: SliceManager, slice: &Object) -> bool {
    slice.label(MANAGED_BY_LABEL).is_some_and(|label| manager.is_ours(label, SliceManager::endpoints))
}

/// The uid of the Service that owns a slice.
pub(super) fn owner_uid(slice: &Object) -> Option<&str> {
    let owners = slice.metadata().owner_references.as_ref()?;
    Some(owners.iter().find(|owner| owner.kind == "Service")?.uid.as_str())
}
