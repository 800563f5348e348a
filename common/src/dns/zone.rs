//! The compiled zone of the cluster domain, and the reverse zones beside it.
//!
//! ```text
//!  web.default.svc.cluster.local          ─▶ names:     Node { A │ AAAA │ SRV … }, prepared in wire format
//!  10-244-1-5.web.default.svc.…           ─▶ endpoints: does the Service have this address?
//!  10-244-1-5.default.pod.…               ─▶ pods:      does the namespace have this address?
//!  5.1.244.10.in-addr.arpa                ─▶ endpoints: the Services of the address
//! ```
//!
//! Nearly every answer is one look-up of a [`Node`] and a copy. Names that spell an address have no node each: a cluster has
//! many more endpoints than Services. A name that is not found does not exist; a node without the requested type is "no data"
//! (RFC 2308).
//!
//! All parts are shared between generations: copying a zone copies a few pointers, a change copies the shards it touches.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::message::{SOA_LEN, soa};
use super::name::{Name, to_wire};
use super::names::Names;
use super::records::{Node, Set, address, rr};
use super::reverse::{Label, from_label};
use crate::sharded::Sharded;

/// The version of the Kubernetes DNS specification that the zone follows, as TXT data (§2.2).
const VERSION: &[u8] = b"\x051.1.0";
/// TTL of that record, seconds.
const VERSION_TTL: u32 = 28_800;

/// Whether `10-244-1-5.ns.pod.cluster.local` resolves (as CoreDNS' option `pods`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodRecords {
    /// Never.
    #[default]
    Disabled,
    /// Always, whether or not such a Pod exists.
    Insecure,
    /// If a Pod of that namespace has the address.
    Verified,
}

/// What does not change while the process runs.
#[derive(Debug, Default)]
pub struct ZoneSettings {
    /// The zone's name on the wire, lower case, ending in the root label.
    pub origin: Box<[u8]>,
    /// TTL of the records, in seconds.
    pub ttl: u32,
    /// Names made of Pods' addresses.
    pub pods: PodRecords,
    /// Whether the search list of the client's Pod is walked for it.
    pub autopath: bool,
    /// The address ranges whose reverse zones are served.
    pub reverse: Vec<IpNet>,
    /// Where DNS is served: the addresses of the name server `ns.dns`.
    pub servers: Vec<IpAddr>,
    /// Where queries for names outside the zones go.
    pub forward: Vec<Forward>,
}

/// A zone that other servers know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Its name on the wire, lower case; the root for every name.
    pub zone: Box<[u8]>,
    /// The servers, in order of preference.
    pub upstreams: Vec<SocketAddr>,
}

impl ZoneSettings {
    /// The servers for a name that is in none of the gateway's zones, as an index of [`Self::forward`]: those of the longest zone that
    /// holds it.
    pub fn forwarded(&self, name: &Name) -> Option<usize> {
        let holds = |forward: &Forward| {
            let end = name.as_bytes().len().checked_sub(forward.zone.len());
            end.is_some_and(|at| {
                (0..=name.count()).any(|label| name.offset(label) == at) && name.as_bytes()[at..] == *forward.zone
            })
        };
        let holding = self.forward.iter().enumerate().filter(|(_, forward)| holds(forward));
        holding.max_by_key(|(_, forward)| forward.zone.len()).map(|(at, _)| at)
    }
}

/// A Service that has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// It is an endpoint's; otherwise the Service's ClusterIP. Those come first.
    pub is_endpoint: bool,
    /// The Service's name on the wire.
    pub service: Arc<[u8]>,
    /// The hostname of the endpoint, as a label with its length byte.
    pub hostname: Option<Arc<[u8]>>,
    /// The ports of the endpoint, in order; one number of two protocols is there twice.
    pub ports: Arc<[u16]>,
}

/// A Pod that has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resident {
    /// Its namespace, as a label without the length byte.
    pub namespace: Arc<[u8]>,
    /// Its name.
    pub name: Arc<str>,
    /// Whether the address is its node's.
    pub on_host_network: bool,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Its own records.
    Node(&'a Node),
    /// The records of a port that the name spells without underscores. Their extras do not fit the name.
    Port(&'a Node),
    /// An endpoint of a Service, and its ports.
    Endpoint(IpAddr, &'a [u16]),
    /// A Pod.
    Pod(IpAddr),
    /// It exists, without records.
    Empty,
    /// It does not exist.
    Missing,
    /// Whether it exists is not known yet: the state is not loaded.
    Unknown,
    /// It is not in the zone.
    Outside,
}

/// The zone.
#[derive(Clone, Debug)]
pub struct Zone {
    settings: Arc<ZoneSettings>,
    /// Labels of the origin.
    labels: usize,
    soa: [u8; SOA_LEN],
    names: Arc<Names>,
    endpoints: Arc<Sharded<IpAddr, Arc<[Owner]>>>,
    pods: Arc<Sharded<IpAddr, Arc<[Resident]>>>,
    services_loaded: bool,
    pods_loaded: bool,
}

impl Default for Zone {
    fn default() -> Zone {
        Zone::new(Arc::default())
    }
}

impl Zone {
    /// The zone without any object: only the names that always exist. What is missing is [`Found::Unknown`] until the objects are
    /// loaded.
    pub fn new(settings: Arc<ZoneSettings>) -> Zone {
        let labels = Name::of(&[&settings.origin], Names::default().seed()).map_or(0, |name| name.count());
        let mut zone = Zone {
            labels,
            soa: [0; SOA_LEN],
            names: Arc::default(),
            endpoints: Arc::default(),
            pods: Arc::default(),
            services_loaded: false,
            pods_loaded: false,
            settings,
        };
        zone.set_serial(1);
        zone.fixed_nodes().into_iter().for_each(|node| drop(zone.insert(node)));
        zone
    }

    fn fixed_nodes(&self) -> Vec<Node> {
        let ZoneSettings { origin, ttl, servers, .. } = &*self.settings;
        if origin.is_empty() {
            return Vec::new();
        }
        let below = |labels: &[u8]| [labels, origin].concat();
        let server = below(b"\x02ns\x03dns");
        let mut name_server = Set::new(rr::NS);
        if let Some(at) = name_server.push(*ttl, &server) {
            servers.iter().for_each(|ip| name_server.push_extra(*ttl, &server, (at, origin.len()), ip));
        }
        let version = Set::of(rr::TXT, VERSION_TTL, [VERSION]);
        vec![
            Node::new(origin, &[name_server]),
            Node::new(&below(b"\x03svc"), &[]),
            Node::new(&below(b"\x03pod"), &[]),
            Node::new(&below(b"\x03dns"), &[]),
            Node::new(&server, &address_sets(servers, *ttl)),
            Node::new(&below(b"\x0bdns-version"), &[version]),
        ]
    }

    /// What does not change.
    #[inline]
    pub fn settings(&self) -> &ZoneSettings {
        &self.settings
    }

    /// The names that have a node.
    #[inline]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The SOA record with the question's name in place of the zone's: its pointers are to be set.
    #[inline]
    pub fn soa(&self) -> &[u8; SOA_LEN] {
        &self.soa
    }

    /// The Services that have an address, ClusterIPs first.
    pub fn owners(&self, address: IpAddr) -> &[Owner] {
        self.endpoints.get(&address).map_or(&[], |owners| owners)
    }

    /// The Pods that have an address. Known only if records or the search list depend on it.
    pub fn residents(&self, address: IpAddr) -> &[Resident] {
        self.pods.get(&address).map_or(&[], |residents| residents)
    }

    /// Whether `name` is the origin or below it.
    #[inline]
    pub fn holds(&self, name: &Name) -> bool {
        self.above(name).is_some()
    }

    /// How many labels `name` has in front of the origin; `None` if it is not in the zone.
    #[inline]
    pub fn above(&self, name: &Name) -> Option<usize> {
        let above = name.count().checked_sub(self.labels)?;
        (!self.settings.origin.is_empty() && name.parent(above) == &*self.settings.origin).then_some(above)
    }

    /// What `name` leads to.
    #[inline]
    pub fn find(&self, name: &Name) -> Found<'_> {
        match self.names.get(name) {
            Some(node) => Found::Node(node),
            None => self.find_spelled(name),
        }
    }

    /// What a `name` that has no node leads to (CoreDNS `plugin/kubernetes/parse.go`).
    #[inline]
    fn find_spelled(&self, name: &Name) -> Found<'_> {
        // Names below an object have two more labels than it: all others are told by their number alone.
        let found = match self.above(name) {
            None => return Found::Outside,
            Some(above @ 2..=5) => match (name.label(above - 1), above) {
                (b"svc", 4) => self.endpoint(name),
                (b"svc", 5) => self.port(name),
                (b"pod", 2) => self.namespace(name, 0).map(|()| Found::Empty),
                (b"pod", 3) => return self.pod(name),
                _ => None,
            },
            Some(_) => None,
        };
        match found {
            Some(found) => found,
            None if self.services_loaded => Found::Missing,
            None => Found::Unknown,
        }
    }

    /// `10-244-1-5.web.default.svc`: an endpoint without a hostname.
    fn endpoint(&self, name: &Name) -> Option<Found<'_>> {
        let address = from_label(name.label(0))?;
        let service = name.parent(1);
        let is_its = |owner: &Owner| owner.is_endpoint && owner.hostname.is_none() && *owner.service == *service;
        let owner = self.owners(address).iter().find(|owner| is_its(owner))?;
        (name.head(1) == Label::of(address).as_bytes()).then_some(Found::Endpoint(address, &owner.ports))
    }

    /// `http.tcp.web.default.svc`: leading underscores are optional.
    fn port(&self, name: &Name) -> Option<Found<'_>> {
        let bare = |label: usize| name.label(label).strip_prefix(b"_").unwrap_or_else(|| name.label(label));
        let (port, protocol) = (bare(0), bare(1));
        if !matches!(protocol, b"tcp" | b"udp" | b"sctp") {
            return None;
        }
        let len = |label: &[u8]| u8::try_from(label.len() + 1).unwrap_or(u8::MAX);
        let (first, second) = ([len(port), b'_'], [len(protocol), b'_']);
        let name = Name::of(&[&first, port, &second, protocol, name.parent(2)], self.names.seed())?;
        self.names.get(&name).map(Found::Port)
    }

    /// Whether label `label` of `name` is a namespace and Pods have records at all.
    fn namespace(&self, name: &Name, label: usize) -> Option<()> {
        if self.settings.pods == PodRecords::Disabled {
            return None;
        }
        let head = name.parent(label).get(..name.label(label).len() + 1)?;
        let name = Name::of(&[head, b"\x03svc", &self.settings.origin], self.names.seed())?;
        self.names.get(&name).map(drop)
    }

    /// `10-244-1-5.default.pod`.
    fn pod(&self, name: &Name) -> Found<'_> {
        let lives = |residents: &[Resident]| residents.iter().any(|pod| *pod.namespace == *name.label(1));
        match (self.namespace(name, 1).and_then(|()| from_label(name.label(0))), self.settings.pods) {
            (Some(address), PodRecords::Insecure) => Found::Pod(address),
            (Some(address), PodRecords::Verified) if lives(self.residents(address)) => Found::Pod(address),
            (Some(_), PodRecords::Verified) if !self.pods_loaded => Found::Unknown,
            _ if !self.services_loaded => Found::Unknown,
            (_, PodRecords::Disabled | PodRecords::Verified) | (None, PodRecords::Insecure) => Found::Missing,
        }
    }

    /// Adds or replaces the node of its name. Returns the node that the name had.
    pub fn insert(&mut self, node: Node) -> Option<Node> {
        Arc::make_mut(&mut self.names).insert(node)
    }

    /// Removes the node of `name` (wire format, lower case). Returns it.
    pub fn remove(&mut self, name: &[u8]) -> Option<Node> {
        Arc::make_mut(&mut self.names).remove(name)
    }

    /// Replaces what `service` is to `address`: nothing, its ClusterIP, or endpoints.
    pub fn set_owners(&mut self, address: IpAddr, service: &[u8], owners: Vec<Owner>) {
        let others = self.owners(address).iter().filter(|owner| *owner.service != *service);
        let mut all: Vec<Owner> = others.cloned().chain(owners).collect();
        all.sort_unstable();
        all.dedup();
        replace(Arc::make_mut(&mut self.endpoints), address, all);
    }

    /// Adds or removes a Pod that has `address`.
    pub fn set_resident(&mut self, address: IpAddr, resident: &Resident, is_there: bool) {
        let is_other = |known: &&Resident| (&known.namespace, &known.name) != (&resident.namespace, &resident.name);
        let mut all: Vec<Resident> = self.residents(address).iter().filter(is_other).cloned().collect();
        all.extend(is_there.then(|| resident.clone()));
        all.sort_unstable();
        replace(Arc::make_mut(&mut self.pods), address, all);
    }

    /// The SOA's serial number: any that grows will do (RFC 1982).
    pub fn set_serial(&mut self, serial: u32) {
        self.soa = soa(serial, self.settings.ttl);
    }

    /// From now on, a Service that is not found does not exist.
    pub fn services_are_loaded(&mut self) {
        self.services_loaded = true;
    }

    /// From now on, a Pod that is not found does not exist.
    pub fn pods_are_loaded(&mut self) {
        self.pods_loaded = true;
    }

    /// Whether an address that no Service has is known to have none.
    pub fn knows_services(&self) -> bool {
        self.services_loaded
    }

    /// Whether Pods matter to the answers.
    pub fn needs_pods(&self) -> bool {
        self.settings.pods == PodRecords::Verified || self.settings.autopath
    }
}

fn replace<T>(map: &mut Sharded<IpAddr, Arc<[T]>>, address: IpAddr, all: Vec<T>) {
    match all.is_empty() {
        true => drop(map.remove(&address)),
        false => drop(map.insert(address, all.into())),
    }
}

/// A and AAAA records of addresses, each once.
pub fn address_sets<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>, ttl: u32) -> [Set; 2] {
    let mut addresses: Vec<IpAddr> = addresses.into_iter().copied().collect();
    addresses.sort_unstable();
    addresses.dedup();
    [rr::A, rr::AAAA].map(|wanted| {
        let mut set = Set::new(wanted);
        for (rtype, data, len) in addresses.iter().map(address) {
            if rtype == wanted {
                let _ = set.push(ttl, &data[..len]);
            }
        }
        set
    })
}

/// The label of a text, in lower case with its length byte; `None` if it is no label.
pub fn label(text: &str) -> Option<Arc<[u8]>> {
    let wire = to_wire(text).filter(|_| !text.contains('.'))?;
    wire.split_last().map(|(_, label)| label.into()).filter(|label: &Arc<[u8]>| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::name::Seed;
    use super::*;

    #[test]
    fn a_name_is_forwarded_by_the_longest_zone_that_holds_it() {
        let forward = |zone: &str, port| Forward {
            zone: if zone.is_empty() { Box::new([0]) } else { to_wire(zone).expect("a name") },
            upstreams: vec![SocketAddr::from(([192, 0, 2, 53], port))],
        };
        let zones = vec![forward("corp.example", 1), forward("sub.corp.example", 2)];
        let port = |settings: &ZoneSettings, name: &str| {
            let name = Name::of(&[&to_wire(name).expect("a name")], Seed::random()).expect("a name");
            settings.forwarded(&name).map(|at| settings.forward[at].upstreams[0].port())
        };
        let some = ZoneSettings { forward: zones.clone(), ..ZoneSettings::default() };
        for (name, expected) in [
            ("corp.example", Some(1)),
            ("www.corp.example", Some(1)),
            ("sub.corp.example", Some(2)),
            ("a.sub.corp.example", Some(2)),
            ("example", None),
            ("notcorp.example", None),
            ("corp.example.net", None),
        ] {
            assert_eq!(port(&some, name), expected, "{name}");
        }
        let all = ZoneSettings { forward: [zones, vec![forward("", 3)]].concat(), ..ZoneSettings::default() };
        assert_eq!((port(&all, "a.sub.corp.example"), port(&all, "example.net")), (Some(2), Some(3)));
    }

    fn zone(pods: PodRecords) -> Zone {
        let origin = to_wire("cluster.local").expect("a name");
        let servers = vec!["10.96.0.10".parse().expect("an address")];
        let mut zone = Zone::new(Arc::new(ZoneSettings { origin, ttl: 5, pods, servers, ..ZoneSettings::default() }));
        let _ = zone.insert(Node::new(&to_wire("default.svc.cluster.local").expect("a name"), &[]));
        zone
    }

    fn name(zone: &Zone, text: &str) -> Name {
        Name::of(&[&to_wire(text).expect("a name")], zone.names().seed()).expect("a name")
    }

    fn kind(zone: &Zone, text: &str) -> &'static str {
        match zone.find(&name(zone, &format!("{text}.cluster.local"))) {
            Found::Node(_) => "node",
            Found::Port(_) => "port",
            Found::Endpoint(..) => "endpoint",
            Found::Pod(_) => "pod",
            Found::Empty => "empty",
            Found::Missing => "missing",
            Found::Unknown => "unknown",
            Found::Outside => "outside",
        }
    }

    #[test]
    fn the_zone_holds_what_ends_in_it_at_a_label() {
        let zone = zone(PodRecords::Disabled);
        let holds = |text: &str| zone.holds(&name(&zone, text));
        assert!(holds("cluster.local") && holds("a.svc.cluster.local"));
        assert!(!holds("local") && !holds("xcluster.local") && !holds("example.com") && !holds("."));
        // A label whose bytes look like the origin's length byte and name is still one label.
        let trap = Name::of(&[b"\x0fx\x07cluster\x05local\0"], zone.names().seed()).expect("a name");
        assert!(!zone.holds(&trap));
        assert!(!Zone::default().holds(&name(&zone, "cluster.local")), "no zone, no names");
    }

    #[test]
    fn what_is_not_loaded_is_not_denied() {
        let mut zone = zone(PodRecords::Verified);
        assert_eq!([kind(&zone, "web.default.svc"), kind(&zone, "1-2-3-4.default.pod")], ["unknown"; 2]);
        zone.services_are_loaded();
        assert_eq!([kind(&zone, "web.default.svc"), kind(&zone, "1-2-3-4.default.pod")], ["missing", "unknown"]);
        zone.pods_are_loaded();
        assert_eq!(kind(&zone, "1-2-3-4.default.pod"), "missing");
        assert_eq!(kind(&zone, "svc"), "node");
    }

    #[test]
    fn pods_have_records_as_the_mode_says() {
        let pod = Resident { namespace: (*b"default").into(), name: "p".into(), on_host_network: false };
        let address = "10.244.1.5".parse().expect("an address");
        let expected = [
            (PodRecords::Disabled, ["missing"; 4]),
            (PodRecords::Insecure, ["empty", "pod", "pod", "missing"]),
            (PodRecords::Verified, ["empty", "pod", "missing", "missing"]),
        ];
        for (mode, expected) in expected {
            let mut zone = zone(mode);
            zone.services_are_loaded();
            zone.pods_are_loaded();
            zone.set_resident(address, &pod, true);
            let names = ["default.pod", "10-244-1-5.default.pod", "10-244-1-6.default.pod", "10-244-1-5.other.pod"];
            assert_eq!(names.map(|name| kind(&zone, name)), expected, "{mode:?}");
            assert_eq!(kind(&zone, "x.default.pod"), "missing");
            zone.set_resident(address, &pod, false);
            assert!(zone.residents(address).is_empty());
        }
    }

    #[test]
    fn an_endpoint_is_found_by_its_address_alone_if_it_has_no_hostname() {
        let mut zone = zone(PodRecords::Disabled);
        zone.services_are_loaded();
        let service: Arc<[u8]> = to_wire("db.default.svc.cluster.local").expect("a name").into();
        let owner = |hostname| Owner { is_endpoint: true, service: Arc::clone(&service), hostname, ports: [80].into() };
        let [plain, named]: [IpAddr; 2] = ["fd00::", "10.0.0.2"].map(|ip| ip.parse().expect("an address"));
        zone.set_owners(plain, &service, vec![owner(None)]);
        zone.set_owners(named, &service, vec![owner(label("db-0"))]);
        assert_eq!(kind(&zone, "fd00--0.db.default.svc"), "endpoint");
        for name in ["fd00--.db.default.svc", "fd00--0.web.default.svc", "10-0-0-2.db.default.svc"] {
            assert_eq!(kind(&zone, name), "missing", "{name}");
        }
        zone.set_owners(plain, &service, vec![]);
        assert_eq!(kind(&zone, "fd00--0.db.default.svc"), "missing");
        assert_eq!(zone.owners(named).len(), 1);
    }
}
