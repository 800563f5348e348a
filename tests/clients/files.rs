//! kubectl with files as people have them: with kinds that the gateway does not have, with lists, with Secrets beside Services.

use crate::clients::support::{Place, text};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Kubectl, Lab};

tests! {
    [Lab, Kubectl] =>
        what_is_not_served_fails_alone,
        lists_are_taken_apart,
        secrets_and_config_maps_are_kept,
        the_second_version_of_openapi_is_read;
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec: { containers: [{ name: c, image: web }] }
";

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ port: 80 }] }
";

/// What kubectl prints, and what it complains of, for one word and a file.
fn run(place: &Place, words: &[&str], file: &str) -> (String, String) {
    let output = place.kubectl_output(&[words, &["-f", file]].concat());
    (text(output.stdout), text(output.stderr))
}

fn what_is_not_served_fails_alone() {
    let place = &Place::new();
    let file = place.write("both.yaml", &format!("{DEPLOYMENT}---\n{SERVICE}"));
    let no_matches = "no matches for kind \"Deployment\" in version \"apps/v1\"";
    for (words, done) in [
        (&["create"][..], "service/web created\n"),
        (&["apply", "--server-side"], "service/web serverside-applied\n"),
        (&["apply", "--dry-run=server"], "service/web created (server dry run)\n"),
        (&["apply"], "service/web created\n"),
        (&["apply"], "service/web unchanged\n"),
        (&["replace"], "service/web replaced\n"),
    ] {
        if words == ["apply"] && done.contains("created") || words.contains(&"--dry-run=server") {
            place.kubectl(&["delete", "service", "web", "--ignore-not-found"]);
        }
        if words.contains(&"--server-side") {
            place.kubectl(&["delete", "service", "web"]);
        }
        let (out, err) = run(place, words, &file);
        assert_eq!(out, done, "{words:?}: {err}");
        assert!(err.contains(no_matches), "{words:?}: {err}");
        assert!(err.contains("ensure CRDs are installed first"), "{words:?}: {err}");
    }
}

fn lists_are_taken_apart() {
    let place = &Place::new();
    let item =
        |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>().replacen("    ", "  - ", 1);
    let list = |items: &[&str]| {
        let items: String = items.iter().map(|text| item(text)).collect();
        format!("apiVersion: v1\nkind: List\nitems:\n{items}")
    };
    let other = SERVICE.replace("name: web", "name: other");
    let file = place.write("list.yaml", &list(&[SERVICE, &other]));
    assert_eq!(run(place, &["apply"], &file), ("service/web created\nservice/other created\n".into(), String::new()));
    assert_eq!(run(place, &["apply"], &file).0, "service/web unchanged\nservice/other unchanged\n");
    let (out, err) = run(place, &["apply", "--server-side", "--force-conflicts"], &file);
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("service/web serverside-applied\nservice/other serverside-applied\n", "")
    );
    let mixed = place.write("mixed.yaml", &list(&[DEPLOYMENT, SERVICE]));
    let (out, err) = run(place, &["apply"], &mixed);
    assert_eq!(out, "service/web unchanged\n");
    assert!(err.contains("no matches for kind \"Deployment\" in version \"apps/v1\""), "{err}");
    // What a list holds is checked like anything else.
    let wrong = place.write("wrong.yaml", &list(&[&SERVICE.replace("selector", "selecter")]));
    let told = place.kubectl_refused(&["apply", "-f", &wrong]);
    assert!(told.contains("unknown field \"selecter\"") || told.contains("unknown field \"spec.selecter\""), "{told}");
}

fn secrets_and_config_maps_are_kept() {
    let place = &Place::new();
    let created =
        place.kubectl(&["create", "secret", "generic", "pass", "--from-literal=user=u", "--from-literal=word=w"]);
    assert_eq!(created, "secret/pass created\n");
    let created = place.kubectl(&["create", "configmap", "settings", "--from-literal=level=high"]);
    assert_eq!(created, "configmap/settings created\n");
    assert_eq!(place.kubectl(&["get", "secret", "pass", "-o", "jsonpath={.data.word} {.type}"]), "dw== Opaque");
    assert_eq!(place.kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data.level}"]), "high");
    let table = place.kubectl(&["get", "secrets,configmaps", "--no-headers", "-o", "custom-columns=N:.metadata.name"]);
    assert_eq!(table, "pass\nsettings\n");
    for words in [&["describe", "secret", "pass"][..], &["describe", "configmap", "settings"]] {
        let (own, theirs) = (place.site.cli(words).expect("described"), place.kubectl(words));
        assert_eq!(own, theirs);
        assert!(!own.contains("dw=="), "{own}");
    }
    let file = place.write("more.yaml", &format!("{SERVICE}---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: tls }}\ntype: kubernetes.io/tls\nstringData: {{ tls.crt: c }}\n"));
    let (out, err) = run(place, &["apply"], &file);
    assert_eq!(out, "service/web created\n");
    assert!(err.contains("The Secret \"tls\" is invalid: data[tls.key]: Required value"), "{err}");
}

fn the_second_version_of_openapi_is_read() {
    let place = &Place::new();
    let told = place.kubectl(&["explain", "service.spec.ports.nodePort", "--output=plaintext-openapiv2"]);
    assert!(told.contains("KIND:     Service\n") && told.contains("FIELD:    nodePort <integer>\n"), "{told}");
}
