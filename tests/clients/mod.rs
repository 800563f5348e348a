//! Real Kubernetes clients against a real gateway: kubectl, and Kubernetes' own Python client.
//!
//! Each has nothing but the kubeconfig that `pollgate kubeconfig` prints; the gateway runs in a network laboratory and listens
//! on the loopback of its namespace. What they print is compared line for line where upstream keeps it stable.
//!
//! `.ci/run tools` installs both, into `target/clients`; `POLLGATE_KUBECTL` names another kubectl, `POLLGATE_PYTHON` another
//! Python that can import `kubernetes`.

mod changes;
mod describe;
mod kubectl;
mod python;
mod support;

use crate::shared::harness::Test;

/// The tests of all modules.
pub(crate) fn tests() -> Vec<Test> {
    [changes::TESTS, describe::TESTS, kubectl::TESTS, python::TESTS].concat()
}
