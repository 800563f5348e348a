//! veth pairs between namespaces.

use pollgate_common::net::Mac;
use rtnetlink::LinkVeth;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};

use super::error::LabError;
use super::namespace::Namespace;

/// A veth pair to be made: two ends, each an interface in a namespace.
///
/// ```no_run
/// # use pollgate::lab::{Namespace, Veth};
/// # let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
/// Veth::new((&client, "eth0"), (&gateway, "client")).queues(2).make()?;
/// # Ok::<(), pollgate::lab::LabError>(())
/// ```
#[derive(Debug)]
pub struct Veth<'a> {
    left: End<'a>,
    right: End<'a>,
    queues: u32,
    mtu: Option<u32>,
}

#[derive(Debug)]
struct End<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
    mac: Option<Mac>,
    /// 0: the kernel chooses.
    index: u32,
}

impl<'a> Veth<'a> {
    /// A pair between two namespaces (or within one), each end named.
    pub fn new(left: (&'a Namespace, &'a str), right: (&'a Namespace, &'a str)) -> Veth<'a> {
        let end = |(namespace, interface)| End { namespace, interface, mac: None, index: 0 };
        Veth { left: end(left), right: end(right), queues: 1, mtu: None }
    }

    /// With this many receive and transmit queues at each end.
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// With these hardware addresses, left and right; random ones otherwise.
    pub fn macs(mut self, left: Mac, right: Mac) -> Self {
        self.left.mac = Some(left);
        self.right.mac = Some(right);
        self
    }

    /// With these interface indexes, left and right; the kernel chooses otherwise.
    pub fn indexes(mut self, left: u32, right: u32) -> Self {
        (self.left.index, self.right.index) = (left, right);
        self
    }

    /// With this MTU at both ends, in bytes.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Makes it and switches both ends on.
    pub fn make(self) -> Result<(), LabError> {
        let mut pair = LinkVeth::new(self.left.interface, self.right.interface).build();
        pair.attributes.clear();
        pair.header.index = self.left.index;
        pair.attributes.extend(self.attributes(&self.left));
        let mut peer = LinkMessage::default();
        peer.header.index = self.right.index;
        peer.attributes.extend(self.attributes(&self.right));
        peer.attributes.push(LinkAttribute::NetNsFd(self.right.namespace.raw()));
        let info = vec![
            rtnetlink::packet_route::link::LinkInfo::Kind(InfoKind::Veth),
            rtnetlink::packet_route::link::LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ];
        pair.attributes.push(LinkAttribute::LinkInfo(info));
        let what = || format!("creating the veth pair {} and {}", self.left.interface, self.right.interface);
        self.left.namespace.change(what, async |handle| handle.link().add(pair).execute().await)?;
        self.left.namespace.up(self.left.interface)?;
        self.right.namespace.up(self.right.interface)
    }

    fn attributes(&self, end: &End<'_>) -> Vec<LinkAttribute> {
        let mut attributes = vec![
            LinkAttribute::IfName(end.interface.to_owned()),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
        ];
        attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes
    }
}
