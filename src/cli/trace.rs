//! `pollgate trace`: what the gateway would do with a packet or a DNS query, and why.
//!
//! ```text
//!  a running gateway ══ Unix socket ══▶ Report ─▶ text or JSON
//!  --config, --manifests ▶ a worker in this process ▶ Report
//! ```
//!
//! Exit code 0: the packet would be sent on (or wait for a MAC address) or answered, the name has records of the type, or other
//! servers are asked for it. 1: it would be dropped, refused or left to the kernel, or there are no records.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use pollgate_common::flow::Protocol;
use pollgate_common::time::Instant;
use pollgate_common::trace::TracedPacket;
use pollgate_control::api::TRACE_PATH;
use pollgate_control::observe::trace::{self, BadQuestion, Listener, Objects, Report, record_type};

use super::args::{TraceArgs, TracedProtocol};
use super::client::{Client, escaped};
use crate::config::{Config, ConfigError, Purpose};
use crate::failure::Failure;
use crate::host;
use crate::output::{Machine, strange};
use crate::replay::Offline;

/// The client's port if none is given: the first of those that are for clients (RFC 6335 §6).
const CLIENT_PORT: u16 = 49_152;

/// What is traced.
enum Question<'a> {
    Packet(TracedPacket),
    Dns(&'a str, &'a str),
}

/// `pollgate trace`
///
/// # Errors
/// If the packet is not delivered or the name has no records, after the report; or if there is no report.
pub fn trace(args: &TraceArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let question = question(args)?;
    let report = match (&args.config, &args.manifests) {
        (Some(config), Some(manifests)) => offline(config, manifests, &question)?,
        _ => online(args, &question)?,
    };
    match args.output {
        Some(Machine::Json) => {
            let value = serde_json::to_value(&report).map_err(|error| strange(&error))?;
            writeln!(out, "{value:#}")?;
        }
        None => write!(out, "{}", report.text())?,
    }
    match (report.delivered, &report.reason) {
        (true, _) => Ok(()),
        (false, Some(reason)) => {
            Err(Failure::refused(format!("error: the packet would be {}: {}", report.result, reason.name)))
        }
        (false, None) if report.answer.is_some() => {
            Err(Failure::refused(format!("error: no records: {}", report.summary)))
        }
        (false, None) => Err(Failure::refused(format!("error: {}: {}", report.result, report.summary))),
    }
}

fn question(args: &TraceArgs) -> Result<Question<'_>, Failure> {
    if let Some(name) = &args.dns {
        if record_type(&args.rtype).is_none() {
            let rtype = &args.rtype;
            return Err(Failure::usage(format!("{rtype:?} is not a record type such as A, AAAA, SRV or TYPE64")));
        }
        return Ok(Question::Dns(name, &args.rtype));
    }
    let (Some(from), Some(to)) = (args.from, args.to) else {
        return Err(Failure::usage("a packet has two ends: --from IP[:PORT] --to IP:PORT"));
    };
    if from.is_ipv4() != to.is_ipv4() {
        return Err(Failure::usage(format!("--from {from} and --to {to} are not of one IP family")));
    }
    let protocol = match args.proto {
        TracedProtocol::Tcp => Protocol::Tcp,
        TracedProtocol::Udp => Protocol::Udp,
        TracedProtocol::Sctp => Protocol::Sctp,
    };
    Ok(Question::Packet(TracedPacket { protocol, from, to }))
}

/// `IP` or `IP:PORT`, IPv6 with a port in brackets.
pub(super) fn source(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let without_port = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, CLIENT_PORT));
    without_port
        .or_else(|_| text.parse())
        .map_err(|_| "expected IP or IP:PORT, such as 192.0.2.7:40000 or [2001:db8::7]:40000".to_owned())
}

fn online(args: &TraceArgs, question: &Question<'_>) -> Result<Report, Failure> {
    let query = match question {
        Question::Packet(TracedPacket { protocol, from, to }) => {
            format!("from={}&to={}&protocol={protocol}", escaped(&from.to_string()), escaped(&to.to_string()))
        }
        Question::Dns(name, rtype) => format!("dns={}&type={}", escaped(name), escaped(rtype)),
    };
    let answer = Client::new(&args.connection.socket)?.get(&format!("{TRACE_PATH}?{query}"))?;
    serde_json::from_value(answer).map_err(|error| strange(&error))
}

/// A gateway in this process, without flows and without clients that it remembers. About a DNS query it says what a running gateway
/// with this configuration does on this host, also if the configuration is that of a replay.
fn offline(config: &Path, manifests: &Path, question: &Question<'_>) -> Result<Report, Failure> {
    let config = offline_config(config)?.with_upstreams(host::resolv::upstreams);
    let network = config.interfaces.iter().all(|interface| interface.link.is_some());
    let gateway = Offline::new(&config, manifests, Vec::new(), Instant::default());
    let gateway = gateway.map_err(|error| Failure::refused(error.to_string()))?;
    let reader = gateway.source().reader();
    let pin = reader.pin();
    let tables = pin.load();
    match question {
        Question::Packet(packet) => {
            let objects = Objects { cluster: gateway.cluster(), network };
            Ok(trace::packet(tables, objects, packet, &gateway.trace(packet)))
        }
        Question::Dns(name, rtype) => {
            let listener = Listener::Planned { has_pair: config.host.pair };
            trace::dns(tables, gateway.cluster(), listener, name, rtype).map_err(|bad| match bad {
                BadQuestion::Name => Failure::usage(format!("{name:?} is not a domain name")),
                BadQuestion::Type => Failure::usage(format!("{rtype:?} is not a record type")),
            })
        }
    }
}

/// The configuration of a gateway, or that of a replay, which declares the network. If it is neither, the one with fewer faults is meant.
fn offline_config(path: &Path) -> Result<Config, Failure> {
    let faults = |error: &ConfigError| error.to_string().lines().count();
    match (Config::load(path, Purpose::Run), Config::load(path, Purpose::Replay)) {
        (Ok(config), _) | (_, Ok(config)) => Ok(config),
        (Err(run), Err(replay)) if faults(&replay) < faults(&run) => Err(replay.into()),
        (Err(run), _) => Err(run.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_go_without_a_port() {
        let read = |text: &str| source(text).map(|end| end.to_string());
        assert_eq!(read("192.0.2.7"), Ok("192.0.2.7:49152".to_owned()));
        assert_eq!(read("192.0.2.7:1"), Ok("192.0.2.7:1".to_owned()));
        for text in ["2001:db8::7", "[2001:db8::7]"] {
            assert_eq!(read(text), Ok("[2001:db8::7]:49152".to_owned()), "{text}");
        }
        assert_eq!(read("[2001:db8::7]:80"), Ok("[2001:db8::7]:80".to_owned()));
        for text in ["", "web", "192.0.2.7:", "192.0.2.7:70000", "[192.0.2.7"] {
            assert!(source(text).is_err(), "{text}");
        }
    }
}
