//! The objects, and an index for each way they are looked up.
//!
//! One change of a Pod must not cost a walk over all Pods or all Services, so every join the control plane makes has
//! its own index: Pods by label, Services by one pair of their selector, slices by Service, addresses and node ports by
//! owner. The indexes hold nothing that the objects do not hold: [`Index::insert`] and [`Index::remove`] derive them, so a
//! restored index is the one that was saved.
//!
//! ```text
//! Pod {app=a, tier=x}   ──▶ labelled[(ns, app, a)], labelled[(ns, tier, x)]      asked with the rarest pair of a selector
//! Service {app=a,…}     ──▶ selecting[(ns, app, a)]                               asked with each label of a Pod
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use ahash::HashMap;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Service;

use crate::objects::service::{ServiceName, ServiceType, SpecExt, parse_ip};
use crate::objects::{Key, Kind, Object};

/// A label pair in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub(crate) namespace: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Label {
    pub(crate) fn new(namespace: &str, key: &str, value: &str) -> Label {
        Label { namespace: namespace.to_owned(), key: key.to_owned(), value: value.to_owned() }
    }
}

/// Objects by key, with their indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Index {
    objects: BTreeMap<Key, Arc<Object>>,
    labelled: HashMap<Label, BTreeSet<String>>,
    selecting: HashMap<Label, BTreeSet<String>>,
    slices: BTreeMap<ServiceName, BTreeSet<String>>,
    addresses: HashMap<IpAddr, ServiceName>,
    node_ports: HashMap<u16, ServiceName>,
    waiting: BTreeSet<ServiceName>,
    /// Events by the revision they were written at, oldest first.
    events: BTreeSet<(u64, Key)>,
    nodes: usize,
    totals: Totals,
}

/// What objects amount to, for the limits on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    objects: [usize; Kind::ALL.len()],
    /// Endpoints in EndpointSlices.
    pub(crate) endpoints: usize,
    /// Bytes of all values of ConfigMaps and Secrets.
    pub(crate) data: usize,
}

impl Totals {
    /// Objects of a kind.
    pub(crate) fn objects(&self, kind: Kind) -> usize {
        self.objects[kind as usize]
    }

    pub(crate) fn add(&mut self, object: &Object) {
        self.objects[object.kind() as usize] += 1;
        self.endpoints += endpoint_count(object);
        self.data += data_bytes(object);
    }

    pub(crate) fn subtract(&mut self, object: &Object) {
        self.objects[object.kind() as usize] -= 1;
        self.endpoints -= endpoint_count(object);
        self.data -= data_bytes(object);
    }
}

/// Endpoints in an EndpointSlice; 0 for other kinds.
pub(crate) fn endpoint_count(object: &Object) -> usize {
    object.as_slice().map_or(0, |slice| slice.endpoints.len())
}

impl Index {
    pub(crate) fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// Objects of a kind in key order, of one namespace or of all.
    pub(crate) fn objects<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let start = Key { kind, namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        self.objects
            .range(start..)
            .take_while(move |(key, _)| key.kind == kind && namespace.is_none_or(|ns| key.namespace == ns))
            .map(|(_, object)| object)
    }

    /// The same, each with its key, and only those after the key `after`.
    pub(crate) fn objects_after<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> + 'a {
        let start = match after {
            Some(after) => Bound::Excluded(after.clone()),
            None => {
                let namespace = namespace.unwrap_or_default().to_owned();
                Bound::Included(Key { kind, namespace, name: String::new() })
            }
        };
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind && namespace.is_none_or(|ns| key.namespace == ns))
    }

    /// Names of the Pods with a label.
    pub(crate) fn labelled(&self, label: &Label) -> Option<&BTreeSet<String>> {
        self.labelled.get(label)
    }

    /// Names of the Services whose selector begins with this pair.
    pub(crate) fn selecting(&self, label: &Label) -> impl Iterator<Item = &String> {
        self.selecting.get(label).into_iter().flatten()
    }

    /// The slices that name this Service, by name.
    pub(crate) fn slices<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        let names = self.slices.get(service).into_iter().flatten();
        names.filter_map(|name| self.objects.get(&Key::new(Kind::EndpointSlice, &*service.namespace, &**name)))
    }

    pub(crate) fn address_owner(&self, address: IpAddr) -> Option<&ServiceName> {
        self.addresses.get(&address)
    }

    pub(crate) fn node_port_owner(&self, port: u16) -> Option<&ServiceName> {
        self.node_ports.get(&port)
    }

    /// How many addresses are taken, an upper bound for a search of a free one.
    pub(crate) fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// LoadBalancer Services that wait for an address.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &ServiceName> {
        self.waiting.iter()
    }

    /// Events, those written longest ago first.
    pub(crate) fn events(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.events.iter().map(|(_, key)| key)
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes
    }

    pub(crate) fn insert(&mut self, object: Arc<Object>) {
        let key = object.key();
        self.remove(&key);
        self.totals.add(&object);
        match &*object {
            Object::Pod(_) => self.index_pod(&object),
            Object::Service(service) => self.index_service(service),
            Object::EndpointSlice(_) => {
                if let Some(service) = ServiceName::of_slice(&object) {
                    self.slices.entry(service).or_default().insert(key.name.clone());
                }
            }
            Object::Event(_) => drop(self.events.insert((revision(&object), key.clone()))),
            Object::Node(_) => self.nodes += 1,
            Object::ConfigMap(_) | Object::Secret(_) | Object::Namespace(_) | Object::Endpoints(_) => {}
        }
        self.objects.insert(key, object);
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Object>> {
        let object = self.objects.remove(key)?;
        self.totals.subtract(&object);
        match &*object {
            Object::Pod(_) => {
                for label in labels(&object) {
                    drop_name(&mut self.labelled, &label, &key.name);
                }
            }
            Object::Service(service) => self.forget_service(service),
            Object::EndpointSlice(_) => self.forget_slice(&object),
            Object::Event(_) => drop(self.events.remove(&(revision(&object), key.clone()))),
            Object::Node(_) => self.nodes -= 1,
            Object::ConfigMap(_) | Object::Secret(_) | Object::Namespace(_) | Object::Endpoints(_) => {}
        }
        Some(object)
    }

    fn index_pod(&mut self, pod: &Object) {
        for label in labels(pod) {
            self.labelled.entry(label).or_default().insert(pod.name().to_owned());
        }
    }

    fn index_service(&mut self, service: &Service) {
        let name = ServiceName::of(service);
        for address in claimed_addresses(service) {
            self.addresses.entry(address).or_insert_with(|| name.clone());
        }
        for port in claimed_node_ports(service) {
            self.node_ports.entry(port).or_insert_with(|| name.clone());
        }
        if let Some(label) = first_pair(service) {
            self.selecting.entry(label).or_default().insert(name.name.clone());
        }
        if waits_for_address(service) {
            self.waiting.insert(name);
        }
    }

    fn forget_service(&mut self, service: &Service) {
        let name = ServiceName::of(service);
        for address in claimed_addresses(service) {
            if self.addresses.get(&address) == Some(&name) {
                self.addresses.remove(&address);
            }
        }
        for port in claimed_node_ports(service) {
            if self.node_ports.get(&port) == Some(&name) {
                self.node_ports.remove(&port);
            }
        }
        if let Some(label) = first_pair(service) {
            drop_name(&mut self.selecting, &label, &name.name);
        }
        self.waiting.remove(&name);
    }

    fn forget_slice(&mut self, slice: &Object) {
        let Some(service) = ServiceName::of_slice(slice) else {
            return;
        };
        let Some(names) = self.slices.get_mut(&service) else {
            return;
        };
        names.remove(slice.name());
        if names.is_empty() {
            self.slices.remove(&service);
        }
    }
}

/// The addresses a Service holds: ClusterIPs and LoadBalancer addresses, whoever assigned the latter.
pub(crate) fn claimed_addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let cluster = service.spec.iter().flat_map(|spec| spec.cluster_addresses());
    cluster.chain(ingress_addresses(service))
}

/// The addresses in `status.loadBalancer.ingress`.
pub(crate) fn ingress_addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    ingress.filter_map(|point| parse_ip(point.ip.as_deref()?))
}

/// The node ports a Service holds, its health check port included.
pub(crate) fn claimed_node_ports(service: &Service) -> impl Iterator<Item = u16> + '_ {
    // Other types may carry numbers, which hold nothing.
    let spec = service.spec.iter().filter(|spec| spec.needs_node_ports());
    let ports =
        spec.flat_map(|spec| spec.ports().iter().map(|port| port.node_port).chain([spec.health_check_node_port]));
    ports.flatten().filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// Bytes of all keys and values of a ConfigMap or Secret; 0 for other kinds.
pub(crate) fn data_bytes(object: &Object) -> usize {
    let bytes = |data: &Option<BTreeMap<String, ByteString>>| {
        data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum::<usize>()
    };
    match object {
        Object::ConfigMap(map) => {
            let text = map.data.iter().flatten().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            text + bytes(&map.binary_data)
        }
        Object::Secret(secret) => bytes(&secret.data),
        _ => 0,
    }
}

/// A LoadBalancer without a class of another implementation, and without an address.
fn waits_for_address(service: &Service) -> bool {
    let Some(spec) = &service.spec else {
        return false;
    };
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    spec.service_type() == ServiceType::LoadBalancer
        && spec.load_balancer_class.is_none()
        && ingress.is_none_or(Vec::is_empty)
}

fn first_pair(service: &Service) -> Option<Label> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let (key, value) = service.spec.as_ref()?.selector()?.first_key_value()?;
    Some(Label::new(namespace, key, value))
}

/// The revision at which an object was written last.
fn revision(object: &Object) -> u64 {
    object.metadata().resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or_default()
}

fn labels(object: &Object) -> impl Iterator<Item = Label> + '_ {
    let pairs = object.metadata().labels.iter().flatten();
    pairs.map(|(key, value)| Label::new(object.namespace(), key, value))
}

fn drop_name(map: &mut HashMap<Label, BTreeSet<String>>, label: &Label, name: &str) {
    let Some(names) = map.get_mut(label) else {
        return;
    };
    names.remove(name);
    if names.is_empty() {
        map.remove(label);
    }
}
