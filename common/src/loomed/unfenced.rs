//! The source of [`crate::sleep`] without its fences, to see that they are needed.

#[path = "../sleep.rs"]
pub(super) mod sleep;

mod sync {
    use std::sync::atomic::Ordering;

    pub(super) use loom::sync::atomic::AtomicBool;

    pub(super) fn fence(_order: Ordering) {}
}
