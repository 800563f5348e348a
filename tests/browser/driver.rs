//! A real Chromium, driven by WebDriver (W3C): JSON over HTTP, which `chromedriver` speaks on the loopback of a namespace.
//!
//! It is spoken here directly: the dozen commands that tests need are less than a client library and what that brings.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pollgate::lab::Namespace;
use pollgate::lab::traffic::connect;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shared::{PATIENCE, until};

/// Where `chromedriver` listens, in the gateway's namespace.
const ADDRESS: &str = "127.0.0.1:9515";

/// Nothing that needs a screen, an update or another host.
const ARGUMENTS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--window-size=1440,900",
];

/// A browser with one window.
pub(crate) struct Browser<'a> {
    namespace: &'a Namespace,
    driver: Child,
    session: String,
    _profile: TempDir,
}

impl<'a> Browser<'a> {
    /// Starts one in a namespace. It accepts the gateway's certificate, as a user does who is asked.
    pub(crate) fn start(namespace: &'a Namespace) -> Browser<'a> {
        let profile = TempDir::new().expect("a directory");
        let mut command = namespace.command("chromedriver");
        command.arg("--port=9515").env("HOME", profile.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().expect("chromedriver");
        let mut browser = Browser { namespace, driver, session: String::new(), _profile: profile };
        until("chromedriver listens", || connect(namespace, address(), PATIENCE).is_ok());
        let arguments: Vec<String> = ARGUMENTS
            .iter()
            .map(|argument| (*argument).to_owned())
            .chain([format!("--user-data-dir={}", browser._profile.path().join("profile").display())])
            .collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "acceptInsecureCerts": true, "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments}, "timeouts": {"script": 150_000},
        }}});
        let session = browser.send("POST", "/session", &wanted);
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    /// A command of the session, and what it returns.
    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = connect(self.namespace, address(), PATIENCE).expect("chromedriver");
        // Longer than a script may take.
        stream.set_read_timeout(Some(PATIENCE * 10)).expect("set");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n");
        let head = format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + &body).as_bytes()).expect("sent");
        // The connection stays open, whatever is asked of it.
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            assert!(stream.read_line(&mut head).expect("a head") > 0, "{method} {path}: {head:?}");
            if let Some(("content-length", number)) = head[start..].to_lowercase().split_once(':') {
                length = number.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        let mut value: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {value:#}");
        value["value"].take()
    }

    /// Opens an address, also one that differs from the present one in its fragment alone.
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": "about:blank"}));
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// Runs a script's body in the page; what it returns, awaited.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The value of an expression.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression});"))
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.value(expression) != json!(true) {
            assert!(Instant::now() < deadline, "never true: {expression}\n{}", self.text("body"));
        }
    }

    /// The text of an element as it is shown.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({})?.innerText ?? ''", json!(selector)));
        text.as_str().expect("text").to_owned()
    }

    /// Presses a key, as a user does.
    pub(crate) fn press(&self, key: &str) {
        let actions = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.command("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// What a user has set in the system.
    pub(crate) fn prefer(&self, scheme: &str, motion: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]);
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.command("POST", "/goog/cdp/execute", &command);
    }

    /// A picture of the window, PNG.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let text = self.command("GET", "/screenshot", &Value::Null);
        STANDARD.decode(text.as_str().expect("text")).expect("base64")
    }

    /// Lines of the console since the last call: what scripts and the browser complain of.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let lines = self.command("POST", "/se/log", &json!({"type": "browser"}));
        let lines = lines.as_array().expect("lines").iter();
        lines.map(|line| format!("{} {}", line["level"], line["message"])).collect()
    }
}

fn address() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // The browser ends with its session; the driver would leave it behind.
        if !self.session.is_empty() && !std::thread::panicking() {
            self.command("DELETE", "", &Value::Null);
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
