//! Every way a frame can end without being sent, each declared once.
//!
//! A [`DropReason`] says why pollgate did not deliver a frame that it is responsible for; a [`PassReason`] says why it left a
//! frame to the kernel. The enum, the counter's name, the command line, the metrics and the operations guide all follow from
//! the two lists below.

/// How serious a growing counter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Severity {
    /// Normal in a healthy network.
    Info,
    /// A client or sender makes a mistake.
    Notice,
    /// Legitimate traffic is lost.
    Warning,
    /// The gateway or its host lacks a resource.
    Error,
}

impl Severity {
    /// The word in documentation and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
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

            /// How serious it is if the counter grows.
            pub fn severity(self) -> Severity {
                match self { $($name::$variant => Severity::$severity,)* }
            }

            /// What happened, in a sentence.
            pub fn sentence(self) -> &'static str {
                match self { $($name::$variant => $sentence,)* }
            }

            /// What to do if the counter grows.
            pub fn action(self) -> &'static str {
                match self { $($name::$variant => $action,)* }
            }

            /// Its index in [`Self::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }

            /// The reason with this counter name.
            pub fn from_name(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|reason| reason.name() == name)
            }
        }
    };
}

reasons! {
    /// Why a frame was dropped.
    DropReason {
        Runt "runt" Notice
            "The frame is shorter than an Ethernet header." "Check the sender, the cable and the driver: no valid frame is this short.";
        IpHeader "ip_header" Notice
            "The IP header is truncated, its version or header length is invalid, or an IPv6 extension header does not fit the packet." "The sender is broken or malicious: capture on the interface and check the source MAC address.";
        IpLength "ip_length" Notice
            "The length in the IP header is larger than the frame, or smaller than the header." "The sender is broken or malicious, or a capture was truncated: compare with the frame on the sender's side.";
        IpChecksum "ip_checksum" Notice
            "The IPv4 header checksum is wrong." "The frame was damaged in transit, or the sender left the checksum to hardware that does not fill it in: check the sender's offload settings.";
        BadSource "bad_source" Notice
            "The source address is not valid as a source: multicast, broadcast, loopback, unspecified, one of pollgate's own or another of a Service CIDR, link-local (IPv6) although the packet would leave the link, or one of the host's own although the packet did not come by the host pair (by which only the host itself may send)." "Spoofing or a loop: find the source MAC address, and check that no other host uses an address of the gateway. On the host, check that nothing is routed into `pg-host` from its other networks.";
        TtlExpired "ttl_expired" Notice
            "The packet's time to live (IPv4) or hop limit (IPv6) expired at the gateway." "Usually a routing loop or a traceroute: check the routes between client, gateway and Pods.";
        FragmentTiny "fragment_tiny" Notice
            "A first IP fragment that does not hold all headers up to the transport header, or a later one that would overwrite it." "No sender makes such fragments: it is malicious or broken. Capture on the interface and check the source MAC address.";
        FragmentLength "fragment_length" Notice
            "An IP fragment with an impossible length: empty, not a multiple of eight bytes although more follow, or ending beyond 65,535 bytes." "The sender is broken or malicious: capture on the interface and check the source MAC address.";
        FragmentOverlap "fragment_overlap" Notice
            "An IP fragment that overlaps with or contradicts another one of its datagram, or came after one that did. The datagram is lost." "An attack, or a sender that uses identifications again too soon: it sends more than 65,536 fragmented datagrams per second to one address.";
        FragmentDuplicate "fragment_duplicate" Info
            "An IP fragment that has come before." "A few are normal where the network duplicates frames. If there are many, look for a loop or a mirrored port.";
        FragmentTimeout "fragment_timeout" Notice
            "An IP fragment that waited for a second in vain: for the first of its datagram, or in SCTP the first one for the last." "The network loses fragments, or somebody sends forged ones. Let the sender use datagrams that fit the path's MTU.";
        FragmentsTooMany "fragments_too_many" Notice
            "An IP fragment of a datagram with more than 128 fragments." "The sender cuts its datagrams into very small pieces: check the MTU of its interface.";
        FragmentsFull "fragments_full" Warning
            "There was no room for an IP fragment to wait for the first of its datagram, or the flow was removed between the two." "Somebody sends fragments without a first one: `fragment_timeout` grows too. The oldest of them make room.";
        DnsFragment "dns_fragment" Notice
            "A fragmented DNS query: queries fit one packet." "The client is broken or malicious: capture the traffic of the DNS address.";
        L4Header "l4_header" Notice
            "The TCP, UDP or SCTP header is truncated, or its length fields or those of the first SCTP chunk are wrong." "The sender is broken or malicious: capture on the interface and check the source.";
        Protocol "protocol" Notice
            "A packet to an owned address with a transport protocol that no Service port uses, or with IPv6 extension headers that are not skipped: IPsec, a routing header with segments left, or more than eight." "The client uses a protocol other than TCP, UDP and SCTP: a Service port can have no other.";
        Icmp "icmp" Info
            "An ICMP message to an owned address that is neither an echo request nor an error about a flow." "Often an error about a connection that is over.";
        NeighbourSolicitation "neighbour_solicitation" Notice
            "A neighbour solicitation or advertisement about an owned address that is not valid: its hop limit is not 255, its checksum is wrong, or its options are malformed." "The sender is broken or malicious: capture on the interface and check the source MAC address.";
        UndefinedPort "undefined_port" Notice
            "A packet to a port of a gateway, load-balancer or external address that no Service has there; the client gets no reply." "Compare the client's port with `pollgate get services`; port scans cause this too.";
        StaleReply "stale_reply" Notice
            "A packet to a source-translation port that has no flow, or no longer has one." "A late reply after the flow ended or expired. If there are many, compare the `flows` time-outs with the application's.";
        NoSuchClusterIp "no_such_cluster_ip" Notice
            "The destination is in a Service CIDR, but no Service has this ClusterIP." "The client uses an old address: check its configuration, its DNS cache, and whether the Service was deleted.";
        RejectNoEndpoints "reject_no_endpoints" Warning
            "The Service has no usable endpoint; the client was refused." "Confirm the selector and endpoint membership first: `pollgate explain service NAME`.";
        RejectUndefinedPort "reject_undefined_port" Notice
            "A packet to a ClusterIP and a port that its Service does not have; the client was refused." "Compare the client's port and protocol with `pollgate describe service NAME`.";
        NoLocalEndpoints "no_local_endpoints" Warning
            "The traffic policy is Local and none of the Service's endpoints is on this gateway's node." "Expected if a load balancer's health check keeps clients away. Otherwise check `node` in the configuration, or the policy.";
        SourceNotAllowed "source_not_allowed" Info
            "The client's address is in none of the Service's loadBalancerSourceRanges." "To allow the client, add its range to the Service.";
        FlowTableFull "flow_table_full" Error
            "The flow table had no room for a new flow, and no flow in it may be evicted: established TCP connections and SCTP associations never are." "Raise `flows.max`, or find the Service with so many new flows: `pollgate stats`.";
        SnatPortsExhausted "snat_ports_exhausted" Error
            "No source port is left for another translated flow to this backend, or no gateway address is of its IP family." "Add gateway `addresses` (of each IP family that is served), widen `nat.ports`, or add endpoints to the Service.";
        TcpNoFlow "tcp_no_flow" Notice
            "A TCP segment of an unknown connection that cannot be taken over (RST, SYN-ACK, without ACK, or its source would be translated). The sender gets a reset; a RST gets none." "Expected for a while after a restart. Otherwise the connection was idle for longer than `flows.tcpEstablished`.";
        SctpNoFlow "sctp_no_flow" Notice
            "An SCTP packet of an unknown association that cannot be taken over (ABORT, INIT ACK, without a tag, or its source would be translated). The sender gets an ABORT, unless the packet is one or says as much." "Expected for a while after a restart. Otherwise the association was idle for longer than `flows.tcpEstablished`.";
        NewFlowRate "new_flow_rate" Error
            "A new flow beyond the number that a worker opens per second." "Check `flows_half_open` in `pollgate stats`: a large number means a flood from spoofed addresses. Otherwise raise `flows.newPerSecond`, or add workers.";
        Overload "overload" Error
            "A packet that would have opened a flow, or a fragment whose first one had not come, while frames arrived faster than the worker processes them. Packets of known flows go first." "`missed` and the Services with most packets and new flows in `pollgate stats` show what comes; many `flows_half_open` mean spoofed addresses. Add workers, each on a CPU of its own, or have the network in front drop it.";
        NoRoute "no_route" Error
            "The host's kernel has no route to the packet's destination after translation." "Add the route on the gateway host, or bring its link up (a link that goes down loses its routes): `ip route get ADDRESS` shows the kernel's choice.";
        UnpolledInterface "unpolled_interface" Error
            "The route to the destination uses an interface that pollgate does not poll." "Add that interface to `interfaces`, or correct the route.";
        LinkDown "link_down" Error
            "The interface to the destination is down." "Bring the link up; `ip link` shows its state.";
        NeighbourUnresolved "neighbour_unresolved" Warning
            "The next hop's MAC address was not resolved in time." "Check that the Pod or router is up and on that link; `ip neigh` on the gateway shows FAILED entries.";
        NeighbourQueueFull "neighbour_queue_full" Warning
            "Too many frames are already waiting for MAC addresses." "As for `neighbour_unresolved`: a next hop does not answer ARP requests or neighbour solicitations.";
        HandoverFull "handover_full" Error
            "The ring to the worker that owns the flow was full." "That worker is overloaded: add workers or receive queues, and check that nothing else runs on its CPU.";
        HandedOverTwice "handed_over_twice" Warning
            "The frame was handed over by another worker and belongs to a third one: a frame moves once, a fragment twice." "A few while Services change are normal: two workers use different generations of the tables for an instant. If it keeps growing, report it with the configuration.";
        TxFull "tx_full" Error
            "The interface's transmit queue was full." "The egress interface is slower than the ingress, or its CPU is busy: check queues and link speed.";
        TxTooLong "tx_too_long" Warning
            "The packet is larger than the egress interface's MTU. Its sender gets an ICMP error with that MTU, unless it lets routers fragment the packet." "Normal when a sender learns the MTU of a path. If it goes on, check that ICMP errors reach the senders, or use the same MTU along the path.";
        TxLinkDown "tx_link_down" Error
            "The interface went down while sending." "Bring the link up; `ip link` shows its state.";
        TxClosed "tx_closed" Warning
            "The interface was deleted and created again, or its MTU was raised, and it was not polled at that moment." "A few are normal when that happens. If it keeps growing, `/readyz` says what is in the way.";
        TxError "tx_error" Error
            "The kernel refused to send the frame for another reason." "See the gateway's log for the kernel's error.";
        DnsRate "dns_rate" Warning
            "A DNS query beyond the number of responses that one client prefix gets per second. Every other such query gets an empty response that says \"truncated\" instead." "A flood of queries from spoofed addresses, or a client in a loop: `pollgate stats` shows the types. Raise `dns.responsesPerSecond` if real resolvers need more.";
        DnsMalformed "dns_malformed" Notice
            "A packet to the DNS port that is not a DNS query (too short, or a response)." "The client is broken or malicious: capture the traffic of the DNS address.";
        NotPassed "not_passed" Warning
            "A frame that an AF_XDP port took from the kernel although it was not for pollgate; the kernel has no copy of it, and there is no host pair to give it back by, or it is not an IP packet." "A few are normal while a Service's addresses or endpoints change. Otherwise an endpoint sends packets without a flow from its Service port, or fragments of other traffic by way of this host, or the interface strips VLAN tags (`ethtool -K NAME rxvlan off`). `backend: packet` leaves such frames to the kernel.";
        NoRoomForAnswer "no_room_for_answer" Notice
            "The receive buffer is too small for the answer." "Not expected on an ordinary interface: report it as a bug, with the interface's MTU and driver.";
    }
}

reasons! {
    /// Why a frame was left to the kernel.
    PassReason {
        OtherMac "other_mac" Info
            "A unicast frame to another host's MAC address." "Normal while a capture tool holds the interface in promiscuous mode, or while a switch floods.";
        Group "group" Info
            "An IP packet to a multicast or broadcast MAC address." "No action needed: pollgate's addresses are unicast, and the kernel has the frame.";
        EtherType "ether_type" Info
            "An EtherType pollgate does not handle (VLAN tags included)." "No action needed: the kernel has the frame.";
        Arp "arp" Info
            "An ARP packet that is not about an owned address." "No action needed: the kernel has the frame.";
        NeighbourDiscovery "neighbour_discovery" Info
            "A neighbour solicitation or advertisement that is not about an owned address." "No action needed: the kernel has the frame.";
        NotOwned "not_owned" Info
            "A packet that is not to an owned address and belongs to no flow." "No action needed for the host's own traffic. If it was a reply from a Pod, its flow was evicted or has expired.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_sentences_are_sentences() {
        let mut names = HashSet::new();
        let all = DropReason::ALL.iter().map(|d| (d.name(), d.sentence(), d.action()));
        for (name, sentence, action) in all.chain(PassReason::ALL.iter().map(|p| (p.name(), p.sentence(), p.action())))
        {
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert!(sentence.ends_with('.') && action.ends_with(['.', '`']), "{name}: {sentence} / {action}");
        }
    }

    #[test]
    fn a_reason_is_found_by_its_name_and_place() {
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), at);
            assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
        }
        assert_eq!(DropReason::from_name("nonsense"), None);
    }
}
