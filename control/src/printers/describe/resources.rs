//! What Pods request and may use at most (kubectl `pkg/util/resource`), and the class of service that follows from it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Page;
use super::quantity::{Amount, canonical};

/// As an object says it.
pub(super) type Quantities = BTreeMap<String, Quantity>;

/// As it is summed up.
pub(super) type Amounts = BTreeMap<String, Amount>;

/// Of one Pod, or of many.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) requests: Amounts,
    pub(super) limits: Amounts,
}

impl Totals {
    /// What the Pod's specification says.
    pub(super) fn specified(pod: &Pod) -> Totals {
        let spec = pod.spec.clone().unwrap_or_default();
        let requests = aggregate(&spec, |container| amounts(requests_of(container)));
        let limits = aggregate(&spec, |container| amounts(limits_of(container)));
        Totals { requests, limits }.of_the_pod(spec)
    }

    /// The same, or what its containers have now where that is more: they may be in the middle of being resized. Of what the
    /// node cannot give, only that.
    pub(super) fn in_use(pod: &Pod) -> Totals {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut requests = aggregate(&spec, |container| amounts(feasible(pod, requests_of(container))));
        let mut limits = aggregate(&spec, |container| amounts(feasible(pod, limits_of(container))));
        raise(&mut requests, &aggregate(&spec, |container| amounts(granted(pod, container))));
        raise(&mut requests, &aggregate(&spec, |container| amounts(used(pod, container))));
        raise(&mut limits, &aggregate(&spec, |container| amounts(enforced(pod, container))));
        Totals { requests, limits }.of_the_pod(spec)
    }

    /// From those of the containers to those of the Pod: what it asks for as a whole counts instead, and its overhead besides.
    fn of_the_pod(self, spec: PodSpec) -> Totals {
        let Totals { mut requests, mut limits } = self;
        let whole = spec.resources.unwrap_or_default();
        requests.extend(amounts(whole.requests.as_ref()).into_iter().filter(|(name, _)| is_shared(name)));
        limits.extend(amounts(whole.limits.as_ref()).into_iter().filter(|(name, _)| is_shared(name)));
        let overhead = amounts(spec.overhead.as_ref());
        add(&mut requests, &overhead);
        for (name, extra) in overhead {
            // Of a limit nobody set, the overhead would make one.
            if let Some(limit) = limits.get_mut(&name).filter(|limit| !limit.is_zero()) {
                *limit += extra;
            }
        }
        Totals { requests, limits }
    }

    pub(super) fn add(&mut self, other: &Totals) {
        add(&mut self.requests, &other.requests);
        add(&mut self.limits, &other.limits);
    }
}

/// The lines for limits and requests, `indent` before each.
pub(super) fn describe(page: &mut Page, resources: &ResourceRequirements, indent: &str) {
    for (label, quantities) in [("Limits:", &resources.limits), ("Requests:", &resources.requests)] {
        let Some(quantities) = quantities.as_ref().filter(|quantities| !quantities.is_empty()) else {
            continue;
        };
        page.cells([&format!("{indent}{label}")]);
        for (name, quantity) in quantities {
            page.line(&format!("{indent}  {name}:"), canonical(quantity));
        }
    }
}

/// The class the Pod's status names; before it names one, the class its containers put it in.
pub(super) fn class(pod: &Pod) -> String {
    let told = pod.status.as_ref().and_then(|status| status.qos_class.clone());
    told.filter(|class| !class.is_empty()).unwrap_or_else(|| computed_class(pod).to_owned())
}

fn computed_class(pod: &Pod) -> &'static str {
    let spec = pod.spec.clone().unwrap_or_default();
    let (mut requests, mut limits, mut all_limited) = (Amounts::new(), Amounts::new(), true);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let limited = that_count(limits_of(container));
        all_limited &= limited.len() == 2;
        add(&mut requests, &that_count(requests_of(container)));
        add(&mut limits, &limited);
    }
    let equal = |name: &String, request: &Amount| limits.get(name).is_some_and(|limit| limit.equals(*request));
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    match all_limited && requests.len() == limits.len() && requests.iter().all(|(name, request)| equal(name, request)) {
        true => "Guaranteed",
        false => "Burstable",
    }
}

/// CPU and memory alone decide on the class.
fn that_count(quantities: Option<&Quantities>) -> Amounts {
    let mut amounts = amounts(quantities);
    amounts.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && amount.is_positive());
    amounts
}

/// What a Pod can have as a whole, whatever its containers say.
fn is_shared(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// What is asked for, unless the node has said that it cannot give it.
fn feasible<'a>(pod: &Pod, asked: Option<&'a Quantities>) -> Option<&'a Quantities> {
    let mut conditions = pod.status.iter().flat_map(|status| &status.conditions).flatten();
    let pending = conditions.find(|condition| condition.type_ == "PodResizePending");
    asked.filter(|_| pending.is_none_or(|pending| pending.reason.as_deref() != Some("Infeasible")))
}

fn granted<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a Quantities> {
    let granted = status_of(pod, container).and_then(|status| status.allocated_resources.as_ref());
    granted.or_else(|| feasible(pod, requests_of(container)))
}

fn used<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a Quantities> {
    let used = status_of(pod, container).and_then(|status| status.resources.as_ref()?.requests.as_ref());
    used.or_else(|| granted(pod, container))
}

fn enforced<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a Quantities> {
    let enforced = status_of(pod, container).and_then(|status| status.resources.as_ref()?.limits.as_ref());
    enforced.or_else(|| feasible(pod, limits_of(container)))
}

fn status_of<'a>(pod: &'a Pod, container: &Container) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    statuses.find(|status| status.name == container.name)
}

pub(super) fn requests_of(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.requests.as_ref()
}

pub(super) fn limits_of(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.limits.as_ref()
}

pub(super) fn amounts(quantities: Option<&Quantities>) -> Amounts {
    quantities.into_iter().flatten().map(|(name, quantity)| (name.clone(), Amount::of(quantity))).collect()
}

/// Containers run together. Init containers run one after the other before them, beside the sidecars (which are init containers
/// that stay) started until then: whatever needs more decides.
fn aggregate<'a>(spec: &'a PodSpec, amounts_of: impl Fn(&'a Container) -> Amounts) -> Amounts {
    let (mut total, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in &spec.containers {
        add(&mut total, &amounts_of(container));
    }
    for container in spec.init_containers.iter().flatten() {
        let mut needed = amounts_of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed.clone_from(&sidecars);
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut starting, &needed);
    }
    raise(&mut total, &starting);
    total
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(highest: &mut Amounts, others: &Amounts) {
    for (name, other) in others {
        let highest = highest.entry(name.clone()).or_insert(*other);
        if other.exceeds(*highest) {
            *highest = *other;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value, statuses: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"containerStatuses": statuses}}))
            .unwrap()
    }

    fn cpu(amounts: &Amounts) -> String {
        amounts.get("cpu").copied().unwrap_or_default().to_string()
    }

    fn asking(cpu: &str) -> Value {
        json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}})
    }

    #[test]
    fn init_containers_count_while_they_are_more() {
        let containers =
            |cpu: &str| json!([{"name": "a", "resources": asking(cpu)}, {"name": "b", "resources": asking(cpu)}]);
        let starting = json!([
            {"name": "s", "restartPolicy": "Always", "resources": asking("100m")},
            {"name": "i", "resources": asking("1")}]);
        let total = |each: &str| {
            let spec = json!({"containers": containers(each), "initContainers": starting, "overhead": {"cpu": "5m"}});
            cpu(&Totals::specified(&pod(spec, json!([]))).requests)
        };
        assert_eq!(total("250m"), "1105m", "the init container beside the sidecar");
        assert_eq!(total("2"), "4105m", "the containers beside the sidecar");
    }

    #[test]
    fn overhead_makes_no_limit() {
        let spec =
            json!({"overhead": {"cpu": "5m"}, "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]});
        let totals = Totals::specified(&pod(spec, json!([])));
        assert_eq!((cpu(&totals.requests), cpu(&totals.limits)), ("1005m".to_owned(), "0".to_owned()));
    }

    #[test]
    fn a_pod_as_a_whole_says_more_than_its_containers() {
        let spec = json!({"resources": {"requests": {"cpu": "2", "example.com/gpu": "1"}}, "containers": [{"name": "a", "resources": asking("3")}]});
        let totals = Totals::specified(&pod(spec, json!([])));
        assert_eq!((cpu(&totals.requests), cpu(&totals.limits)), ("2".to_owned(), "3".to_owned()));
        assert!(!totals.requests.contains_key("example.com/gpu"));
    }

    #[test]
    fn what_is_in_use_counts_while_it_is_more() {
        let spec = json!({"containers": [{"name": "a", "resources": asking("100m")}, {"name": "b", "resources": asking("400m")}]});
        let statuses = json!([
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": {"cpu": "450m"},
             "resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "300m"}}}]);
        let pod = pod(spec, statuses);
        let (in_use, specified) = (Totals::in_use(&pod), Totals::specified(&pod));
        assert_eq!((cpu(&in_use.requests), cpu(&in_use.limits)), ("850m".to_owned(), "700m".to_owned()));
        assert_eq!((cpu(&specified.requests), cpu(&specified.limits)), ("500m".to_owned(), "500m".to_owned()));
    }

    #[test]
    fn classes_go_by_cpu_and_memory() {
        let class = |resources: Value| {
            super::class(&pod(json!({"containers": [{"name": "a", "resources": resources}]}), json!([])))
        };
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "0", "example.com/gpu": "1"}})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both = |cpu: &str| json!({"cpu": cpu, "memory": "1Gi"});
        assert_eq!(class(json!({"requests": both("0.5"), "limits": both("500m")})), "Guaranteed");
        assert_eq!(class(json!({"requests": both("400m"), "limits": both("500m")})), "Burstable");
        assert_eq!(
            class(json!({"limits": both("500m")})),
            "Burstable",
            "as kubectl has it, to which nobody has defaulted the requests"
        );
    }
}
