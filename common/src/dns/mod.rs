//! DNS: messages, the compiled zone, and the answer to a query.
//!
//! ```text
//!  message ─▶ Query { name, type, … } ─▶ Zone ─▶ Node { sets } ─▶ answer: copied behind the question
//! ```

pub mod answer;
pub mod message;
pub mod name;
pub mod names;
pub mod records;
pub mod reverse;
pub mod totals;
pub mod zone;
