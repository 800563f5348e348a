//! What [`super::mesh`] is made of. Tests compile it a second time, over what `loom` can explore.

pub(crate) use crossbeam::queue::ArrayQueue;
pub(crate) use pollgate_common::sleep::{Sleeper, Waker};
