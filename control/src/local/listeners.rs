//! Listeners that are opened and closed while a [`ServiceThread`](super::ServiceThread) runs.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use pollgate_common::pair;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::compile::resolve::Family;

/// Connections that the kernel keeps until they are accepted, per listener.
const BACKLOG: u32 = 128;

/// Open listeners by key, each with a task that accepts.
#[derive(Debug)]
pub(crate) struct OpenListeners<K> {
    handle: Handle,
    most: usize,
    open: HashMap<K, (SocketAddr, AbortHandle)>,
}

impl<K: Clone + Eq + Hash> OpenListeners<K> {
    /// None yet, and never more than `most`. Their tasks run on `handle`.
    pub(crate) fn new(handle: Handle, most: usize) -> OpenListeners<K> {
        OpenListeners { handle, most, open: HashMap::new() }
    }

    /// Where the listener of `key` is; opens it, on a port that the kernel chooses, if there is none. `admit` takes each connection; it
    /// must not block.
    pub(crate) fn listen(
        &mut self,
        key: &K,
        family: Family,
        admit: impl Fn(TcpStream, SocketAddr) + Send + Sync + 'static,
    ) -> io::Result<SocketAddr> {
        if let Some((address, _)) = self.open.get(key) {
            return Ok(*address);
        }
        if self.open.len() == self.most {
            return Err(io::Error::other(format!("all {} listeners are in use", self.most)));
        }
        let _inside = self.handle.enter();
        let listener = listener(family)?;
        let address = listener.local_addr()?;
        let task = self.handle.spawn(accept(listener, admit));
        self.open.insert(key.clone(), (address, task.abort_handle()));
        Ok(address)
    }

    pub(crate) fn close(&mut self, key: &K) {
        if let Some((_, task)) = self.open.remove(key) {
            task.abort();
        }
    }
}

/// Has `admit` take each connection. Ends with the task.
pub(crate) async fn accept(listener: TcpListener, admit: impl Fn(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(stream, peer),
            Err(error) => {
                tracing::debug!("accepting a connection of a local service: {error}");
                // Out of file descriptors, most likely: the connection stays in the queue.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A listener at the kernel's end of the host pair.
fn listener(family: Family) -> io::Result<TcpListener> {
    let (socket, address) = match family {
        Family::V4 => (TcpSocket::new_v4()?, SocketAddr::new(IpAddr::V4(pair::HOST_V4), 0)),
        Family::V6 => (TcpSocket::new_v6()?, link_local(pair::HOST_V6)),
    };
    // So that it is reached by the pair alone, although the kernel accepts packets to its addresses on every interface.
    socket.bind_device(Some(pair::HOST.as_bytes()))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The device, to which the socket is bound, is the scope.
fn link_local(address: Ipv6Addr) -> SocketAddr {
    SocketAddrV6::new(address, 0, 0, 0).into()
}
