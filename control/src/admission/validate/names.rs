//! What names and addresses may look like (apimachinery `pkg/util/validation/validation.go`).
//!
//! Each check returns the details of all faults, none if the text is valid. The regular expressions appear in the
//! messages only: they are simple enough to be checked by hand, without an engine.

use std::net::IpAddr;

use crate::objects::service::{parse_cidr, parse_ip, parse_strict_cidr};

const NOT_AN_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
/// As [`NOT_AN_ADDRESS`], of the later check that the address leads anywhere.
pub(super) const NO_ADDRESS: &str = "must be a valid IP address";
const EMPTY: &str = "must be non-empty";
pub(super) const NOT_A_PORT: &str = "must be between 1 and 65535, inclusive";

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
     start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
     start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
     validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// A DNS label (RFC 1123). Service names may begin with a digit since KEP-5311.
pub(super) fn label(text: &str) -> Vec<String> {
    let fault = match is_label(text) {
        true => None,
        false if is_subdomain(text) => Some("must not contain dots"),
        false => Some(LABEL),
    };
    too_long(text, 63).into_iter().chain(fault.map(str::to_owned)).collect()
}

/// A DNS name (RFC 1123); its labels may be longer than DNS has them, as in Kubernetes.
pub(super) fn subdomain(text: &str) -> Vec<String> {
    let fault = (!is_subdomain(text)).then(|| SUBDOMAIN.to_owned());
    too_long(text, 253).into_iter().chain(fault).collect()
}

/// `name` or `dns.prefix/name`.
pub(crate) fn qualified(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            let optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {QUALIFIED} {optional}")];
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let of_prefix = match prefix {
        None => Vec::new(),
        Some("") => vec![EMPTY.to_owned()],
        Some(prefix) => subdomain(prefix),
    };
    let of_name = if name.is_empty() { Some(EMPTY.to_owned()) } else { too_long(name, 63) };
    let word = (!is_word(name)).then(|| QUALIFIED.to_owned());
    let of_prefix = of_prefix.into_iter().map(|detail| format!("prefix part {detail}"));
    of_prefix.chain(of_name.into_iter().chain(word).map(|detail| format!("name part {detail}"))).collect()
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let word = (!text.is_empty() && !is_word(text)).then(|| LABEL_VALUE.to_owned());
    too_long(text, 63).into_iter().chain(word).collect()
}

/// The key of a value of a ConfigMap or Secret (`IsConfigMapKey`).
pub(super) fn config_key(text: &str) -> Vec<String> {
    const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
         'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let dots = match text {
        "." => Some("must not be '.'"),
        ".." => Some("must not be '..'"),
        text if text.starts_with("..") => Some("must not start with '..'"),
        _ => None,
    };
    let word = (!fits).then(|| KEY.to_owned());
    too_long(text, 253).into_iter().chain(word).chain(dots.map(str::to_owned)).collect()
}

/// A host's full name, with or without the final dot (apimachinery `IsFullyQualifiedDomainName`): the text that is wrong, and
/// what is wrong with it. Labels are looked at only if the whole is fine.
pub(super) fn domain_name(text: &str) -> Vec<(&str, String)> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let of_whole = subdomain(name);
    if !of_whole.is_empty() {
        return vec![(name, of_whole.join(","))];
    }
    if !name.contains('.') {
        return vec![(name, "should be a domain with at least two segments separated by dots".to_owned())];
    }
    let of_labels = name.split('.').map(|part| (part, label(part))).filter(|(_, faults)| !faults.is_empty());
    of_labels.map(|(part, faults)| (part, faults.join(","))).collect()
}

/// How a prefix of generated names is checked: a dash at its end is never the end of the name.
pub(super) fn as_prefix(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > 1 && text.ends_with('-') {
        text.truncate(text.len() - 1);
        text.pop();
        text.push('a');
    }
    text
}

/// A named port (IANA_SVC_NAME, RFC 6335 5.1).
pub(super) fn port_name(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let hyphens_outside = text.starts_with('-') || text.ends_with('-');
    let cases = [
        (bytes.len() > 15, "must be no more than 15 characters"),
        (
            bytes.is_empty() || !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-'),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (!bytes.iter().any(u8::is_ascii_lowercase), "must contain at least one letter (a-z)"),
        (text.contains("--"), "must not contain consecutive hyphens"),
        (hyphens_outside, "must not begin or end with a hyphen"),
    ];
    cases.into_iter().filter(|(wrong, _)| *wrong).map(|(_, detail)| detail.to_owned()).collect()
}

/// An address in the form that everybody reads alike (`IsValidIPForLegacyField`): what is wrong with the text, if anything.
pub(super) fn strict_address(text: &str) -> Option<&'static str> {
    match (parse_ip(text), text.parse::<IpAddr>()) {
        (None, _) => Some(NOT_AN_ADDRESS),
        (Some(_), Err(_)) => Some("must not have leading 0s"),
        (Some(ip), Ok(written)) => (ip != written).then_some("must not be an IPv4-mapped IPv6 address"),
    }
}

/// The same of a range (`IsValidCIDRForLegacyField`).
pub(super) fn strict_cidr(text: &str) -> Option<&'static str> {
    match (parse_cidr(text), parse_strict_cidr(text)) {
        (None, None) => Some(NOT_A_CIDR),
        (Some(_), None) => Some("must not have leading 0s in IP or prefix length"),
        (_, Some(written)) if written.addr().to_canonical() != written.addr() => {
            Some("must not have an IPv4-mapped IPv6 address")
        }
        (_, Some(written)) => {
            (written.addr() != written.network()).then_some("must not have bits set beyond the prefix length")
        }
    }
}

/// Why no packet can be sent to this address from elsewhere (K `ValidateEndpointIP`); `text` is how it was written.
pub(crate) fn unusable_address(text: &str, address: IpAddr) -> Option<String> {
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        return Some(format!("may not be unspecified ({text})"));
    }
    let ranges = [
        (address.is_loopback(), "loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "link-local range (169.254.0.0/16, fe80::/10)"),
        (link_local_multicast, "link-local multicast range (224.0.0.0/24, ff02::/10)"),
        // Kubernetes takes these, which are the addresses of no host either.
        (address.is_multicast(), "multicast range (224.0.0.0/4, ff00::/8)"),
        (matches!(address, IpAddr::V4(v4) if v4.is_broadcast()), "broadcast range (255.255.255.255/32)"),
    ];
    ranges.into_iter().find(|(in_it, _)| *in_it).map(|(_, range)| format!("may not be in the {range}"))
}

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} characters"))
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    enclosed(text, alphanumeric, |b| alphanumeric(b) || *b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_word(text: &str) -> bool {
    enclosed(text, u8::is_ascii_alphanumeric, |b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn enclosed(text: &str, ends: impl Fn(&u8) -> bool, inner: impl Fn(&u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    ends(first) && ends(last) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_kubernetes_does() {
        for (text, fine) in
            [("a", true), ("0-a", true), ("", false), ("-a", false), ("a-", false), ("A", false), ("a.b", false)]
        {
            assert_eq!(label(text).is_empty(), fine, "{text}");
        }
        assert_eq!(label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(label("a.b"), ["must not contain dots"]);
        assert_eq!(label(&"A".repeat(64)), ["must be no more than 63 characters", LABEL]);
        for (text, fine) in [("a.b-c", true), ("a..b", false), (".a", false), ("a.", false)] {
            assert_eq!(subdomain(text).is_empty(), fine, "{text}");
        }
        for (text, fine) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("/a", false),
            ("a/", false),
            ("a/b/c", false),
            ("A_b.c", true),
        ] {
            assert_eq!(qualified(text).is_empty(), fine, "{text}");
        }
        for (text, fine) in [
            ("http", true),
            ("80", false),
            ("a--b", false),
            ("a-", false),
            ("sixteen-letters-", false),
            ("Http", false),
        ] {
            assert_eq!(port_name(text).is_empty(), fine, "{text}");
        }
    }

    #[test]
    fn addresses_are_read_strictly() {
        for (text, expected) in [
            ("10.0.0.1", None),
            ("FD00::1", None),
            ("10.0.0.01", Some("must not have leading 0s")),
            ("::ffff:10.0.0.1", Some("must not be an IPv4-mapped IPv6 address")),
            ("10.0.0", Some(NOT_AN_ADDRESS)),
        ] {
            assert_eq!(strict_address(text), expected, "{text}");
        }
        for (text, expected) in [
            ("10.0.0.0/8", None),
            ("fd00::/8", None),
            ("010.0.0.0/8", Some("must not have leading 0s in IP or prefix length")),
            ("::ffff:10.0.0.0/104", Some("must not have an IPv4-mapped IPv6 address")),
            ("10.0.0.1/8", Some("must not have bits set beyond the prefix length")),
            ("10.0.0.0", Some(NOT_A_CIDR)),
            ("10.0.0.0/33", Some(NOT_A_CIDR)),
        ] {
            assert_eq!(strict_cidr(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_that_lead_nowhere_are_told_why() {
        for (text, part) in [
            ("0.0.0.0", "unspecified"),
            ("::1", "loopback"),
            ("169.254.1.1", "link-local range"),
            ("fe80::1", "link-local range"),
            ("224.0.0.9", "link-local multicast"),
            ("ff02::1", "link-local multicast"),
            ("239.1.2.3", "in the multicast range"),
            ("ff05::2", "in the multicast range"),
            ("255.255.255.255", "broadcast"),
        ] {
            assert!(unusable_address(text, text.parse().unwrap()).unwrap().contains(part), "{text}");
        }
        assert_eq!(unusable_address("192.0.2.1", "192.0.2.1".parse().unwrap()), None);
    }
}
