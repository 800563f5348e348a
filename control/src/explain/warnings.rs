//! Warnings about valid objects, for whoever sends them: in responses of the API, in `pollgate apply`, `create` and `check`.
//!
//! ```text
//! object ─┬─▶ advice     what a Kubernetes API server warns about, in its words
//!         └─▶ unserved   what this gateway does not do
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{advice, unserved};
use crate::cluster::ClusterSettings;
use crate::objects::Object;

/// Something in an object that is valid and has no effect, or will be invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The field; empty for the object as a whole.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

impl Warning {
    /// A warning whose text may begin with its field.
    fn of(text: String) -> Warning {
        match text.split_once(": ") {
            Some((field, message)) if !field.contains(' ') => {
                Warning { field: field.to_owned(), message: message.to_owned() }
            }
            _ => Warning { field: String::new(), message: text },
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.message),
            field => write!(f, "{field}: {}", self.message),
        }
    }
}

/// All warnings about an object.
pub fn warnings(object: &Object, settings: &ClusterSettings) -> Vec<Warning> {
    let mut all: Vec<Warning> = advice::advice(object).into_iter().map(Warning::of).collect();
    all.extend(unserved::unserved(object, settings));
    all
}
