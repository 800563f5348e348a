//! Queries that workers cannot answer: taken from their queue, and their responses given back.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pollgate_common::dns::forward::{Reply, Request, Requests};
use pollgate_common::dns::message::EDNS_SIZE;
use pollgate_common::sleep::Waker;

use super::resolver::Live;
use super::server::Shared;

/// Requests that are taken before others of the thread have their turn.
const BATCH: usize = 64;

/// Gives a response to a worker. Returns whether it had room.
pub type ReplyTo = Box<dyn Fn(u16, Reply) -> bool + Send + Sync>;

/// The signal that requests wait: a byte in a socket.
#[derive(Debug)]
pub struct Bell(UnixStream);

/// An empty queue of requests, and what tells its reader.
///
/// # Errors
/// If the system gives no file descriptors.
pub fn requests() -> io::Result<(Arc<Requests>, Bell)> {
    let (rope, bell) = UnixStream::pair()?;
    rope.set_nonblocking(true)?;
    bell.set_nonblocking(true)?;
    // A full socket wakes, too.
    let waker: Waker = Box::new(move || drop((&rope).write(&[0])));
    Ok((Arc::new(Requests::new(waker)), Bell(bell)))
}

/// Takes requests for as long as the thread runs.
pub(super) async fn serve(requests: Arc<Requests>, bell: Bell, shared: Arc<Shared>) {
    let bell = match tokio::net::UnixStream::from_std(bell.0) {
        Ok(bell) => bell,
        Err(error) => return tracing::error!("names outside the cluster are not resolved: {error}"),
    };
    loop {
        // Without room, they stay in the queue; if that is full, the workers refuse.
        for _ in 0..BATCH {
            let Some(live) = shared.resolver.enter() else { break };
            let Some(request) = requests.pop() else { break };
            take(request, &shared, live);
        }
        tokio::task::yield_now().await;
        shared.resolver.room().await;
        if !requests.may_sleep() {
            continue;
        }
        if bell.readable().await.is_ok() {
            while bell.try_read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        }
    }
}

/// Answers at once from the cache, or starts a task that waits.
fn take(request: Request, shared: &Arc<Shared>, live: Live) {
    let Some((query, forwarded)) = shared.forwarded(&request) else { return };
    let Some(forwarded) = forwarded else { return reply(&request, shared, |message| shared.fail(&query, message)) };
    match shared.resolver.cached(&forwarded) {
        Some(resolved) => reply(&request, shared, |message| shared.respond(&query, message, &forwarded, &resolved)),
        None => {
            let shared = Arc::clone(shared);
            let client: IpAddr = request.client;
            tokio::spawn(async move {
                let resolved = shared.resolver.look_up(client, &forwarded, live).await;
                reply(&request, &shared, |message| shared.respond(&query, message, &forwarded, &resolved));
            });
        }
    }
}

/// Sends the response that `write` makes of the query.
fn reply(request: &Request, shared: &Shared, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
    let mut message = [0; EDNS_SIZE as usize];
    message[..request.len].copy_from_slice(&request.head[..request.len]);
    if let Some(len) = write(&mut message)
        && !(shared.reply_to)(request.worker, Reply { way: request.way, message, len })
    {
        shared.count(|totals| totals.no_room += 1);
    }
}
