//! ARP and neighbour discovery without the kernel: it resolves the gateway and replies for the addresses of the generator.
//!
//! The generator's interfaces need no addresses: it replies for its clients and backends itself.

use std::net::{IpAddr, Ipv4Addr};

use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::util::MacAddr;
use pollgate_common::flow::V6;
use pollgate_common::net::Mac;
use pollgate_dataplane::port::Frame;
use pollgate_dataplane::wire::Header;
use pollgate_dataplane::wire::arp::{Arp, Operation};
use pollgate_dataplane::wire::ethernet::{self, Ethernet};
use pollgate_dataplane::wire::nd::{Discovery, Solicitation};
use zerocopy::IntoBytes;

use super::addresses::Block;

/// Bytes of the smallest frame.
const SMALLEST: usize = 60;

/// Turns a question for one of `blocks` into its reply. `false` if it is anything else.
pub(super) fn answer(frame: &mut Frame, blocks: &[Block], own: Mac) -> bool {
    let is_ours = |asked: IpAddr| blocks.iter().any(|block| block.position(asked).is_some());
    match Ethernet::at(frame.bytes(), 0).map(Ethernet::ether_type) {
        Some(ethernet::ARP) => answer_arp(frame.bytes_mut(), is_ours, own),
        Some(ethernet::IPV6) => answer_solicitation(frame, is_ours, own).is_some(),
        _ => false,
    }
}

fn answer_arp(frame: &mut [u8], is_ours: impl Fn(IpAddr) -> bool, own: Mac) -> bool {
    let asked =
        Arp::at(frame, ethernet::LEN).filter(|arp| arp.operation() == Some(Operation::Request)).map(Arp::target_ip);
    if !asked.is_some_and(|asked| is_ours(asked.into())) {
        return false;
    }
    if let Some(arp) = Arp::at_mut(frame, ethernet::LEN) {
        arp.answer(own);
    }
    if let Some(ethernet) = Ethernet::at_mut(frame, 0) {
        ethernet.reply_in_place(own);
    }
    true
}

/// `None`: it is no valid solicitation of an address of ours.
fn answer_solicitation(frame: &mut Frame, is_ours: impl Fn(IpAddr) -> bool, own: Mac) -> Option<()> {
    let is_partial = frame.offload().is_partial();
    let asked = Solicitation::check(frame.bytes(), ethernet::LEN, is_partial);
    let asked = asked.filter(|asked| is_ours(asked.target.0.into()))?;
    let end = asked.answer_in_place(own, frame.buffer_mut())?;
    frame.set_len(end);
    Some(())
}

/// "Who has `wanted`? Tell `from`." Both are of one family.
pub(super) fn request(own: Mac, from: IpAddr, wanted: IpAddr) -> Vec<u8> {
    match (from, wanted) {
        (IpAddr::V6(from), IpAddr::V6(wanted)) => {
            let (question, group) = Discovery::question(V6(from), V6(wanted), own);
            let ether_type = ethernet::IPV6.to_be_bytes();
            [&group.0[..], &own.0, &ether_type, question.as_bytes()].concat()
        }
        (IpAddr::V4(from), IpAddr::V4(wanted)) => request_arp(own, from, wanted),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}

fn request_arp(own: Mac, from: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; SMALLEST];
    if let Some(mut ethernet) = MutableEthernetPacket::new(&mut frame) {
        ethernet.set_source(MacAddr::from(own.0));
        ethernet.set_destination(MacAddr::broadcast());
        ethernet.set_ethertype(EtherTypes::Arp);
    }
    if let Some(mut arp) = MutableArpPacket::new(&mut frame[ethernet::LEN..]) {
        arp.set_hardware_type(ArpHardwareTypes::Ethernet);
        arp.set_protocol_type(EtherTypes::Ipv4);
        arp.set_hw_addr_len(6);
        arp.set_proto_addr_len(4);
        arp.set_operation(ArpOperations::Request);
        arp.set_sender_hw_addr(MacAddr::from(own.0));
        arp.set_sender_proto_addr(from);
        arp.set_target_proto_addr(wanted);
    }
    frame
}

/// The hardware address of `wanted`, if this frame is the reply.
pub(super) fn told(frame: &[u8], wanted: IpAddr) -> Option<Mac> {
    match (Ethernet::at(frame, 0)?.ether_type(), wanted) {
        (ethernet::ARP, IpAddr::V4(wanted)) => {
            let arp = ArpPacket::new(frame.get(ethernet::LEN..)?)?;
            let is_it = arp.get_operation() == ArpOperations::Reply && arp.get_sender_proto_addr() == wanted;
            is_it.then(|| Mac(arp.get_sender_hw_addr().octets()))
        }
        (ethernet::IPV6, IpAddr::V6(wanted)) => {
            let (target, mac) = Discovery::advertised(frame, ethernet::LEN)?;
            (target == V6(wanted)).then_some(mac)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::pool::Pool;
    use pollgate_common::net::PortId;

    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OWNER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    /// What is left of the question after `blocks` could answer it, and whether they did.
    fn answered(pool: &mut Pool, question: &[u8], blocks: &str) -> (Vec<u8>, bool) {
        let mut frame = pool.lend(question.len(), PortId(0)).expect("a buffer");
        frame.bytes_mut().copy_from_slice(question);
        let is_answered = answer(&mut frame, &[blocks.parse().expect("a block")], OWNER);
        let bytes = frame.bytes().to_vec();
        pool.release(frame);
        (bytes, is_answered)
    }

    #[test]
    fn a_question_is_answered_by_who_has_the_address_and_by_nobody_else() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let cases = [
            ("10.0.0.9", "10.0.0.1", "10.0.0.2", "10.0.0.0/24"),
            ("2001:db8::9", "2001:db8::1", "2001:db8::2", "2001:db8::/120"),
        ];
        let mut pool = Pool::new(1);
        for (from, wanted, other, block) in cases {
            let question = request(ASKER, ip(from), ip(wanted));
            assert_eq!(told(&question, ip(wanted)), None, "a question is no answer");
            assert_eq!(answered(&mut pool, &question, other), (question.clone(), false), "left as it was");
            let (reply, is_answered) = answered(&mut pool, &question, block);
            assert!(is_answered);
            assert_eq!((told(&reply, ip(wanted)), told(&reply, ip(other))), (Some(OWNER), None));
            assert_eq!(reply[..12], [ASKER.0, OWNER.0].concat());
            etherparse::SlicedPacket::from_ethernet(&reply).expect("a sound packet");
        }
    }
}
