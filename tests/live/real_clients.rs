//! Programs that people use: dig, curl, iperf3, and Python's web server.
//!
//! DNS over TCP (`dig +tcp`) is not among them: this version answers UDP only.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::live::support::{BACKENDS, NODE_PORT, Site};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, Program};

tests! {
    [Lab, Program("dig")] =>
        dig_is_answered_like_by_any_name_server;
    [Lab, Program("curl")] =>
        curl_gets_an_answer_every_time;
    [Lab, Program("curl"), Program("python3")] =>
        curl_downloads_a_file_from_a_web_server_whole;
    [Lab, Program("iperf3")] =>
        iperf3_runs_both_ways;
}

/// A program inside, to its end; what it printed.
fn output(site: &Site, host: &str, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = site.host(host).command(program).args(arguments).stdin(Stdio::null()).output().expect("started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?} on {host}: {}\n{out}\n{err}", output.status);
    output.stdout
}

fn text(site: &Site, host: &str, program: &str, arguments: &[&str]) -> String {
    String::from_utf8(output(site, host, program, arguments)).expect("text")
}

/// A server inside; it is killed at the end.
struct Daemon {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Daemon {
    /// Starts it and waits for the line that says that it listens.
    fn start(site: &Site, host: &str, program: &str, arguments: &[&str], listens: &str) -> Daemon {
        let mut command = site.host(host).command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("started");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let mut daemon = Daemon { child, out };
        daemon.wait_for(listens);
        daemon
    }

    /// Waits until it prints a line with this text.
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let read = self.out.read_line(&mut line).expect("a line");
            assert!(read > 0, "it ended before it printed {text:?}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail for one that has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A Service in front of the one Pod with app=frontend, for servers that want all of a client's connections.
fn in_front_of_frontend_2(site: &Site, cluster_ip: &str, port: u16) {
    site.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: single-{port} }}\nspec:\n  type: NodePort\n  clusterIP: {cluster_ip}\n  \
         selector: {{ app: frontend }}\n  ports:\n    - {{ name: tcp, port: {port}, protocol: TCP }}\n    \
         - {{ name: udp, port: {port}, protocol: UDP }}\n"
    ));
}

fn dig_is_answered_like_by_any_name_server() {
    let site = Site::new();
    let dig = |words: &[&str]| {
        let common = ["@10.96.0.10", "+tries=1", "+time=5"];
        text(&site, "frontend-app", "dig", &[&common[..], words].concat())
    };
    let name = "backend-service.default.svc.cluster.local";
    assert_eq!(dig(&["+short", name]), "10.96.0.50\n");
    let plain = dig(&["+noedns", name]);
    assert!(plain.contains("status: NOERROR") && plain.contains(" qr aa rd"), "{plain}");
    assert!(plain.contains("ADDITIONAL: 0") && !plain.contains("EDNS:"), "{plain}");
    let edns = dig(&["+edns=0", "+bufsize=1232", name]);
    assert!(edns.contains("EDNS: version: 0") && edns.contains("ANSWER: 1"), "{edns}");
    let unknown = dig(&["no-such.default.svc.cluster.local"]);
    assert!(unknown.contains("status: NXDOMAIN") && unknown.contains("SOA"), "{unknown}");
    let no_data = dig(&["AAAA", name]);
    assert!(no_data.contains("status: NOERROR") && no_data.contains("ANSWER: 0"), "{no_data}");
    assert!(no_data.contains("SOA"), "{no_data}");
    let reverse = dig(&["+short", "-x", "10.96.0.50"]);
    assert_eq!(reverse, "backend-service.default.svc.cluster.local.\n");
    let srv = dig(&["SRV", name]);
    assert!(srv.contains("status: NOERROR") && srv.contains("ADDITIONAL: 2"), "{srv}");
    // dig aligns columns with blanks and tabs.
    assert!(srv.replace('\t', " ").contains(&format!("{name}. 5 IN SRV 0 100 ")), "{srv}");
    let any = dig(&["+notcp", "ANY", name]);
    assert!(any.replace('\t', " ").contains("HINFO \"RFC8482\" \"\""), "{any}");
    assert!(dig(&["+short", "TXT", "dns-version.cluster.local"]).contains("\"1.1.0\""));
    assert!(dig(&["NS", "cluster.local"]).contains("ns.dns.cluster.local."));
    let alias = dig(&["+short", "external-service.default.svc.cluster.local"]);
    assert_eq!(alias, "my.database.example.com.\n");
    for answer in [&plain, &edns, &unknown, &no_data] {
        assert!(!answer.contains("malformed") && !answer.contains("extra bytes"), "{answer}");
    }
    site.at_rest(&[]);
}

fn curl_gets_an_answer_every_time() {
    let site = Site::new();
    let service = site.cli(&["get", "service", "nodeport-service", "-o", "json"]).expect("the Service");
    let service: Value = serde_json::from_str(&service).expect("JSON");
    let cluster_ip = service["spec"]["clusterIP"].as_str().expect("allocated").to_owned();
    for (host, to) in [("frontend-app", format!("{cluster_ip}:8081")), ("outside-client", NODE_PORT.to_owned())] {
        // curl itself makes the hundred of it; every answer closes its connection.
        let url = format!("http://{to}/[1-100]");
        let answers = text(&site, host, "curl", &["--silent", "--show-error", "--fail", "--max-time", "60", &url]);
        assert_eq!(answers.lines().count(), 100, "{answers}");
        assert!(answers.lines().all(|name| BACKENDS.contains(&name)), "{answers}");
        assert!(BACKENDS.iter().all(|name| answers.contains(name)), "{answers}");
    }
    assert_eq!(site.at_rest(&[]).flows_opened, 200);
}

fn curl_downloads_a_file_from_a_web_server_whole() {
    let site = Site::new();
    in_front_of_frontend_2(&site, "10.96.0.66", 8000);
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().display().to_string();
    let mut file = Vec::new();
    fs::File::open("/dev/urandom").and_then(|noise| noise.take(32 << 20).read_to_end(&mut file)).expect("noise");
    fs::write(directory.path().join("file"), &file).expect("written");
    // `-m http.server` would first ask a name server for its own name, and wait.
    let program = format!(
        "import functools, http.server, socketserver\n\
         handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory='{path}')\n\
         server = socketserver.ThreadingTCPServer(('10.244.1.20', 8000), handler)\n\
         print('listens', flush=True)\n\
         server.serve_forever()\n"
    );
    let _server = Daemon::start(&site, "frontend-2", "python3", &["-c", &program], "listens");
    for host in ["frontend-app", "outside-client"] {
        let arguments = ["--silent", "--show-error", "--fail", "--max-time", "60", "http://10.96.0.66:8000/file"];
        assert!(output(&site, host, "curl", &arguments) == file, "the file is not the same at {host}");
    }
}

fn iperf3_runs_both_ways() {
    let site = Site::new();
    in_front_of_frontend_2(&site, "10.96.0.65", 5201);
    let listens = "Server listening";
    let mut server = Daemon::start(&site, "frontend-2", "iperf3", &["--server", "--forceflush"], listens);
    for host in ["frontend-app", "outside-client"] {
        for way in [&[][..], &["--reverse"], &["--parallel", "4"], &["--udp", "--bitrate", "20M"]] {
            let common = ["--client", "10.96.0.65", "--time", "1", "--json", "--connect-timeout", "5000"];
            let report = text(&site, host, "iperf3", &[&common[..], way].concat());
            let report: Value = serde_json::from_str(&report).expect("JSON");
            assert!(report.get("error").is_none(), "{host} {way:?}: {}", report["error"]);
            let end = &report["end"];
            let sum = if way.contains(&"--udp") { &end["sum"] } else { &end["sum_received"] };
            let bytes = sum["bytes"].as_u64().unwrap_or_default();
            println!("{host} {way:?}: {bytes} bytes, {:.3} Gb/s", sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9);
            assert!(bytes > 1 << 20, "{host} {way:?}: {end}");
            // It closes its port with each client, and opens it again.
            server.wait_for(listens);
        }
    }
}
