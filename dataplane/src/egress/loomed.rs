//! The source of [`super::mesh`] over `loom`, which runs every interleaving, and every value that a load may return.
//!
//! What is explored is that nothing which another thread puts into a worker's inbox is overslept, and that frames and buffers
//! arrive. crossbeam's queue is replaced by a model whose [`sync::ArrayQueue::is_empty`] orders less than the real one.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "a part of each source is used")]

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use loom::sync::atomic::AtomicBool;
use loom::thread;
use pollgate_common::dns::forward::{HEADERS, Reply, Way};
use pollgate_common::dns::message::EDNS_SIZE;
use pollgate_common::net::{Mac, PortId};

use crate::port::{Frame, Origin};

#[path = "mesh.rs"]
mod mesh;
#[path = "../../../common/src/sleep.rs"]
mod sleep;

mod sync {
    use super::{Relaxed, VecDeque};

    pub(super) use super::sleep::{Sleeper, Waker};
    pub(super) use loom::sync::atomic::{AtomicBool, fence};

    /// A bounded queue, whose length is written and read in no order with anything else.
    pub(super) struct ArrayQueue<T> {
        items: loom::sync::Mutex<VecDeque<T>>,
        length: loom::sync::atomic::AtomicUsize,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(super) fn new(capacity: usize) -> ArrayQueue<T> {
            ArrayQueue { items: Default::default(), length: Default::default(), capacity }
        }

        pub(super) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items.lock().expect("not poisoned");
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            self.length.fetch_add(1, Relaxed);
            Ok(())
        }

        pub(super) fn pop(&self) -> Option<T> {
            let item = self.items.lock().expect("not poisoned").pop_front();
            if item.is_some() {
                self.length.fetch_sub(1, Relaxed);
            }
            item
        }

        pub(super) fn len(&self) -> usize {
            self.length.load(Relaxed)
        }

        pub(super) fn is_empty(&self) -> bool {
            self.length.load(Relaxed) == 0
        }
    }
}

/// A frame of no bytes.
#[allow(unsafe_code, reason = "a frame is a raw pointer")]
fn frame(token: u64) -> Frame {
    // SAFETY: nothing of it is ever read or written.
    unsafe { Frame::new(NonNull::dangling(), 0, 0, Origin::Worker(0), PortId(0), token) }
}

fn reply() -> Reply {
    let way = Way { port: PortId(0), own: Mac::default(), headers: [0; HEADERS], l4: 34 };
    Reply { way, message: [0; EDNS_SIZE as usize], len: 12 }
}

/// Two workers. Worker 1 may sleep while others put things into its inbox.
fn explore(others: &'static [fn(&mesh::Mesh)], then: fn(&mesh::Mesh)) {
    loom::model(move || {
        let rung = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&rung);
        let wake: sleep::Waker = Box::new(move || bell.store(true, SeqCst));
        let mesh = Arc::new(mesh::Mesh::new(vec![None, Some(wake)], 4));
        let others: Vec<_> = others
            .iter()
            .map(|other| {
                let mesh = Arc::clone(&mesh);
                thread::spawn(move || other(&mesh))
            })
            .collect();
        let sleeps = mesh.may_sleep(1);
        others.into_iter().for_each(|other| other.join().expect("no panic"));
        assert!(!sleeps || rung.load(SeqCst), "worker 1 sleeps, and something waits for it");
        mesh.awake(1);
        then(&mesh);
        assert!(mesh.receive(1).is_none() && mesh.next_reply(1).is_none() && mesh.returned(0).is_none());
    });
}

fn send(mesh: &mesh::Mesh) {
    assert!(mesh.send(1, frame(7)).is_ok(), "there is room");
}

fn answer(mesh: &mesh::Mesh) {
    assert!(mesh.reply(1, reply()), "there is room");
}

#[test]
fn a_frame_is_not_overslept_and_its_buffer_returns() {
    explore(&[send], |mesh| {
        let frame = mesh.receive(1).expect("the frame");
        mesh.give_back(0, frame);
        assert_eq!(mesh.returned(0).map(|frame| frame.token()), Some(7));
    });
}

#[test]
fn a_response_is_not_overslept() {
    explore(&[answer], |mesh| assert!(mesh.next_reply(1).is_some()));
}

#[test]
fn neither_is_overslept_if_both_come() {
    explore(&[send, answer], |mesh| assert!(mesh.receive(1).is_some() && mesh.next_reply(1).is_some()));
}

/// Worker 1 takes what comes while others still put things into its inbox.
#[test]
fn what_is_taken_meanwhile_is_taken_once() {
    loom::model(|| {
        let mesh = Arc::new(mesh::Mesh::new(vec![None, None], 4));
        let other = {
            let mesh = Arc::clone(&mesh);
            thread::spawn(move || {
                send(&mesh);
                answer(&mesh);
                send(&mesh);
                mesh.returned(0).is_some()
            })
        };
        let mut taken = usize::from(mesh.next_reply(1).is_some());
        let mut returned = 0;
        while let Some(frame) = mesh.receive(1) {
            mesh.give_back(0, frame);
            returned += 1;
        }
        let early = usize::from(other.join().expect("no panic"));
        taken += usize::from(mesh.next_reply(1).is_some());
        let waiting = std::iter::from_fn(|| mesh.receive(1)).count();
        let back = std::iter::from_fn(|| mesh.returned(0)).count();
        assert_eq!((taken, returned + waiting, early + back), (1, 2, returned));
    });
}
