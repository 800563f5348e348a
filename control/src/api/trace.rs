//! `GET trace`: what the gateway would do with a packet, or answer to a DNS query.
//!
//! | parameter | |
//! |---|---|
//! | `from`, `to` | the packet's ends, `ADDRESS:PORT`, of one family |
//! | `protocol` | `tcp`, `udp` or `sctp`; TCP if it is not given |
//! | `dns`, `type` | instead of those: a name, and the type of the records; `A` if it is not given |
//!
//! The decisions about a packet are made by the worker that has its flow, or would open it, with its flows and clients as they are.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use pollgate_common::flow::Protocol;
use pollgate_common::inspect::{Request as Asked, TraceRequest};
use pollgate_common::trace::{PacketTrace, TracedPacket};

use super::ask::Turn;
use super::query::{Parameters, given, only, parsed, protocol, query};
use super::shared::Api;
use super::status::Status;
use crate::observe::dump::DumpSource;
use crate::observe::trace::{self, BadQuestion, Listener, Objects, Report};

/// Where traces are.
pub const TRACE_PATH: &str = "/apis/pollgate.io/v1alpha1/trace";

const PARAMETERS: [&str; 5] = ["from", "to", "protocol", "dns", "type"];

/// How often a worker is asked again because the tables have changed in the meantime.
const TRIES: usize = 3;

pub(crate) fn router() -> Router<Api> {
    Router::new().route(TRACE_PATH, get(trace))
}

async fn trace(State(api): State<Api>, request: Request) -> Result<Response, Status> {
    let parameters = query(&request.into_parts().0)?;
    only(&parameters, &PARAMETERS)?;
    let source = api.dump.clone().ok_or_else(Status::no_resource)?;
    let report = match given(&parameters, "dns") {
        Some(name) => dns(&api, &source, name, given(&parameters, "type").unwrap_or("A"))?,
        None => packet(&api, source, traced(&parameters)?).await?,
    };
    Ok(Json(report).into_response())
}

fn dns(api: &Api, source: &DumpSource, name: &str, rtype: &str) -> Result<Report, Status> {
    let state = api.replica.read();
    let reader = source.tables.reader();
    let report = trace::dns(reader.pin().load(), &state.cluster, Listener::Running, name, rtype);
    report.map_err(|bad| match bad {
        BadQuestion::Name => Status::bad_request(format!("dns: Invalid value: {name:?}: expected a domain name")),
        BadQuestion::Type => {
            Status::bad_request(format!("type: Invalid value: {rtype:?}: expected a record type such as A"))
        }
    })
}

fn traced(parameters: &Parameters) -> Result<TracedPacket, Status> {
    let end = |name: &str| {
        let end = parsed(parameters, name, "ADDRESS:PORT", |text| text.parse::<SocketAddr>().ok())?;
        end.ok_or_else(|| Status::bad_request(format!("{name}: Required value: the packet's from and to, or dns")))
    };
    let (from, to) = (end("from")?, end("to")?);
    if from.is_ipv4() != to.is_ipv4() {
        return Err(Status::bad_request("from, to: Invalid value: both ends must be of one IP family".to_owned()));
    }
    let protocol = parsed(parameters, "protocol", "TCP, UDP or SCTP", protocol)?.unwrap_or(Protocol::Tcp);
    Ok(TracedPacket { protocol, from, to })
}

async fn packet(api: &Api, source: DumpSource, packet: TracedPacket) -> Result<Report, Status> {
    let turn = Turn::wait(api).await?;
    let mut trace = ask(&turn, &source, packet).await?;
    for _ in 1..TRIES {
        if trace.generation == source.tables.reader().pin().load().generation() {
            break;
        }
        trace = ask(&turn, &source, packet).await?;
    }
    drop(turn);
    let replica = api.clone();
    // To explain the endpoints of a Service takes a look at every Pod of its namespace.
    let tell = move || {
        let state = replica.replica.read();
        let objects = Objects { cluster: &state.cluster, network: true };
        trace::packet(source.tables.reader().pin().load(), objects, &packet, &trace)
    };
    tokio::task::spawn_blocking(tell).await.map_err(|error| Status::internal(error.to_string()))
}

/// The decisions of the worker that has the flow: any worker knows which one that is.
async fn ask(turn: &Turn<'_>, source: &DumpSource, packet: TracedPacket) -> Result<PacketTrace, Status> {
    let first = ask_worker(turn, source, 0, packet).await?;
    if first.owner == first.worker { Ok(first) } else { ask_worker(turn, source, first.owner.into(), packet).await }
}

async fn ask_worker(
    turn: &Turn<'_>,
    source: &DumpSource,
    worker: usize,
    packet: TracedPacket,
) -> Result<PacketTrace, Status> {
    let answer = turn.ask(&source.mailboxes, worker, Asked::Trace(Box::new(TraceRequest::new(packet)))).await?;
    let trace = match &answer {
        Asked::Trace(request) => request.trace().copied(),
        Asked::Flows(_) => None,
    };
    trace.ok_or_else(|| Status::internal(format!("worker {worker} did not trace the packet")))
}
