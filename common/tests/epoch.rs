//! The epoch with real threads; what `loom` shows of it is beside the code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::ThreadId;

use pollgate_common::epoch::Publisher;

/// Records the thread that freed it.
struct Probe {
    value: u64,
    check: u64,
    owner: ThreadId,
    freed: Arc<AtomicUsize>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        assert_eq!(std::thread::current().id(), self.owner, "freed away from the control thread");
        self.freed.fetch_add(1, SeqCst);
    }
}

#[test]
fn readers_see_whole_generations_and_only_the_publisher_frees() {
    let freed = Arc::new(AtomicUsize::new(0));
    let owner = std::thread::current().id();
    let probe = |value| Probe { value, check: !value, owner, freed: Arc::clone(&freed) };
    let mut publisher = Publisher::new(probe(0));
    let stop = AtomicBool::new(false);
    const ROUNDS: u64 = 5000;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let source = publisher.source();
            let stop = &stop;
            scope.spawn(move || {
                let reader = source.reader();
                let mut last = 0;
                while !stop.load(SeqCst) {
                    let pin = reader.pin();
                    let seen = pin.load();
                    assert_eq!(seen.check, !seen.value);
                    assert!(seen.value >= last, "generations never go back");
                    last = seen.value;
                }
            });
        }
        for value in 1..=ROUNDS {
            publisher.publish(probe(value));
            publisher.reclaim();
        }
        stop.store(true, SeqCst);
    });
    for _ in 0..100 {
        publisher.reclaim();
    }
    assert_eq!(publisher.outstanding(), 0);
    assert_eq!(freed.load(SeqCst) as u64, ROUNDS, "all but the current one");
    drop(publisher);
    assert_eq!(freed.load(SeqCst) as u64, ROUNDS + 1);
}

#[test]
fn a_pinned_generation_outlives_its_successors() {
    let mut publisher = Publisher::new(vec![1u8; 4096]);
    let reader = publisher.source().reader();
    let pin = reader.pin();
    let held = pin.load();
    for value in 2..20u8 {
        publisher.publish(vec![value; 4096]);
        assert_eq!(publisher.reclaim(), 0);
    }
    assert!(held.iter().all(|&b| b == 1));
    drop(pin);
    for _ in 0..10 {
        publisher.reclaim();
    }
    assert_eq!(publisher.outstanding(), 0);
}
