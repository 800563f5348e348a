//! What the tests share: packets to send, the gateway to send them to, objects to configure it with.

pub(crate) mod builder;
pub(crate) mod family;
pub(crate) mod faulty;
pub(crate) mod lab;
pub(crate) mod objects;
pub(crate) mod pieces;
pub(crate) mod seen;
