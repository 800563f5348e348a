//! The responses, byte for byte as kube-proxy writes them (K `pkg/proxy/healthcheck/service_health.go`, `proxy_health.go`).

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;

use crate::objects::service::ServiceName;

const ENDPOINT_WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// A moment as Go prints it: wall clock, and the time since the process started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) since_start: Duration,
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Moment { wall, since_start } = self;
        let (seconds, nanos) = (since_start.as_secs(), since_start.subsec_nanos());
        write!(f, "{} +0000 UTC m=+{seconds}.{nanos:09}", wall.strftime("%Y-%m-%d %H:%M:%S%.f"))
    }
}

/// The health of a Service: whether a load balancer may send it here.
pub(super) fn service(name: &ServiceName, endpoints: usize, proxy_is_healthy: bool) -> Response<Body> {
    let ServiceName { namespace, name } = name;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {proxy_is_healthy}\n}}"
    );
    let mut response = json(endpoints > 0 && proxy_is_healthy, body);
    response.headers_mut().insert(ENDPOINT_WEIGHT, HeaderValue::from(endpoints));
    response
}

/// The health of the proxy; `eligible`: whether its Node may take traffic, `None` on `/livez`, which does not ask.
pub(super) fn proxy(healthy: bool, updated: Option<Moment>, now: Moment, eligible: Option<bool>) -> Response<Body> {
    let healthy = healthy && eligible.unwrap_or(true);
    // As kube-proxy: what is healthy is up to date.
    let updated = if healthy { Some(now) } else { updated };
    let updated = updated.map_or_else(|| "0001-01-01 00:00:00 +0000 UTC".to_owned(), |moment| moment.to_string());
    let eligible = eligible.map(|eligible| format!(", \"nodeEligible\": {eligible}")).unwrap_or_default();
    json(healthy, format!("{{\"lastUpdated\": \"{updated}\",\"currentTime\": \"{now}\"{eligible}}}"))
}

/// As Go's `http.NotFound`.
pub(super) fn not_found() -> Response<Body> {
    respond(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".to_owned())
}

fn json(healthy: bool, body: String) -> Response<Body> {
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: Response<Body>) -> (u16, String) {
        let status = response.status().as_u16();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let body = runtime.block_on(axum::body::to_bytes(response.into_body(), 1000)).expect("a short body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// K `pkg/proxy/healthcheck/service_health.go`, ServeHTTP: tabs, and no newline at the end.
    #[test]
    fn a_service_is_reported_as_kube_proxy_reports_it() {
        let name = ServiceName::new("shop", "web");
        let body = |count: u8, healthy: bool| {
            format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t}},\n\
                 \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
            )
        };
        let response = service(&name, 3, true);
        let headers: Vec<(&str, &[u8])> =
            response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(
            headers,
            [
                ("content-type", &b"application/json"[..]),
                ("x-content-type-options", b"nosniff"),
                ("x-load-balancing-endpoint-weight", b"3")
            ]
        );
        assert_eq!(text(response), (200, body(3, true)));
        assert_eq!(text(service(&name, 0, true)), (503, body(0, true)));
        assert_eq!(text(service(&name, 3, false)), (503, body(3, false)));
    }

    /// K `pkg/proxy/healthcheck/proxy_health.go`; times as Go's `%q` of a `time.Time` with a monotonic reading.
    #[test]
    fn the_proxy_is_reported_as_kube_proxy_reports_itself() {
        let moment = |seconds: i64, nanos: i32| Moment {
            wall: Timestamp::new(1_700_000_000 + seconds, nanos).expect("a time"),
            since_start: Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs()),
        };
        let (earlier, now) = (moment(2, 0), moment(7, 50_000_000));
        let now_text = "2023-11-14 22:13:27.05 +0000 UTC m=+7.050000000";
        let earlier_text = "2023-11-14 22:13:22 +0000 UTC m=+2.000000000";
        let (same, late) = (
            format!("{{\"lastUpdated\": \"{now_text}\",\"currentTime\": \"{now_text}\""),
            format!("{{\"lastUpdated\": \"{earlier_text}\",\"currentTime\": \"{now_text}\""),
        );
        for (healthy, eligible, status, begin, end) in [
            (true, Some(true), 200, &same, ", \"nodeEligible\": true}"),
            (true, Some(false), 503, &late, ", \"nodeEligible\": false}"),
            (false, Some(true), 503, &late, ", \"nodeEligible\": true}"),
            (true, None, 200, &same, "}"),
            (false, None, 503, &late, "}"),
        ] {
            assert_eq!(text(proxy(healthy, Some(earlier), now, eligible)), (status, format!("{begin}{end}")));
        }
        let (_, never) = text(proxy(false, None, now, None));
        assert!(never.starts_with("{\"lastUpdated\": \"0001-01-01 00:00:00 +0000 UTC\","), "{never}");
    }
}
