//! ARP without the kernel: it resolves the gateway and replies for the addresses of the generator.
//!
//! The generator's interfaces need no addresses: it replies to ARP for its clients and backends itself.

use std::net::Ipv4Addr;

use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::util::MacAddr;
use pollgate_common::net::Mac;
use pollgate_dataplane::wire::Header;
use pollgate_dataplane::wire::arp::Arp;
use pollgate_dataplane::wire::ethernet::{self, Ethernet};

use super::addresses::Block;

/// Bytes of a request, padded to the smallest frame.
const REQUEST_LEN: usize = 60;

/// Turns a request for one of `blocks` into its reply. `false` if it is anything else.
pub(super) fn answer(frame: &mut [u8], blocks: &[Block], own: Mac) -> bool {
    let asked = Arp::at(frame, ethernet::LEN).filter(|arp| arp.is_request()).map(Arp::target_ip);
    let ours = asked.is_some_and(|asked| blocks.iter().any(|block| block.position(asked).is_some()));
    if !is_arp(frame) || !ours {
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

/// "Who has `wanted`? Tell `from`."
pub(super) fn request(own: Mac, from: Ipv4Addr, wanted: Ipv4Addr) -> [u8; REQUEST_LEN] {
    let mut frame = [0; REQUEST_LEN];
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
pub(super) fn told(frame: &[u8], wanted: Ipv4Addr) -> Option<Mac> {
    let arp = ArpPacket::new(frame.get(ethernet::LEN..)?).filter(|_| is_arp(frame))?;
    let is_it = arp.get_operation() == ArpOperations::Reply && arp.get_sender_proto_addr() == wanted;
    is_it.then(|| Mac(arp.get_sender_hw_addr().octets()))
}

fn is_arp(frame: &[u8]) -> bool {
    Ethernet::at(frame, 0).is_some_and(|ethernet| ethernet.ether_type() == ethernet::ARP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OWNER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_question_is_answered_by_who_has_the_address_and_by_nobody_else() {
        let wanted = Ipv4Addr::new(10, 0, 0, 1);
        let question = request(ASKER, Ipv4Addr::new(10, 0, 0, 9), wanted);
        assert_eq!(told(&question, wanted), None, "a question is no answer");
        let mut frame = question;
        assert!(!answer(&mut frame, &["10.0.0.2".parse().expect("a block")], OWNER));
        assert_eq!(frame, question, "left as it was");
        assert!(answer(&mut frame, &["10.0.0.0/24".parse().expect("a block")], OWNER));
        assert_eq!(told(&frame, wanted), Some(OWNER));
        assert_eq!(told(&frame, Ipv4Addr::new(10, 0, 0, 2)), None);
        assert_eq!(frame[..12], [ASKER.0, OWNER.0].concat());
        let parsed = etherparse::SlicedPacket::from_ethernet(&frame).expect("a packet");
        let Some(etherparse::NetSlice::Arp(arp)) = parsed.net else { panic!("not ARP") };
        assert_eq!((arp.sender_protocol_addr(), arp.target_protocol_addr()), (&[10, 0, 0, 1][..], &[10, 0, 0, 9][..]));
    }
}
