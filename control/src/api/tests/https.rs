//! The HTTPS listener: who is let in, who is not, and what others on the host can do to those who are.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned};

use super::*;
use crate::api::server::STOP_TIME;

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A gateway with a listener, and what its kubeconfig says.
pub(super) struct Site {
    pub(super) gateway: Gateway,
    pub(super) address: SocketAddr,
    token: String,
    ca: CertificateDer<'static>,
}

impl Site {
    pub(super) fn new() -> Self {
        Self::limited(Limits::default())
    }

    fn limited(limits: Limits) -> Self {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let gateway = Gateway::start(faulty::store().0, Cluster::new(ClusterSettings::default()), limits, Some(listen));
        let address = gateway.api.https().expect("a listener");
        let mut site = Self { gateway, address, token: String::new(), ca: CertificateDer::from(Vec::new()) };
        site.learn_credentials();
        site
    }

    /// What its kubeconfig says now.
    fn learn_credentials(&mut self) {
        let told = self.gateway.get(KUBECONFIG_PATH).expect(200);
        let ca = serde_json::from_value(told.at("/clusters/0/cluster/certificate-authority-data"));
        let ca: k8s_openapi::ByteString = ca.expect("base64");
        self.ca = CertificateDer::from_pem_slice(&ca.0).expect("a certificate");
        assert_eq!(told.at("/clusters/0/cluster/server"), format!("https://{}", self.address));
        self.token = told.at("/users/0/user/token").as_str().expect("a token").to_owned();
    }

    fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        builder.expect("versions").with_root_certificates(roots).with_no_client_auth()
    }

    /// A connection that nothing has been said on.
    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("listening");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a valid time");
        stream
    }

    fn shaken_with(&self, config: ClientConfig, name: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut stream = StreamOwned::new(connection, self.tcp());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    pub(super) fn shaken(&self) -> Stream {
        self.shaken_with(self.client_config(), "127.0.0.1").expect("a handshake")
    }

    pub(super) fn request(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = self.shaken();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).expect("open");
        Answer::read(&mut stream)
    }

    pub(super) fn authorization(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    pub(super) fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.request(method, path, &[&self.authorization()], body)
    }

    /// A connection whose client is known and goes on to be.
    fn known(&self) -> Stream {
        let mut stream = self.shaken();
        let request = format!("GET /version HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", self.authorization());
        stream.write_all(request.as_bytes()).expect("open");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 200");
        stream
    }
}

/// Whether the server has closed it: at its end, or by a reset.
fn is_closed(mut stream: &TcpStream) -> bool {
    let read = stream.read_to_end(&mut Vec::new());
    read.is_ok() || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn it_is_the_same_api() {
    let site = Site::new();
    let created = site.send("POST", SERVICES, &service("web").to_string()).expect(201);
    let path = format!("{SERVICES}/web");
    assert_eq!(site.gateway.get(&path).expect(200).json(), site.send("GET", &path, "").expect(200).json());
    assert_eq!(created.at("/metadata/name"), "web");
    site.send("DELETE", &path, "").expect(200);
    site.gateway.get(&path).expect(404);
    site.send("GET", "/nowhere", "").refused(404, "NotFound", "the server could not find the requested resource");
}

#[test]
fn without_the_token_nothing_is_told() {
    let site = Site::new();
    let (token, short) = (&site.token, &site.token[1..]);
    let other = token.replace(&token[..1], if token.starts_with('0') { "1" } else { "0" });
    let wrong = [
        String::new(),
        "Authorization:".to_owned(),
        "Authorization: Bearer".to_owned(),
        "Authorization: Bearer ".to_owned(),
        format!("Authorization: {token}"),
        format!("Authorization: Basic {token}"),
        format!("Authorization: Bearer {short}"),
        format!("Authorization: Bearer {token}0"),
        format!("Authorization: Bearer {token} {token}"),
        format!("Authorization: Bearer {other}"),
        format!("X-Authorization: Bearer {token}"),
    ];
    let paths = ["/", "/version", "/api", "/apis", SERVICES, "/nowhere", "/livez/", "/healthz/etcd", KUBECONFIG_PATH];
    for (header, path) in wrong.iter().flat_map(|header| paths.map(|path| (header, path))) {
        let headers: Vec<&str> = [header.as_str()].into_iter().filter(|header| !header.is_empty()).collect();
        let refused = site.request("GET", path, &headers, "").refused(401, "Unauthorized", "Unauthorized");
        assert_eq!(refused.headers.get("www-authenticate").map(String::as_str), Some("Bearer"), "{header:?} {path}");
    }
    site.request("POST", SERVICES, &[], &service("web").to_string()).expect(401);
    site.gateway.get(&format!("{SERVICES}/web")).expect(404);
    // The scheme's name has no case, RFC 9110.
    for scheme in ["bearer", "BEARER"] {
        site.request("GET", "/version", &[&format!("authorization: {scheme} {token}")], "").expect(200);
    }
}

#[test]
fn a_stranger_is_answered_once() {
    let site = Site::new();
    let mut stream = site.shaken();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").expect("open");
    // To the end of the connection, though the client has not asked for one.
    Answer::read(&mut stream).expect(401);
}

#[test]
fn health_is_told_to_everybody() {
    let site = Site::new();
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(site.request("GET", path, &[], "").expect(200).text, "ok");
    }
    // Why a check fails is for those who show the token.
    site.gateway.checks.set(vec![Check::ready("interface-eth0", Some("it is down".to_owned()))]);
    let said = |reason| {
        format!("[+]ping ok\n[+]store ok\n[-]interface-eth0 failed: {reason}\n[+]checks ok\nreadyz check failed\n")
    };
    assert_eq!(site.request("GET", "/readyz?verbose", &[], "").expect(500).text, said("reason withheld"));
    assert_eq!(site.send("GET", "/readyz?verbose", "").expect(500).text, said("it is down"));
}

#[test]
fn the_kubeconfig_is_told_on_the_unix_socket_alone() {
    let site = Site::new();
    site.send("GET", KUBECONFIG_PATH, "").expect(404);
    let told = site.gateway.get(KUBECONFIG_PATH).expect(200).json();
    assert_eq!(told["kind"], "Config");
    assert_eq!(told["contexts"][0]["name"], told["current-context"]);
    let off = Gateway::new().get(KUBECONFIG_PATH).expect(404);
    assert!(off.at("/message").to_string().contains("api.listen is off"), "{}", off.text);
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_http_1_1_alone() {
    let site = Site::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = RootCertStore::empty();
        roots.add(site.ca.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("known");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = site.shaken_with(config.clone(), "127.0.0.1").expect("a handshake");
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        config.alpn_protocols = vec![b"h2".to_vec()];
        site.shaken_with(config, "127.0.0.1").map(drop).expect_err("HTTP/2 is not spoken");
    }
    assert_eq!(site.shaken().conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn the_certificate_is_for_its_own_names() {
    let site = Site::new();
    for name in ["127.0.0.1", "localhost", "kubernetes.default.svc"] {
        site.shaken_with(site.client_config(), name).expect(name);
    }
    for name in ["127.0.0.2", "example.com"] {
        site.shaken_with(site.client_config(), name).map(drop).expect_err(name);
    }
    let other = Site::new();
    site.shaken_with(other.client_config(), "127.0.0.1").map(drop).expect_err("another gateway's CA");
}

#[test]
fn plain_http_is_told_what_is_wrong() {
    let site = Site::new();
    let mut stream = site.tcp();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").expect("open");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("an answer");
    assert!(told.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{told}");
    assert!(told.ends_with("\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"), "{told}");
}

#[test]
fn garbage_and_silence_are_cut_off_and_the_others_served() {
    // Long enough for a handshake on a busy machine.
    let site = Site::limited(Limits { head_time: Duration::from_secs(3), ..Limits::default() });
    let hello = {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(site.client_config()), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a hello");
        bytes
    };
    let garbage: Vec<u8> = (0..5000).map(|n: u32| n.wrapping_mul(167).to_le_bytes()[0] | 0x80).collect();
    // A record that announces more than it brings, and one longer than any may be.
    let records = [b"\x16\x03\x01\x40\x00half".as_slice(), b"\x16\x03\x01\xff\xfftoo long"];
    let starts = [&[][..], &hello[..1], &hello[..hello.len() / 2], &hello, &garbage, b"\x00", b"\x16", b"\x80\x2e\x01"];
    let begun = starts.into_iter().chain(records).map(|bytes| {
        let mut stream = site.tcp();
        stream.write_all(bytes).expect("open");
        site.send("GET", "/version", "").expect(200);
        (stream, bytes.len())
    });
    for (stream, length) in begun.collect::<Vec<_>>() {
        assert!(is_closed(&stream), "{length} bytes");
        site.send("GET", "/version", "").expect(200);
    }
    // A client that hangs up in the middle of it.
    let mut stream = site.tcp();
    stream.write_all(&hello[..10]).expect("open");
    stream.shutdown(Shutdown::Both).expect("open");
    // One that shakes hands, and then says no more.
    let silent = site.shaken();
    assert!(is_closed(&silent.sock));
    site.send("GET", "/version", "").expect(200);
}

#[test]
fn a_flood_of_strangers_ends_itself() {
    let site = Site::new();
    let mut known = site.known();
    // Far more than there is room for; none of them would be cut off by a time-out within this test.
    let mut flood: VecDeque<TcpStream> = VecDeque::new();
    for n in 0..2000 {
        let mut stream = site.tcp();
        if n % 2 == 0 {
            stream.write_all(b"\x16\x03\x01").expect("open");
        }
        flood.push_back(stream);
        if flood.len() > 400 {
            assert!(is_closed(&flood.pop_front().expect("many")), "the oldest go first: {n}");
        }
        if n % 100 == 0 {
            site.send("GET", "/version", "").expect(200);
            site.gateway.get("/livez").expect(200);
        }
    }
    let open = |stream: &&TcpStream| {
        stream.set_nonblocking(true).expect("ours");
        (&mut &**stream).read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    site.send("GET", "/version", "").expect(200);
    let left = flood.iter().filter(open).count();
    assert!((200..=256).contains(&left), "{left} are open");
    // Who was known before is none of them.
    known.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("open");
    let mut rest = String::new();
    known.read_to_string(&mut rest).expect("the rest of one answer, and another");
    assert!(rest.contains("HTTP/1.1 200") && rest.ends_with("\r\n\r\nok"), "{rest}");
}

#[test]
fn more_known_clients_than_there_is_room_for_are_told_to_come_again() {
    let site = Site::limited(Limits { connections: 1, ..Limits::default() });
    let first = site.known();
    let refused = site.send("GET", "/version", "").expect(429);
    assert_eq!(refused.at("/reason"), "TooManyRequests");
    assert_eq!(refused.headers.get("retry-after").map(String::as_str), Some("1"));
    // Neither the stranger's door nor the socket is shut by that.
    site.request("GET", "/livez", &[], "").expect(200);
    site.gateway.get("/livez").expect(200);
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while site.send("GET", "/version", "").code != 200 {
        assert!(std::time::Instant::now() < deadline, "the place was not given back");
    }
}

#[test]
fn a_stop_does_not_wait_for_strangers() {
    let site = Site::new();
    let (silent, shaken) = (site.tcp(), site.shaken());
    site.send("GET", "/version", "").expect(200);
    let begun = std::time::Instant::now();
    site.gateway.stop();
    assert!(begun.elapsed() < STOP_TIME, "{:?}", begun.elapsed());
    assert!(is_closed(&silent) && is_closed(&shaken.sock));
    TcpStream::connect(site.address).expect_err("nobody listens any more");
}

#[test]
fn a_certificate_and_a_token_that_are_read_again_are_used_from_then_on() {
    let mut site = Site::new();
    let api = &site.gateway.api;
    assert!(!api.read_identity_again().expect("as it was"), "nothing has changed");
    let mut known = site.known();
    let file = site.gateway.directory.path().join("state.db.tls");
    std::fs::remove_file(&file).expect("removed");
    assert!(api.read_identity_again().expect("a new one"));
    // An open connection stays, but must show the new token.
    let request = format!("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n\r\n", site.authorization());
    known.write_all(request.as_bytes()).expect("open");
    let mut rest = String::new();
    known.read_to_string(&mut rest).expect("the rest of one answer, and another");
    assert!(rest.contains("HTTP/1.1 401"), "{rest}");
    site.shaken_with(site.client_config(), "127.0.0.1").expect_err("signed by another CA");

    site.learn_credentials();
    site.send("GET", "/version", "").expect(200);
    std::fs::write(&file, "nonsense").expect("written");
    site.gateway.api.read_identity_again().expect_err("damaged");
    site.send("GET", "/version", "").expect(200);
}

#[test]
fn a_port_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let directory = tempfile::tempdir().expect("a directory");
    let listen = taken.local_addr().expect("bound");
    let socket = directory.path().join("api.sock");
    let error = spawn(ApiParts {
        socket: socket.clone(),
        https: Some(Https::beside(&directory.path().join("state.db"), listen)),
        replica: Cluster::new(ClusterSettings::default()),
        commands: unbounded().0,
        stats: Arc::new(Stats::default),
        checks: Arc::default(),
        dump: None,
    });
    let told = error.map(drop).expect_err("the port is taken").to_string();
    assert!(told.starts_with(&format!("api.listen {listen}: cannot listen: ")) && told.contains("ss -ltnp"), "{told}");
    assert!(!socket.exists(), "nothing half started is left");
}
