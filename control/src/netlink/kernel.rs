//! Requests to the kernel: dumps, and the resolution of neighbours.

use std::io;

use futures_util::{StreamExt, TryStreamExt};
use pollgate_common::hash::HashMap;
use pollgate_common::net::{Facts, NeighbourQuery, PortId};
use pollgate_common::pair;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::event::HostNetworkError;
use super::facts;

/// A connection of the current thread's network namespace, served by the current runtime.
pub(super) fn connect() -> Result<Handle, HostNetworkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|e| HostNetworkError::new("opening a netlink socket", e))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Links, addresses and routes, all at once.
pub(super) async fn read(requests: &Handle, ports: &HashMap<String, PortId>) -> Result<Facts, HostNetworkError> {
    let mut facts = Facts::default();
    let mut links = std::pin::pin!(requests.link().get().execute());
    while let Some(message) = links.try_next().await.map_err(failed("reading the links by netlink"))? {
        facts.links.push(facts::link(&message, ports));
    }
    let mut addresses = std::pin::pin!(requests.address().get().execute());
    while let Some(message) = addresses.try_next().await.map_err(failed("reading the addresses by netlink"))? {
        facts.addresses.extend(facts::address(&message));
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        let mut routes = std::pin::pin!(requests.route().get(wanted).execute());
        while let Some(message) = routes.try_next().await.map_err(failed("reading the routes by netlink"))? {
            facts.routes.extend(facts::route(&message));
        }
    }
    // Routes into the host pair are for the host's own processes: what the workers send to an owned address must not come back.
    if let Some(host) = facts.links.iter().find(|link| link.name == pair::HOST).map(|link| link.index) {
        facts.routes.retain(|route| route.link != host);
    }
    Ok(facts)
}

/// All IP neighbours.
pub(super) async fn neighbours(requests: &Handle) -> Result<Vec<(NeighbourQuery, facts::Known)>, HostNetworkError> {
    let mut known = Vec::new();
    let mut dump = std::pin::pin!(requests.neighbours().get().execute());
    while let Some(message) = dump.try_next().await.map_err(failed("reading the neighbours by netlink"))? {
        known.extend(facts::neighbour(&message));
    }
    Ok(known)
}

/// What the kernel is to do about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Resolve it and keep it resolved.
    Keep,
    /// Resolve it now.
    ResolveOnce,
    /// Treat the entry as an ordinary one again: a plain use keeps its state and removes the mark.
    LetGo,
}

/// RTM_NEWNEIGH without a MAC: it starts the kernel's resolution and says how to treat the entry.
pub(super) async fn request_neighbour(
    requests: &Handle,
    who: NeighbourQuery,
    request: Request,
) -> Result<(), rtnetlink::Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = if who.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = who.link;
    message.header.state = NeighbourState::None;
    message.header.kind = RouteType::Unspec;
    message.attributes.push(NeighbourAttribute::Destination(who.address.into()));
    match request {
        Request::Keep => message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed)),
        Request::ResolveOnce | Request::LetGo => message.header.flags = NeighbourFlags::Use,
    }
    let mut packed = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    let create = if request == Request::LetGo { 0 } else { NLM_F_CREATE };
    packed.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | create;
    let mut requests = requests.clone();
    let mut answers = requests.request(packed)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

pub(super) async fn let_go(requests: &Handle, who: NeighbourQuery) {
    if let Err(error) = request_neighbour(requests, who, Request::LetGo).await {
        tracing::debug!(%error, address = %who.address, "cannot release a neighbour");
    }
}

fn failed(doing: &'static str) -> impl Fn(rtnetlink::Error) -> HostNetworkError {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => HostNetworkError::new(doing, message.to_io()),
        other => HostNetworkError::new(doing, io::Error::other(other)),
    }
}
