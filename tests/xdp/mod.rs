//! AF_XDP ports and their steering program in the real kernel, over veth pairs.

mod bpf;
mod forwarding;
mod model;
mod port;
mod steering;
mod support;

use crate::shared::harness::Test;

/// The tests of all modules.
pub(crate) fn tests() -> Vec<Test> {
    [bpf::TESTS, forwarding::TESTS, model::TESTS, port::TESTS, steering::TESTS].concat()
}
