//! The result of a change: its version, its decoding, and the owners of its fields.

use serde_json::{Map, Value};

use crate::admission::ownership;
use crate::admission::validate;
use crate::api::decode::{Decoded, Sent, decode_unfinished};
use crate::api::request::{Part, Target};
use crate::api::status::Status;
use crate::objects::Object;

/// What was sent to `/status`, with the current spec: labels, annotations and finalizers count, as with the API server.
pub(in super::super) fn with_spec_of(current: &Value, mut sent: Value) -> Value {
    if let Some(fields) = sent.as_object_mut() {
        fields.remove("spec");
        fields.extend(current.get("spec").map(|spec| ("spec".to_owned(), spec.clone())));
    }
    // Kubernetes keeps a Pod's owners here: old kubelets do not send them.
    let owners = current.pointer("/metadata/ownerReferences").filter(|_| current["kind"] == "Pod").cloned();
    if let (Some(owners), Some(metadata)) = (owners, metadata_of(&mut sent)) {
        metadata.insert("ownerReferences".to_owned(), owners);
    }
    sent
}

/// Validates the result of a change of `current`, and keeps the owners of its fields. How the change is `shown` if the result is
/// no object of the kind is up to the kind of patch.
pub(in super::super) fn finish(
    target: &Target,
    current: &Object,
    mut sent: Sent,
    size: usize,
    shown: impl FnOnce(&Value) -> String,
) -> Result<Decoded, Status> {
    pin(target, current, &mut sent.value)?;
    let mut decoded = decode_result(target, &sent, size + current.json_length(), shown)?;
    ownership::carry(current, &mut decoded.object);
    Ok(decoded)
}

/// Decodes the result of a change. A status with an address for a Service that cannot have one is an error; on the
/// main path the address is dropped silently, for there it may be what is left of another type.
pub(super) fn decode_result(
    target: &Target,
    sent: &Sent,
    size: usize,
    shown: impl FnOnce(&Value) -> String,
) -> Result<Decoded, Status> {
    let decoded = decode_unfinished(target, sent, size);
    let decoded = decoded.map_err(|unfit| unfit.of_patch(target.kind, || shown(&sent.value)))?;
    let misplaced = decoded.object.as_service().and_then(validate::misplaced_addresses);
    match misplaced.filter(|_| target.part == Part::Status) {
        Some(fault) => Err(Status::from_faults(&sent.value, &fault.into())),
        None => Ok(decoded),
    }
}

/// A change that names a version applies to that one; otherwise to the one that was read.
pub(super) fn pin(target: &Target, current: &Object, value: &mut Value) -> Result<(), Status> {
    let version = current.metadata().resource_version.clone().unwrap_or_default();
    let Some(metadata) = metadata_of(value) else {
        return Ok(());
    };
    match metadata.get("resourceVersion").and_then(Value::as_str) {
        Some(given) if !given.is_empty() && given != version => Err(Status::conflict(
            &target.key(),
            "the object has been modified; please apply your changes to the latest version and try again",
        )),
        _ => {
            metadata.insert("resourceVersion".to_owned(), version.into());
            Ok(())
        }
    }
}

pub(super) fn metadata_of(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.get_mut("metadata")?.as_object_mut()
}
