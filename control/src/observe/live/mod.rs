//! What the live page shows, once a second: rates of all Services, drops, workers, and one Service whole.
//!
//! ```text
//!  counters ─▶ Sampler ─▶ Tick     everything in numbers; the busiest Services, and the others together
//!  objects ──▶ Listing ─▶ Delta    the list of all Services: what changed since a version
//!  both ─────▶ detail() ─▶ Detail  one Service: explain, its tables and its DNS records
//!  commit ───▶ news()   ─▶ News    who joined a Service or left it, and because of what
//! ```
//!
//! Nothing is computed a second time: counters are those of [`stats`](super::stats), tables those of [`dump`](super::dump), and
//! verdicts those of [`explain`](crate::explain). What is new is only the difference between two seconds, and the choice of
//! what fits into a message of bounded size.

mod detail;
mod listing;
mod news;
mod sample;

pub use self::detail::{Detail, PodLine, detail, values};
pub use self::listing::{Delta, Listing, Row};
pub use self::news::{News, news};
pub use self::sample::{Carry, Flows, Sampler, Tick, WorkerValues};
