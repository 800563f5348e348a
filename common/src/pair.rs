//! The host pair: a veth pair between the kernel's network stack and the workers.
//!
//! ```text
//!  processes of the host ─ kernel ─ pg-host ═══ pg-data ─ workers ─ Services
//!                                 .1 / ::1      .2 / ::2
//! ```
//!
//! The kernel has the addresses of `pg-host`, and routes to owned addresses that lead into the pair. `pg-data` is a port of the
//! workers; its addresses are owned, and are the source of what the workers send to a listener of the host.
//!
//! The pair is a link of its own, so names and addresses are the same on every gateway. All addresses are link-local; the MAC
//! addresses are set when the pair is made, which also keeps udev from changing them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Mac;

/// The kernel's end.
pub const HOST: &str = "pg-host";
/// The workers' end.
pub const DATA: &str = "pg-data";

/// The hardware address of [`HOST`].
pub const HOST_MAC: Mac = Mac([0x02, 0x70, 0x67, 0, 0, 1]);
/// The hardware address of [`DATA`].
pub const DATA_MAC: Mac = Mac([0x02, 0x70, 0x67, 0, 0, 2]);

/// The kernel's address.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 112, 1);
/// The workers' address.
pub const DATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 112, 2);
/// Length of the prefix that both share.
pub const PREFIX_V4: u8 = 30;

/// The kernel's IPv6 address.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x7067, 1);
/// The workers' IPv6 address.
pub const DATA_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x7067, 2);
/// Length of the prefix that both share.
pub const PREFIX_V6: u8 = 64;

/// The kernel's addresses.
pub const HOST_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)];
/// The workers' addresses.
pub const DATA_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(DATA_V4), IpAddr::V6(DATA_V6)];
