//! From `svc web`, `service/web` and `ep` to kinds and names, and to paths of the API.

use pollgate_control::objects::{Key, Kind};

use super::client::escaped;
use crate::failure::Failure;

/// The arguments of a command: a kind, and the names of its objects; no names: all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) kind: Kind,
    pub(super) names: Vec<String>,
}

fn kind(alias: &str) -> Result<Kind, Failure> {
    Kind::from_alias(alias).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        Failure::usage(format!("unknown kind {alias:?}; the kinds are {}", known.join(", ")))
    })
}

/// Reads `KIND [NAME…]` or `KIND/NAME…`; the latter may name several kinds, the former one.
///
/// # Errors
/// Usage, if the kind is unknown, or the two forms are mixed.
pub(super) fn selections(words: &[String]) -> Result<Vec<Selection>, Failure> {
    let Some((first, names)) = words.split_first() else {
        return Ok(Vec::new());
    };
    if first.contains('/') {
        return words.iter().map(|word| slashed(word)).collect();
    }
    if let Some(odd) = names.iter().find(|name| name.contains('/')) {
        return Err(Failure::usage(format!("{odd:?} is not a name: use either KIND NAME… or KIND/NAME…")));
    }
    Ok(vec![Selection { kind: kind(first)?, names: names.to_vec() }])
}

fn slashed(word: &str) -> Result<Selection, Failure> {
    match word.split_once('/') {
        Some((alias, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Selection { kind: kind(alias)?, names: vec![name.to_owned()] })
        }
        _ => Err(Failure::usage(format!("{word:?} is not KIND/NAME"))),
    }
}

/// The path of the collection of `kind`: of one namespace, or of all.
pub(super) fn collection(kind: Kind, namespace: Option<&str>) -> String {
    let root = if kind.group().is_empty() { "/api" } else { "/apis" };
    let (version, plural) = (kind.api_version(), kind.plural());
    match namespace.filter(|_| kind.namespaced()) {
        Some(namespace) => format!("{root}/{version}/namespaces/{}/{plural}", escaped(namespace)),
        None => format!("{root}/{version}/{plural}"),
    }
}

/// The path of one object.
pub(super) fn object(key: &Key) -> String {
    format!("{}/{}", collection(key.kind, Some(&key.namespace)), escaped(&key.name))
}

/// The kind as kubectl's messages have it: `service`, `endpointslice.discovery.k8s.io`.
pub(super) fn qualified(kind: Kind) -> String {
    match kind.group() {
        "" => kind.singular().to_owned(),
        group => format!("{}.{group}", kind.singular()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<Selection>, Failure> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        selections(&words)
    }

    #[test]
    fn kinds_and_names_in_either_form() {
        let selection =
            |kind, names: &[&str]| Selection { kind, names: names.iter().map(|name| (*name).to_owned()).collect() };
        let service = Kind::Service;
        assert_eq!(of("svc").unwrap(), [selection(service, &[])]);
        assert_eq!(of("services a b").unwrap(), [selection(service, &["a", "b"])]);
        assert_eq!(of("svc/a pod/b").unwrap(), [selection(service, &["a"]), selection(Kind::Pod, &["b"])]);
        assert_eq!(of("ep").unwrap(), [selection(Kind::Endpoints, &[])]);
    }

    #[test]
    fn what_means_nothing_is_wrong_usage() {
        for line in ["gizmo", "svc svc/a", "svc/", "svc/a/b", "svc/a b"] {
            assert!(matches!(of(line), Err(Failure::Usage(_))), "{line}");
        }
    }

    #[test]
    fn paths() {
        let slice = Key::new(Kind::EndpointSlice, "a b", "x/y");
        assert_eq!(object(&slice), "/apis/discovery.k8s.io/v1/namespaces/a%20b/endpointslices/x%2Fy");
        assert_eq!(object(&Key::new(Kind::Node, "ignored", "n1")), "/api/v1/nodes/n1");
        assert_eq!(collection(Kind::Pod, None), "/api/v1/pods");
    }
}
