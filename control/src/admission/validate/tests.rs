//! Which faults are reported for which object, word for word.

use serde_json::{Value, json};

use crate::cluster::Write;
use crate::objects::Kind;
use crate::testing::{World, object, service};

const NOT_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
     and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WORD: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
     (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Asserts that `value` is refused in a cluster like [`World::new`] with exactly these faults.
#[track_caller]
fn refused(value: &Value, expected: &[&str]) {
    assert_eq!(World::new().faults(value.clone()), expected, "{value}");
}

fn of(kind: Kind, name: &str) -> Value {
    let involved = json!({"namespace": "default"});
    let mut value = json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": {"name": name}});
    match kind {
        Kind::Service => value["spec"] = json!({"ports": [{"port": 80}]}),
        Kind::EndpointSlice => value["addressType"] = json!("IPv4"),
        Kind::Event => value["involvedObject"] = involved,
        _ => {}
    }
    value
}

#[test]
fn names_by_kind() {
    for kind in Kind::ALL {
        let told = match kind {
            Kind::Service | Kind::Namespace => format!("metadata.name: Invalid value: \"a.b_c\": {LABEL}"),
            _ => format!("metadata.name: Invalid value: \"a.b_c\": {SUBDOMAIN}"),
        };
        refused(&of(kind, "a.b_c"), &[&told]);
        World::new().apply([of(kind, "0-a")]);
        let long = "a".repeat(254);
        let most = if matches!(kind, Kind::Service | Kind::Namespace) { 63 } else { 253 };
        let told = format!("metadata.name: Invalid value: \"{long}\": must be no more than {most} characters");
        // A Namespace carries its name as a label too.
        assert_eq!(World::new().faults(of(kind, &long))[0], told);
    }
}

#[test]
fn generated_names_are_judged_by_their_prefix_and_cut() {
    let generated = |prefix: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": prefix}});
    let told = format!("metadata.generateName: Invalid value: \"A1-\": {SUBDOMAIN}");
    let refusals = World::new().write(vec![Write::Create(object(generated("A1-")))]).unwrap_err();
    assert!(refusals[0].faults.iter().any(|fault| fault.to_string() == told), "{:?}", refusals[0].faults);
    let prefix = format!("{}-", "a".repeat(70));
    let commit = World::new().write(vec![Write::Create(object(generated(&prefix)))]).unwrap();
    assert_eq!((commit.written[0].name.len(), &commit.written[0].name[..58]), (63, &prefix[..58]));
}

#[test]
fn labels_and_annotations() {
    let with = |field: &str, pairs: Value| {
        let mut value = of(Kind::Pod, "p");
        value["metadata"][field] = pairs;
        value
    };
    let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
         with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
         '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    refused(&with("labels", json!({"a": "b c"})), &[&format!("metadata.labels: Invalid value: \"b c\": {value}")]);
    refused(
        &with("labels", json!({"-a": ""})),
        &[&format!("metadata.labels: Invalid value: \"-a\": name part {WORD}")],
    );
    // Each part that is wrong is reported, and each rule it breaks.
    let wrong = |text: &str| format!("metadata.labels: Invalid value: \"/\": {text}");
    refused(
        &with("labels", json!({"/": ""})),
        &[
            &wrong("prefix part must be non-empty"),
            &wrong("name part must be non-empty"),
            &wrong(&format!("name part {WORD}")),
        ],
    );
    let two = format!(
        "metadata.labels: Invalid value: \"a/b/c\": a valid label key {WORD} with an optional DNS subdomain prefix and '/' (e.g. \
         'example.com/MyName')"
    );
    refused(&with("labels", json!({"a/b/c": ""})), &[&two]);
    refused(
        &with("labels", json!({"a": "x".repeat(64)})),
        &[&format!("metadata.labels: Invalid value: \"{}\": must be no more than 63 characters", "x".repeat(64))],
    );
    let told = "metadata.annotations: Invalid value: \"/a\": prefix part must be non-empty";
    refused(&with("annotations", json!({"/a": ""})), &[told]);
    let told = "metadata.annotations: Too long: may not be more than 262144 bytes";
    refused(&with("annotations", json!({"a": "x".repeat(262_144)})), &[told]);
    World::new().apply([with("annotations", json!({"Any.Case/Of_Key": "any text\n"}))]);
}

#[test]
fn weights() {
    let with = |kind: Kind, key: &str, weight: &str| {
        let mut value = of(kind, "p");
        value["metadata"]["annotations"] = json!({key: weight});
        if kind == Kind::EndpointSlice {
            value["addressType"] = json!("IPv4");
            value["endpoints"] = json!([]);
        }
        value
    };
    for (kind, key) in [
        (Kind::Pod, "pollgate.io/weight"),
        (Kind::EndpointSlice, "pollgate.io/weight"),
        (Kind::EndpointSlice, "service.cilium.io/weight"),
    ] {
        let told =
            format!("metadata.annotations[{key}]: Invalid value: \"65536\": must be an integer between 0 and 65535");
        refused(&with(kind, key, "65536"), &[&told]);
        World::new().apply([with(kind, key, "65535")]);
    }
    World::new().apply([with(Kind::Node, "pollgate.io/weight", "of a Node, nobody reads it")]);
}

#[test]
fn endpoints() {
    let of = |subsets: Value| json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"}, "subsets": subsets});
    let address = |ip: &str| json!([{"addresses": [{"ip": ip}]}]);
    let ports = |ports: Value| json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": ports}]);
    let at = |field: &str, text: &str| format!("subsets[0].{field}: {text}");
    let cases = [
        (json!([{}]), "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`".to_owned()),
        (address("0.0.0.0"), at("addresses[0].ip", "Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)")),
        (
            address("127.0.0.1"),
            at(
                "addresses[0].ip",
                "Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
        ),
        (
            json!([{"notReadyAddresses": [{"ip": "fe80::1"}]}]),
            at(
                "notReadyAddresses[0].ip",
                "Invalid value: \"fe80::1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            ),
        ),
        (
            json!([{"addresses": [{"ip": "10.0.0.1", "hostname": "a.b"}]}]),
            at("addresses[0].hostname", "Invalid value: \"a.b\": must not contain dots"),
        ),
        (
            json!([{"addresses": [{"ip": "10.0.0.1", "nodeName": "N"}]}]),
            at("addresses[0].nodeName", &format!("Invalid value: \"N\": {SUBDOMAIN}")),
        ),
        (ports(json!([{"port": 0}])), at("ports[0].port", "Invalid value: 0: must be between 1 and 65535, inclusive")),
        (ports(json!([{"name": "a", "port": 1}, {"port": 2}])), at("ports[1].name", "Required value")),
        (
            ports(json!([{"port": 1, "protocol": "ICMP"}])),
            at("ports[0].protocol", r#"Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#),
        ),
        (
            ports(json!([{"port": 1, "appProtocol": "-"}])),
            at("ports[0].appProtocol", &format!("Invalid value: \"-\": name part {WORD}")),
        ),
    ];
    for (subsets, text) in cases {
        refused(&of(subsets), &[&text]);
    }
    refused(
        &of(address("ten")),
        &[
            &at("addresses[0].ip", &format!("Invalid value: \"ten\": {NOT_IP}")),
            &at("addresses[0].ip", "Invalid value: \"ten\": must be a valid IP address"),
        ],
    );
    let mut world = World::new();
    world.apply([of(ports(json!([{"port": 1}])))]);
    let object = world.cluster.objects(Kind::Endpoints, None).next().unwrap().to_value();
    assert_eq!(object["subsets"][0]["ports"][0]["protocol"], "TCP");
}

#[test]
fn slices() {
    let slice = |kind: &str, endpoint: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"}, "addressType": kind,
            "endpoints": [endpoint]})
    };
    let with = |field: &str, value: Value| slice("IPv4", json!({"addresses": ["10.0.0.1"], field: value}));
    let at = |field: &str, text: &str| format!("endpoints[0].{field}: {text}");
    let zones =
        |names: &[&str]| json!({"forZones": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let nine = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let cases = [
        (
            slice("IPv5", json!({"addresses": ["x"]})),
            r#"addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6""#.to_owned(),
        ),
        (slice("IPv4", json!({"addresses": []})), at("addresses", "Required value: must contain at least 1 address")),
        (
            slice("IPv4", json!({"addresses": ["fd00::1"]})),
            at("addresses[0]", "Invalid value: \"fd00::1\": must be an IPv4 address"),
        ),
        (
            slice("IPv6", json!({"addresses": ["ten"]})),
            at("addresses[0]", &format!("Invalid value: \"ten\": {NOT_IP}")),
        ),
        (
            slice("IPv6", json!({"addresses": ["::"]})),
            at("addresses[0]", "Invalid value: \"::\": may not be unspecified (::)"),
        ),
        (
            slice("FQDN", json!({"addresses": ["host"]})),
            at(
                "addresses[0]",
                "Invalid value: \"host\": should be a domain with at least two segments separated by dots",
            ),
        ),
        (
            slice("IPv4", json!({"addresses": vec!["10.0.0.1"; 101]})),
            at("addresses", "Too many: 101: must have at most 100 items"),
        ),
        (with("hostname", json!("")), at("hostname", &format!("Invalid value: \"\": {LABEL}"))),
        (with("nodeName", json!("N")), at("nodeName", &format!("Invalid value: \"N\": {SUBDOMAIN}"))),
        (with("hints", zones(&nine)), at("hints.forZones", "Too many: 9: must have at most 8 items")),
        (with("hints", zones(&["z", "z"])), at("hints.forZones[1].name", "Duplicate value: \"z\"")),
        (
            with("hints", json!({"forNodes": [{"name": "N"}]})),
            at("hints.forNodes[0].name", &format!("Invalid value: \"N\": {SUBDOMAIN}")),
        ),
    ];
    for (value, text) in cases {
        refused(&value, &[&text]);
    }
    let ports = |ports: Value| json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [], "ports": ports});
    refused(
        &ports(json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}])),
        &["ports[1].name: Duplicate value: \"a\""],
    );
    refused(&ports(json!([{"name": "A", "port": 1}])), &[&format!("ports[0].name: Invalid value: \"A\": {LABEL}")]);
    let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": ["10.0.0.1"]})).collect();
    let mut crowd = slice("IPv4", json!({}));
    crowd["endpoints"] = json!(many);
    refused(&crowd, &["endpoints: Too many: 1001: must have at most 1000 items"]);

    let mut world = World::new();
    world.apply([ports(json!(null))]);
    let mut moved = ports(json!(null));
    moved["addressType"] = json!("IPv6");
    assert_eq!(world.faults(moved), ["addressType: Invalid value: \"IPv6\": field is immutable"]);
}

#[test]
fn events_stand_beside_what_they_are_about() {
    let mut event = of(Kind::Event, "e");
    event["involvedObject"]["namespace"] = json!("other");
    refused(&event, &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]);
    event["involvedObject"] = json!({"kind": "Node", "name": "n"});
    World::new().apply([event]);
}

#[test]
fn addresses_in_a_status() {
    let with = |kind: &str, point: Value| {
        let mut value = service("a", json!({"type": kind, "ports": [{"port": 80}]}));
        value["status"] = json!({"loadBalancer": {"ingress": [point]}});
        value
    };
    let at = |field: &str, text: &str| format!("status.loadBalancer.ingress[0].{field}: {text}");
    let cases = [
        (json!({"ip": "ten"}), at("ip", &format!("Invalid value: \"ten\": {NOT_IP}"))),
        (
            json!({"ip": "192.0.2.1", "ipMode": "Magic"}),
            at("ipMode", r#"Unsupported value: "Magic": supported values: "Proxy", "VIP""#),
        ),
        (
            json!({"hostname": "x.example", "ipMode": "VIP"}),
            at("ipMode", "Forbidden: may not be specified when `ip` is not set"),
        ),
        (
            json!({"hostname": "10.0.0.1"}),
            at("hostname", "Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"),
        ),
    ];
    for (point, text) in cases {
        refused(&with("LoadBalancer", point), &[&text]);
    }
}

/// What may change, and in which words the rest may not.
#[test]
fn updates_of_a_service() {
    let dual = || {
        World::with(crate::cluster::ClusterSettings {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            ..Default::default()
        })
    };
    let both = json!({"clusterIPs": ["10.96.0.50", "fd00:96::5"], "clusterIP": "10.96.0.50", "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]});
    let balancer = |more: Value| {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let changed = |spec: &Value, path: &str, value: Value| {
        let mut spec = spec.clone();
        spec[path] = value;
        spec
    };
    let local = balancer(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30500}));
    let classy = balancer(json!({"loadBalancerClass": "example.com/a"}));
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]});
    let mut one = changed(&both, "clusterIPs", json!(["10.96.0.50"]));
    one["ipFamilies"] = json!(["IPv4"]);
    let mut other_primary = changed(&both, "clusterIP", json!("10.96.0.51"));
    other_primary["clusterIPs"] = json!(["10.96.0.51", "fd00:96::5"]);
    let mut swapped = changed(&both, "clusterIP", json!("fd00:96::5"));
    swapped["clusterIPs"] = json!(["fd00:96::5", "10.96.0.50"]);
    swapped["ipFamilies"] = json!(["IPv6", "IPv4"]);
    let list = "[\"10.96.0.51\",\"fd00:96::5\"]";
    let turned = "[\"fd00:96::5\",\"10.96.0.50\"]";
    let cases: [(&Value, Value, Vec<String>); 6] = [
        (&both, other_primary, vec![format!("spec.clusterIPs[0]: Invalid value: {list}: may not change once set")]),
        (
            &both,
            swapped,
            vec![
                format!("spec.clusterIPs[0]: Invalid value: {turned}: may not change once set"),
                format!("spec.clusterIPs[1]: Invalid value: {turned}: may not change once set"),
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set".to_owned(),
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set".to_owned(),
            ],
        ),
        (
            &both,
            one,
            ["cluster IP", "IP family"]
                .map(|what| {
                    format!(
                        "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary {what}"
                    )
                })
                .to_vec(),
        ),
        (
            &headless,
            changed(&changed(&headless, "clusterIP", json!("10.96.0.50")), "clusterIPs", json!(["10.96.0.50"])),
            vec!["spec.clusterIPs[0]: Invalid value: [\"10.96.0.50\"]: may not change once set".to_owned()],
        ),
        (
            &local,
            changed(&local, "healthCheckNodePort", json!(30501)),
            vec!["spec.healthCheckNodePort: Forbidden: field is immutable".to_owned()],
        ),
        (
            &classy,
            changed(&classy, "loadBalancerClass", json!("example.com/b")),
            vec!["spec.loadBalancerClass: Invalid value: \"example.com/b\": may not change once set".to_owned()],
        ),
    ];
    for (before, after, expected) in cases {
        let mut world = dual();
        world.write(vec![Write::Create(object(service("a", before.clone())))]).unwrap();
        let refusals = world.write(vec![Write::Replace(object(service("a", after.clone())))]).unwrap_err();
        let told: Vec<String> = refusals[0].faults.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{before} to {after}");
    }
}
