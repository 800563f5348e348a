//! Real Kubernetes clients against a real gateway: kubectl, and Kubernetes' own Python client.
//!
//! Each has nothing but the kubeconfig that `pollgate kubeconfig` prints; the gateway runs in a network laboratory and listens
//! on the loopback of its namespace. What they print is compared line for line where upstream keeps it stable.
//!
//! `POLLGATE_KUBECTL` names kubectl, `POLLGATE_PYTHON` a Python that can import `kubernetes`; the defaults are the ones on the
//! PATH. Where one is missing or too old, its tests say `SKIPPED`; `POLLGATE_REQUIRE_CLIENTS=1` makes that a failure, and
//! `.ci/run tools` installs them.

mod changes;
mod describe;
mod kubectl;
mod python;
mod support;

// The site and what goes with it; other parts of it are for other tests.
#[allow(dead_code, reason = "shared with tests/live, which uses all of it")]
#[path = "../live/support.rs"]
mod live;
