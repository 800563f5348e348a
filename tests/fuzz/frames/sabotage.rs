//! Proof that the checker sees faults: each kind of fault is put between the workers and the checker, which must refuse it.
//!
//! Where a fault would also make a sum wrong, the sum is put right, so that what is refused is the fault itself.

use std::net::SocketAddr;

use super::site::{OWN, Sums, gateway, is_owned, pod};
use super::view::{Out, SCTP, TCP, UDP, View};

/// Changes a frame that left; returns false if it is of another kind.
type Change = fn(&mut Out) -> bool;

/// A counter.
type Field = fn(&mut Sums) -> &mut u64;

/// Inputs that are tried until the change has been made so often, and how often that must be.
const INPUTS: u64 = 2000;
const TIMES: usize = 3;

/// A script: bytes that look random.
fn input(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..1200).map(byte).collect()
}

/// Asserts that the checker refuses what `change` makes of frames and counters. It returns whether it has changed anything.
fn is_seen(what: &str, change: &mut dyn FnMut(&mut Vec<Out>, &mut Sums) -> bool) {
    let mut refused = 0;
    for number in 0..INPUTS {
        if let Some(is_refused) = is_refused(number, change) {
            assert!(is_refused, "{what}, in input {number}: not seen");
            refused += 1;
        }
        if refused == TIMES {
            return;
        }
    }
    panic!("{what}: done {refused} times in {INPUTS} inputs");
}

/// Whether the checker refuses a changed run of this input; `None` if nothing was changed.
fn is_refused(number: u64, change: &mut dyn FnMut(&mut Vec<Out>, &mut Sums) -> bool) -> Option<bool> {
    let mut is_done = false;
    let result = super::run(&input(number), &mut |out, sums| is_done = is_done || change(out, sums));
    if is_done {
        return Some(result.is_err());
    }
    result.unwrap_or_else(|fault| panic!("input {number} is a fault without sabotage: {fault}"));
    None
}

fn frames_are_seen(all: &[(&str, Change)]) {
    for (what, change) in all {
        is_seen(what, &mut |out, _| out.iter_mut().any(change));
    }
}

fn view(out: &Out) -> Option<View> {
    View::of_frame(&out.packet.bytes).filter(|view| view.end <= out.packet.bytes.len())
}

/// Whether all its sums are complete and right.
fn is_right(out: &Out, view: &View) -> bool {
    let bytes = &out.packet.bytes;
    let is_right = match view.protocol {
        SCTP => view.crc_residue(bytes) == Some(0),
        _ => view.residue(bytes) == 0,
    };
    !view.is_fragment && !out.packet.offload.is_partial() && view.sum().is_some() && is_right
}

/// A packet of a flow, from its client to an endpoint.
fn to_endpoint(out: &Out) -> Option<View> {
    let view = view(out).filter(|view| view.has_ports() && is_right(out, view))?;
    let is_endpoint = (0x10..=0x13).any(|number| [0, 1].map(|family| pod(number, family)).contains(&view.destination));
    (is_endpoint && view.hops != 64 && !is_owned(view.source)).then_some(view).or_else(|| {
        let is_translated = [0, 1].map(gateway).contains(&view.source) && view.hops != 64;
        (is_endpoint && is_translated).then_some(view)
    })
}

/// A packet of a flow, from a Service to its client.
fn to_client(out: &Out) -> Option<View> {
    let is_service = |view: &View| is_owned(view.source) && view.hops != 64;
    view(out).filter(|view| view.has_ports() && is_right(out, view) && is_service(view) && to_endpoint(out).is_none())
}

/// What the gateway has written itself.
fn made(out: &Out, protocol: u8) -> Option<View> {
    view(out)
        .filter(|view| view.protocol == protocol && view.hops == 64 && is_right(out, view) && is_owned(view.source))
}

fn error(out: &Out) -> Option<View> {
    view(out)
        .filter(|view| view.is_error(&out.packet.bytes) && !view.is_fragment && view.residue(&out.packet.bytes) == 0)
}

/// Changes the packet's bytes, and puts its sums right.
fn with(out: &mut Out, view: Option<View>, change: impl FnOnce(&View, &mut Vec<u8>)) -> bool {
    let Some(view) = view else { return false };
    change(&view, &mut out.packet.bytes);
    view.set_sums(&mut out.packet.bytes, false);
    true
}

/// The same for source and destination.
fn with_ends(
    out: &mut Out,
    view: Option<View>,
    change: impl FnOnce(SocketAddr, SocketAddr) -> (SocketAddr, SocketAddr),
) -> bool {
    with(out, view, |view, bytes| {
        let (source, destination) = view.ends(bytes).expect("ports");
        let (source, destination) = change(source, destination);
        view.set_ends(bytes, source, destination);
    })
}

fn with_port(mut end: SocketAddr, port: u16) -> SocketAddr {
    end.set_port(port);
    end
}

fn flip(out: &mut Out, at: Option<usize>) -> bool {
    let byte = at.and_then(|at| out.packet.bytes.get_mut(at));
    byte.map(|byte| *byte ^= 1).is_some()
}

/// Flips a bit of the transport's sum.
fn flip_sum(out: &mut Out, protocol: u8) -> bool {
    let of_protocol = |view: &View| view.protocol == protocol && view.sum().is_some_and(|sum| sum.end <= view.end);
    let sum = view(out).filter(of_protocol).and_then(|view| view.sum());
    let is_none = sum.clone().is_some_and(|sum| out.packet.bytes[sum].iter().all(|byte| *byte == 0));
    !is_none && flip(out, sum.map(|sum| sum.end - 1))
}

#[test]
fn wrong_sums_are_seen() {
    frames_are_seen(&[
        ("the IPv4 header's", |out| {
            let at = view(out).filter(View::is_v4).map(|view| view.start + 11);
            flip(out, at)
        }),
        ("TCP's", |out| !out.packet.offload.is_partial() && flip_sum(out, TCP)),
        ("UDP's", |out| !out.packet.offload.is_partial() && flip_sum(out, UDP)),
        ("SCTP's", |out| view(out).is_some_and(|view| !view.is_fragment) && flip_sum(out, SCTP)),
        ("ICMP's", |out| flip_sum(out, 1)),
        ("ICMPv6's", |out| flip_sum(out, 58)),
        ("a partial one", |out| out.packet.offload.is_partial() && (flip_sum(out, TCP) || flip_sum(out, UDP))),
        ("one that is no longer left to offload", |out| {
            let is_partial = out.packet.offload.is_partial();
            out.packet.offload.flags = 0;
            is_partial
        }),
        ("a quoted header's", |out| {
            let quoted = error(out).and_then(|view| view.quoted(&out.packet.bytes)).filter(View::is_v4);
            flip(out, quoted.map(|quoted| quoted.start + 11))
        }),
    ]);
}

#[test]
fn half_and_wrong_translations_are_seen() {
    frames_are_seen(&[
        ("the endpoint's port is the Service's", |out| {
            let view = to_endpoint(out);
            with_ends(out, view, |source, destination| {
                let port = match destination.port() {
                    8080 => 80,
                    7007 => 7,
                    3905 => 2905,
                    _ => 9,
                };
                (source, with_port(destination, port))
            })
        }),
        ("the endpoint's address is the Service's", |out| {
            let view = to_endpoint(out);
            with_ends(out, view, |source, destination| {
                let service = if destination.is_ipv4() { "10.96.0.50" } else { "fd00:96::50" };
                (source, SocketAddr::new(service.parse().expect("an address"), destination.port()))
            })
        }),
        ("a Pod that is no endpoint", |out| {
            let view = to_endpoint(out);
            with_ends(out, view, |source, to| (source, SocketAddr::new(pod(5, usize::from(to.is_ipv6())), to.port())))
        }),
        ("the port of another Service", |out| {
            let view = to_endpoint(out);
            with_ends(out, view, |source, to| (source, with_port(to, if to.port() == 9009 { 8080 } else { 9009 })))
        }),
        ("a source port that is not for translation", |out| {
            let view = to_endpoint(out).filter(|view| [0, 1].map(gateway).contains(&view.source));
            with_ends(out, view, |source, destination| (with_port(source, 30_000), destination))
        }),
        ("the source's port alone", |out| {
            let view = to_endpoint(out).filter(|view| ![0, 1].map(gateway).contains(&view.source));
            with_ends(out, view, |source, destination| (with_port(source, 2000), destination))
        }),
        ("the source's address alone", |out| {
            let view = to_endpoint(out).filter(|view| ![0, 1].map(gateway).contains(&view.source));
            with_ends(out, view, |source, to| (SocketAddr::new(gateway(usize::from(to.is_ipv6())), source.port()), to))
        }),
        ("a reply whose port is the endpoint's", |out| {
            let view = to_client(out);
            with_ends(out, view, |source, destination| (with_port(source, 8081), destination))
        }),
        ("a reply from the endpoint's address", |out| {
            let view = to_client(out);
            with_ends(out, view, |source, to| {
                (SocketAddr::new(pod(0x10, usize::from(to.is_ipv6())), source.port()), to)
            })
        }),
        ("a reply to another port of the client", |out| {
            let view = to_client(out);
            with_ends(out, view, |source, to| (source, with_port(to, to.port() ^ 0x80)))
        }),
        ("a later fragment to another Pod", |out| {
            let view = view(out).filter(|view| view.is_later && view.hops != 64);
            with(out, view, |view, bytes| {
                let family = usize::from(!view.is_v4());
                view.set_ends(bytes, SocketAddr::new(view.source, 0), SocketAddr::new(pod(5, family), 0));
            })
        }),
        ("an ICMP error that quotes another port", |out| {
            let quoted = error(out).and_then(|view| view.quoted(&out.packet.bytes));
            let view = error(out).filter(|view| view.hops != 64);
            quoted.is_some_and(|quoted| with(out, view, |_, bytes| bytes[quoted.l4 + 1] ^= 1))
        }),
        ("an ICMP error from elsewhere", |out| {
            let view = error(out).filter(|view| view.hops != 64);
            with(out, view, |view, bytes| {
                let from = SocketAddr::new(pod(0x42, usize::from(!view.is_v4())), 0);
                view.set_ends(bytes, from, SocketAddr::new(view.destination, 0));
            })
        }),
    ]);
}

/// Not in every input: a flow that may have ended meanwhile may have another port.
#[test]
fn a_translation_that_changes_is_seen() {
    let mut refused = 0;
    for number in 0..INPUTS {
        let mut seen: Vec<(SocketAddr, SocketAddr)> = Vec::new();
        let is_refused = is_refused(number, &mut |out, _| {
            for out in out {
                let view = to_endpoint(out).filter(|view| [0, 1].map(gateway).contains(&view.source));
                let Some(ends) = view.and_then(|view| view.ends(&out.packet.bytes)) else { continue };
                if seen.contains(&ends) {
                    return with_ends(out, view, |source, to| (with_port(source, source.port() ^ 0x100), to));
                }
                seen.push(ends);
            }
            false
        });
        refused += usize::from(is_refused == Some(true));
        if refused == TIMES {
            return;
        }
    }
    panic!("seen {refused} times in {INPUTS} inputs");
}

#[test]
fn other_changes_are_seen() {
    frames_are_seen(&[
        ("two hops less", |out| {
            let view = to_endpoint(out).or_else(|| to_client(out));
            with(out, view, |view, bytes| bytes[view.hops_at()] = view.hops.wrapping_sub(1))
        }),
        ("no hop less", |out| {
            let view = to_endpoint(out).or_else(|| to_client(out));
            with(out, view, |view, bytes| bytes[view.hops_at()] = view.hops.wrapping_add(1))
        }),
        ("a byte of a payload", |out| {
            let view = to_endpoint(out).filter(|view| view.end > view.l4 + 20);
            with(out, view, |view, bytes| bytes[view.end - 1] ^= 1)
        }),
        ("TCP flags", |out| {
            let view = to_endpoint(out).filter(|view| view.protocol == TCP);
            with(out, view, |view, bytes| bytes[view.l4 + 13] ^= 1)
        }),
        ("a byte more", |out| {
            out.packet.bytes.push(0);
            true
        }),
        ("a byte less", |out| out.packet.bytes.pop().is_some()),
        ("the source's MAC", |out| flip(out, Some(11))),
        ("the destination's MAC", |out| flip(out, Some(5))),
        ("the other interface", |out| {
            out.port ^= 1;
            out.packet.bytes[6..12] == OWN[out.port ^ 1]
        }),
    ]);
}

#[test]
fn wrong_replies_are_seen() {
    frames_are_seen(&[
        ("a reset to another port", |out| {
            let view = made(out, TCP);
            with_ends(out, view, |source, to| (source, with_port(to, to.port() ^ 1)))
        }),
        ("an ABORT from another port", |out| {
            let view = made(out, SCTP);
            with_ends(out, view, |source, to| (with_port(source, source.port() ^ 1), to))
        }),
        ("an ICMP error that quotes another packet", |out| {
            let view = error(out).filter(|view| view.hops == 64 && [0, 1].map(gateway).contains(&view.source));
            with(out, view, |view, bytes| bytes[view.end - 1] ^= 1)
        }),
        ("an echo reply with another payload", |out| {
            let view =
                made(out, 1).or_else(|| made(out, 58)).filter(|view| view.end > view.l4 + 8 && error(out).is_none());
            with(out, view, |view, bytes| bytes[view.end - 1] ^= 1)
        }),
        ("a DNS response to another query", |out| {
            let view = made(out, UDP);
            with(out, view, |view, bytes| bytes[view.l4 + 8] ^= 1)
        }),
        ("an ARP reply with another MAC", |out| out.packet.bytes[12..14] == [8, 6] && flip(out, Some(27))),
        ("a neighbour advertisement with another MAC", |out| {
            let is_advertisement = |view: &View| view.protocol == 58 && out.packet.bytes.get(view.l4) == Some(&136);
            let view = view(out).filter(is_advertisement);
            with(out, view, |view, bytes| bytes[view.end - 1] ^= 1)
        }),
    ]);
}

#[test]
fn lost_and_doubled_frames_are_seen() {
    is_seen("a frame is lost", &mut |out, _| out.pop().is_some());
    is_seen("a frame leaves twice", &mut |out, sums| {
        let Some(first) = out.first().cloned().filter(|_| sums.dropped > 0) else { return false };
        // The counters go along.
        sums.dropped -= 1;
        sums.tx += 1;
        sums.tx_bytes += first.packet.bytes.len() as u64;
        out.push(first);
        true
    });
}

#[test]
fn wrong_counters_are_seen() {
    let fields: [(&str, Field); 9] = [
        ("rx", |sums| &mut sums.rx),
        ("rx_bytes", |sums| &mut sums.rx_bytes),
        ("originated", |sums| &mut sums.originated),
        ("tx", |sums| &mut sums.tx),
        ("tx_bytes", |sums| &mut sums.tx_bytes),
        ("passed", |sums| &mut sums.passed),
        ("consumed", |sums| &mut sums.consumed),
        ("dropped", |sums| &mut sums.dropped),
        ("waiting", |sums| &mut sums.waiting),
    ];
    for number in 0..4 {
        for (name, field) in fields {
            let more = is_refused(number, &mut |_, sums| {
                *field(sums) += 1;
                true
            });
            let less = is_refused(number, &mut |_, sums| {
                let is_some = *field(sums) > 0;
                *field(sums) = field(sums).saturating_sub(1);
                is_some
            });
            assert!(more == Some(true) && less != Some(false), "{name}: {more:?}, {less:?}");
        }
    }
    // Two that make up for each other.
    is_seen("a refusal is not counted", &mut |_, sums| {
        let is_some = sums.originated > 0;
        if is_some {
            sums.originated -= 1;
            sums.dropped -= 1;
        }
        is_some
    });
}
