//! Topology hints: which of the ready endpoints a gateway uses, by its node and zone (K `pkg/proxy/topology.go`).
//!
//! ```text
//! every ready endpoint names nodes, one of them ours?  ─▶ those that name our node
//! every ready endpoint names zones, one of them ours?  ─▶ those that name our zone
//! otherwise                                            ─▶ all
//! ```
//!
//! Hints are advice. One ready endpoint without any, or a node and zone that none is for, and they are ignored: then the Service is
//! served from elsewhere, which is better than not at all. With no ready endpoint, terminating ones are used wherever they are. Local
//! policies are rules: they look at the node of the endpoint itself and at no hint.

use crate::compile::resolve::ResolvedEndpoint;

/// The gateway's node and zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locality<'a> {
    /// The node it stands for; `None`: the whole cluster is local, and no node is.
    pub node: Option<&'a str>,
    /// Its zone.
    pub zone: Option<&'a str>,
}

impl Locality<'_> {
    /// Whether a Local policy lets the endpoint serve.
    pub fn is_local(&self, endpoint: &ResolvedEndpoint) -> bool {
        self.node.is_none_or(|node| endpoint.node.as_deref() == Some(node))
    }
}

/// What decided among the ready endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// Those meant for this node.
    SameNode,
    /// Those meant for this zone.
    SameZone,
    /// No hints, or none that can be followed.
    None,
}

/// Which hints can be followed here.
pub fn preference(endpoints: &[&ResolvedEndpoint], locality: Locality<'_>) -> Preference {
    let follow = |here: Option<&str>, hints: fn(&ResolvedEndpoint) -> &[String]| {
        let mut ready = endpoints.iter().filter(|endpoint| endpoint.ready);
        let all_hinted = ready.clone().all(|endpoint| !hints(endpoint).is_empty());
        all_hinted && here.is_some_and(|here| ready.any(|endpoint| hints(endpoint).iter().any(|hint| hint == here)))
    };
    if follow(locality.node, |endpoint| &endpoint.hints.nodes) {
        Preference::SameNode
    } else if follow(locality.zone, |endpoint| &endpoint.hints.zones) {
        Preference::SameZone
    } else {
        Preference::None
    }
}

/// The endpoints without those that are ready and not for us, if hints can be followed; else all.
pub fn preferred<'a>(endpoints: &[&'a ResolvedEndpoint], locality: Locality<'_>) -> Vec<&'a ResolvedEndpoint> {
    let preference = preference(endpoints, locality);
    let meant_for = |hints: &[String], here: Option<&str>| hints.iter().any(|hint| Some(hint.as_str()) == here);
    let wanted = |endpoint: &ResolvedEndpoint| match preference {
        Preference::None => true,
        Preference::SameNode => !endpoint.ready || meant_for(&endpoint.hints.nodes, locality.node),
        Preference::SameZone => !endpoint.ready || meant_for(&endpoint.hints.zones, locality.zone),
    };
    endpoints.iter().copied().filter(|endpoint| wanted(endpoint)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::resolve::Hints;

    /// `1 r zone=a,b node=x`: the last number of the address, `r`eady or `t`erminating, hints.
    fn endpoint(text: &str) -> ResolvedEndpoint {
        let words: Vec<&str> = text.split(' ').collect();
        let hints = |key: &str| {
            let list = words.iter().find_map(|word| word.strip_prefix(key));
            list.into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect()
        };
        ResolvedEndpoint {
            address: [10, 0, 0, words[0].parse().unwrap()].into(),
            port: 80,
            ready: words[1] == "r",
            serving: true,
            terminating: words[1] == "t",
            weight: 100,
            node: None,
            zone: None,
            hints: Hints { nodes: hints("node="), zones: hints("zone=") },
        }
    }

    fn chosen(endpoints: &[&str], locality: Locality<'_>) -> String {
        let endpoints: Vec<ResolvedEndpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
        let all: Vec<&ResolvedEndpoint> = endpoints.iter().collect();
        let last = |endpoint: &ResolvedEndpoint| endpoint.address.to_string().rsplit('.').next().unwrap().to_owned();
        preferred(&all, locality).into_iter().map(last).collect::<Vec<_>>().join(" ")
    }

    /// K TestCategorizeEndpoints, the cases about hints.
    #[test]
    fn hints_are_followed_only_if_all_have_them_and_one_is_for_us() {
        let here = Locality { node: Some("n1"), zone: Some("a") };
        let cases: [(&str, &[&str], &str); 9] = [
            ("no hints", &["1 r", "2 r"], "1 2"),
            ("our zone", &["1 r zone=a", "2 r zone=b", "3 r zone=b,a"], "1 3"),
            ("one without a hint", &["1 r zone=a", "2 r zone=b", "3 r"], "1 2 3"),
            ("one that is not ready needs none", &["1 r zone=a", "2 r zone=b", "3 t"], "1 3"),
            ("nobody is for our zone", &["1 r zone=b", "2 r zone=c"], "1 2"),
            ("our node before our zone", &["1 r zone=a node=n2", "2 r zone=a node=n1"], "2"),
            ("nobody is for our node", &["1 r zone=a node=n2", "2 r zone=b node=n3"], "1"),
            ("one without a node", &["1 r zone=a node=n1", "2 r zone=a"], "1 2"),
            ("nobody is ready", &["1 t zone=b", "2 t"], "1 2"),
        ];
        for (name, endpoints, expected) in cases {
            assert_eq!(chosen(endpoints, here), expected, "{name}");
        }
    }

    #[test]
    fn a_gateway_without_a_place_takes_no_hints() {
        let hinted = ["1 r zone=a node=n1", "2 r zone=b node=n2"];
        assert_eq!(chosen(&hinted, Locality::default()), "1 2");
        assert_eq!(chosen(&hinted, Locality { node: None, zone: Some("b") }), "2");
        assert_eq!(chosen(&hinted, Locality { node: Some("n1"), zone: None }), "1");
    }
}
