//! DNS: messages, the compiled zone, and the answer to a query.

pub mod zone;
