//! Replies: frames that pollgate writes itself, each in the buffer of the frame that caused it.

pub(crate) mod arp;
pub(crate) mod dns;
pub(crate) mod echo;
pub(crate) mod reject;
