//! `pollgate check`: every fault of manifests, each with its file and line, without a gateway.
//!
//! ```text
//! text ──▶ documents ──▶ objects ──▶ plan on an empty cluster ──▶ lint
//!   └ no YAML  └ wrong shape  └ twice    └ refused, with the field   └ valid, but hardly intended: a warning, exit code 0
//! ```
//!
//! The plan is the running gateway's own: defaults, validation, allocation, two Services that want one address. What only
//! a running gateway knows is its other objects; `pollgate apply --dry-run=server` checks against those.

use std::collections::BTreeMap;
use std::io::Write;

use pollgate_control::cluster::{self, Cluster, Write as ClusterWrite};
use pollgate_control::explain::lint::lint;
use pollgate_control::objects::Key;
use pollgate_control::objects::manifest::Document;
use pollgate_control::sources::files::{Diagnostic, Set};

use super::apply::read_all;
use super::args::CheckArgs;
use crate::config::{Config, Purpose};
use crate::failure::Failure;

/// `pollgate check`
///
/// # Errors
/// Every fault, `FILE:LINE: FIELD: what`, in the order of files and lines.
pub fn check(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let settings = match &args.config {
        Some(path) => (&Config::load(path, Purpose::Run)?).into(),
        None => cluster::ClusterSettings::default(),
    };
    let set = Set::new(read_all(&args.files));
    let Checked { mut faults, mut warnings } = plan(&set, settings);
    faults.extend(set.faults);
    faults.sort();
    warnings.sort();
    for warning in warnings {
        writeln!(out, "{warning}")?;
    }
    if !faults.is_empty() {
        return Err(Failure::Refused(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")));
    }
    let files: Vec<_> = args.files.iter().map(|file| file.display().to_string()).collect();
    let files = files.join(", ");
    match set.objects.len() {
        0 => Err(Failure::refused(format!("error: no objects in {files}"))),
        1 => Ok(writeln!(out, "{files}: 1 object, no errors")?),
        objects => Ok(writeln!(out, "{files}: {objects} objects, no errors")?),
    }
}

#[derive(Default)]
struct Checked {
    faults: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// The faults an empty gateway would find in the objects; if it would accept them, the findings of lint.
fn plan(set: &Set, settings: cluster::ClusterSettings) -> Checked {
    let mut cluster = Cluster::new(settings);
    let writes = set.objects.iter().map(|(_, object)| ClusterWrite::Apply(object.clone())).collect();
    let commit = match cluster.plan(writes, jiff::Timestamp::UNIX_EPOCH) {
        Ok(commit) => commit,
        Err(refusals) => return Checked { faults: set.refused(&refusals), ..Checked::default() },
    };
    cluster.adopt(&commit);
    let documents = set.objects.iter().map(|(document, _)| document);
    let places: BTreeMap<&Key, &Document> = commit.written.iter().zip(documents).collect();
    let findings = lint(&cluster);
    // Objects that the gateway creates itself, such as slices, are in no file.
    let told = findings.iter().filter_map(|finding| {
        let document = places.get(&finding.key)?;
        Some(Diagnostic::new(document, &finding.field, &finding.message).warning())
    });
    Checked { warnings: told.collect(), ..Checked::default() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// The output and the errors of `check`, for files with these names and texts; their directory is `@`.
    fn run(files: &[(&str, &str)], config: Option<&str>) -> (String, Option<String>) {
        let directory = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let config = config.map(|text| {
            let path = directory.path().join("gateway.conf");
            fs::write(&path, text).unwrap();
            path
        });
        let mut out = Vec::new();
        let here = directory.path().display().to_string();
        let result = check(&CheckArgs { files: vec![directory.path().to_owned()], config }, &mut out);
        let short = |text: String| text.replace(&here, "@");
        let failed = result.err().map(|failure| short(failure.to_string()));
        (short(String::from_utf8(out).unwrap()), failed)
    }

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let (out, failed) = run(files, None);
        assert_eq!(out, "");
        failed.expect("faults").lines().map(str::to_owned).collect()
    }

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  clusterIP: 10.96.0.50\n  ports:\n  - port: 80\n";

    #[test]
    fn sound_manifests_are_a_line() {
        assert_eq!(run(&[("a.yaml", WEB)], None), ("@: 1 object, no errors\n".to_owned(), None));
        let guide = include_str!("../../examples/guide.yaml");
        assert_eq!(run(&[("guide.yaml", guide)], None).1, None);
        assert_eq!(run(&[("README", "x")], None).1.as_deref(), Some("error: no objects in @"));
    }

    #[test]
    fn every_fault_of_every_document_is_told_at_its_line() {
        let bad = r#"apiVersion: v1
kind: Service
metadata:
  name: Bad_Name
spec:
  type: NodePort
  ports:
  - name: a
    port: 0
  # It needs a name beside another port.
  - port: 81
---
a: b: c
---
kind: Service
spec:
  prots: []
---
apiVersion: v1
kind: Service
metadata: {name: typed}
spec:
  ports:
  - port: many
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec:
  type: NodePort
  ports:
  - {port: 80, nodePort: 99}
"#;
        let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"j\\ud83d\\ude00\"},\n\t\"spec\": {\n\t\t\"ports\": [{\n\t\t\t\"port\": 70000}]}\n}\n";
        let told = faults(&[("b.yaml", bad), ("c.json", json), ("empty.yaml", "")]);
        let starts = [
            "@/b.yaml:4: metadata.name: Invalid value: \"Bad_Name\": ",
            "@/b.yaml:9: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "@/b.yaml:8: spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "@/b.yaml:11: spec.ports[1].name: Required value",
            "@/b.yaml:13: ",
            "@/b.yaml:15: apiVersion: Required value",
            "@/b.yaml:15: metadata.name: Required value",
            "@/b.yaml:17: spec.prots: unknown field",
            "@/b.yaml:24: spec.ports[0].port: Invalid value: invalid type: string \"many\"",
            "@/b.yaml:32: spec.ports[0].nodePort: Invalid value: 99: provided port is not in the valid range. ",
            "@/c.json:4: metadata.name: Invalid value: ",
            "@/c.json:6: spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "@/c.json:7: spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ];
        for start in starts {
            assert!(told.iter().any(|line| line.starts_with(start)), "{start:?} is missing in {told:#?}");
        }
        assert!(told.iter().all(|line| starts.iter().any(|start| line.starts_with(start))), "{told:#?}");
        let place = |line: &String| {
            let mut parts = line.split(':');
            (parts.next().unwrap().to_owned(), parts.next().unwrap().parse::<usize>().unwrap())
        };
        assert!(told.is_sorted_by_key(place), "{told:#?}");
    }

    #[test]
    fn objects_that_do_not_go_together_are_faults() {
        let other = WEB.replace("name: web", "name: other");
        let node_port = |name: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    nodePort: 30080\n"
            )
        };
        let told = faults(&[
            ("a.yaml", WEB),
            ("b.yaml", &other),
            ("c.yaml", WEB),
            ("d.yaml", &node_port("x")),
            ("e.yaml", &node_port("y")),
        ]);
        assert_eq!(told.len(), 3, "{told:#?}");
        assert!(told[0].starts_with("@/b.yaml:6: spec.clusterIP"), "{told:#?}");
        assert!(told[0].contains("10.96.0.50"), "{told:#?}");
        assert_eq!(
            told[1],
            "@/c.yaml:4: metadata.name: Duplicate value: \"web\": service/default/web is also at @/a.yaml:4"
        );
        assert!(told[2].starts_with("@/e.yaml:8: spec.ports[0].nodePort: "), "{told:#?}");
        assert!(told[2].ends_with("provided port is already allocated"), "{told:#?}");
    }

    #[test]
    fn ranges_are_those_of_the_configuration() {
        let config = "interfaces: [{ name: eth1 }]\naddresses: [192.0.2.1]\ncluster: { serviceCIDRs: [10.1.0.0/16] }\n";
        let (_, failed) = run(&[("a.yaml", WEB)], Some(config));
        let failed = failed.expect("out of range");
        assert!(failed.starts_with("@/a.yaml:6: spec.clusterIP"), "{failed}");
        let (_, failed) = run(&[("a.yaml", WEB)], Some("intrefaces: []\n"));
        assert!(failed.expect("a bad configuration").contains("gateway.conf:1: intrefaces"));
    }

    #[test]
    fn what_is_surely_not_meant_is_a_warning() {
        let pod =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: web}}\nspec: {containers: [{name: c}]}\n";
        let service = WEB.replace("  ports:\n", "  selector:\n    app: wbe\n  ports:\n");
        let (out, failed) = run(&[("a.yaml", &service), ("b.yaml", pod)], None);
        assert_eq!(failed, None);
        assert_eq!(
            out,
            "@/a.yaml:7: warning: spec.selector: no Pod has these labels; the nearest is p: label differs: app: web ≠ \
             wbe\n@: 2 objects, no errors\n"
        );
    }
}
