//! What a driver's XDP can do, from the kernel: generic netlink family `netdev` (Documentation/netlink/specs/netdev.yaml).
//!
//! ```text
//!  "netdev" ──CTRL_CMD_GETFAMILY──▶ number of the family ──NETDEV_CMD_DEV_GET(index)──▶ xdp-features
//! ```
//!
//! A list of drivers would be wrong with the next kernel; the kernel knows itself. Linux before 6.3 has
//! no such family, and the result is `None`: unknown, which is not the same as no.

use std::io;

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkBuffer, NlaBuffer, NlasIterator};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// What the driver's XDP can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    const BASIC: u64 = 1;
    const REDIRECT: u64 = 1 << 1;
    const ZERO_COPY: u64 = 1 << 3;

    /// Features for tests: `(native, zero copy)`.
    #[cfg(test)]
    pub(super) fn of(native: bool, zero_copy: bool) -> XdpFeatures {
        let native = if native { Self::BASIC | Self::REDIRECT } else { 0 };
        XdpFeatures(native | if zero_copy { Self::ZERO_COPY } else { 0 })
    }

    /// Whether the driver itself runs programs and can redirect to a socket; otherwise the kernel emulates it on
    /// finished packets.
    pub fn is_native(self) -> bool {
        self.0 & (Self::BASIC | Self::REDIRECT) == Self::BASIC | Self::REDIRECT
    }

    /// Whether the device writes straight into the socket's memory.
    pub fn has_zero_copy(self) -> bool {
        self.0 & Self::ZERO_COPY != 0
    }
}

/// What the driver of interface number `index` can do; `None`: this kernel does not report it.
pub(super) fn xdp_features(index: u32) -> io::Result<Option<XdpFeatures>> {
    const CONTROLLER: u16 = 0x10;
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    const DEV_GET: u8 = 1;
    const DEV_INDEX: u16 = 1;
    const DEV_XDP_FEATURES: u16 = 3;

    let family = ask(CONTROLLER, GET_FAMILY, (FAMILY_NAME, b"netdev\0"), FAMILY_ID);
    let family = match family {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        other => other?.and_then(|id| Some(u16::from_ne_bytes(id.try_into().ok()?))),
    };
    let Some(family) = family else { return Ok(None) };
    let features = ask(family, DEV_GET, (DEV_INDEX, &index.to_ne_bytes()), DEV_XDP_FEATURES)?;
    Ok(features.and_then(|bits| Some(XdpFeatures(u64::from_ne_bytes(bits.try_into().ok()?)))))
}

/// One request with one attribute; the value of the attribute `wanted` of the reply, if it has one.
fn ask(family: u16, command: u8, attribute: (u16, &[u8]), wanted: u16) -> io::Result<Option<Vec<u8>>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.send_to(&request(family, command, attribute), &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    value_of(&answer, wanted)
}

/// ```text
///  │ length │ family, flags │ sequence │ port │ command, version, 0, 0 │ length, type │ value, padded │
/// ```
fn request(family: u16, command: u8, (kind, value): (u16, &[u8])) -> Vec<u8> {
    let mut attribute = u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    let length = u32::try_from(16 + 4 + attribute.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attribute);
    message
}

fn value_of(answer: &[u8], wanted: u16) -> io::Result<Option<Vec<u8>>> {
    const ERROR: u16 = 2;
    let message = NetlinkBuffer::new_checked(answer).map_err(io::Error::other)?;
    let payload = message.payload();
    let Some((head, attributes)) = payload.split_first_chunk::<4>() else {
        return Err(io::Error::other("a generic netlink reply without a header"));
    };
    if message.message_type() == ERROR {
        return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(*head).wrapping_neg()));
    }
    let mut found = NlasIterator::new(attributes).flatten().filter(|nla: &NlaBuffer<&[u8]>| nla.kind() == wanted);
    Ok(found.next().map(|nla| nla.value().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_kernel_is_an_error() {
        let none = xdp_features(u32::MAX >> 1);
        assert!(matches!(none, Ok(None)) || none.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV)));
        assert!(value_of(&[0; 7], 1).is_err(), "no header");
        let mut short = request(16, 1, (1, b"x"));
        short[0] = 16;
        assert!(value_of(&short, 1).is_err(), "no generic header");
    }

    #[test]
    fn the_request_is_as_the_kernel_reads_it() {
        let bytes = request(0x10, 3, (2, b"netdev\0"));
        let told = value_of(&bytes, 2).expect("a message").expect("the attribute");
        assert_eq!((bytes.len(), told.as_slice()), (32, b"netdev\0".as_slice()));
    }
}
