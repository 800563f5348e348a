//! What only a mapped ring does.

use pollgate_dataplane::port::packet::PacketPort;
use pollgate_dataplane::port::{BURST, Backlog, Port};

use crate::shared::harness::tests;
use crate::shared::needs::Need::Lab;
use crate::socket_ports::support::*;

tests! {
    [Lab] =>
        a_full_ring_loses_the_newest_counts_them_and_goes_on,
        the_backlog_is_what_waits_in_the_ring;
}

fn a_full_ring_loses_the_newest_counts_them_and_goes_on() {
    let cable = Cable::new();
    let mut port = cable.open::<PacketPort>(64);
    let many: Vec<Vec<u8>> = (0..100).map(|n| experimental(n, 60)).collect();
    inject::<PacketPort>(&cable, &many);
    let mut frames = receive(&mut port, |frames| frames.len() == 64);
    let lost = missed(&mut port);
    let ours = frames.iter().filter(|f| is_experimental(f)).count() as u64;
    assert_eq!(lost, 100 - ours, "each of the hundred is either here or counted");
    assert_eq!(missed(&mut port), 0, "and counted once");
    let numbers: Vec<u8> = frames.iter().filter(|f| is_experimental(f)).map(|f| f.bytes()[14]).collect();
    assert!(numbers.is_sorted(), "in the order they were sent: {numbers:?}");
    // Out of order, and one kept: the ring goes on up to it.
    let kept = frames.remove(10);
    let bytes = kept.bytes().to_vec();
    frames.reverse();
    release(&mut port, frames);
    inject::<PacketPort>(&cable, &many[..30]);
    let again = receive(&mut port, |frames| frames.len() >= 10);
    assert_eq!(again.len(), 10, "no further than the slot that is kept");
    assert_eq!(kept.bytes(), bytes, "and what is kept is left alone");
    port.release(kept);
    release(&mut port, again);
    inject::<PacketPort>(&cable, &many[..5]);
    let rest = receive(&mut port, |frames| frames.len() == 5);
    assert_eq!(port.missed(), 20, "the rest of the thirty, told by the first frame that came after them");
    release(&mut port, rest);
}

fn the_backlog_is_what_waits_in_the_ring() {
    let cable = Cable::new();
    let slots = 1024;
    let mut port = cable.open::<PacketPort>(slots);
    // The kernel has something to say on a new link, too.
    let some = 32;
    let (standing, large) = (Backlog::standing(slots), Backlog::large(slots));
    let inject = |count: u32| inject::<PacketPort>(&cable, &vec![experimental(1, 60); count as usize]);
    // Several times round the ring.
    for _ in 0..5 {
        assert_eq!(port.backlog(), Backlog::Little);
        inject(standing - some);
        assert_eq!(port.backlog(), Backlog::Little);
        inject(2 * some);
        assert_eq!(port.backlog(), Backlog::Standing);
        inject(large - standing);
        assert_eq!(port.backlog(), Backlog::Large);
        let mut lent = Vec::new();
        port.rx(NOW, BURST, &mut lent);
        assert_eq!(port.backlog(), Backlog::Standing, "what is lent does not wait");
        release(&mut port, lent);
        assert_eq!(missed(&mut port), 0, "all that waited was taken");
    }
}
