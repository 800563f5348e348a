//! Checks of fields that several kinds have.

use std::collections::BTreeMap;

use super::names;
use crate::objects::fault::{Fault, Faults};

/// Keys are qualified names, values short words (apimachinery `ValidateLabels`).
pub(super) fn label_pairs(field: &str, pairs: &BTreeMap<String, String>, faults: &mut Faults) {
    for (key, value) in pairs {
        faults.extend(Fault::all_invalid(field, key, names::qualified(key)));
        faults.extend(Fault::all_invalid(field, value, names::label_value(value)));
    }
}

/// The closed list of protocols.
pub(super) fn protocol(text: Option<&str>, field: &str, faults: &mut Faults) {
    one_of(text, field, &["SCTP", "TCP", "UDP"], faults);
}

/// One of a few values; it must be given.
pub(super) fn one_of(text: Option<&str>, field: &str, supported: &[&str], faults: &mut Faults) {
    match text {
        None | Some("") => faults.push(Fault::required(field, "")),
        Some(text) if supported.contains(&text) => {}
        Some(text) => faults.push(Fault::not_supported(field, text, supported)),
    }
}
