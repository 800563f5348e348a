//! Frontends and owned addresses: the possible destinations of a packet.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use crate::flow::Protocol;

/// What kind of address a packet was sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OwnedKind {
    /// A gateway address.
    Gateway,
    /// A ClusterIP (the DNS address counts as one).
    ClusterIp,
    /// A load balancer's address.
    LoadBalancer,
    /// A Service's external IP.
    External,
    /// The workers' address on the host pair ([`crate::pair`]).
    Pair,
}

impl OwnedKind {
    /// Whether an address of this kind may be on a network of the gateway's links, so that hosts there ask who has it. ClusterIPs are
    /// reached by routes.
    pub fn may_be_on_link(self) -> bool {
        match self {
            OwnedKind::Gateway | OwnedKind::LoadBalancer | OwnedKind::External => true,
            OwnedKind::ClusterIp | OwnedKind::Pair => false,
        }
    }
}

/// An address pollgate owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owned {
    /// The kind of address.
    pub kind: OwnedKind,
    /// How many frontends and settings claim it.
    pub(super) claims: u32,
}

/// What a client connects to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct FrontendKey {
    /// The owned address.
    pub address: IpAddr,
    /// Port, host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl Hash for FrontendKey {
    /// Hashes as few words as possible: every new flow looks one up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u64::from(self.port) << 8 | u64::from(self.protocol.number());
        match self.address {
            IpAddr::V4(v4) => state.write_u64(u64::from(v4.to_bits()) << 32 | rest),
            IpAddr::V6(v6) => {
                state.write_u128(v6.to_bits());
                state.write_u64(rest);
            }
        }
    }
}

/// Where a frontend comes from. Decides traffic policy and SNAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// ClusterIP:port.
    ClusterIp,
    /// Gateway address:nodePort.
    NodePort,
    /// Load-balancer address:port.
    LoadBalancer,
    /// External IP:port.
    External,
}

impl FrontendKind {
    /// Whether the internal traffic policy applies; otherwise the external one does.
    pub fn is_internal(self) -> bool {
        self == FrontendKind::ClusterIp
    }

    /// The kind of owned address that a frontend of this kind has.
    pub fn owned(self) -> OwnedKind {
        match self {
            FrontendKind::ClusterIp => OwnedKind::ClusterIp,
            FrontendKind::NodePort => OwnedKind::Gateway,
            FrontendKind::LoadBalancer => OwnedKind::LoadBalancer,
            FrontendKind::External => OwnedKind::External,
        }
    }
}

/// The value of a [`FrontendKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Index into the services.
    pub service: u32,
    /// The kind of frontend.
    pub kind: FrontendKind,
}
