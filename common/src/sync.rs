//! What [`crate::epoch`] and [`crate::sleep`] are made of. Tests compile the two a second time, over what `loom` can explore.

pub(crate) use std::sync::atomic::{AtomicBool, fence};

pub(crate) use crossbeam::epoch::{Atomic, Collector, Guard, LocalHandle, Owned};
pub(crate) use crossbeam::queue::ArrayQueue;
