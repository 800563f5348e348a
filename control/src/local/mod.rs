//! The listeners of local services ([`crate::compile::local`]) at the kernel's end of the host pair.
//!
//! ```text
//!  compiler ── listen, close, report ──▶ Listeners ─┬─▶ health thread: health checks over HTTP
//!                                                   └─▶ DNS thread: DNS over TCP
//! ```
//!
//! Each listener is on a port that the kernel chooses: clients only see the frontend. It is bound to `pg-host`, so nothing reaches
//! it but the workers. `Connections` serves HTTP on them and on the metrics listener: at most so many connections at a time, a request head
//! of 8 KiB within 5 s, and 60 s altogether.

mod http;
mod listeners;
mod thread;

use std::io;
use std::net::SocketAddr;

pub(crate) use self::http::Connections;
pub(crate) use self::listeners::{OpenListeners, accept};
pub(crate) use self::thread::ServiceThread;
use crate::compile::local::{LocalService, LocalServices};
use crate::dns::tcp;
use crate::health;

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
