//! Frames that announce where an address is: every host of a link that knows the address replaces the MAC address it has.
//!
//! | address | frames | |
//! |---|---|---|
//! | IPv4 | an ARP request and an ARP reply, to all | RFC 5227 §3 has the request only. Some hosts and switches learn from replies only, others from requests only, so both are sent, as MetalLB does. |
//! | IPv6 | an unsolicited neighbour advertisement with the override flag, to all nodes | RFC 4861 §7.2.6 |

use std::net::IpAddr;

use pollgate_common::flow::V6;
use pollgate_common::net::Mac;
use zerocopy::IntoBytes;

use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::nd::Discovery;

/// The least that an Ethernet frame carries, header included, without its check sequence (IEEE 802.3 §3.2.8).
const LEAST: usize = 60;

/// The frames that announce `address` at the MAC address `own`.
pub fn frames(address: IpAddr, own: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(v4) => {
            let header = Ethernet::new(own, Mac::BROADCAST, ethernet::ARP);
            let frame = |operation| padded(&header, Arp::announcement(operation, v4, own).as_bytes());
            [Operation::Request, Operation::Reply].map(frame).to_vec()
        }
        IpAddr::V6(v6) => {
            let (advertisement, group) = Discovery::announcement(V6(v6), own);
            vec![padded(&Ethernet::new(own, group, ethernet::IPV6), advertisement.as_bytes())]
        }
    }
}

fn padded(header: &Ethernet, packet: &[u8]) -> Vec<u8> {
    let mut frame = [header.as_bytes(), packet].concat();
    frame.resize(frame.len().max(LEAST), 0);
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpOperation, ArpPacketSlice, Icmpv6Slice, Icmpv6Type, Ipv6HeaderSlice};

    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn another_parser_reads_both_forms_of_gratuitous_arp() {
        let frames = frames([192, 0, 2, 9].into(), OWN);
        let expected = [(ArpOperation::REQUEST, [0; 6]), (ArpOperation::REPLY, OWN.0)];
        assert_eq!(frames.len(), expected.len());
        for (frame, (operation, target)) in frames.iter().zip(expected) {
            assert_eq!((frame.len(), &frame[..6], &frame[6..14]), (60, &[0xff; 6][..], &[2, 0, 0, 0, 0, 7, 8, 6][..]));
            let arp = ArpPacketSlice::from_slice(&frame[14..]).expect("an ARP packet");
            assert_eq!(arp.operation(), operation);
            assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&OWN.0[..], &[192, 0, 2, 9][..]));
            assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&target[..], &[192, 0, 2, 9][..]));
        }
    }

    #[test]
    fn another_parser_reads_the_unsolicited_advertisement() {
        let address = V6("2001:db8::9".parse().expect("an address"));
        let frames = frames(address.0.into(), OWN);
        let [frame] = &frames[..] else { panic!("{} frames", frames.len()) };
        assert_eq!((&frame[..6], &frame[6..14]), (&[0x33, 0x33, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 7, 0x86, 0xdd][..]));
        let ip = Ipv6HeaderSlice::from_slice(&frame[14..]).expect("a header");
        let all_nodes = "ff02::1".parse().expect("an address");
        assert_eq!((ip.source_addr(), ip.destination_addr(), ip.hop_limit()), (address.0, all_nodes, 255));
        let message = Icmpv6Slice::from_slice(&frame[54..]).expect("a message");
        assert!(message.is_checksum_valid(ip.source(), ip.destination()));
        let Icmpv6Type::NeighborAdvertisement(header) = message.icmp_type() else { panic!("{message:?}") };
        assert_eq!((header.router, header.solicited, header.r#override), (false, false, true));
        assert_eq!(Discovery::advertised(frame, 14), Some((address, OWN)));
    }
}
