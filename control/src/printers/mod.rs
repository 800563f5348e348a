//! What kubectl prints, line for line.
//!
//! ```text
//! objects ─ table ─▶ Table (headers, rows) ─┬─ text   for the terminal
//!                                           └─        the API serves the same cells to kubectl
//! object, what belongs to it ─ describe ─▶ text
//! ```
//!
//! Operators read these columns with their eyes and with `awk`, so the sources are K `pkg/printers/internalversion/printers.go` and
//! kubernetes/kubectl `pkg/describe/describe.go`, quirks included. Nothing here asks for the time: `now` is an argument.

mod describe;
mod table;
mod text;

pub use describe::describe;
pub use table::{Column, Row, Table};
pub use text::align_after;
pub(crate) use text::columns;
