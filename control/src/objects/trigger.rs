//! When what an EndpointSlice shows began to change.

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The annotation that says so, for latency metrics.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The time, if it has one (K `pkg/proxy/endpointschangetracker.go`, getLastChangeTriggerTime).
pub(crate) fn trigger_time(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()
}
