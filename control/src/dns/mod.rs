//! Cluster DNS beside the workers: what needs a stream.

pub mod tcp;
