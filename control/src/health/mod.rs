//! Health checks over HTTP, as kube-proxy serves them (K `pkg/proxy/healthcheck`): of each Service with a health-check node port,
//! and of the proxy itself.
//!
//! ```text
//!  load balancer ─▶ gateway address : health-check node port ─▶ workers ─▶ pg-host ─▶ listener ─┐
//!                   gateway address : 10256                  ─▶                                  ├─ health thread
//!                                                                                                │
//!  compiler (local endpoints, node, publications) ──▶ ProxyHealth, counts ◀──────────────────────┘
//!  workers' counters (do they poll?) ──────────────▶
//! ```
//!
//! The compiler opens and closes the listeners with the Services ([`crate::compile::local`], [`crate::local`]).
//!
//! **What strangers cost.** Everybody who reaches a gateway address may connect. There are at most `CONNECTIONS` connections over all
//! listeners; a further one closes the one that has been open for longest, since an honest request takes milliseconds. How long each
//! may last, and how long its request head may be, is in [`crate::local`]; bodies are not read.

mod page;
mod proxy;
mod server;

pub use self::proxy::ProxyHealth;
pub use self::server::{HealthServer, OPEN_FILES, Services};
