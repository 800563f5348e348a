//! DNS: messages, the compiled zone, and the answer to a query.

pub mod answer;
pub mod message;
pub mod zone;
