//! What the modules of this target share: how tests are run, what they need, and frames of every kind of port.

pub(crate) mod frames;
pub(crate) mod harness;
pub(crate) mod needs;
