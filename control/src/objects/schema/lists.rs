//! Every list in the kinds that are served, and what makes two of its items the same.
//!
//! Kubernetes says it twice for each list, in the tags of its Go types (k8s.io/api `core/v1/types.go`,
//! `discovery/v1/types.go`, apimachinery `meta/v1/types.go`):
//!
//! | tag | read by | here |
//! |---|---|---|
//! | `listType`, `listMapKey` | server-side apply | [`ListType::list`] |
//! | `patchStrategy`, `patchMergeKey` | strategic merge patch, `kubectl apply` | [`ListType::patch`] |
//!
//! They do not always agree: one identifies a Service's ports by number and protocol and the other by number alone,
//! a Pod's host addresses are merged by one and replaced by the other. The generated types carry neither, so this table
//! is written by hand; a test walks every type and finds a list that is missing here, or one that is no list.

/// How server-side apply takes a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// As one value: a writer writes all of it.
    Atomic,
    /// As a set of plain values.
    Set,
    /// As a map whose keys are fields of the items.
    Map(&'static [&'static str]),
}

/// How a strategic merge patch takes a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    /// The patch's list replaces it.
    Replace,
    /// Plain values are added.
    Add,
    /// Items with the same value of this field are merged.
    MergeBy(&'static str),
}

/// One list: a field of a type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListType {
    /// The type, without the package.
    pub(crate) owner: &'static str,
    /// The field, as JSON spells it.
    pub(crate) field: &'static str,
    pub(crate) list: List,
    pub(crate) patch: Patch,
}

/// What is not in [`LISTS`]: nothing, if the test holds. It is then replaced as a whole.
pub(super) static UNKNOWN: ListType = atomic("", "");

/// The list in this field of this type.
pub(crate) fn find(owner: &str, field: &str) -> Option<&'static ListType> {
    LISTS.iter().find(|list| list.owner == owner && list.field == field)
}

/// Maps that are one value to server-side apply (`mapType=atomic`).
pub(super) const ATOMIC_MAPS: [(&str, &str); 2] = [("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")];

/// Types that are one value to server-side apply (`structType=atomic`).
pub(super) const ATOMIC_TYPES: [&str; 11] = [
    "ConfigMapKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "SecretKeySelector",
    "TypedLocalObjectReference",
];

const fn atomic(owner: &'static str, field: &'static str) -> ListType {
    ListType { owner, field, list: List::Atomic, patch: Patch::Replace }
}

const fn set(owner: &'static str, field: &'static str, patch: Patch) -> ListType {
    ListType { owner, field, list: List::Set, patch }
}

/// A map whose patch key is the first of its keys.
const fn map(owner: &'static str, field: &'static str, keys: &'static [&'static str]) -> ListType {
    ListType { owner, field, list: List::Map(keys), patch: Patch::MergeBy(keys[0]) }
}

/// A map to server-side apply; to a strategic merge patch, one value.
const fn map_replaced(owner: &'static str, field: &'static str, keys: &'static [&'static str]) -> ListType {
    ListType { owner, field, list: List::Map(keys), patch: Patch::Replace }
}

/// By type and field.
pub(super) static LISTS: &[ListType] = &[
    atomic("Capabilities", "add"),
    atomic("Capabilities", "drop"),
    atomic("CephFSVolumeSource", "monitors"),
    atomic("ConfigMapProjection", "items"),
    atomic("ConfigMapVolumeSource", "items"),
    atomic("Container", "args"),
    atomic("Container", "command"),
    map("Container", "env", &["name"]),
    atomic("Container", "envFrom"),
    map("Container", "ports", &["containerPort", "protocol"]),
    atomic("Container", "resizePolicy"),
    atomic("Container", "restartPolicyRules"),
    map("Container", "volumeDevices", &["devicePath"]),
    map("Container", "volumeMounts", &["mountPath"]),
    atomic("ContainerImage", "names"),
    set("ContainerRestartRuleOnExitCodes", "values", Patch::Replace),
    map("ContainerStatus", "allocatedResourcesStatus", &["name"]),
    map("ContainerStatus", "volumeMounts", &["mountPath"]),
    atomic("DownwardAPIProjection", "items"),
    atomic("DownwardAPIVolumeSource", "items"),
    set("Endpoint", "addresses", Patch::Replace),
    atomic("EndpointHints", "forNodes"),
    atomic("EndpointHints", "forZones"),
    atomic("EndpointSlice", "endpoints"),
    atomic("EndpointSlice", "ports"),
    atomic("EndpointSubset", "addresses"),
    atomic("EndpointSubset", "notReadyAddresses"),
    atomic("EndpointSubset", "ports"),
    atomic("Endpoints", "subsets"),
    atomic("EphemeralContainer", "args"),
    atomic("EphemeralContainer", "command"),
    map("EphemeralContainer", "env", &["name"]),
    atomic("EphemeralContainer", "envFrom"),
    map("EphemeralContainer", "ports", &["containerPort", "protocol"]),
    atomic("EphemeralContainer", "resizePolicy"),
    atomic("EphemeralContainer", "restartPolicyRules"),
    map("EphemeralContainer", "volumeDevices", &["devicePath"]),
    map("EphemeralContainer", "volumeMounts", &["mountPath"]),
    atomic("ExecAction", "command"),
    atomic("FCVolumeSource", "targetWWNs"),
    atomic("FCVolumeSource", "wwids"),
    atomic("HTTPGetAction", "httpHeaders"),
    atomic("HostAlias", "hostnames"),
    atomic("ISCSIVolumeSource", "portals"),
    atomic("LabelSelector", "matchExpressions"),
    atomic("LabelSelectorRequirement", "values"),
    atomic("LinuxContainerUser", "supplementalGroups"),
    atomic("LoadBalancerIngress", "ports"),
    atomic("LoadBalancerStatus", "ingress"),
    atomic("NamespaceSpec", "finalizers"),
    map("NamespaceStatus", "conditions", &["type"]),
    atomic("NodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("NodeSelector", "nodeSelectorTerms"),
    atomic("NodeSelectorRequirement", "values"),
    atomic("NodeSelectorTerm", "matchExpressions"),
    atomic("NodeSelectorTerm", "matchFields"),
    set("NodeSpec", "podCIDRs", Patch::Add),
    atomic("NodeSpec", "taints"),
    map("NodeStatus", "addresses", &["type"]),
    map("NodeStatus", "conditions", &["type"]),
    atomic("NodeStatus", "declaredFeatures"),
    atomic("NodeStatus", "images"),
    atomic("NodeStatus", "runtimeHandlers"),
    atomic("NodeStatus", "volumesAttached"),
    atomic("NodeStatus", "volumesInUse"),
    set("ObjectMeta", "finalizers", Patch::Add),
    atomic("ObjectMeta", "managedFields"),
    map("ObjectMeta", "ownerReferences", &["uid"]),
    atomic("PersistentVolumeClaimSpec", "accessModes"),
    atomic("PodAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("PodAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("PodAffinityTerm", "matchLabelKeys"),
    atomic("PodAffinityTerm", "mismatchLabelKeys"),
    atomic("PodAffinityTerm", "namespaces"),
    atomic("PodAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("PodAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("PodDNSConfig", "nameservers"),
    atomic("PodDNSConfig", "options"),
    atomic("PodDNSConfig", "searches"),
    atomic("PodSecurityContext", "supplementalGroups"),
    atomic("PodSecurityContext", "sysctls"),
    atomic("PodExtendedResourceClaimStatus", "requestMappings"),
    map("PodSpec", "containers", &["name"]),
    map("PodSpec", "ephemeralContainers", &["name"]),
    map("PodSpec", "hostAliases", &["ip"]),
    map("PodSpec", "imagePullSecrets", &["name"]),
    map("PodSpec", "initContainers", &["name"]),
    atomic("PodSpec", "readinessGates"),
    map("PodSpec", "resourceClaims", &["name"]),
    map("PodSpec", "schedulingGates", &["name"]),
    atomic("PodSpec", "tolerations"),
    map("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    map("PodSpec", "volumes", &["name"]),
    map("PodStatus", "conditions", &["type"]),
    atomic("PodStatus", "containerStatuses"),
    atomic("PodStatus", "ephemeralContainerStatuses"),
    ListType { owner: "PodStatus", field: "hostIPs", list: List::Atomic, patch: Patch::MergeBy("ip") },
    atomic("PodStatus", "initContainerStatuses"),
    map("PodStatus", "podIPs", &["ip"]),
    map("PodStatus", "resourceClaimStatuses", &["name"]),
    atomic("ProjectedVolumeSource", "sources"),
    atomic("RBDVolumeSource", "monitors"),
    map_replaced("ResourceRequirements", "claims", &["name"]),
    map_replaced("ResourceStatus", "resources", &["resourceID"]),
    atomic("SecretProjection", "items"),
    atomic("SecretVolumeSource", "items"),
    atomic("ServiceSpec", "clusterIPs"),
    atomic("ServiceSpec", "externalIPs"),
    atomic("ServiceSpec", "ipFamilies"),
    atomic("ServiceSpec", "loadBalancerSourceRanges"),
    map("ServiceSpec", "ports", &["port", "protocol"]),
    map("ServiceStatus", "conditions", &["type"]),
    atomic("TopologySpreadConstraint", "matchLabelKeys"),
];
