//! The keys of a configuration with their values, to compare two of them.

use std::fmt::Debug;

use super::model::{Api, Cluster, Config, Dns, Flows, Health, Host, Limits, Log, Maglev, Metrics, Nat, Run, Workers};

impl Config {
    /// The keys whose values differ, as they are written in the file, in the order of the reference.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        let pairs = self.keys().into_iter().zip(other.keys());
        pairs.filter(|(one, other)| one != other).map(|((key, _), _)| key).collect()
    }

    /// Every key with its value. A new field does not compile until it has its key here.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let Config {
            node,
            zone,
            host: Host { disable_forwarding, pair },
            interfaces,
            addresses,
            cluster,
            dns,
            nat: Nat { masquerade, ports },
            workers: Workers { count, cpus, idle, busy_poll },
            flows,
            maglev: Maglev { table_size, seed },
            api: Api { socket, state, listen },
            metrics: Metrics { listen: metrics_listen, services: metrics_services, compatible },
            health: Health { port },
            run: Run { user, group, sandbox },
            log: Log { format, level },
            limits,
        } = self;
        let mut keys = vec![
            key("node", node),
            key("zone", zone),
            key("host.disableForwarding", disable_forwarding),
            key("host.pair", pair),
            key("interfaces", interfaces),
            key("addresses", addresses),
        ];
        keys.extend(cluster_keys(cluster));
        keys.extend(dns_keys(dns));
        keys.extend([
            key("nat.masquerade", masquerade),
            key("nat.ports", ports),
            key("workers.count", count),
            key("workers.cpus", cpus),
            key("workers.idle", idle),
            key("workers.busyPoll", busy_poll),
        ]);
        keys.extend(flow_keys(flows));
        keys.extend([
            key("maglev.tableSize", table_size),
            key("maglev.seed", seed),
            key("api.socket", socket),
            key("api.state", state),
            key("api.listen", listen),
            key("metrics.listen", metrics_listen),
            key("metrics.services", metrics_services),
            key("metrics.compatible", compatible),
            key("health.port", port),
            key("run.user", user),
            key("run.group", group),
            key("run.sandbox", sandbox),
            key("log.format", format),
            key("log.level", level),
        ]);
        keys.extend(limit_keys(limits));
        keys
    }
}

fn key(name: &'static str, value: &impl Debug) -> (&'static str, String) {
    (name, format!("{value:?}"))
}

fn cluster_keys(cluster: &Cluster) -> [(&'static str, String); 7] {
    let Cluster { domain, pod_cidrs, service_cidrs, node_port_range, load_balancer_pools, slice_manager, external_ips } =
        cluster;
    [
        key("cluster.domain", domain),
        key("cluster.podCIDRs", pod_cidrs),
        key("cluster.serviceCIDRs", service_cidrs),
        key("cluster.nodePortRange", node_port_range),
        key("cluster.loadBalancerPools", load_balancer_pools),
        key("cluster.sliceManager", slice_manager),
        key("cluster.externalIPs", external_ips),
    ]
}

fn dns_keys(dns: &Dns) -> [(&'static str, String); 9] {
    let Dns { addresses, ttl, pods, endpoint_pod_names, autopath, responses_per_second, upstreams, zones, serve_stale } =
        dns;
    [
        key("dns.address", addresses),
        key("dns.ttl", ttl),
        key("dns.pods", pods),
        key("dns.endpointPodNames", endpoint_pod_names),
        key("dns.autopath", autopath),
        key("dns.responsesPerSecond", responses_per_second),
        key("dns.upstreams", upstreams),
        key("dns.zones", zones),
        key("dns.serveStale", serve_stale),
    ]
}

fn flow_keys(flows: &Flows) -> [(&'static str, String); 9] {
    let Flows {
        max,
        new_per_second,
        unconfirmed_percent,
        affinity,
        tcp_established,
        tcp_opening,
        tcp_closing,
        udp,
        udp_stream,
    } = flows;
    [
        key("flows.max", max),
        key("flows.newPerSecond", new_per_second),
        key("flows.unconfirmedPercent", unconfirmed_percent),
        key("flows.affinity", affinity),
        key("flows.tcpEstablished", tcp_established),
        key("flows.tcpOpening", tcp_opening),
        key("flows.tcpClosing", tcp_closing),
        key("flows.udp", udp),
        key("flows.udpStream", udp_stream),
    ]
}

fn limit_keys(limits: &Limits) -> [(&'static str, String); 4] {
    let Limits { items_per_request, objects, endpoints, endpoints_per_service } = limits;
    [
        key("limits.itemsPerRequest", items_per_request),
        key("limits.objects", objects),
        key("limits.endpoints", endpoints),
        key("limits.endpointsPerService", endpoints_per_service),
    ]
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Purpose};

    const LEAST: &str = "interfaces: [{name: eth1}]\naddresses: 192.168.50.10\n";

    fn config(more: &str) -> Config {
        Config::parse("gateway.yaml", &format!("{LEAST}{more}"), Purpose::Run).expect("a configuration")
    }

    #[test]
    fn a_key_differs_by_its_value_and_not_by_how_it_is_written() {
        let default = config("");
        assert_eq!(default.differences(&config("flows: {max: 1048576, tcpOpening: 1m}\n")), [] as [&str; 0]);
        let other = config("flows: {max: 9}\nlog: {level: debug}\ndns: {autopath: true}\n");
        assert_eq!(default.differences(&other), ["dns.autopath", "flows.max", "log.level"]);
        assert_eq!(other.differences(&default), ["dns.autopath", "flows.max", "log.level"]);
        let interface = Config::parse("x", &LEAST.replace("eth1", "eth2"), Purpose::Run).expect("a configuration");
        assert_eq!(default.differences(&interface), ["interfaces"]);
    }

    /// The reference names every key of its tables in the first column.
    #[test]
    fn every_key_is_one_of_the_reference() {
        let reference = include_str!("../../docs/configuration.md");
        for (key, _) in config("").keys() {
            assert!(reference.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
        }
    }
}
