//! Which page a request may come from: none but the gateway's own.
//!
//! ```text
//!  Host    an IP address, or a name of one label (`localhost`)     anything else is 403
//!  Origin  none, or the same host and port as Host                 anything else is 403
//! ```
//!
//! A browser sends what any web page has it send. It shows whose page that is: by Origin if the page asks for something of another
//! host, and by Host if the page is from a name that its owner has let point to 127.0.0.1 in the meantime (DNS rebinding). Such a
//! name has a dot; clients that mean the gateway use an address or `localhost`. Other clients than browsers send no Origin.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::status::Status;

/// Refuses requests of other pages.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match is_own(request.uri(), request.headers()) {
        true => next.run(request).await,
        false => Status::other_origin().into_response(),
    }
}

fn is_own(uri: &Uri, headers: &HeaderMap) -> bool {
    let hosts: Option<Vec<&str>> = headers.get_all(header::HOST).iter().map(|host| host.to_str().ok()).collect();
    // The target may name a host, too, and then that one counts (RFC 9112 §3.2.2).
    let named = uri.authority().map(|authority| authority.as_str());
    let host = match (hosts.as_deref(), named) {
        (Some([]), None) => return headers.get(header::ORIGIN).is_none(),
        (Some([host]), None) => host,
        (Some([host]), Some(named)) if *host == named => host,
        _ => return false,
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    is_local(host) && origins.all(|origin| origin.to_str().is_ok_and(|origin| is_of(origin, host)))
}

/// Whether it is no name that a DNS server can give any address.
fn is_local(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare.parse::<IpAddr>().is_ok() || (!bare.is_empty() && !bare.contains('.'))
}

fn is_of(origin: &str, host: &str) -> bool {
    let bare = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    bare.is_some_and(|bare| bare.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, headers: &[(&str, &str)]) -> bool {
        let uri: Uri = uri.parse().expect("a URI");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        is_own(&uri, &map)
    }

    #[test]
    fn only_the_own_page_and_clients_without_a_page_are_let_in() {
        let good: [&[(&str, &str)]; 9] = [
            &[],
            &[("host", "127.0.0.1:6443")],
            &[("host", "[::1]:6443")],
            &[("host", "localhost")],
            &[("host", "LOCALHOST:8001"), ("origin", "http://localhost:8001")],
            &[("host", "pollgate")],
            &[("host", "127.0.0.1:6443"), ("origin", "https://127.0.0.1:6443")],
            &[("host", "[::1]:6443"), ("origin", "https://[::1]:6443")],
            &[("host", "192.0.2.1")],
        ];
        for headers in good {
            assert!(asked("/ui", headers), "{headers:?}");
        }
        let bad: [&[(&str, &str)]; 12] = [
            &[("host", "evil.example")],
            &[("host", "evil.example:6443")],
            &[("host", "localhost.evil.example")],
            &[("host", "127.0.0.1.evil.example")],
            &[("host", "")],
            &[("host", "localhost."), ("origin", "http://localhost.")],
            &[("host", "127.0.0.1:6443"), ("host", "evil.example")],
            &[("host", "127.0.0.1:6443"), ("origin", "https://evil.example")],
            &[("host", "127.0.0.1:6443"), ("origin", "https://127.0.0.1:6444")],
            &[("host", "127.0.0.1:6443"), ("origin", "null")],
            &[("host", "127.0.0.1:6443"), ("origin", "https://127.0.0.1:6443"), ("origin", "https://evil.example")],
            &[("origin", "https://evil.example")],
        ];
        for headers in bad {
            assert!(!asked("/ui", headers), "{headers:?}");
        }
        assert!(asked("http://127.0.0.1:6443/ui", &[("host", "127.0.0.1:6443")]));
        assert!(!asked("http://evil.example/ui", &[("host", "127.0.0.1:6443")]));
    }
}
