//! The thread that responds to health checks.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use tokio::time::interval;

use super::page;
use super::proxy::ProxyHealth;
use crate::compile::local::LocalService;
use crate::local::{Connections, OpenListeners, ServiceThread};
use crate::threads::Role;

/// Connections at a time, over all listeners.
const CONNECTIONS: usize = 256;
/// Listeners: one for each Service with a health-check node port, and family.
const LISTENERS: usize = 2048;
/// How often the workers are looked at.
const SAMPLE: Duration = Duration::from_secs(1);

/// File descriptors that health checks need.
pub const OPEN_FILES: u64 = (CONNECTIONS + LISTENERS) as u64;

/// The thread. Dropping it ends the thread and closes all listeners.
#[derive(Debug)]
pub struct HealthServer {
    thread: ServiceThread,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    proxy: Arc<ProxyHealth>,
    /// Ready local endpoints.
    ready: Mutex<HashMap<LocalService, usize>>,
    connections: Connections,
}

impl HealthServer {
    /// Starts the thread, in the calling thread's network namespace.
    pub fn start(proxy: Arc<ProxyHealth>) -> io::Result<HealthServer> {
        let shared = Arc::new(Shared { proxy, ready: Mutex::default(), connections: Connections::new(CONNECTIONS) });
        let inside = Arc::clone(&shared);
        let watch = async move {
            let mut samples = interval(SAMPLE);
            loop {
                samples.tick().await;
                inside.proxy.is_healthy();
            }
        };
        Ok(HealthServer { thread: ServiceThread::start(Role::Health, watch)?, shared })
    }

    /// What opens and closes its listeners.
    pub fn services(&self) -> Services {
        Services {
            shared: Arc::clone(&self.shared),
            listeners: OpenListeners::new(self.thread.handle().clone(), LISTENERS),
        }
    }
}

/// The listeners of a [`HealthServer`].
#[derive(Debug)]
pub struct Services {
    shared: Arc<Shared>,
    listeners: OpenListeners<LocalService>,
}

impl Services {
    /// Where `service` listens; opens a listener if it has none.
    pub(crate) fn listen(&mut self, service: &LocalService) -> io::Result<SocketAddr> {
        let (shared, served) = (Arc::clone(&self.shared), service.clone());
        self.listeners.listen(service, service.family(), move |stream, _| {
            let (inside, served) = (Arc::clone(&shared), served.clone());
            shared.connections.admit(stream, move |request| inside.respond(&served, request.uri().path()));
        })
    }

    pub(crate) fn close(&mut self, service: &LocalService) {
        self.listeners.close(service);
        self.shared.ready().remove(service);
    }

    pub(crate) fn report(&mut self, service: &LocalService, ready: usize) {
        self.shared.ready().insert(service.clone(), ready);
    }
}

impl Shared {
    fn ready(&self) -> MutexGuard<'_, HashMap<LocalService, usize>> {
        // A map is whole between any two of its operations.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, service: &LocalService, path: &str) -> Response<Body> {
        let proxy = &self.proxy;
        let proxy_page = |eligible| page::proxy(proxy.is_healthy(), proxy.updated(), proxy.moment(), eligible);
        match service {
            LocalService::HealthCheck { service: name, .. } => {
                let ready = self.ready().get(service).copied().unwrap_or(0);
                page::service(name, ready, proxy.is_healthy())
            }
            LocalService::Proxy { .. } | LocalService::Dns { .. } => match path {
                "/healthz" => proxy_page(Some(proxy.is_eligible())),
                "/livez" => proxy_page(None),
                _ => page::not_found(),
            },
        }
    }
}
