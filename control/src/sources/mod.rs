//! Sources of objects other than the API.

pub mod files;
