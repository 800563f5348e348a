//! Network interfaces, by ioctl: netdevice(7) and linux/ethtool.h, in the calling thread's network namespace.
//!
//! ```text
//!  words: │ command │ …, as the command's struct has it │      every ethtool struct used here is made of 32-bit words
//!          ─ioctl─▶  the kernel fills in the rest
//! ```
//!
//! Not `/sys`: that shows the namespace it was mounted in. Any user may read all of this; setting needs CAP_NET_ADMIN. If a
//! driver does not support a question, the kernel returns EOPNOTSUPP, which is `None` here.
//!
//! Why not the `ethtool` crate: it speaks ethtool's netlink family, which has neither the driver's name nor the size of the
//! indirection table, the crate can read features but not set them, and it needs an asynchronous runtime.
//!
//! `unsafe` here: system calls that take addresses. All of them are in two functions.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use pollgate_common::net::Mac;

/// Bytes of `struct ifreq` after the name.
const REQUEST_DATA: usize = size_of::<libc::ifreq>() - libc::IFNAMSIZ;

/// A command with a struct of `N` words.
struct Command<const N: usize>(u32);

const DRIVER_INFO: Command<49> = Command(0x03);
const LINK: Command<2> = Command(0x0a);
const RINGS: Command<9> = Command(0x10);
const FLAGS: Command<2> = Command(0x25);
/// With room for the size of one set of strings.
const STRING_SETS: Command<5> = Command(0x37);
/// With room for no slot: only the number of slots is written.
const INDIRECTION: Command<2> = Command(0x38);
const CHANNELS: Command<9> = Command(0x3c);
/// The struct's head, and three masks of at most 127 words after it.
const LINK_SETTINGS: Command<{ 12 + 3 * 127 }> = Command(0x4c);
/// These two have as many words as they are asked for.
const STRINGS: u32 = 0x1b;
const FEATURES: u32 = 0x3a;

/// An interface, by its name.
#[derive(Debug)]
pub struct Interface {
    name: [u8; libc::IFNAMSIZ],
    socket: OwnedFd,
}

/// `struct ifreq`, with the union as bytes.
#[repr(C, align(8))]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: [u8; REQUEST_DATA],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Interface {
    /// The interface of this name. Whether it exists is found out by the first question.
    ///
    /// # Errors
    /// ENODEV if no interface can have this name.
    pub fn new(interface: &str) -> io::Result<Interface> {
        let bytes = interface.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let mut name = [0; libc::IFNAMSIZ];
        name[..bytes.len()].copy_from_slice(bytes);
        Ok(Interface { name, socket: control_socket()? })
    }

    /// The kernel's number of the interface.
    pub fn index(&self) -> io::Result<u32> {
        Ok(u32::from_ne_bytes(head(&self.ioctl(libc::SIOCGIFINDEX, [0; REQUEST_DATA])?)))
    }

    /// Largest packet without its Ethernet header.
    pub fn mtu(&self) -> io::Result<u32> {
        Ok(u32::from_ne_bytes(head(&self.ioctl(libc::SIOCGIFMTU, [0; REQUEST_DATA])?)))
    }

    /// Its ARPHRD_ type (linux/if_arp.h) and hardware address.
    pub fn hardware_address(&self) -> io::Result<(u16, Mac)> {
        let address = self.ioctl(libc::SIOCGIFHWADDR, [0; REQUEST_DATA])?;
        let [kind0, kind1, mac @ ..] = head::<8>(&address);
        Ok((u16::from_ne_bytes([kind0, kind1]), Mac(mac)))
    }

    /// Whether it is up and has a carrier now.
    pub fn is_running(&self) -> io::Result<bool> {
        const WANTED: i32 = libc::IFF_UP | libc::IFF_RUNNING;
        let flags = i32::from(u16::from_ne_bytes(head(&self.ioctl(libc::SIOCGIFFLAGS, [0; REQUEST_DATA])?)));
        Ok(flags & WANTED == WANTED)
    }

    /// The driver's name and where its device is: a PCI address, the name of another bus, or nothing.
    pub fn driver(&self) -> io::Result<(String, String)> {
        let words = self.ask(&DRIVER_INFO, [0; 49])?;
        // driver[32] from byte 4; bus_info[32] after version[32] and fw_version[32].
        Ok((text(&words[1..9]), text(&words[25..33])))
    }

    /// Ring sizes.
    pub fn rings(&self) -> io::Result<Option<Rings>> {
        let words = supported(self.ask(&RINGS, [0; 9]))?;
        Ok(words.map(|[_, rx_max, _, _, tx_max, rx, _, _, tx]| Rings { rx, rx_max, tx, tx_max }))
    }

    /// Receive queues.
    pub fn queues(&self) -> io::Result<Option<Queues>> {
        let words = supported(self.ask(&CHANNELS, [0; 9]))?;
        Ok(words.map(|[_, max_rx, _, _, max_combined, rx, _, _, combined]| Queues {
            now: rx + combined,
            max: max_rx.max(max_combined),
            are_combined: max_combined > 0,
        }))
    }

    /// Slots of the table that spreads received packets over queues; 0: it has none.
    pub fn indirection(&self) -> io::Result<u32> {
        Ok(supported(self.ask(&INDIRECTION, [0; 2]))?.map_or(0, |[_, slots]| slots))
    }

    /// Link speed in Mb/s; `None`: the driver does not say, or there is no link.
    pub fn speed(&self) -> io::Result<Option<u32>> {
        // With a wrong number of words per mask, the kernel returns only the right one, negated.
        let mut words = [0; 12 + 3 * 127];
        let Some(first) = supported(self.ask(&LINK_SETTINGS, words))? else { return Ok(None) };
        let mut count = first[3].to_ne_bytes();
        if count[3].cast_signed() >= 0 {
            return Ok(None);
        }
        count[3] = count[3].wrapping_neg();
        words[3] = u32::from_ne_bytes(count);
        let words = supported(self.ask(&LINK_SETTINGS, words))?;
        // Unknown is -1; some drivers say 0.
        Ok(words.map(|words| words[1]).filter(|&speed| speed != 0 && speed != u32::MAX))
    }

    /// Whether there is a carrier.
    pub fn has_link(&self) -> io::Result<bool> {
        Ok(self.ask(&LINK, [0; 2])?[1] != 0)
    }

    /// Whether it takes VLAN tags out of received frames, so that they are not in the bytes.
    pub fn strips_tags(&self) -> io::Result<bool> {
        const RECEIVE_VLAN: u32 = 1 << 8;
        Ok(self.ask(&FLAGS, [0; 2])?[1] & RECEIVE_VLAN != 0)
    }

    /// Sets one switch.
    pub fn set(&self, switch: OffloadSwitch, on: bool) -> io::Result<()> {
        self.ask(&switch.commands().1, [0, u32::from(on)]).map(drop)
    }

    /// Reads one switch.
    pub fn is_on(&self, switch: OffloadSwitch) -> io::Result<bool> {
        Ok(self.ask(&switch.commands().0, [0; 2])?[1] != 0)
    }

    /// Every offload the kernel knows.
    pub fn features(&self) -> io::Result<Vec<Feature>> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + 4 * blocks];
        (words[0], words[1]) = (FEATURES, u32::try_from(blocks).unwrap_or(0));
        // Four words per block, and as many blocks as the second word says.
        self.ethtool(&mut words)?;
        let feature = |(at, name): (usize, String)| {
            let block = &words[2 + 4 * (at / 32)..];
            let bit = |word: u32| word & (1 << (at % 32)) != 0;
            // available, requested, active, never_changed
            Feature { name, is_on: bit(block[2]), can_change: bit(block[0]) && !bit(block[3]) }
        };
        Ok(names.into_iter().enumerate().map(feature).collect())
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        const SET: u32 = 4;
        const NAME_WORDS: usize = 32 / 4;
        // The mask of wanted sets is 64 bits wide.
        let mask = (1u64 << SET).to_ne_bytes();
        let half = |at: usize| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]);
        let [.., count] = self.ask(&STRING_SETS, [0, 0, half(0), half(4), 0])?;
        let mut words = vec![0; 3 + NAME_WORDS * count as usize];
        (words[0], words[1], words[2]) = (STRINGS, SET, count);
        // Room for all names of the set; the kernel's list of features does not change while it runs.
        self.ethtool(&mut words)?;
        Ok(words[3..].chunks_exact(NAME_WORDS).map(text).collect())
    }

    /// Runs a command with these words as its struct; the first is set here.
    fn ask<const N: usize>(&self, command: &Command<N>, mut words: [u32; N]) -> io::Result<[u32; N]> {
        words[0] = command.0;
        self.ethtool(&mut words)?;
        Ok(words)
    }

    /// `words` begin with a command and are as long as its struct: see the commands above.
    fn ethtool(&self, words: &mut [u32]) -> io::Result<()> {
        let mut data = [0; REQUEST_DATA];
        let address = words.as_mut_ptr().expose_provenance().to_ne_bytes();
        data[..address.len()].copy_from_slice(&address);
        self.ioctl(libc::SIOCETHTOOL, data).map(drop)
    }

    fn ioctl(&self, number: libc::Ioctl, data: [u8; REQUEST_DATA]) -> io::Result<[u8; REQUEST_DATA]> {
        let mut request = Request { name: self.name, data };
        // SAFETY: every number used here reads and writes a `struct ifreq`, which this is. SIOCETHTOOL also writes where its
        // data points: to the live words of `ethtool`, which are as long as their command's struct.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), number, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request.data) }
    }
}

/// An offload that a device does for its host, or the host for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadSwitch {
    /// Transmit checksums: off means the sender's kernel writes complete ones.
    TxChecksum,
    /// TCP segmentation: off means the sender's kernel splits large segments.
    Tso,
    /// Segmentation in the kernel, just before the driver.
    Gso,
    /// Merging of received segments.
    Gro,
}

impl OffloadSwitch {
    /// To read it, to set it.
    fn commands(self) -> (Command<2>, Command<2>) {
        let (get, set) = match self {
            OffloadSwitch::TxChecksum => (0x16, 0x17),
            OffloadSwitch::Tso => (0x1e, 0x1f),
            OffloadSwitch::Gso => (0x23, 0x24),
            OffloadSwitch::Gro => (0x2b, 0x2c),
        };
        (Command(get), Command(set))
    }
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

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the new descriptor is owned by nothing else.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn head<const N: usize>(data: &[u8; REQUEST_DATA]) -> [u8; N] {
    std::array::from_fn(|at| data[at])
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` if the driver or this kernel does not know the question.
fn supported<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let missing = Interface::new("nosuch0").expect("a socket");
        let answers = [missing.driver().map(drop), missing.queues().map(drop), missing.features().map(drop)];
        for error in answers.into_iter().chain([Interface::new("a-name-too-long-for-one").map(drop)]) {
            assert_eq!(error.expect_err("no such device").raw_os_error(), Some(libc::ENODEV));
        }
    }

    #[test]
    fn the_loopback_is_up_and_no_ethernet() {
        let loopback = Interface::new("lo").expect("a socket");
        assert_eq!(loopback.hardware_address().expect("an address").0, libc::ARPHRD_LOOPBACK);
        assert!(!loopback.features().expect("features").is_empty());
    }
}
