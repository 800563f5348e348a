//! The compiled tables that workers read, and the builder that proves every index in them.
//!
//! ```text
//!   (address, port, protocol) ─frontends─▶ Frontend ─┐
//!   address ─owned─▶ Owned                           ▼
//!                                services[index] ServicePort ─ cluster │ local ─▶ Pool: Ring ─ordinal─▶ order ─slot─▶ Backend
//! ```
//!
//! * **Immutable**: a worker reads one pointer per burst and sees one consistent state.
//! * **Structurally shared**: maps are [`Sharded`] and services are in chunks, each in an `Arc`. The next generation copies
//!   a few hundred pointers, and of the data only the shards and chunks that change. Rings are shared between all pools
//!   with the same backends in the same order.
//! * **Proved once**: [`Builder`] is the only way to make a [`Tables`] and refuses a dangling index, so the look-ups below
//!   cannot fail. They return `Option` all the same, and no reader can panic.
//!
//! A *service port* is one port of a Kubernetes Service (namespace/name, port name, protocol). Each is balanced by itself,
//! as in kube-proxy (Kubernetes `pkg/proxy/types.go`, ServicePortName).
//!
//! [`Sharded`]: crate::sharded::Sharded

mod builder;
mod frontend;
mod generation;
mod service;

pub use self::builder::{BuildError, Builder};
pub use self::frontend::{Frontend, FrontendKey, FrontendKind, Owned, OwnedKind};
pub use self::generation::Tables;
pub use self::service::{Backend, Counted, Pool, Ring, ServiceId, ServicePort};
