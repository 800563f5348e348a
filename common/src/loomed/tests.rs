use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::thread::{self, ThreadId};

use super::epoch::Publisher;

/// A generation. `loom` reports a read and a write of it that are not ordered.
struct Generation {
    number: UnsafeCell<u64>,
    owner: ThreadId,
    freed: Arc<AtomicUsize>,
}

// SAFETY: `loom` checks each access.
#[allow(unsafe_code, reason = "a cell that loom checks")]
unsafe impl Sync for Generation {}

impl Generation {
    fn read(&self) -> u64 {
        // SAFETY: `loom` checks that nothing writes meanwhile.
        #[allow(unsafe_code, reason = "a cell that loom checks")]
        self.number.with(|number| unsafe { *number })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.owner, "freed away from the control thread");
        // SAFETY: `loom` checks that nothing reads meanwhile.
        #[allow(unsafe_code, reason = "a cell that loom checks")]
        self.number.with_mut(|number| unsafe { *number = u64::MAX });
        self.freed.fetch_add(1, Relaxed);
    }
}

/// Two generations are published while so many workers read so often each.
fn generations_come_and_go(workers: usize, reads: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let freed = Arc::new(AtomicUsize::new(0));
        let owner = thread::current().id();
        let generation = |number| Generation { number: UnsafeCell::new(number), owner, freed: Arc::clone(&freed) };
        let mut publisher = Publisher::new(generation(1));
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                let source = publisher.source();
                thread::spawn(move || {
                    let reader = source.reader();
                    let mut last = 0;
                    for _ in 0..reads {
                        let snapshot = reader.pin();
                        let seen = snapshot.load().read();
                        assert!((last..=3).contains(&seen), "generation {seen} after {last}");
                        last = seen;
                    }
                })
            })
            .collect();
        publisher.publish(generation(2));
        publisher.reclaim();
        publisher.publish(generation(3));
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        publisher.reclaim();
        assert_eq!((publisher.outstanding(), freed.load(SeqCst)), (0, 2), "all but the current one are freed");
        drop(publisher);
        assert_eq!(freed.load(SeqCst), 3);
    });
}

#[test]
fn only_the_publisher_frees_and_only_what_nobody_reads() {
    generations_come_and_go(1, 2);
    generations_come_and_go(2, 1);
}

/// Senders push and wake; the sleeper looks and sleeps. No item may be there while it sleeps without having been woken.
macro_rules! none_oversleeps {
    ($sleeper:path, $senders:expr) => {
        loom::model(|| {
            use $sleeper as Sleeper;
            let (rung, queue) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let bell = Arc::clone(&rung);
            let sleeper = Arc::new(Sleeper::new(Some(Box::new(move || bell.store(true, SeqCst)))));
            let send = || {
                let (sleeper, queue) = (Arc::clone(&sleeper), Arc::clone(&queue));
                thread::spawn(move || {
                    // The queue itself orders nothing.
                    queue.fetch_add(1, Relaxed);
                    sleeper.wake();
                })
            };
            let senders: Vec<_> = (0..$senders).map(|_| send()).collect();
            let sleeps = sleeper.may_sleep(|| queue.load(Relaxed) == 0);
            senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
            assert!(!sleeps || rung.load(SeqCst), "it sleeps, and an item waits for it");
        });
    };
}

#[test]
fn a_sleeper_misses_nothing() {
    none_oversleeps!(super::sleep::Sleeper, 1);
    none_oversleeps!(super::sleep::Sleeper, 2);
}

/// Whoever sees it asleep need not wake it to have it see what was published.
#[test]
fn a_sleeper_sees_what_was_published_while_it_slept() {
    loom::model(|| {
        let published = Arc::new(AtomicUsize::new(0));
        let sleeper = Arc::new(super::sleep::Sleeper::new(None));
        let publisher = {
            let (published, sleeper) = (Arc::clone(&published), Arc::clone(&sleeper));
            thread::spawn(move || {
                published.store(1, Relaxed);
                sleeper.is_asleep()
            })
        };
        sleeper.may_sleep(|| true);
        sleeper.awake();
        loom::sync::atomic::fence(SeqCst);
        let seen = published.load(Relaxed);
        let was_asleep = publisher.join().expect("no panic");
        assert!(!was_asleep || seen == 1, "it was asleep, and has not seen it");
    });
}

/// The model sees what it is for.
#[test]
#[should_panic(expected = "it sleeps, and an item waits for it")]
fn without_fences_it_would() {
    none_oversleeps!(super::unfenced::sleep::Sleeper, 1);
}

/// It sleeps a second time after it has woken up by itself. One item only: `loom` lets a thread that has exchanged a value see its own
/// one instead of a later one.
#[test]
fn a_sleeper_that_slept_misses_nothing_either() {
    loom::model(|| {
        let (rings, queue) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let bell = Arc::clone(&rings);
        let waker = Box::new(move || {
            bell.fetch_add(1, SeqCst);
        });
        let sleeper = Arc::new(super::sleep::Sleeper::new(Some(waker)));
        let sender = {
            let (sleeper, queue) = (Arc::clone(&sleeper), Arc::clone(&queue));
            thread::spawn(move || {
                queue.fetch_add(1, Relaxed);
                sleeper.wake();
            })
        };
        sleeper.may_sleep(|| queue.load(Relaxed) == 0);
        sleeper.awake();
        let taken = queue.load(Relaxed);
        let before = rings.load(SeqCst);
        let sleeps = sleeper.may_sleep(|| queue.load(Relaxed) == taken);
        sender.join().expect("no panic");
        let (pushed, rung) = (queue.load(Relaxed), rings.load(SeqCst));
        let is_well = !sleeps || pushed == taken || rung > before;
        assert!(
            is_well,
            "it sleeps, and an item waits for it: {taken} taken of {pushed}, rung {before}, then {rung} times"
        );
    });
}
