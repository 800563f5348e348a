//! `pollgate run --manifests DIR`: packets go where the files say.

use std::fs;
use std::path::PathBuf;

use pollgate::lab::traffic::{ask_tcp, connect};
use serde_json::Value;

use crate::live::process::Place;
use crate::live::support::{BACKENDS, CLUSTER_IP, PATIENCE, SHORT, answered_by, at, guide_manifest, pod, servers};
use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::shared::until;

tests! {
    [Lab] =>
        files_are_served_from_the_first_frame_and_followed,
        a_restart_serves_what_the_files_say_by_then,
        faulty_files_keep_a_new_gateway_from_starting;
}

/// A place with the guide's objects in a directory: the Pods each in a file.
fn place() -> (Place, PathBuf) {
    let place = Place::new();
    let directory = place.path().join("manifests");
    fs::create_dir(&directory).expect("a directory");
    fs::write(directory.join("guide.yaml"), guide_manifest()).expect("written");
    (place, directory)
}

/// Whether a connection to the ClusterIP reaches this Pod, of 40.
fn is_reached(place: &Place, name: &str) -> bool {
    (0..40).any(|_| ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE).is_ok_and(|found| found == name))
}

fn files_are_served_from_the_first_frame_and_followed() {
    let (place, directory) = place();
    let _servers = servers(&place.network);
    let process = place.start_with(&["--manifests", &directory.display().to_string()]);
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));

    // Another endpoint, by an atomic replacement as tools do it.
    let third = pod("backend-3", "10.244.2.22", "backend", "v1").to_string();
    fs::write(directory.join(".more.yaml"), &third).expect("written");
    fs::rename(directory.join(".more.yaml"), directory.join("more.yaml")).expect("renamed");
    until("the new Pod is an endpoint", || is_reached(&place, "backend-v2"));

    // A broken file: told with its line, and everything is served as before.
    fs::write(directory.join("broken.yaml"), "apiVersion: v1\nkind: Service\nspec: {ports: []}\n").expect("written");
    let fault = "broken.yaml:2: metadata.name: Required value";
    let line = directory.join("broken.yaml").display().to_string() + ":1: metadata.name: Required value";
    until("the fault is in the log", || place.log().contains(&line) || place.log().contains(fault));
    assert!(is_reached(&place, "backend-v2"), "what was served still is");
    let stats: Value = serde_json::from_str(&place.done(&["stats", "-o", "json"])).expect("JSON");
    assert_eq!(stats["manifests"]["faults"].as_array().map(Vec::len), Some(1), "{stats}");
    assert!(place.done(&["stats"]).contains("manifests: errors; the previous objects are still served"));

    // A file that goes takes its objects along, and nobody else's.
    let applied = place.write(
        "applied.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: applied}\nspec: {ports: [{port: 80}]}\n",
    );
    place.done(&["apply", "-f", &applied]);
    fs::remove_file(directory.join("broken.yaml")).expect("removed");
    fs::remove_file(directory.join("more.yaml")).expect("removed");
    until("the Pod is gone", || !place.done(&["get", "pods"]).contains("backend-3"));
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    fs::remove_file(directory.join("guide.yaml")).expect("removed");
    until("the Service is gone", || connect(place.client(), at(CLUSTER_IP), SHORT).is_err());
    assert_eq!(place.done(&["get", "services", "applied", "-o", "name"]), "service/applied\n");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", place.log());
}

fn a_restart_serves_what_the_files_say_by_then() {
    let (place, directory) = place();
    let _servers = servers(&place.network);
    let option = directory.display().to_string();
    fs::write(directory.join("more.yaml"), pod("backend-3", "10.244.2.22", "backend", "v1").to_string())
        .expect("written");
    let process = place.start_with(&["--manifests", &option]);
    answered_by(40, &["backend-1", "backend-2", "backend-v2"], || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    process.signal(libc::SIGKILL);
    process.wait();
    fs::remove_file(directory.join("more.yaml")).expect("removed");
    let process = place.start_with(&["--manifests", &option]);
    answered_by(40, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));

    // With a fault in them by the next start, what they said before is served on.
    process.signal(libc::SIGKILL);
    process.wait();
    fs::write(directory.join("guide.yaml"), "kind: [").expect("written");
    let _process = place.start_with(&["--manifests", &option]);
    answered_by(20, &BACKENDS, || ask_tcp(place.client(), at(CLUSTER_IP), PATIENCE));
    assert!(place.log().contains("guide.yaml:1: "), "{}", place.log());
}

fn faulty_files_keep_a_new_gateway_from_starting() {
    let (place, directory) = place();
    fs::write(directory.join("bad.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  prots: []\n")
        .expect("written");
    let mut command = place.run_command("gateway.yaml");
    command.arg("--manifests").arg(&directory);
    let told = place.refused(command);
    assert!(told.starts_with("error: ") && told.contains("bad.yaml:5: spec.prots: unknown field"), "{told}");
    let mut command = place.run_command("gateway.yaml");
    command.args(["--manifests", "/nowhere/at/all"]);
    let told = place.refused(command);
    assert!(told.contains("/nowhere/at/all: cannot be read: "), "{told}");
}
