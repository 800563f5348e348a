//! One network namespace: a handle to run code in, and to set up the stack inside.

#![allow(unsafe_code, reason = "a child enters its namespace between fork and exec")]

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ipnet::IpNet;
use pollgate_common::net::Mac;
use pollgate_dataplane::ethtool::{Interface, OffloadSwitch};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::enter::unshare;
use super::error::{Doing, LabError};
use crate::host::netlink::{connect, runtime};

/// Where `ip netns` looks for names.
const NAMED: &str = "/run/netns";

/// Where a namespace of that name is kept; the prefix says whose it is.
fn kept_path(name: &str) -> PathBuf {
    PathBuf::from(format!("{NAMED}/pg-{name}"))
}

/// A network namespace of the lab. Clones are the same namespace; it ends with the last of them and the last thread or
/// process inside.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Namespace {
    /// A new, empty namespace with `lo` up; see the module's text for its settings. `name` is for people.
    pub fn new(name: &str) -> Result<Namespace, LabError> {
        let file = thread::scope(|scope| scope.spawn(unshared).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .doing(|| format!("creating the network namespace {name}"))?;
        let namespace = Namespace { inner: Arc::new(Inner { name: name.to_owned(), file }) };
        namespace.settle()?;
        Ok(namespace)
    }

    /// Quiet and strict: the defaults that every link made here later takes over.
    fn settle(&self) -> Result<(), LabError> {
        for scope in ["all", "default"] {
            self.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
            self.sysctl(&format!("net.ipv4.conf.{scope}.forwarding"), "0")?;
            self.sysctl_if_there(&format!("net.ipv6.conf.{scope}.forwarding"), "0")?;
            self.sysctl_if_there(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
        }
        self.sysctl_if_there("net.ipv6.conf.default.disable_ipv6", "1")?;
        self.up("lo")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Moves the calling thread in, for good.
    pub fn enter(&self) -> io::Result<()> {
        set_namespace(self.inner.file.as_fd())
    }

    /// Runs `work` on a thread inside and waits for it. A panic inside goes on outside.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            self.enter().unwrap_or_else(|error| panic!("entering the namespace {}: {error}", self.name()));
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside.
    pub fn spawn<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> io::Result<JoinHandle<R>> {
        let namespace = self.clone();
        thread::Builder::new().name(self.name().to_owned()).spawn(move || {
            namespace.enter().unwrap_or_else(|error| panic!("entering the namespace {}: {error}", namespace.name()));
            work()
        })
    }

    /// A command that will run inside. The namespace must live until it has been spawned.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || set_namespace(namespace.inner.file.as_fd())) };
        command
    }

    /// Sets a sysctl inside, by its dotted name; interface names with dots are not understood.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value)).doing(|| format!("setting {key}={value} in the namespace {}", self.name()))
    }

    /// Reads a sysctl inside.
    pub fn read_sysctl(&self, key: &str) -> Result<String, LabError> {
        let path = sysctl_path(key);
        let text = self.run(|| fs::read_to_string(&path)).doing(|| format!("reading {key} in {}", self.name()))?;
        Ok(text.trim().to_owned())
    }

    fn sysctl_if_there(&self, key: &str, value: &str) -> Result<(), LabError> {
        if self.run(|| sysctl_path(key).exists()) { self.sysctl(key, value) } else { Ok(()) }
    }

    /// Switches an interface on.
    pub fn up(&self, interface: &str) -> Result<(), LabError> {
        self.change(
            || format!("bringing {interface} up"),
            async |handle| handle.link().set(LinkUnspec::new_with_name(interface).up().build()).execute().await,
        )
    }

    /// Switches an interface off.
    pub fn down(&self, interface: &str) -> Result<(), LabError> {
        self.change(
            || format!("bringing {interface} down"),
            async |handle| handle.link().set(LinkUnspec::new_with_name(interface).down().build()).execute().await,
        )
    }

    /// Sets an interface's hardware address.
    pub fn set_mac(&self, interface: &str, mac: Mac) -> Result<(), LabError> {
        let message = LinkUnspec::new_with_name(interface).address(mac.0.to_vec()).build();
        self.change(
            || format!("setting the hardware address {mac} on {interface}"),
            async |handle| handle.link().set(message).execute().await,
        )
    }

    /// Sets an interface's MTU, in bytes.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<(), LabError> {
        let message = LinkUnspec::new_with_name(interface).mtu(mtu).build();
        self.change(
            || format!("setting the MTU of {interface} to {mtu}"),
            async |handle| handle.link().set(message).execute().await,
        )
    }

    /// Makes a bridge, switched on, with the given interfaces as its ports.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<(), LabError> {
        self.change(
            || format!("creating the bridge {name}"),
            async |handle| handle.link().add(rtnetlink::LinkBridge::new(name).up().build()).execute().await,
        )?;
        ports.iter().try_for_each(|port| self.attach(name, port))
    }

    /// Makes an interface a port of a bridge, and switches it on.
    pub fn attach(&self, bridge: &str, port: &str) -> Result<(), LabError> {
        let message = LinkUnspec::new_with_name(port).controller(self.index(bridge)?).up().build();
        self.change(
            || format!("attaching {port} to the bridge {bridge}"),
            async |handle| handle.link().set(message).execute().await,
        )
    }

    /// Removes an interface; its veth peer goes with it.
    pub fn remove(&self, interface: &str) -> Result<(), LabError> {
        let index = self.index(interface)?;
        self.change(|| format!("removing {interface}"), async |handle| handle.link().del(index).execute().await)
    }

    /// Gives an interface an address with its prefix. An IPv6 address can be used at once.
    pub fn add_address(&self, interface: &str, address: IpNet) -> Result<(), LabError> {
        self.give_address(interface, address, false)
    }

    /// Takes an IPv4 address away from an interface.
    pub fn remove_address(&self, interface: &str, address: IpNet) -> Result<(), LabError> {
        let mut message = AddressMessage::default();
        message.header.index = self.index(interface)?;
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix_len();
        message.attributes.push(AddressAttribute::Local(address.addr()));
        self.change(
            || format!("removing the address {address} from {interface}"),
            async |handle| handle.address().del(message).execute().await,
        )
    }

    /// Gives an interface an IPv6 address that it may use unless another host has it (RFC 4862 §5.4).
    pub fn add_address_unless_taken(&self, interface: &str, address: IpNet) -> Result<(), LabError> {
        self.sysctl(&format!("net.ipv6.conf.{interface}.accept_dad"), "1")?;
        self.sysctl(&format!("net.ipv6.conf.{interface}.dad_transmits"), "1")?;
        self.give_address(interface, address, true)
    }

    fn give_address(&self, interface: &str, address: IpNet, unless_taken: bool) -> Result<(), LabError> {
        if address.addr().is_ipv6() {
            self.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "0")?;
        }
        let index = self.index(interface)?;
        self.change(
            || format!("adding the address {address} to {interface}"),
            async |handle| {
                let mut request = handle.address().add(index, address.addr(), address.prefix_len());
                if address.addr().is_ipv6() && !unless_taken {
                    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
                }
                request.execute().await
            },
        )
    }

    /// Adds a route out of an interface, through a gateway or, without one, to neighbours on the link.
    pub fn add_route(&self, to: IpNet, via: Option<IpAddr>, interface: &str) -> Result<(), LabError> {
        let what = || format!("adding a route to {to} by {interface}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .map_err(io::Error::other)
            .doing(what)?
            .output_interface(self.index(interface)?);
        let route = match via {
            Some(gateway) => route.gateway(gateway).map_err(io::Error::other).doing(what)?,
            None if to.addr().is_ipv4() => route.scope(rtnetlink::packet_route::route::RouteScope::Link),
            None => route,
        };
        self.change(what, async |handle| handle.route().add(route.build()).execute().await)
    }

    /// Discards IPv6 packets that there is no other route for. Otherwise the kernel answers them with "no route" (ICMPv6), even
    /// if it forwards nothing.
    pub fn discard_unrouted_v6(&self) -> Result<(), LabError> {
        let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
            .priority(u32::MAX)
            .build();
        route.header.kind = RouteType::BlackHole;
        self.change(
            || "adding a route that discards".to_owned(),
            async |handle| handle.route().add(route).execute().await,
        )
    }

    /// Writes down a neighbour for good.
    pub fn add_neighbour(&self, interface: &str, address: IpAddr, mac: Mac) -> Result<(), LabError> {
        let index = self.index(interface)?;
        self.change(
            || format!("adding the neighbour {address} on {interface}"),
            async |handle| handle.neighbours().add(index, address).link_layer_address(&mac.0).replace().execute().await,
        )
    }

    /// An interface's hardware address.
    pub fn mac(&self, interface: &str) -> Result<Mac, LabError> {
        let mac = self.link(interface)?.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.try_into().ok().map(Mac),
            _ => None,
        });
        mac.ok_or_else(|| io::Error::other("it has no hardware address")).doing(|| format!("asking for {interface}"))
    }

    /// An interface's index.
    pub fn index(&self, interface: &str) -> Result<u32, LabError> {
        Ok(self.link(interface)?.header.index)
    }

    fn link(&self, interface: &str) -> Result<LinkMessage, LabError> {
        use futures_util::TryStreamExt;
        let message = self
            .netlink(async |handle| handle.link().get().match_name(interface.to_owned()).execute().try_next().await);
        let what = || format!("looking for {interface} in the namespace {}", self.name());
        message.doing(what)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)).doing(what)
    }

    /// Switches an offload of an interface.
    pub fn offload(&self, interface: &str, switch: OffloadSwitch, on: bool) -> Result<(), LabError> {
        self.run(|| Interface::new(interface)?.set(switch, on))
            .doing(|| format!("switching {switch:?} of {interface} in {}", self.name()))
    }

    /// Whether an offload of an interface is on.
    pub fn has_offload(&self, interface: &str, switch: OffloadSwitch) -> Result<bool, LabError> {
        self.run(|| Interface::new(interface)?.is_on(switch)).doing(|| format!("reading {switch:?} of {interface}"))
    }

    /// Leaves the namespace under `/run/netns/pg-NAME`, where it outlives the process until `ip netns del pg-NAME`. Needs real
    /// root; inside a user namespace there is nowhere to leave it, see [`Namespace::entry`].
    pub fn keep(&self) -> Result<PathBuf, LabError> {
        let path = kept_path(self.name());
        let what = || format!("keeping the namespace {} as {}", self.name(), path.display());
        fs::create_dir_all(NAMED).doing(what)?;
        File::create_new(&path).doing(what)?;
        let mounted = mount_bind(format!("/proc/self/fd/{}", self.raw()), &path);
        if mounted.is_err() {
            // Best effort: the mount's error is the one to tell.
            let _ = fs::remove_file(&path);
        }
        mounted.map_err(io::Error::from).doing(what)?;
        Ok(path)
    }

    /// Takes away a namespace left by [`Namespace::keep`] under that name; fine if there is none.
    pub fn remove_kept(name: &str) -> Result<(), LabError> {
        let path = kept_path(name);
        match unbind(&path).and_then(|()| fs::remove_file(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.doing(|| format!("removing the kept namespace {}", path.display())),
        }
    }

    /// A path by which other programs can enter while this process lives: `nsenter --net=PATH`.
    pub fn entry(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.raw()))
    }

    /// Runs one netlink request inside.
    pub(super) fn change<F>(&self, what: impl Fn() -> String, request: F) -> Result<(), LabError>
    where
        F: AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error> + Send,
    {
        self.netlink(request).doing(|| format!("{} in the namespace {}", what(), self.name()))
    }

    fn netlink<F, R: Send>(&self, request: F) -> Result<R, rtnetlink::Error>
    where
        F: AsyncFnOnce(Handle) -> Result<R, rtnetlink::Error> + Send,
    {
        let failed = |doing: &str, error: io::Error| rtnetlink::Error::NamespaceError(format!("{doing}: {error}"));
        self.run(|| {
            let runtime = runtime().map_err(|error| failed("starting a runtime", error))?;
            runtime.block_on(async {
                request(connect().map_err(|error| failed("opening a netlink socket", error))?).await
            })
        })
    }

    pub(super) fn raw(&self) -> RawFd {
        self.inner.file.as_raw_fd()
    }
}

/// Puts the calling thread in a namespace of its own and opens it.
fn unshared() -> io::Result<File> {
    // Only this thread, which ends right after, changes its namespace.
    unshare(UnshareFlags::NEWNET)?;
    File::open("/proc/thread-self/ns/net")
}

fn set_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

fn unbind(path: &std::path::Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        // A file that nothing is mounted on: left by a process that was killed between making and mounting it.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}
