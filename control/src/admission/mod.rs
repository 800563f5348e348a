//! Admission: what a client wrote becomes a valid object, or is refused with its faults.
//!
//! ```text
//!  create, update ─▶ strategy   defaults, immutable fields, what a status may hold
//!  apply          ─▶ apply      the last applied manifest, the new one and the live object
//!                    ownership  which manager set which field (managedFields)
//!                 ─▶ validate   every fault, with the path of its field
//! ```

pub(crate) mod apply;
pub(crate) mod ownership;
pub(crate) mod strategy;
pub(crate) mod validate;
