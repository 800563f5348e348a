//! Kubernetes objects as YAML, without the parts no packet depends on.

/// A Service; `spec` is flow YAML without its braces.
pub(crate) fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

/// The slice of a Service without selector: endpoints, each `ADDRESS` or `ADDRESS@NODE`, and their port. They are ready, but those that end in
/// `~` are terminating and serve.
pub(crate) fn endpoints(service: &str, protocol: &str, port: u16, addresses: &[&str]) -> String {
    let endpoint = |endpoint: &&str| {
        let (place, conditions) = match endpoint.strip_suffix('~') {
            Some(place) => (place, ", conditions: {ready: false, serving: true, terminating: true}"),
            None => (*endpoint, ""),
        };
        match place.split_once('@') {
            Some((address, node)) => format!("  - {{addresses: [{address}], nodeName: {node}{conditions}}}\n"),
            None => format!("  - {{addresses: [{place}]{conditions}}}\n"),
        }
    };
    let list: String = addresses.iter().map(endpoint).collect();
    let list = if list.is_empty() { "endpoints: []\n".to_owned() } else { format!("endpoints:\n{list}") };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{{name: \"\", protocol: {protocol}, port: {port}}}]\n{list}---\n"
    )
}

/// A Service `web` at 10.96.0.50:80/TCP whose endpoints listen at 8080.
pub(crate) fn web(addresses: &[&str]) -> String {
    service("web", "clusterIP: 10.96.0.50, ports: [{port: 80, targetPort: 8080}]")
        + &endpoints("web", "TCP", 8080, addresses)
}

/// A Service `echo` at 10.96.0.60:7/UDP whose endpoints listen at 7007.
pub(crate) fn echo(addresses: &[&str]) -> String {
    let spec = "clusterIP: 10.96.0.60, ports: [{port: 7, protocol: UDP, targetPort: 7007}]";
    service("echo", spec) + &endpoints("echo", "UDP", 7007, addresses)
}

/// A Service `shop` reachable every way there is: 10.96.0.70:80, node port 30080, 203.0.113.7:80 (load balancer) and
/// 198.51.100.7:80 (external IP); endpoints listen at 8080. `more` is further spec, with a leading comma.
pub(crate) fn shop(more: &str, addresses: &[&str]) -> String {
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.70, loadBalancerIP: 203.0.113.7, externalIPs: [198.51.100.7], \
                ports: [{port: 80, targetPort: 8080, nodePort: 30080}]";
    service("shop", &format!("{spec}{more}")) + &endpoints("shop", "TCP", 8080, addresses)
}

/// A Service `registry` reachable every way there is, for SCTP: 10.96.0.80:2905, node port 30905, 203.0.113.8:2905 (load balancer) and
/// 198.51.100.8:2905 (external IP); endpoints listen at 3905. `more` is further spec, with a leading comma.
pub(crate) fn registry_with(more: &str, addresses: &[&str]) -> String {
    let spec = "type: LoadBalancer, clusterIP: 10.96.0.80, loadBalancerIP: 203.0.113.8, externalIPs: [198.51.100.8], \
                ports: [{port: 2905, protocol: SCTP, targetPort: 3905, nodePort: 30905}]";
    service("registry", &format!("{spec}{more}")) + &endpoints("registry", "SCTP", 3905, addresses)
}

/// The same without more.
pub(crate) fn registry(addresses: &[&str]) -> String {
    registry_with("", addresses)
}
