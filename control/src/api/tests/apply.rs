//! Server-side apply.

use super::*;

const WEB: &str = "/api/v1/namespaces/default/services/web";

fn wanted(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
}

fn apply(gateway: &Gateway, manager: &str, object: &Value) -> Answer {
    apply_to(gateway, &format!("{WEB}?fieldManager={manager}"), object)
}

fn apply_to(gateway: &Gateway, path: &str, object: &Value) -> Answer {
    gateway.send("PATCH", path, &[("Content-Type", "application/apply-patch+yaml")], &object.to_string())
}

#[test]
fn what_was_applied_is_there_and_what_is_no_longer_applied_goes() {
    let gateway = Gateway::new();
    let first = json!({"selector": {"app": "web"}, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
    let made = apply(&gateway, "m", &wanted(first.clone())).expect(201);
    assert_eq!(made.at("/metadata/managedFields/0/manager"), "m");
    assert_eq!(made.at("/metadata/managedFields/0/operation"), "Apply");
    let port = r#"k:{"port":81,"protocol":"TCP"}"#;
    let fields = made.at("/metadata/managedFields/0/fieldsV1/f:spec");
    assert_eq!(fields["f:ports"][port], json!({".": {}, "f:name": {}, "f:port": {}}));
    assert_eq!(fields["f:selector"], json!({}));
    let again = apply(&gateway, "m", &wanted(first)).expect(200);
    assert_eq!(again.json(), made.json(), "applying the same again changes nothing");

    let fewer =
        apply(&gateway, "m", &wanted(json!({"selector": {"app": "web"}, "ports": [{"name": "a", "port": 80}]})));
    let fewer = fewer.expect(200);
    assert_eq!(fewer.at("/spec/ports").as_array().map(Vec::len), Some(1));
    assert_eq!(fewer.at("/spec/clusterIP"), made.at("/spec/clusterIP"), "what nobody applied stays");
    let less = apply(&gateway, "m", &wanted(json!({"ports": [{"name": "a", "port": 80}]}))).expect(200);
    assert_eq!(less.at("/spec/selector"), Value::Null);
}

#[test]
fn two_appliers_share_what_they_agree_on_and_conflict_in_the_rest() {
    let gateway = Gateway::new();
    let ports = |target: u16| wanted(json!({"ports": [{"port": 80, "targetPort": target}]}));
    apply(&gateway, "one", &ports(8080)).expect(201);
    apply(&gateway, "two", &ports(8080)).expect(200);
    let message =
        r#"Apply failed with 1 conflict: conflict with "one": .spec.ports[port=80,protocol="TCP"].targetPort"#;
    let refused = apply(&gateway, "two", &ports(9090)).refused(409, "Conflict", message);
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"",
        "field": ".spec.ports[port=80,protocol=\"TCP\"].targetPort"});
    assert_eq!(refused.at("/details/causes"), json!([cause]));

    let forced = apply_to(&gateway, &format!("{WEB}?fieldManager=two&force=true"), &ports(9090)).expect(200);
    assert_eq!(forced.at("/spec/ports/0/targetPort"), 9090);
    let managers = forced.at("/metadata/managedFields");
    let item = r#"k:{"port":80,"protocol":"TCP"}"#;
    assert_eq!(managers[0]["fieldsV1"]["f:spec"]["f:ports"][item], json!({".": {}, "f:port": {}}), "one lost the rest");
    apply(&gateway, "one", &ports(8080)).expect(409);
    let nothing = json!({"apiVersion": "v1", "kind": "Service"});
    let gone = apply(&gateway, "two", &nothing).expect(200);
    assert_eq!(gone.at("/spec/ports/0/port"), 80, "it is still the other's");
    assert_eq!(gone.at("/metadata/managedFields").as_array().map(Vec::len), Some(1));
}

#[test]
fn an_ordinary_write_takes_a_field_from_who_applied_it() {
    let gateway = Gateway::new();
    let object = |label: &str| {
        let mut object = wanted(json!({"ports": [{"port": 80}]}));
        object["metadata"]["labels"] = json!({"a": label, "b": "1"});
        object
    };
    apply(&gateway, "one", &object("1")).expect(201);
    gateway.patch(WEB, "merge", &json!({"metadata": {"labels": {"a": "2"}}})).expect(200);
    let entry = gateway.get(WEB).at("/metadata/managedFields/0/fieldsV1");
    assert_eq!(entry["f:metadata"]["f:labels"], json!({"f:b": {}}));
    let back = apply(&gateway, "one", &object("1")).expect(200);
    assert_eq!(back.at("/metadata/labels/a"), "1");
}

#[test]
fn a_status_is_applied_by_itself() {
    let gateway = Gateway::new();
    apply(&gateway, "m", &wanted(json!({"ports": [{"port": 80}]}))).expect(201);
    let condition = json!({"type": "Ready", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let mut object = wanted(json!({"type": "NodePort"}));
    object["metadata"]["labels"] = json!({"x": "y"});
    object["status"] = json!({"conditions": [condition]});
    let applied = apply_to(&gateway, &format!("{WEB}/status?fieldManager=m"), &object).expect(200);
    assert_eq!(
        (applied.at("/status/conditions/0/type"), applied.at("/spec/type")),
        (json!("Ready"), json!("ClusterIP"))
    );
    assert_eq!(applied.at("/metadata/labels"), json!({"x": "y"}), "as with the API server");
    assert_eq!(applied.at("/metadata/managedFields/1/subresource"), "status");
    object["status"] = json!({});
    let cleared = apply_to(&gateway, &format!("{WEB}/status?fieldManager=m"), &object).expect(200);
    assert_eq!(cleared.at("/status/conditions"), Value::Null);
}

#[test]
fn what_cannot_be_applied_is_told() {
    let gateway = Gateway::new();
    let object = wanted(json!({"ports": [{"port": 80}]}));
    apply_to(&gateway, WEB, &object).refused(
        422,
        "Invalid",
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    let mut managed = object.clone();
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    apply(&gateway, "m", &managed).refused(400, "BadRequest", "metadata.managedFields must be nil");
    apply(&gateway, "m", &wanted(json!({"prots": []}))).refused(
        400,
        "BadRequest",
        "failed to create typed patch object (default/web; /v1, Kind=Service): .spec.prots: field not declared in schema",
    );
    let message = "failed to create typed patch object (default/web; /v1, Kind=Service): .spec.ports: element 0: associative \
                   list with keys has an element that omits key field \"port\" (and doesn't have default value)";
    apply(&gateway, "m", &wanted(json!({"ports": [{"name": "a"}]}))).refused(400, "BadRequest", message);
    apply(&gateway, "m", &pod("web", "a", "10.0.0.1")).expect(400);
    apply(&gateway, "m", &wanted(json!({"ports": [{"port": 0}]}))).expect(422);
    apply(&gateway, "m", &json!([])).expect(400);
    let mut versioned = object.clone();
    versioned["metadata"]["resourceVersion"] = json!("7");
    apply(&gateway, "m", &versioned).expect(404);
    let cbor = [("Content-Type", "application/apply-patch+cbor")];
    gateway.send("PATCH", &format!("{WEB}?fieldManager=m"), &cbor, "x").expect(415);
    gateway.get(WEB).expect(404);
    let dry = apply_to(&gateway, &format!("{WEB}?fieldManager=m&dryRun=All"), &object).expect(201);
    assert_eq!(dry.at("/metadata/name"), "web");
    gateway.get(WEB).expect(404);
}
