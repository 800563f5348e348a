//! Network laboratories: whole small networks inside one process, for `pollgate demo` and the tests.
//!
//! ```text
//!   Namespace "client" ─eth0──veth──client─┐
//!   Namespace "pod-a"  ─eth0──veth──a──────┤ Namespace "gateway"   (the gateway's threads run in here)
//!   Namespace "pod-b"  ─eth0──veth──b──────┘
//! ```
//!
//! A namespace is a real kernel network stack, so everything on the wire is real: ARP, checksums left to offload, GSO,
//! TCP. It is held by file descriptors and threads only (network_namespaces(7)): nothing is left behind when the
//! process ends, however it ends, unless a namespace was deliberately [kept](Namespace::keep).
//!
//! Everything is set up by netlink and ioctl, without external programs, so a machine needs nothing installed. As root
//! this works as it is; an ordinary user gets there through a user namespace, see [`enter`].
//!
//! ```no_run
//! use pollgate::lab::topology::{Network, guide};
//! use pollgate::lab::traffic::{Server, ask_tcp};
//! # use std::time::Duration;
//! let network = Network::new(&guide(), 1)?;
//! let (pod, client) = (network.host("backend-1"), network.host("frontend-app"));
//! let server = Server::tcp(&pod.namespace, (pod.address, 8080).into(), "backend-1")?;
//! let gateway = network.gateway().spawn(|| println!("the gateway's threads run here"))?;
//! let answered_by = ask_tcp(&client.namespace, "10.96.0.50:8080".parse()?, Duration::from_secs(1))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A fresh namespace is quiet and strict: `lo` is up, forwarding is off, reverse-path filters are off, and IPv6 is off
//! on each link until it is given an IPv6 address (router solicitations would otherwise join every capture).

mod enter;
mod error;
mod link;
mod namespace;
pub mod topology;
pub mod traffic;

pub use enter::{Unavailable, available, enter};
pub use error::LabError;
pub use link::Veth;
pub use namespace::Namespace;
pub use pollgate_dataplane::ethtool::OffloadSwitch;
