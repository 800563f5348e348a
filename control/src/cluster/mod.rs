//! The state of the cluster as the gateway knows it, and how it changes.
//!
//! ```text
//! writes ─ plan (pure) ─▶ Commit ─▶ store (durable) ─▶ adopt ─▶ the next revision
//!            └▶ Refusals: nothing happened
//! ```
//!
//! Planning is apart from adopting because a write must be on disk before anybody sees it, and because `dryRun` and
//! `check` are then the same code as the real thing. A batch is one commit of one revision: all of it or nothing,
//! later writes see earlier ones, controllers run once at its end. What a commit holds are whole objects, old and new; an
//! event log, the store and a watch need nothing else.

pub(crate) mod index;
pub(crate) mod overlay;
pub(crate) mod termination;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::cluster::index::Index;
use crate::cluster::overlay::{Transaction, from_the_start};
use crate::controllers::start;
use crate::objects::fault::Fault;
use crate::objects::service::{Family, ServiceName};
use crate::objects::{Key, Kind, Object};

/// The namespaces that are there from the start.
pub const PERMANENT_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Annotation of an object that came to be by [`Write::Follow`].
pub const FROM_FILES: &str = "pollgate.io/from-manifests";

/// Those of them that cannot be deleted. The other one comes back.
pub(crate) const IMMORTAL_NAMESPACES: [&str; 3] = ["default", "kube-public", "kube-system"];

/// What the configuration says that objects depend on: what the allocators may give away and what they may not, and where the
/// gateway stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// ClusterIPs come from here: one range a family, the first is the default family.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports come from here.
    pub node_port_range: RangeInclusive<u16>,
    /// Addresses of LoadBalancer Services come from here, in this order.
    pub load_balancer_pools: Vec<IpRange>,
    /// The gateway's own addresses: never given to a Service.
    pub gateway_addresses: Vec<IpAddr>,
    /// Where DNS is answered: given to a Service only if it asks for exactly this address.
    pub dns_addresses: Vec<IpAddr>,
    /// The node the gateway stands for; `None`: the whole cluster is local. For explanations.
    pub node: Option<String>,
    /// The zone it stands in. For explanations.
    pub zone: Option<String>,
}

impl Default for ClusterSettings {
    /// The defaults of `gateway.yaml`, with no LoadBalancer pool.
    fn default() -> ClusterSettings {
        let cidr = IpNet::new_assert(Ipv4Addr::new(10, 96, 0, 0).into(), 16);
        ClusterSettings {
            service_cidrs: vec![cidr],
            node_port_range: 30000..=32767,
            load_balancer_pools: Vec::new(),
            gateway_addresses: Vec::new(),
            dns_addresses: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
            node: None,
            zone: None,
        }
    }
}

impl ClusterSettings {
    /// The configured families, default first.
    pub fn families(&self) -> Vec<Family> {
        self.service_cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect()
    }

    /// The ClusterIP range of a family.
    pub fn service_cidr(&self, family: Family) -> Option<IpNet> {
        self.service_cidrs.iter().copied().find(|cidr| Family::of(cidr.addr()) == family)
    }
}

/// Addresses of one family, from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

impl IpRange {
    /// The range between two addresses of one family; nothing if they are of two, or the wrong way round.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<IpRange> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(IpRange { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(self.first) == Family::of(address) && (self.first..=self.last).contains(&address)
    }

    /// How many addresses it holds; the whole of IPv6 counts as one less than it is.
    pub fn len(&self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1)
    }

    /// Never: a range holds at least one address.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address `offset` above the first, if it is in the range.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        let value = bits(self.first).checked_add(offset).filter(|value| *value <= bits(self.last))?;
        match self.first {
            IpAddr::V4(_) => u32::try_from(value).ok().map(|v4| IpAddr::V4(Ipv4Addr::from_bits(v4))),
            IpAddr::V6(_) => Some(IpAddr::V6(Ipv6Addr::from_bits(value))),
        }
    }
}

impl From<IpNet> for IpRange {
    fn from(net: IpNet) -> IpRange {
        IpRange { first: net.network(), last: net.broadcast() }
    }
}

impl FromStr for IpRange {
    type Err = String;

    /// A CIDR (`192.0.2.0/28`), a range (`192.0.2.10-192.0.2.20`) or one address.
    fn from_str(text: &str) -> Result<IpRange, String> {
        let expected = || format!("expected a CIDR, FIRST-LAST or one address, found {text:?}");
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| expected());
        if text.contains('/') {
            return text.trim().parse::<IpNet>().map(IpRange::from).map_err(|_| expected());
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        IpRange::new(address(first)?, address(last)?)
            .ok_or_else(|| format!("expected the lower address first and both of one family, found {text:?}"))
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// One thing a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make an object that is not there. Dumped uid and resourceVersion are ignored.
    Create(Object),
    /// Replace an object that is there; a resourceVersion in it must be the current one.
    Replace(Object),
    /// Make it, or merge it into what is there as `kubectl apply` does.
    Apply(Object),
    /// Make or replace it by what was made of it elsewhere, its status and the owners of its fields included. Its
    /// resourceVersion must be the current one; without one, there must be none.
    Exact(Object),
    /// Remove it and what belongs to it.
    Delete(Key),
    /// Apply what an operator's file says. The object is the file's, and marked so, if it was not there before.
    Follow(Object),
    /// Remove what has left the operator's files, if it is theirs and still there.
    Unfollow(Key),
    /// Let a Pod be terminating for so many seconds, and then go.
    Terminate(Key, u32),
    /// Remove a Pod whose time of terminating is over; nothing if it is not, or is gone.
    Expire(Key),
}

/// One object before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which object.
    pub key: Key,
    /// Before; nothing if it was made.
    pub old: Option<Arc<Object>>,
    /// After; nothing if it was deleted.
    pub new: Option<Arc<Object>>,
}

/// What a batch of writes amounts to.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The revision it makes; the current one if nothing changed.
    pub revision: u64,
    /// The written objects, and what the controllers made of them. Unchanged objects are left out.
    pub changes: Vec<Change>,
    /// The key each write turned out to be about, write by write.
    pub written: Vec<Key>,
}

impl Commit {
    /// The commit that takes this one back.
    pub(crate) fn inverse(&self) -> Commit {
        let back =
            |change: &Change| Change { key: change.key.clone(), old: change.new.clone(), new: change.old.clone() };
        Commit {
            revision: self.revision.saturating_sub(1),
            changes: self.changes.iter().rev().map(back).collect(),
            written: self.written.clone(),
        }
    }

    /// The change of an object, if it changed.
    pub fn change(&self, key: &Key) -> Option<&Change> {
        self.changes.iter().find(|change| change.key == *key)
    }
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The object has faults.
    Invalid,
    /// There is no such object.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// It changed since the client read it.
    Conflict,
    /// It may not be done.
    Forbidden,
}

impl RefusalReason {
    /// The HTTP status code.
    pub fn code(self) -> u16 {
        match self {
            RefusalReason::Invalid => 422,
            RefusalReason::NotFound => 404,
            RefusalReason::AlreadyExists | RefusalReason::Conflict => 409,
            RefusalReason::Forbidden => 403,
        }
    }

    /// `reason` of a `Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Invalid => "Invalid",
            RefusalReason::NotFound => "NotFound",
            RefusalReason::AlreadyExists => "AlreadyExists",
            RefusalReason::Conflict => "Conflict",
            RefusalReason::Forbidden => "Forbidden",
        }
    }
}

/// One write that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which write of the batch, from 0.
    pub index: usize,
    /// The object it was about.
    pub key: Key,
    /// Why.
    pub reason: RefusalReason,
    /// In words, as the API server says it.
    pub message: String,
    /// The faults, if the object has any.
    pub faults: Vec<Fault>,
}

/// Saved objects that cannot be one cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved state assigns {what} to both {first} and {second}")]
pub struct RestoreError {
    /// The address or node port.
    pub what: String,
    /// Who has it.
    pub first: ServiceName,
    /// Who has it too.
    pub second: ServiceName,
}

/// All objects at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    settings: ClusterSettings,
    index: Index,
    revision: u64,
}

impl Cluster {
    /// An empty cluster, at revision 1: the permanent namespaces, the Service `default/kubernetes`, and nothing else.
    pub fn new(settings: ClusterSettings) -> Cluster {
        let mut cluster = Cluster { settings, index: Index::default(), revision: 1 };
        cluster.ensure_start_state();
        cluster
    }

    /// The cluster whose objects were saved at `revision`.
    ///
    /// # Errors
    /// If two Services hold one address or node port, which no sequence of commits leads to.
    pub fn restore(
        settings: ClusterSettings,
        objects: impl IntoIterator<Item = Object>,
        revision: u64,
    ) -> Result<Cluster, RestoreError> {
        let mut cluster = Cluster { settings, index: Index::default(), revision };
        for object in objects {
            cluster.refuse_double_claims(&object)?;
            cluster.index.insert(Arc::new(object));
        }
        cluster.ensure_start_state();
        Ok(cluster)
    }

    /// Adds saved Pods. [`Cluster::restore`] may go without them, for nothing is allocated by them; planning may not.
    pub fn admit_pods(&mut self, pods: impl IntoIterator<Item = Object>) {
        pods.into_iter().for_each(|pod| self.index.insert(Arc::new(pod)));
    }

    /// What the writes would lead to. Nothing happens until the commit is adopted.
    ///
    /// # Errors
    /// Every write that cannot be done, each with its reason; then none is.
    pub fn plan(&self, writes: Vec<Write>, now: jiff::Timestamp) -> Result<Commit, Vec<Refusal>> {
        Transaction::new(&self.settings, &self.index, self.revision, now).run(writes)
    }

    /// Makes a commit planned on this very revision the current state.
    pub fn adopt(&mut self, commit: &Commit) {
        // What one object gives up another may have got in the same commit: first all of it is given up.
        for change in &commit.changes {
            self.index.remove(&change.key);
        }
        for object in commit.changes.iter().filter_map(|change| change.new.as_ref()) {
            self.index.insert(Arc::clone(object));
        }
        self.revision = commit.revision;
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// One object.
    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.index.object(key)
    }

    /// The objects of a kind, of one namespace or of all, by namespace and name.
    pub fn objects<'a>(&'a self, kind: Kind, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        self.index.objects(kind, namespace)
    }

    /// The same, each with its key, and only those behind the key `after`: a list read in pieces.
    pub fn objects_after<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> + 'a {
        self.index.objects_after(kind, namespace, after)
    }

    /// The EndpointSlices that name a Service, by name, whoever wrote them.
    pub fn slices<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Arc<Object>> + 'a {
        self.index.slices(service)
    }

    /// The objects that are an operator's files'.
    pub fn followed(&self) -> impl Iterator<Item = Key> + '_ {
        let objects = Kind::ALL.into_iter().flat_map(|kind| self.objects(kind, None));
        objects.filter(|object| crate::cluster::overlay::is_from_files(object)).map(|object| object.key())
    }

    /// Whether a Pod's Node is missing while there are Nodes at all.
    pub(crate) fn node_missing(&self, node: Option<&str>) -> bool {
        node.is_some_and(|name| self.index.node_count() > 0 && self.object(&Key::new(Kind::Node, "", name)).is_none())
    }

    /// Adds what is there from the start and is not saved until somebody changes it.
    fn ensure_start_state(&mut self) {
        let taken = |address| self.index.address_owner(address).is_some();
        let missing: Vec<Object> = start::objects(&self.settings, taken)
            .into_iter()
            .filter(|object| self.index.object(&object.key()).is_none())
            .collect();
        for object in missing {
            self.index.insert(Arc::new(from_the_start(object)));
        }
    }

    fn refuse_double_claims(&self, object: &Object) -> Result<(), RestoreError> {
        let Some(service) = object.as_service() else {
            return Ok(());
        };
        let second = ServiceName::of(service);
        let refuse = |what: String, first: &ServiceName| {
            Err(RestoreError { what, first: first.clone(), second: second.clone() })
        };
        for address in service.spec.iter().flat_map(crate::objects::service::SpecExt::cluster_addresses) {
            if let Some(first) = self.index.address_owner(address) {
                return refuse(format!("address {address}"), first);
            }
        }
        for port in crate::cluster::index::claimed_node_ports(service) {
            if let Some(first) = self.index.node_port_owner(port).filter(|first| **first != second) {
                return refuse(format!("node port {port}"), first);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::objects::service::{ServiceType, SpecExt};
    use crate::testing::{World, node, now, object, pod, service, web};

    #[test]
    fn a_batch_is_all_or_nothing_and_tells_every_refusal() {
        let mut world = World::new();
        let writes = vec![
            Write::Create(object(web("a"))),
            Write::Create(object(web("a"))),
            Write::Delete(Key::new(Kind::Pod, "default", "none")),
            Write::Create(object(service("b", json!({"ports": [{"port": 0}]})))),
        ];
        let refusals = world.write(writes).unwrap_err();
        let told: Vec<(usize, u16, &str)> =
            refusals.iter().map(|r| (r.index, r.reason.code(), r.message.as_str())).collect();
        let invalid =
            "Service \"b\" is invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive";
        assert_eq!(
            told,
            [(1, 409, "services \"a\" already exists"), (2, 404, "pods \"none\" not found"), (3, 422, invalid)]
        );
        assert_eq!((world.cluster.revision(), world.cluster.objects(Kind::Service, None).count()), (1, 1));
    }

    #[test]
    fn the_metadata_that_is_ours_is_ours() {
        let mut world = World::new();
        let mut dumped = web("a");
        dumped["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
        dumped["metadata"]["resourceVersion"] = json!("999");
        dumped["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
        world.write(vec![Write::Create(object(dumped))]).unwrap();
        let created = world.service("a").metadata;
        assert_eq!((created.resource_version.as_deref(), created.creation_timestamp.unwrap().0), (Some("2"), now()));
        let uid = created.uid.unwrap();
        assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'8'));
        let mut again = World::new();
        again.apply([web("a")]);
        assert_eq!(again.service("a").metadata.uid.unwrap(), uid);
    }

    #[test]
    fn two_writers_of_one_version_conflict() {
        let mut world = World::new();
        world.apply([web("a")]);
        let mut first = Object::Service(Box::new(world.service("a")));
        first.metadata_mut().labels = Some([("x".to_owned(), "1".to_owned())].into());
        let mut second = first.clone();
        second.metadata_mut().labels = Some([("x".to_owned(), "2".to_owned())].into());
        world.write(vec![Write::Replace(first)]).unwrap();
        let refusal = &world.write(vec![Write::Replace(second)]).unwrap_err()[0];
        assert_eq!(refusal.reason, RefusalReason::Conflict);
        assert_eq!(
            refusal.message,
            "Operation cannot be fulfilled on services \"a\": the object has been modified; please apply your changes to the latest version and try again"
        );
        assert_eq!(world.service("a").metadata.labels.unwrap()["x"], "1");
    }

    #[test]
    fn namespaces_come_with_their_first_object_and_take_everything_along() {
        let mut world = World::new();
        let mut there = web("a");
        there["metadata"]["namespace"] = json!("shop");
        let commit = world.apply([there, web("b")]);
        let key = Key::new(Kind::Namespace, "", "shop");
        assert!(commit.change(&key).is_some());
        let commit = world.write(vec![Write::Delete(key.clone())]).unwrap();
        assert_eq!(commit.changes.len(), 4, "the Namespace, the Service, its slice and its Endpoints");
        assert!(commit.changes.iter().all(|change| change.new.is_none()));
        assert_eq!(world.cluster.objects(Kind::Service, None).count(), 2);
        let refusal = &world.write(vec![Write::Delete(Key::new(Kind::Namespace, "", "default"))]).unwrap_err()[0];
        assert_eq!(
            (refusal.reason.code(), refusal.message.as_str()),
            (403, "namespaces \"default\" is forbidden: this namespace may not be deleted")
        );
    }

    #[test]
    fn what_leaves_the_files_goes_if_it_came_from_them() {
        let mut world = World::new();
        world.apply([web("applied")]);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        let follow = |value| Write::Follow(object(value));
        world
            .write(vec![follow(web("applied")), follow(web("ours")), follow(web("taken")), follow(namespace)])
            .unwrap();
        let key = |name: &str| Key::new(Kind::Service, "default", name);
        assert_eq!(world.cluster.followed().collect::<Vec<_>>(), [key("ours"), key("taken")]);
        // kubectl's apply leaves the mark alone; a replacement without it makes the object somebody else's.
        world.apply([web("ours")]);
        world.write(vec![Write::Replace(object(web("taken")))]).unwrap();
        let again = world.write(vec![follow(web("ours"))]).unwrap();
        assert_eq!(again.changes, [], "following twice changes nothing");
        let shop = Key::new(Kind::Namespace, "", "shop");
        let gone = ["applied", "ours", "taken", "never there"].map(|name| Write::Unfollow(key(name)));
        world.write(gone.into_iter().chain([Write::Unfollow(shop.clone())]).collect()).unwrap();
        let left = world.cluster.objects(Kind::Service, None).map(|object| object.name().to_owned());
        assert_eq!(left.collect::<Vec<_>>(), ["applied", "kubernetes", "taken"]);
        assert!(world.cluster.object(&shop).is_some());
    }

    #[test]
    fn generated_names_differ() {
        let mut world = World::new();
        let mut pod = pod("", "a", "10.0.0.1");
        pod["metadata"] = json!({"generateName": "web-"});
        let commit = world.write(vec![Write::Create(object(pod.clone())), Write::Create(object(pod))]).unwrap();
        assert!(commit.written.iter().all(|key| key.name.starts_with("web-") && key.name.len() == 9));
        assert_ne!(commit.written[0], commit.written[1]);
    }

    #[test]
    fn ranges_are_read_and_walked() {
        let range: IpRange = "192.0.2.10-192.0.2.12".parse().unwrap();
        assert_eq!((range.len(), range.at(2), range.at(3)), (3, Some("192.0.2.12".parse().unwrap()), None));
        assert_eq!("fd00::/64".parse::<IpRange>().unwrap().len(), 1 << 64);
        assert_eq!("10.0.0.1".parse::<IpRange>().unwrap().len(), 1);
        for text in ["", "x", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.0/33"] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_state_with_a_double_address_is_refused() {
        let twice = |name: &str| object(service(name, json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]})));
        let error = Cluster::restore(ClusterSettings::default(), [twice("a"), twice("b")], 7).unwrap_err();
        assert_eq!(error.to_string(), "the saved state assigns address 10.96.0.5 to both default/a and default/b");
    }

    /// Found by the property below: the index must not depend on the order of the changes.
    #[test]
    fn an_address_that_changes_hands_within_a_commit_is_the_new_owners() {
        let mut world = World::with(tight());
        let one = |name: &str| service(name, json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
        world.apply([one("b")]);
        world.apply([one("c")]);
        world.apply([one("d"), service("b", json!({"ports": [{"port": 80}]}))]);
        let d = world.service("d");
        let address = crate::cluster::index::ingress_addresses(&d).next().expect("what b gave up");
        assert_eq!(world.cluster.index.address_owner(address), Some(&ServiceName::new("default", "d")));
        world.apply([one("e")]);
        assert_nothing_given_twice(&world.cluster);
    }

    fn any_write() -> impl Strategy<Value = Write> {
        let name = prop::sample::select(vec!["a", "b", "c", "d", "e"]);
        let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
        let asked = (prop::option::of(1u8..14), prop::option::of(0u16..6), any::<bool>());
        let families =
            prop::sample::select(vec![None, Some("SingleStack"), Some("PreferDualStack"), Some("RequireDualStack")]);
        let balancer = (prop::option::of(0u8..4), prop::sample::select(vec!["", "", "class", "no node ports"]));
        let spec = (kind, asked, families, balancer).prop_map(
            |(kind, (ip, node_port, local), families, (wanted, special))| {
                let mut spec = json!({"type": kind, "selector": {"app": "a"},
                "ports": [{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]});
                if let (Some(policy), true) = (families, kind != "ExternalName") {
                    spec["ipFamilyPolicy"] = json!(policy);
                }
                if let (Some(wanted), "LoadBalancer") = (wanted, kind) {
                    spec["loadBalancerIP"] = json!(format!("192.0.2.{wanted}"));
                }
                match (special, kind) {
                    ("class", "LoadBalancer") => spec["loadBalancerClass"] = json!("example.com/other"),
                    ("no node ports", "LoadBalancer") => spec["allocateLoadBalancerNodePorts"] = json!(false),
                    _ => {}
                }
                match (kind, ip) {
                    ("ExternalName", _) => spec["externalName"] = json!("x.example"),
                    (_, Some(ip)) => spec["clusterIP"] = json!(format!("10.0.0.{ip}")),
                    _ => {}
                }
                if let (Some(port), "NodePort" | "LoadBalancer") = (node_port, kind) {
                    spec["ports"][0]["nodePort"] = json!(30000 + port);
                }
                if local && kind == "LoadBalancer" {
                    spec["externalTrafficPolicy"] = json!("Local");
                }
                spec
            },
        );
        prop_oneof![
            4 => (name.clone(), spec.clone()).prop_map(|(name, spec)| Write::Apply(object(service(name, spec)))),
            1 => (name.clone(), spec).prop_map(|(name, spec)| Write::Replace(object(service(name, spec)))),
            1 => name.clone().prop_map(|name| Write::Delete(Key::new(Kind::Service, "default", name))),
            1 => (name.clone(), any::<bool>()).prop_map(|(name, ours)| Write::Apply(object(pod(name, if ours { "a" } else { "b" }, "10.1.0.1")))),
            1 => name.clone().prop_map(|name| Write::Delete(Key::new(Kind::Pod, "default", name))),
            1 => name.prop_map(|name| Write::Apply(object(node(name, "z")))),
        ]
    }

    fn tight() -> ClusterSettings {
        ClusterSettings {
            service_cidrs: vec!["10.0.0.0/28".parse().unwrap(), "fd00::/125".parse().unwrap()],
            node_port_range: 30000..=30005,
            load_balancer_pools: vec!["192.0.2.0/31".parse().unwrap()],
            gateway_addresses: vec!["10.0.0.1".parse().unwrap()],
            dns_addresses: vec!["10.0.0.2".parse().unwrap()],
            ..ClusterSettings::default()
        }
    }

    fn assert_nothing_given_twice(cluster: &Cluster) {
        let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for object in cluster.objects(Kind::Service, None) {
            let service = object.as_service().unwrap();
            for address in crate::cluster::index::claimed_addresses(service) {
                assert!(addresses.insert(address), "{address} twice");
                assert_ne!(address.to_string(), "10.0.0.1", "the gateway's");
            }
            let own: BTreeSet<u16> = crate::cluster::index::claimed_node_ports(service).collect();
            assert!(own.iter().all(|port| ports.insert(*port)), "a node port twice");
        }
    }

    fn assert_everybody_has_what_it_needs(cluster: &Cluster) {
        let settings = cluster.settings();
        for object in cluster.objects(Kind::Service, None) {
            let spec = object.as_service().unwrap().spec.as_ref().unwrap();
            let families = if spec.needs_cluster_ip() { spec.families() } else { Vec::new() };
            let addresses = spec.cluster_addresses();
            assert_eq!(addresses.iter().copied().map(Family::of).collect::<Vec<_>>(), families, "{spec:?}");
            assert!(addresses.iter().all(|ip| settings.service_cidrs.iter().any(|cidr| cidr.contains(ip))), "{spec:?}");
            let declined = spec.allocate_load_balancer_node_ports == Some(false);
            for port in spec.ports() {
                let given = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
                assert!(given.is_none_or(|port| settings.node_port_range.contains(&port)), "{spec:?}");
                assert!(given.is_some() == spec.needs_node_ports() || declined, "{spec:?}");
            }
            let health = spec.health_check_node_port.filter(|port| *port != 0);
            assert_eq!(health.is_some(), spec.needs_health_check_port(), "{spec:?}");
            assert!(health.is_none() || spec.ports().iter().all(|port| port.node_port != health), "{spec:?}");
            let balanced = crate::cluster::index::ingress_addresses(object.as_service().unwrap()).next().is_some();
            assert!(
                !balanced || (spec.service_type() == ServiceType::LoadBalancer && spec.load_balancer_class.is_none())
            );
        }
    }

    /// Nobody waits for an address that lies about.
    fn assert_nobody_waits_in_vain(cluster: &Cluster) {
        let taken: BTreeSet<IpAddr> = cluster
            .objects(Kind::Service, None)
            .flat_map(|object| {
                crate::cluster::index::ingress_addresses(object.as_service().unwrap()).collect::<Vec<_>>()
            })
            .collect();
        let pool = &cluster.settings().load_balancer_pools[0];
        let free: Vec<IpAddr> = (0..pool.len()).filter_map(|at| pool.at(at)).filter(|ip| !taken.contains(ip)).collect();
        for object in cluster.objects(Kind::Service, None) {
            let service = object.as_service().unwrap();
            let spec = service.spec.as_ref().unwrap();
            let waits = spec.service_type() == ServiceType::LoadBalancer
                && spec.load_balancer_class.is_none()
                && spec.families().contains(&Family::V4)
                && crate::cluster::index::ingress_addresses(service).next().is_none();
            let wanted = spec.load_balancer_ip.as_deref().map(|ip| ip.parse::<IpAddr>().unwrap());
            let served = match wanted {
                Some(wanted) => free.contains(&wanted),
                None => !free.is_empty(),
            };
            assert!(!(waits && served), "{} waits, and {free:?} is free", object.name());
        }
    }

    /// One changed Pod among many Services touches its own Service's slice and nothing else.
    #[test]
    fn a_change_touches_only_what_depends_on_it() {
        let mut world = World::new();
        let pods = (0..200).flat_map(|s| {
            (0..3).map(move |p| pod(&format!("p{s}-{p}"), &format!("s{s}"), &format!("10.1.{s}.{}", p + 1)))
        });
        world.apply((0..200).map(|s| web(&format!("s{s}"))).chain(pods));
        let mut gone = pod("p7-1", "s7", "10.1.7.2");
        gone["status"]["conditions"] = json!([]);
        let commit = world.apply([gone]);
        let keys: Vec<Kind> = commit.changes.iter().map(|change| change.key.kind).collect();
        assert_eq!(keys, [Kind::Pod, Kind::EndpointSlice, Kind::Endpoints]);
        let touched = crate::compile::resolve::touched(&commit);
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), [ServiceName::new("default", "s7")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_given_twice_and_a_restored_cluster_is_the_same(batches in prop::collection::vec(prop::collection::vec(any_write(), 1..4), 1..12)) {
            let mut world = World::with(tight());
            for batch in batches {
                let before = world.cluster.clone();
                if world.write(batch).is_err() {
                    prop_assert_eq!(&world.cluster, &before);
                }
                assert_nothing_given_twice(&world.cluster);
                assert_everybody_has_what_it_needs(&world.cluster);
                assert_nobody_waits_in_vain(&world.cluster);
            }
            let saved = Kind::ALL.into_iter().flat_map(|kind| world.cluster.objects(kind, None).map(|o| (**o).clone()));
            let texts: Vec<String> = saved.map(|object| object.to_value().to_string()).collect();
            let objects = texts.iter().map(|text| Object::from_value(&serde_json::from_str(text).unwrap(), "").unwrap());
            let restored = Cluster::restore(tight(), objects, world.cluster.revision()).unwrap();
            prop_assert_eq!(&restored, &world.cluster);
        }
    }
}
