//! Kubernetes' own end-to-end tests of Services, Endpoints and EndpointSlices: those that need no kubelet, since nothing here
//! runs Pods.
//!
//! `e2e.test` is in no package: `POLLGATE_E2E` names it. What its tests do to the API is written down again in the API's own tests,
//! which need nothing; here they are what Kubernetes has published.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::clients::support::Place;
use crate::shared::harness::tests;
use crate::shared::needs::Need::{EndToEnd, Lab};
use crate::shared::needs::end_to_end;

/// In the order of their files, without the tags (`[Conformance]`) that differ from version to version.
const SPECS: &[&str] = &[
    "Services should provide secure master service",
    "Services should prevent NodePort collisions",
    "Services should check NodePort out-of-range",
    "Services should find a service from listing all namespaces",
    "Services should complete a service status lifecycle",
    "Services should delete a collection of services",
    // Of `Services` until it had a container of its own.
    "(Services|Endpoints) should test the lifecycle of an Endpoint",
    "EndpointSlice should create and delete Endpoints and EndpointSlices for a Service with a selector specified",
    "EndpointSlice should support creating EndpointSlice API operations",
    "EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete",
];
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

tests! {
    [Lab, EndToEnd] =>
        the_official_tests_pass_with_json,
        the_official_tests_pass_with_protobuf;
    [Lab] =>
        each_official_test_that_ran_is_reported,
        a_program_that_reports_nothing_is_reported;
}

fn the_official_tests_pass_with_json() {
    the_official_tests_pass(JSON);
}

fn the_official_tests_pass_with_protobuf() {
    the_official_tests_pass(PROTOBUF);
}

#[track_caller]
fn the_official_tests_pass(content_type: &str) {
    let ran = run(&Place::new(), &end_to_end().expect("named"), content_type).unwrap_or_else(|why| panic!("{why}"));
    let lines: String = ran.iter().map(|spec| format!("{}: {}\n", spec.outcome, spec.name)).collect();
    print!("{lines}");
    assert!(ran.iter().all(|spec| spec.outcome == "passed"), "with {content_type}\n{lines}");
    assert_eq!(ran.len(), SPECS.len(), "with {content_type}, of {SPECS:#?}\n{lines}");
}

/// One of the tests, which has run.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    name: String,
    /// `passed`, or what else Ginkgo says, with the reason.
    outcome: String,
}

/// Runs the tests; those that ran. An error if the program has reported none.
fn run(place: &Place, program: &Path, content_type: &str) -> Result<Vec<Spec>, String> {
    let report = place.path("report.json");
    let output = place
        .command(program)
        .arg(format!("--kubeconfig={}", place.kubeconfig().display()))
        .arg(format!("--kube-api-content-type={content_type}"))
        // No cloud; no Pods of the system; no account in each Namespace; and the Nodes need not be ready.
        .args(["--provider=skeleton", "--minStartupPods=-1", "--e2e-verify-service-account=false"])
        .args(["--allowed-not-ready-nodes=-1", "--num-nodes=1"])
        .args(["--ginkgo.no-color", "--ginkgo.timeout=9m"])
        .arg(format!("--ginkgo.focus={}", SPECS.join("|")))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let ran = fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok()).map(|report| specs(&report));
    ran.filter(|ran| !ran.is_empty()).ok_or_else(|| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{} ran no test: {}\n{out}{err}", program.display(), output.status)
    })
}

/// What ran, by Ginkgo's report: suites, which hold tests and what runs before and after them.
fn specs(report: &Value) -> Vec<Spec> {
    let suites = report.as_array().into_iter().flatten();
    let nodes = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    let ran = |node: &&Value| {
        // Those out of focus have no reason. What fails before the first test is no test, but says why there is none.
        match node["State"].as_str() {
            Some("passed") => node["LeafNodeType"] == "It",
            Some("skipped" | "pending") => node["Failure"].is_object(),
            _ => true,
        }
    };
    nodes.filter(ran).map(spec).collect()
}

fn spec(node: &Value) -> Spec {
    let containers = node["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let leaf = ["LeafNodeText", "LeafNodeType"].map(|name| node[name].as_str().unwrap_or_default());
    let leaf = leaf.into_iter().find(|text| !text.is_empty());
    let words: Vec<&str> = containers.filter_map(Value::as_str).chain(leaf).collect();
    let state = node["State"].as_str().unwrap_or("of no state");
    let outcome = match node["Failure"]["Message"].as_str() {
        None => state.to_owned(),
        Some(why) => format!("{state} ({why})"),
    };
    Spec { name: words.join(" "), outcome }
}

/// A program in the place of `e2e.test`.
fn stand_in(place: &Place, script: &str) -> PathBuf {
    let path = PathBuf::from(place.write("e2e.test", script));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
    path
}

/// The stand-in says of itself what it was given, and what of it is of use.
fn each_official_test_that_ran_is_reported() {
    const SCRIPT: &str = r#"#!/bin/sh
for word; do
    case $word in
        --kubeconfig=*) server=$(sed -n 's/^ *server: //p' "${word#*=}") ;;
        --kube-api-content-type=*) type=${word#*=} ;;
        --ginkgo.focus=*) focus=${word#*=} ;;
        --ginkgo.json-report=*) report=${word#*=} ;;
    esac
done
name='[sig-network] Services should prevent NodePort collisions [Conformance]'
printf '%s' "$name" | grep -Eq "$focus" && state=passed || state=skipped
cat >"$report" <<END
[{"SpecReports": [
    {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
    {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It", "State": "$state",
     "LeafNodeText": "should prevent NodePort collisions [Conformance]"},
    {"ContainerHierarchyTexts": ["[sig-network] EndpointSlice"], "LeafNodeType": "It", "State": "failed",
     "LeafNodeText": "should support it", "Failure": {"Message": "$type from $server"}},
    {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It", "State": "skipped",
     "LeafNodeText": "should need a cloud", "Failure": {"Message": "no cloud"}},
    {"ContainerHierarchyTexts": ["[sig-storage] Volumes"], "LeafNodeType": "It", "State": "skipped",
     "LeafNodeText": "should be out of focus"},
    {"LeafNodeType": "SynchronizedAfterSuite", "State": "panicked", "Failure": {"Message": "oh"}}
]}]
END
exit 1
"#;
    let place = &Place::new();
    let program = stand_in(place, SCRIPT);
    for content_type in [JSON, PROTOBUF] {
        let ran = run(place, &program, content_type).expect("a report");
        let told: Vec<String> = ran.iter().map(|spec| format!("{}: {}", spec.name, spec.outcome)).collect();
        let expected = [
            "[sig-network] Services should prevent NodePort collisions [Conformance]: passed".to_owned(),
            format!(
                "[sig-network] EndpointSlice should support it: failed ({content_type} from https://127.0.0.1:6443)"
            ),
            "[sig-network] Services should need a cloud: skipped (no cloud)".to_owned(),
            "SynchronizedAfterSuite: panicked (oh)".to_owned(),
        ];
        assert_eq!(told, expected);
    }
}

fn a_program_that_reports_nothing_is_reported() {
    let place = &Place::new();
    let program = stand_in(place, "#!/bin/sh\necho flag provided but not defined >&2\nexit 2\n");
    let why = run(place, &program, JSON).expect_err("no report");
    assert_eq!(why, format!("{} ran no test: exit status: 2\nflag provided but not defined\n", program.display()));
    let program =
        stand_in(place, "#!/bin/sh\nfor word; do case $word in *report=*) echo '[]' >\"${word#*=}\";; esac; done\n");
    let why = run(place, &program, JSON).expect_err("an empty report");
    assert_eq!(why, format!("{} ran no test: exit status: 0\n", program.display()));
}
