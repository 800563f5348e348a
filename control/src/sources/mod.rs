//! Where objects come from besides the API.

pub mod files;
