//! `DescribeProbe`.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Page;

pub(super) fn describe(page: &mut Page, container: &Container) {
    let probes = [
        ("    Liveness:", &container.liveness_probe),
        ("    Readiness:", &container.readiness_probe),
        ("    Startup:", &container.startup_probe),
    ];
    for (label, probe) in probes {
        if let Some(probe) = probe {
            page.line(label, format!("{} {}", action(probe), pace(probe)));
        }
    }
}

fn action(probe: &Probe) -> String {
    if let Some(exec) = &probe.exec {
        return format!("exec [{}]", exec.command.as_deref().unwrap_or_default().join(" "));
    }
    if let Some(get) = &probe.http_get {
        return format!("http-get {}", url(get));
    }
    if let Some(socket) = &probe.tcp_socket {
        return format!("tcp-socket {}:{}", socket.host.as_deref().unwrap_or_default(), text(&socket.port));
    }
    match &probe.grpc {
        Some(grpc) => format!("grpc <pod>:{} {}", grpc.port, grpc.service.as_deref().unwrap_or_default()),
        None => "unknown".to_owned(),
    }
}

fn pace(probe: &Probe) -> String {
    let number = |number: Option<i32>| number.unwrap_or_default();
    format!(
        "delay={}s timeout={}s period={}s successThreshold={} failureThreshold={}",
        number(probe.initial_delay_seconds),
        number(probe.timeout_seconds),
        number(probe.period_seconds),
        number(probe.success_threshold),
        number(probe.failure_threshold)
    )
}

/// As Go's `net/url` writes it; the host is most often left to the kubelet: `http://:8080/healthz`.
fn url(get: &HTTPGetAction) -> String {
    let scheme = get.scheme.as_deref().filter(|scheme| !scheme.is_empty());
    let scheme = scheme.map_or_else(String::new, |scheme| scheme.to_lowercase() + ":");
    let host = get.host.as_deref().unwrap_or_default();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    format!("{scheme}//{host}:{}{slash}{}", text(&get.port), escaped(path))
}

/// A path with everything in it that would end it, or is not ASCII, as `%XX`.
fn escaped(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(byte.into()),
            byte if b"-_.~$&+,/:;=@".contains(&byte) => text.push(byte.into()),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_way_to_ask_has_its_words() {
        for (asked, words) in [
            (json!({"httpGet": {"port": 80, "path": "/a b?c", "scheme": "HTTP"}}), "http-get http://:80/a%20b%3Fc"),
            (
                json!({"httpGet": {"port": "web", "path": "live", "host": "::1", "scheme": "HTTPS"}}),
                "http-get https://[::1]:web/live",
            ),
            (json!({"httpGet": {"port": 80}}), "http-get //:80"),
            (json!({"tcpSocket": {"port": 80, "host": "h"}}), "tcp-socket h:80"),
            (json!({"exec": {"command": ["a", "b c"]}}), "exec [a b c]"),
            (json!({"grpc": {"port": 9000, "service": "s"}}), "grpc <pod>:9000 s"),
            (json!({}), "unknown"),
        ] as [(Value, &str); 7]
        {
            assert_eq!(action(&serde_json::from_value(asked).unwrap()), words);
        }
    }
}
