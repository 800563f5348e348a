//! Every way a frame can end without being sent, each declared once.
//!
//! A [`Drop`] is a frame pollgate answers for and did not deliver; a [`Pass`] is a frame that is none of pollgate's
//! business and stays with the kernel. The enum, the counter's name, the command line, the metrics and the operations
//! guide all follow from the two lists below.

/// How much a growing counter should worry somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Severity {
    /// Normal in a healthy network.
    Info,
    /// A client or sender does something wrong.
    Notice,
    /// Traffic that somebody wanted is lost.
    Warning,
    /// The gateway or its host is short of something.
    Error,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $key:literal $severity:ident $sentence:literal $action:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $sentence] $variant,)*
        }

        impl $name {
            /// All of them, in the order of the declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// The counter's name: snake case, stable.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $key,)* }
            }

            /// How much a growing count should worry somebody.
            pub fn severity(self) -> Severity {
                match self { $($name::$variant => Severity::$severity,)* }
            }

            /// What happened, in a sentence.
            pub fn sentence(self) -> &'static str {
                match self { $($name::$variant => $sentence,)* }
            }

            /// What to do when it grows.
            pub fn action(self) -> &'static str {
                match self { $($name::$variant => $action,)* }
            }

            /// Its place in [`Self::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }

            /// By its counter's name.
            pub fn from_name(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|reason| reason.name() == name)
            }
        }
    };
}

reasons! {
    /// Why a frame was dropped.
    Drop {
        Runt "runt" Notice
            "The frame is shorter than an Ethernet header." "Look at the sender, the cable or the driver; nothing legal is this short.";
        IpHeader "ip_header" Notice
            "The IPv4 header is cut off, or its version or header length is not possible." "A broken or malicious sender: capture on the interface and look at the source MAC.";
        IpLength "ip_length" Notice
            "The IPv4 total length says more than the frame holds, or less than its header." "A broken or malicious sender, or a capture that was cut: compare the frame on the sender's side.";
        IpChecksum "ip_checksum" Notice
            "The IPv4 header checksum is wrong." "Damage on the way, or a sender that leaves it to hardware that does not do it: check the sender's offload settings.";
        BadSource "bad_source" Notice
            "The source is an address nobody may send from: multicast, broadcast, loopback, unspecified, or one of pollgate's own." "Spoofing or a loop: find the source MAC; check that no other host has an address of the gateway.";
        TtlExpired "ttl_expired" Notice
            "The packet's time to live ran out at the gateway." "Usually a routing loop or a traceroute: check the routes between client, gateway and Pods.";
        Fragment "fragment" Warning
            "An IP fragment for an owned address: fragments are not translated." "Lower the sender's MTU or datagram size so that packets arrive whole.";
        L4Header "l4_header" Notice
            "The TCP or UDP header is cut off or its length fields lie." "A broken or malicious sender: capture and look at the source.";
        Protocol "protocol" Notice
            "An owned address was sent a transport protocol no Service port has." "The client uses something other than TCP or UDP; Services of that kind are not served.";
        Icmp "icmp" Info
            "An ICMP message to an owned address that is no echo request." "Often errors about packets sent earlier; if path MTU trouble is suspected, compare MTUs along the path.";
        UndefinedPort "undefined_port" Notice
            "A gateway, load-balancer or external address was asked for a port that no Service has there; the client runs into a time-out." "Compare the client's port with `pollgate get services`; scanners cause this too.";
        StaleReply "stale_reply" Notice
            "A packet to a source-translation port for which there is no flow (any more)." "A late reply after the flow ended or expired; many of them: compare the `flows` time-outs with the application's.";
        NoSuchClusterIp "no_such_cluster_ip" Notice
            "The destination lies in a Service CIDR, but no Service has that ClusterIP." "The client uses an old address: check its configuration, its DNS cache, and whether the Service was deleted.";
        RejectNoEndpoints "reject_no_endpoints" Warning
            "The Service has no endpoint that could serve: the client was refused." "Confirm the selector and endpoint membership first: `pollgate explain service NAME`.";
        RejectUndefinedPort "reject_undefined_port" Notice
            "A ClusterIP was asked for a port its Service does not have: the client was refused." "Compare the client's port and protocol with `pollgate describe service NAME`.";
        NoLocalEndpoints "no_local_endpoints" Warning
            "The traffic policy is Local and none of the Service's endpoints is on this gateway's node." "Expected where a load balancer's health check keeps clients away; otherwise check `node` in the configuration, or the policy.";
        SourceNotAllowed "source_not_allowed" Info
            "The client is in none of the Service's loadBalancerSourceRanges." "If the client should be let in, add its range to the Service.";
        FlowTableFull "flow_table_full" Error
            "A new flow found no room, and nothing old enough could be evicted for it." "Raise `flows.max`, or find who opens so many flows: `pollgate stats`.";
        SnatPortsExhausted "snat_ports_exhausted" Error
            "No source port is left towards that backend." "Widen `nat.ports`, add gateway `addresses`, or add endpoints to the Service.";
        TcpNoFlow "tcp_no_flow" Notice
            "A TCP segment in the middle of a connection pollgate does not know and cannot take over (RST, or source-translated)." "Expected for a while after a restart; otherwise a connection idle for longer than `flows.tcpEstablished`.";
        NoRoute "no_route" Error
            "The host's kernel has no route to the next destination." "Add the route on the gateway host, or bring its link up (routes go with it): `ip route get ADDRESS` shows what the kernel would do.";
        UnpolledInterface "unpolled_interface" Error
            "The route to the destination leaves by an interface pollgate does not poll." "Add that interface to `interfaces`, or correct the route.";
        LinkDown "link_down" Error
            "The interface towards the destination is down." "Bring the link up; `ip link` shows its state.";
        NeighbourUnresolved "neighbour_unresolved" Warning
            "Nobody answered for the next hop's MAC address in time." "Is the Pod or router up and on that link? `ip neigh` on the gateway shows FAILED entries.";
        NeighbourQueueFull "neighbour_queue_full" Warning
            "Too many frames already wait for MAC addresses." "As for neighbour_unresolved: a next hop does not answer.";
        HandoverFull "handover_full" Error
            "The ring to the worker that owns the flow was full." "The owner is overloaded: add workers or receive queues, or check that its CPU is its own.";
        TxFull "tx_full" Error
            "The interface's send queue was full." "The egress is slower than the ingress, or its CPU is busy: check queues and link speed.";
        TxTooLong "tx_too_long" Warning
            "The packet is larger than the egress interface's MTU." "Make MTUs agree along the path, or lower the senders' MTU.";
        TxLinkDown "tx_link_down" Error
            "The interface went down while sending." "Bring the link up; `ip link` shows its state.";
        TxError "tx_error" Error
            "The kernel refused to send the frame for another reason." "See the gateway's log for the error the kernel gave.";
        DnsMalformed "dns_malformed" Notice
            "Something at the DNS port that is no DNS query (too short, or itself a response)." "A broken or malicious client: capture at the DNS address.";
        NotPassed "not_passed" Warning
            "A frame taken from the kernel by an AF_XDP port that turned out not to be pollgate's; the kernel has no copy of it." "A few while a Service's addresses or endpoints change are normal. Otherwise an endpoint sends to others from its Service port without a flow, or the interface strips VLAN tags (`ethtool -K NAME rxvlan off`); `backend: packet` leaves such frames to the kernel.";
        NoRoomForAnswer "no_room_for_answer" Notice
            "The received buffer is too small to write the answer into." "Not expected from an ordinary interface: report it with the interface's MTU and driver.";
    }
}

reasons! {
    /// Why a frame was left to the kernel.
    Pass {
        OtherMac "other_mac" Info
            "A unicast frame to somebody else's MAC address." "Normal while a capture tool holds the interface in promiscuous mode, or while a switch floods.";
        Group "group" Info
            "An IPv4 packet sent to a group or broadcast MAC address." "Nothing: pollgate's addresses are unicast, and the kernel has the frame.";
        EtherType "ether_type" Info
            "An EtherType pollgate does not handle (VLAN tags included)." "Nothing: the kernel has it.";
        Ipv6 "ipv6" Info
            "An IPv6 packet; pollgate owns no IPv6 address." "Nothing: the kernel has it.";
        Arp "arp" Info
            "ARP that does not ask for an owned address." "Nothing: the kernel has it.";
        NotOwned "not_owned" Info
            "A packet for no owned address that belongs to no flow." "Nothing if it is the host's own traffic. If it was a reply from a Pod, its flow was evicted or has expired.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_sentences_are_sentences() {
        let mut names = HashSet::new();
        let all = Drop::ALL.iter().map(|d| (d.name(), d.sentence(), d.action()));
        for (name, sentence, action) in all.chain(Pass::ALL.iter().map(|p| (p.name(), p.sentence(), p.action()))) {
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert!(sentence.ends_with('.') && action.ends_with(['.', '`']), "{name}: {sentence} / {action}");
        }
    }

    #[test]
    fn a_reason_is_found_by_its_name_and_place() {
        for (at, reason) in Drop::ALL.iter().enumerate() {
            assert_eq!(reason.index(), at);
            assert_eq!(Drop::from_name(reason.name()), Some(*reason));
        }
        assert_eq!(Drop::from_name("nonsense"), None);
    }
}
