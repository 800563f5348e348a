//! The listeners of local services ([`crate::compile::local`]) at the kernel's end of the host pair.
//!
//! ```text
//!  compiler ── listen, close, report ──▶ Listeners ─┬─▶ health thread: health checks over HTTP
//!                                                   └─▶ DNS thread: DNS over TCP
//! ```
//!
//! Each listener is on a port that the kernel chooses: clients only see the frontend. It is bound to `pg-host`, so nothing reaches
//! it but the workers.

mod thread;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use pollgate_common::pair;
use tokio::net::{TcpListener, TcpSocket};

pub(crate) use self::thread::ServiceThread;
use crate::compile::local::{LocalService, LocalServices};
use crate::compile::resolve::Family;
use crate::dns::tcp;
use crate::health;

/// Connections that the kernel keeps until they are accepted, per listener.
const BACKLOG: u32 = 128;

/// The listeners of all local services.
#[derive(Debug)]
pub struct Listeners {
    /// Those of health checks.
    pub health: health::Services,
    /// Those of DNS.
    pub dns: tcp::Listeners,
}

impl LocalServices for Listeners {
    fn listen(&mut self, service: &LocalService) -> io::Result<SocketAddr> {
        match service {
            LocalService::HealthCheck { .. } | LocalService::Proxy { .. } => self.health.listen(service),
            LocalService::Dns { family } => self.dns.listen(*family),
        }
    }

    fn close(&mut self, service: &LocalService) {
        match service {
            LocalService::HealthCheck { .. } | LocalService::Proxy { .. } => self.health.close(service),
            LocalService::Dns { family } => self.dns.close(*family),
        }
    }

    fn report(&mut self, service: &LocalService, ready: usize) {
        match service {
            LocalService::HealthCheck { .. } | LocalService::Proxy { .. } => self.health.report(service, ready),
            LocalService::Dns { .. } => {}
        }
    }
}

/// A listener at the kernel's end of the host pair, on a port that the kernel chooses.
pub(crate) fn listener(family: Family) -> io::Result<TcpListener> {
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
