use proptest::prelude::*;

use super::*;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::objects::Kind;

fn parameters(query: &str) -> Parameters {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn services(namespace: Option<&str>) -> Wanted {
    let (labels, fields) = (LabelSelector::default(), FieldSelector::default());
    Wanted { kind: Kind::Service, namespace: namespace.map(str::to_owned), labels, fields }
}

fn moment(query: &str) -> Result<Moment, String> {
    let parameters = parameters(query);
    let limited = limit(&parameters).expect("a number").is_some();
    let message = |status: Status| status.to_value()["message"].as_str().unwrap_or_default().to_owned();
    Moment::of(&parameters, limited, &services(Some("a"))).map_err(message)
}

#[test]
fn the_options_say_which_state_is_meant() {
    for (query, expected) in [
        ("", Moment::Now),
        ("resourceVersion=0", Moment::Now),
        ("resourceVersion=0&limit=2", Moment::Now),
        ("resourceVersion=7", Moment::NotBefore(7)),
        ("resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=2", Moment::NotBefore(7)),
        ("resourceVersion=7&resourceVersionMatch=Exact", Moment::Exactly(7)),
        ("resourceVersion=7&limit=2", Moment::Exactly(7)),
        ("resourceVersion=7&limit=0", Moment::NotBefore(7)),
    ] {
        assert_eq!(moment(query), Ok(expected), "{query}");
    }
    let token = Token { revision: Some(7), after: Key::new(Kind::Service, "a", "b") };
    assert_eq!(moment(&format!("limit=2&continue={}", token.encode())), Ok(Moment::Rest(token.clone())));
    let both = moment(&format!("resourceVersion=7&continue={}", token.encode()));
    assert_eq!(both, Err("specifying resource version is not allowed when using continue".to_owned()));
    let elsewhere = Token { after: Key::new(Kind::Service, "b", "b"), ..token };
    for bad in ["x", "7b7", "7b7d", &elsewhere.encode()] {
        let told = moment(&format!("continue={bad}")).unwrap_err();
        assert!(told.starts_with("invalid continue token"), "{bad}: {told}");
    }
    assert!(moment("resourceVersion=abc").unwrap_err().starts_with("invalid resource version"));
}

#[test]
fn what_contradicts_itself_is_told_as_the_api_server_tells_it() {
    for (query, expected) in [
        ("limit=2", vec![]),
        ("resourceVersion=7&resourceVersionMatch=Exact", vec![]),
        (
            "resourceVersionMatch=Exact",
            vec![
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ],
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact&continue=x",
            vec![
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ],
        ),
        (
            "resourceVersion=7&resourceVersionMatch=Newest",
            vec![
                "resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ],
        ),
        ("sendInitialEvents=false", vec!["sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"]),
    ] {
        let told: Vec<String> = contradictions(&parameters(query)).iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{query}");
    }
}

proptest! {
    #[test]
    fn a_token_comes_back_as_it_was(revision in proptest::option::of(any::<u64>()), namespace in "[a-z-]{1,9}", name in "[a-z.-]{1,9}") {
        let token = Token { revision, after: Key::new(Kind::Service, namespace, name) };
        prop_assert_eq!(Token::decode(&token.encode(), &services(None)), Some(token));
    }

    #[test]
    fn what_is_no_token_is_none(text in "[0-9a-f]{0,60}|\\PC{0,20}") {
        prop_assert_eq!(Token::decode(&text, &services(None)), None);
    }
}
