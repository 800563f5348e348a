//! The other end of the API's socket: one HTTP/1.1 request at a time. The response is read whole or, for a watch, line by line.
//!
//! The command line uses only the API of the gateway, so whatever it can do, `curl --unix-socket` and
//! kubectl can too. A connection is opened for each request: on a Unix socket that costs less than keeping it would
//! in code. hyper implements the protocol; tokio's single-threaded runtime is used for its timer.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::failure::Failure;
use crate::terminal;

/// Longer than the gateway itself waits for its disk (60 s), so that the gateway reports the error itself.
const PATIENCE: Duration = Duration::from_secs(75);

/// A listing of 100 000 endpoints is some 100 MB; a larger response is not from a gateway.
const LONGEST_ANSWER: usize = 1 << 30;

/// A client of the gateway at one socket.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

/// Why there is no usable response.
#[derive(Debug)]
pub enum ClientError {
    /// The gateway responded with a Kubernetes `Status` other than success.
    Refused(Status),
    /// No connection, or it was cut off; the text says what to do.
    Unreachable(String),
}

/// A refusal, as a Kubernetes `Status` describes it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// `NotFound`, `Invalid`, `AlreadyExists`, …; empty if the server gave none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The details.
    pub details: Details,
}

/// The part of a `Status` that programs read.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Details {
    /// One for each fault of a field.
    pub causes: Vec<Cause>,
}

/// One fault of a field.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// Path of the field, `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Client {
    /// A client for the gateway whose API listens at `socket`. Nothing is connected yet.
    ///
    /// # Errors
    /// If the system gives no event queue (out of file descriptors).
    pub fn new(socket: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Failure::refused(format!("cannot start the client: {error}")))?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, None)
    }

    /// Creates at `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.send(Method::POST, path, Some(body))
    }

    /// Deletes `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::DELETE, path, None)
    }

    /// Reads `path` until the server ends it, and passes each line to `each` as it arrives.
    ///
    /// # Errors
    /// See [`ClientError`]; and the first error of `each`. A regular end by the server is not an error.
    pub fn watch(&self, path: &str, each: &mut dyn FnMut(Value) -> Result<(), Failure>) -> Result<(), Failure> {
        let request = self.request(Method::GET, path, None)?;
        self.runtime.block_on(async {
            let mut response = self.in_time(self.open(request)).await?;
            if !response.status().is_success() {
                let (code, body) = self.in_time(self.whole(response)).await?;
                self.decode(code, &body)?;
                return Ok(());
            }
            let mut unread = Vec::new();
            while let Some(frame) = response.frame().await {
                let frame = frame.map_err(|error| self.broken(&error))?;
                unread.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                let lines = unread.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                for line in unread[..lines].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    each(serde_json::from_slice(line).map_err(|error| self.broken(&error))?)?;
                }
                unread.drain(..lines);
            }
            Ok(())
        })
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let request = self.request(method, path, body)?;
        let answer = self.in_time(async { self.whole(self.open(request).await?).await });
        let (code, body) = self.runtime.block_on(answer)?;
        self.decode(code, &body)
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, ClientError> {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "pollgate")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(self.unreachable(&format!("did not respond within {seconds} s; its log should show why")))
        })
    }

    fn decode(&self, code: StatusCode, body: &[u8]) -> Result<Value, ClientError> {
        decode(code, body).map_err(|error| match error {
            Decoded::Refused(status) => ClientError::Refused(status),
            Decoded::NotJson(error) => self.broken(&error),
        })
    }

    /// Sends the request and waits for the head of the response.
    async fn open(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unopened(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // What goes wrong on the connection comes back through the request as well.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<(StatusCode, Bytes), ClientError> {
        let code = response.status();
        for warning in response.headers().get_all(header::WARNING) {
            // Nothing can be done if stderr is closed.
            drop(writeln!(terminal::stderr(), "Warning: {}", warning_text(warning.as_bytes())));
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        Ok((code, body.map_err(|error| self.broken(&*error))?.to_bytes()))
    }

    /// The socket did not open. This is the most frequent error, so each case says what to do.
    fn unopened(&self, error: &std::io::Error) -> ClientError {
        let socket = self.socket.display();
        ClientError::Unreachable(match error.kind() {
            ErrorKind::NotFound => format!(
                "no gateway at {socket}: the socket does not exist. Start a gateway with `pollgate run --config \
                 FILE`, or set its socket with --socket or POLLGATE_SOCKET"
            ),
            ErrorKind::ConnectionRefused => format!(
                "no gateway at {socket}: no process listens on this socket any more. Start the gateway again with \
                 `pollgate run --config FILE`, or set another socket with --socket or POLLGATE_SOCKET"
            ),
            ErrorKind::PermissionDenied => format!(
                "not allowed to open {socket}: only the gateway's user and group may. Run this as that user or as \
                 root, or join the group (`ls -l {socket}` shows both)"
            ),
            _ => format!("cannot open {socket}: {error}. Set the gateway's socket with --socket or POLLGATE_SOCKET"),
        })
    }

    fn broken(&self, error: &dyn std::error::Error) -> ClientError {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        self.unreachable(&format!(
            "closed the connection or did not use the API protocol ({error}{cause}). If it was being stopped, try \
             again; otherwise check that the socket belongs to a pollgate"
        ))
    }

    fn unreachable(&self, what: &str) -> ClientError {
        ClientError::Unreachable(format!("the gateway at {} {what}", self.socket.display()))
    }
}

/// The text in a `Warning` header, `299 - "text"` (RFC 7234 §5.5).
fn warning_text(header: &[u8]) -> String {
    let text = String::from_utf8_lossy(header);
    let quoted = text.split_once('"').and_then(|(_, rest)| rest.strip_suffix('"')).unwrap_or(&text);
    quoted.replace("\\\"", "\"").replace("\\\\", "\\")
}

enum Decoded {
    Refused(Status),
    NotJson(serde_json::Error),
}

fn decode(code: StatusCode, body: &[u8]) -> Result<Value, Decoded> {
    if code.is_success() {
        return serde_json::from_slice(body).map_err(Decoded::NotJson);
    }
    let mut status: Status = serde_json::from_slice(body).unwrap_or_default();
    status.code = code.as_u16();
    if status.message.is_empty() {
        status.message = code.to_string();
    }
    Err(Decoded::Refused(status))
}

impl Status {
    /// Whether the object of the request does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }
}

impl From<ClientError> for Failure {
    /// A refusal in kubectl's words, which operators and scripts know.
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable(text) => Self::Unreachable(text),
            ClientError::Refused(status) if status.reason == "Invalid" => Self::refused(status.message),
            ClientError::Refused(Status { reason, message, .. }) if reason.is_empty() => {
                Self::refused(format!("Error from server: {message}"))
            }
            ClientError::Refused(Status { reason, message, .. }) => {
                Self::refused(format!("Error from server ({reason}): {message}"))
            }
        }
    }
}

/// `text` as one segment of a path or value of a query (RFC 3986: all but unreserved characters escaped).
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// The result of a client whose server reads one request and responds with these bytes.
    fn answered(bytes: &'static [u8]) -> (Result<Value, ClientError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 64 << 10];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(bytes).unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        let answer = Client::new(&socket).unwrap().post("/x?y=z", &serde_json::json!({"a": 1}));
        (answer, server.join().unwrap())
    }

    fn text(error: ClientError) -> String {
        Failure::from(error).to_string()
    }

    #[test]
    fn a_request_and_its_answer() {
        let (answer, request) = answered(b"HTTP/1.1 201 Created\r\ncontent-length: 8\r\n\r\n{\"b\": 2}");
        assert_eq!(answer.unwrap(), serde_json::json!({"b": 2}));
        assert!(request.starts_with("POST /x?y=z HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
    }

    #[test]
    fn a_warning_is_unquoted() {
        assert_eq!(warning_text(br#"299 - "unknown field \"spec.prots\"""#), "unknown field \"spec.prots\"");
        assert_eq!(warning_text(b"odd"), "odd");
    }

    #[test]
    fn a_refusal_is_told_in_kubectls_words() {
        let (answer, _) = answered(
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 78\r\n\r\n\
            {\"kind\":\"Status\",\"reason\":\"NotFound\",\"message\":\"services \\\"x\\\" not found\"}     ",
        );
        assert_eq!(text(answer.unwrap_err()), "Error from server (NotFound): services \"x\" not found");
        let (answer, _) = answered(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy");
        assert_eq!(text(answer.unwrap_err()), "Error from server: 503 Service Unavailable");
    }

    #[test]
    fn a_conversation_that_breaks_off_says_so() {
        let cases: [&[u8]; 4] = [
            b"",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd",
        ];
        for bytes in cases {
            let told = text(answered(bytes).0.unwrap_err());
            assert!(told.starts_with("error: the gateway at ") && told.contains("closed the connection"), "{told}");
            assert!(!told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn a_missing_gateway_says_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let told = || text(Client::new(&socket).unwrap().get("/version").unwrap_err());
        let missing = told();
        assert!(missing.contains("the socket does not exist") && missing.contains("POLLGATE_SOCKET"), "{missing}");
        drop(UnixListener::bind(&socket).unwrap());
        let dead = told();
        assert!(dead.contains("no process listens on this socket any more"), "{dead}");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("a-b.c_d~e"), "a-b.c_d~e");
        assert_eq!(escaped("app in (a,b)/ä"), "app%20in%20%28a%2Cb%29%2F%C3%A4");
    }
}
