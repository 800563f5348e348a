//! DNS: messages, the compiled zone, and the answer to a query.
//!
//! ```text
//!  message ─▶ Query { name, type, … } ─▶ Zone ─▶ Node { sets } ─▶ answer: copied behind the question
//!                                         └─▶ outside: forward ─▶ resolver (another thread) ─▶ relay
//! ```

pub mod answer;
pub mod forward;
pub mod message;
pub mod name;
pub mod names;
pub mod records;
pub mod relay;
pub mod reverse;
pub mod totals;
pub mod zone;
