//! What the operator sees: the Services, and which Pods a selector finds.

use std::net::{IpAddr, SocketAddr};

use pollgate_control::explain::{Explanation, PodVerdict, Verdict};
use serde_json::Value;

use super::page::{Checked, Page, row, same, table};
use super::stage::{BACKENDS, Stage, socket_address};

/// The Services as the command line lists them, with the addresses they request and those that were allocated.
pub(super) fn services(stage: &Stage, page: &mut Page) -> Checked {
    page.say(
        "A Service is a stable name and address for a changing set of Pods. These are ordinary Kubernetes objects, \
         sent to the gateway over its Unix socket and read back (without `kubernetes`, which always exists):",
    );
    let line = "pollgate get services -l provider!=kubernetes";
    page.command(line, &stage.typed(line)?);
    let address = stage.cluster_ip("backend-service")?;
    page.check(
        "backend-service has the ClusterIP and port that its manifest requests",
        same(&address.to_string(), &"10.96.0.50:8080".to_owned()),
    );
    let balancer = load_balancer(stage)?;
    let pool = IpAddr::from([192, 168, 50, 200])..=IpAddr::from([192, 168, 50, 219]);
    let found = if pool.contains(&balancer.ip()) { Ok(()) } else { Err(format!("found {balancer}")) };
    page.check("loadbalancer-service has an address from the pool 192.168.50.200-219", found);
    Ok(())
}

/// The LoadBalancer's address and port.
pub(super) fn load_balancer(stage: &Stage) -> Result<SocketAddr, String> {
    let service = stage.get("services/loadbalancer-service")?;
    let ingress = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
    socket_address(ingress, &service["spec"]["ports"][0]["port"])
}

/// Every Pod with its labels, match or miss, and why.
pub(super) fn selector(stage: &Stage, page: &mut Page) -> Checked {
    let explanation = stage.explanation("backend-service")?;
    let pods = stage.get("pods")?;
    page.say(&format!(
        "A Service finds its Pods by labels: a Pod must have all labels of the selector. backend-service selects {}. \
         Every Pod, and the rule that decided (`pollgate explain service NAME` shows this for any Service):",
        pairs(explanation.selector.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    ));
    let head = row([&"POD", &"IP", &"LABELS", &"", &"WHY"]);
    let rows = explanation.pods.iter().map(|pod| pod_row(pod, &pods));
    page.show(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    page.check(
        "only the two Pods that have all these labels are endpoints",
        same(&endpoints(&explanation), &BACKENDS.map(str::to_owned).to_vec()),
    );
    let ready = explanation.answers.iter().filter(|answer| answer.via == "ClusterIP").map(|answer| answer.ready);
    page.check("its ClusterIP has two ready endpoints", same(&ready.collect::<Vec<_>>(), &vec![2]));
    Ok(())
}

/// The Pods that are endpoints, by name.
pub(super) fn endpoints(explanation: &Explanation) -> Vec<String> {
    let endpoints = explanation.pods.iter().filter(|pod| pod.verdict.is_endpoint());
    endpoints.map(|pod| pod.name.clone()).collect()
}

fn pod_row(pod: &PodVerdict, pods: &Value) -> [String; 5] {
    let (verdict, why) = match pod.verdict.is_endpoint() {
        true => ("match", pod.endpoints.join(", ")),
        false => ("miss", reason(&pod.verdict)),
    };
    row([&pod.name, &pod.address, &labels(pods, &pod.name), &verdict, &why])
}

/// In words for who has never seen a selector.
fn reason(verdict: &Verdict) -> String {
    match verdict {
        Verdict::LabelDiffers { key, wanted, found } => format!("{key} is {found}, not {wanted}"),
        Verdict::LabelMissing { key, wanted } => format!("it has no label {key}={wanted}"),
        other => other.reason(),
    }
}

fn labels(pods: &Value, name: &str) -> String {
    let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name);
    let labels = pod.and_then(|pod| pod["metadata"]["labels"].as_object());
    pairs(labels.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())))
}

fn pairs<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
