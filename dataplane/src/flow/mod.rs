//! Flows: what a worker remembers about a connection, and the table it remembers it in.
//!
//! * [`entry`]: one direction of one flow, the whole translation in one cache line (IPv4).
//! * [`life`]: how far a flow has come, and what each packet changes about that.
//! * [`sequence`]: whether a TCP segment's numbers fit its connection.
//! * [`tags`]: whether an SCTP packet's tag fits its association.
//! * `hash`: of a direction's key, by AES rounds where the CPU has them.
//! * [`room`]: the limits that both families share.
//! * [`table`]: the table: buckets of tags, entries, the sweeper, and what happens when it is full.
//!
//! Each worker has its own tables, one per family, and nobody else touches them.

pub mod entry;
mod hash;
pub mod life;
pub mod room;
pub mod sequence;
pub mod table;
pub mod tags;

pub use entry::{Entry, Translation};
pub use life::Life;
pub use table::{FlowTable, Limits, Timeouts};
