//! What an interface is and can do, by the ethtool ioctl (linux/ethtool.h), in the calling thread's network namespace.
//!
//! ```text
//!  words: │ command │ …, as the command's struct has it │      every struct used here is made of 32-bit words
//!          ─ioctl─▶  the kernel fills in the rest
//! ```
//!
//! Not /sys: that shows the namespace it was mounted in. An ordinary user may ask all of this; setting needs
//! CAP_NET_ADMIN. A driver that does not know the answer says EOPNOTSUPP, which is `None` here.

#![allow(unsafe_code, reason = "ethtool is an ioctl with a structure per command")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What a device can do for its host, or leave to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadSwitch {
    /// Transmit checksums: off means the sender's kernel writes complete ones.
    TxChecksum,
    /// TCP segmentation: off means the sender's kernel cuts super-frames up.
    Tso,
    /// Segmentation in the kernel, just before the driver.
    Gso,
    /// Merging of received segments.
    Gro,
}

impl OffloadSwitch {
    /// ETHTOOL_G… and ETHTOOL_S….
    fn commands(self) -> (u32, u32) {
        match self {
            OffloadSwitch::TxChecksum => (0x16, 0x17),
            OffloadSwitch::Tso => (0x1e, 0x1f),
            OffloadSwitch::Gso => (0x23, 0x24),
            OffloadSwitch::Gro => (0x2b, 0x2c),
        }
    }
}

/// Sets one.
pub(crate) fn set(interface: &str, switch: OffloadSwitch, on: bool) -> io::Result<()> {
    value(interface, switch.commands().1, u32::from(on)).map(drop)
}

/// Reads one.
pub(crate) fn is_on(interface: &str, switch: OffloadSwitch) -> io::Result<bool> {
    Ok(value(interface, switch.commands().0, 0)? != 0)
}

/// The driver's name and where its device is: a PCI address, the name of another bus, or nothing.
pub(super) fn driver(interface: &str) -> io::Result<(String, String)> {
    const DRVINFO: u32 = 0x03;
    let mut words = [0; 49];
    words[0] = DRVINFO;
    // SAFETY: struct ethtool_drvinfo has 196 bytes.
    unsafe { call(interface, &mut words)? };
    // driver[32] from byte 4; bus_info[32] behind version[32] and fw_version[32].
    Ok((text(&words[1..9]), text(&words[25..33])))
}

/// Receive and transmit ring sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Slots of a receive ring.
    pub rx: u32,
    /// The most it can have.
    pub rx_max: u32,
    /// Slots of a transmit ring.
    pub tx: u32,
    /// The most it can have.
    pub tx_max: u32,
}

pub(super) fn rings(interface: &str) -> io::Result<Option<Rings>> {
    const GRINGPARAM: u32 = 0x10;
    let mut words = [0; 9];
    words[0] = GRINGPARAM;
    // SAFETY: struct ethtool_ringparam has nine words.
    let told = known(unsafe { call(interface, &mut words) })?;
    let [_, rx_max, _, _, tx_max, rx, _, _, tx] = words;
    Ok(told.map(|()| Rings { rx, rx_max, tx, tx_max }))
}

/// Receive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// How many are in use.
    pub now: u32,
    /// The most there can be.
    pub max: u32,
    /// Whether each is a transmit queue as well, which decides the words of `ethtool -L`.
    pub are_combined: bool,
}

pub(super) fn queues(interface: &str) -> io::Result<Option<Queues>> {
    const GCHANNELS: u32 = 0x3c;
    let mut words = [0; 9];
    words[0] = GCHANNELS;
    // SAFETY: struct ethtool_channels has nine words.
    let told = known(unsafe { call(interface, &mut words) })?;
    let [_, max_rx, _, _, max_combined, rx, _, _, combined] = words;
    let (now, max) = (rx + combined, max_rx.max(max_combined));
    Ok(told.map(|()| Queues { now, max, are_combined: max_combined > 0 }))
}

/// Slots of the table that spreads received packets over queues; 0: there is none.
pub(super) fn indirection(interface: &str) -> io::Result<u32> {
    const GRXFHINDIR: u32 = 0x38;
    let mut words = [GRXFHINDIR, 0];
    // SAFETY: with a size of 0 only the size is written.
    let told = known(unsafe { call(interface, &mut words) })?;
    Ok(told.map_or(0, |()| words[1]))
}

/// Link speed in Mb/s; `None`: the driver does not say, or there is no link.
pub(super) fn speed(interface: &str) -> io::Result<Option<u32>> {
    const GLINKSETTINGS: u32 = 0x4c;
    // The head of struct ethtool_link_settings, and the three masks of at most 127 words behind it.
    let mut words = [0; 12 + 3 * 127];
    words[0] = GLINKSETTINGS;
    // SAFETY: room for every mask. With a wrong count of words a mask the kernel only tells the right one, negated.
    let first = known(unsafe { call(interface, &mut words) })?;
    let mut count = words[3].to_ne_bytes();
    if first.is_none() || count[3].cast_signed() >= 0 {
        return Ok(None);
    }
    count[3] = count[3].wrapping_neg();
    words.fill(0);
    (words[0], words[3]) = (GLINKSETTINGS, u32::from_ne_bytes(count));
    // SAFETY: as above.
    let told = known(unsafe { call(interface, &mut words) })?;
    // Unknown is -1; some drivers say 0.
    Ok(told.map(|()| words[1]).filter(|&speed| speed != 0 && speed != u32::MAX))
}

/// Whether there is a carrier.
pub(super) fn has_link(interface: &str) -> io::Result<bool> {
    const GLINK: u32 = 0x0a;
    Ok(value(interface, GLINK, 0)? != 0)
}

/// One offload as `ethtool -k` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name, such as `rx-gro-hw`.
    pub name: String,
    /// In use.
    pub is_on: bool,
    /// Can be changed.
    pub can_change: bool,
}

/// Every offload the kernel knows.
pub(super) fn features(interface: &str) -> io::Result<Vec<Feature>> {
    const GFEATURES: u32 = 0x3a;
    let names = feature_names(interface)?;
    let blocks = names.len().div_ceil(32);
    let mut words = vec![0; 2 + 4 * blocks];
    (words[0], words[1]) = (GFEATURES, u32::try_from(blocks).unwrap_or(0));
    // SAFETY: four words a block, as many blocks as the second word says.
    unsafe { call(interface, &mut words)? };
    let feature = |(at, name): (usize, String)| {
        let block = &words[2 + 4 * (at / 32)..];
        let bit = |word: u32| word & (1 << (at % 32)) != 0;
        // available, requested, active, never_changed
        Feature { name, is_on: bit(block[2]), can_change: bit(block[0]) && !bit(block[3]) }
    };
    Ok(names.into_iter().enumerate().map(feature).collect())
}

fn feature_names(interface: &str) -> io::Result<Vec<String>> {
    const GSSET_INFO: u32 = 0x37;
    const GSTRINGS: u32 = 0x1b;
    const FEATURES: u32 = 4;
    const NAME_WORDS: usize = 32 / 4;
    // The mask of sets asked for is 64 bits wide.
    let mask = (1u64 << FEATURES).to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]);
    let mut sizes = [GSSET_INFO, 0, half(0), half(4), 0];
    // SAFETY: struct ethtool_sset_info with room for the size of the one set asked for.
    unsafe { call(interface, &mut sizes)? };
    let mut words = vec![0; 3 + NAME_WORDS * sizes[4] as usize];
    (words[0], words[1], words[2]) = (GSTRINGS, FEATURES, sizes[4]);
    // SAFETY: room for all names of the set; the kernel's list of features does not change while it runs.
    unsafe { call(interface, &mut words)? };
    Ok(words[3..].chunks_exact(NAME_WORDS).map(text).collect())
}

/// A command with `struct ethtool_value`: one word in, one out.
fn value(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut words = [command, data];
    // SAFETY: the commands given here read and write a struct ethtool_value, two words.
    unsafe { call(interface, &mut words)? };
    Ok(words[1])
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` where the driver or this kernel does not know the question.
fn known(answer: io::Result<()>) -> io::Result<Option<()>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        other => other.map(Some),
    }
}

/// # Safety
/// `words` must begin with an ethtool command and be as long as that command's struct.
unsafe fn call(interface: &str, words: &mut [u32]) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the request points to `words`, which outlive the call and are long enough (the caller's promise).
    unsafe { ioctl(libc::SIOCETHTOOL, &mut request) }
}

/// Largest packet without its Ethernet header.
pub(super) fn mtu(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    // SAFETY: SIOCGIFMTU writes `ifru_mtu` and nothing else.
    let mtu = unsafe {
        ioctl(libc::SIOCGIFMTU, &mut request)?;
        request.ifr_ifru.ifru_mtu
    };
    u32::try_from(mtu).map_err(io::Error::other)
}

/// The kernel's number of the interface.
pub(super) fn index(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    // SAFETY: SIOCGIFINDEX writes `ifru_ifindex` and nothing else.
    let index = unsafe {
        ioctl(libc::SIOCGIFINDEX, &mut request)?;
        request.ifr_ifru.ifru_ifindex
    };
    u32::try_from(index).map_err(io::Error::other)
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    let name = interface.as_bytes();
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// # Safety
/// `request` must be what `number` reads and writes, with everything it points to.
unsafe fn ioctl(number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = socket()?;
    // SAFETY: the caller's promise.
    if unsafe { libc::ioctl(socket.as_raw_fd(), number as _, request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let missing = [driver("nosuch0").map(drop), queues("nosuch0").map(drop), features("nosuch0").map(drop)];
        for error in missing.into_iter().chain([mtu("a-name-too-long-for-one").map(drop)]) {
            assert_eq!(error.expect_err("no such device").raw_os_error(), Some(libc::ENODEV));
        }
    }
}
