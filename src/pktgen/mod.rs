//! `pollgate pktgen`: a load generator on both sides of a gateway.
//!
//! ```text
//!               ┌──────────── pktgen ────────────┐
//!   --interface │ clients                backends│ --sink
//!               └───┬────────────────────────▲───┘
//!                   │ to a Service           │ to an endpoint      received, counted,
//!                   └──────▶ gateway ────────┘                     with --reply sent back
//! ```
//!
//! It uses the same ports as the gateway, and makes its frames itself: no sockets, no kernel addresses, so that it can be
//! thousands of clients and backends and is faster than what it measures. It works through any gateway, which is what
//! makes the numbers of two of them comparable.
//!
//! **Open loop.** Packets are due by the clock, whatever comes back, and latency counts from when a packet was due: a
//! stall is seen at its full length (`pace`, `stamp`). A generator that cannot keep up reports it.
//!
//! **Loss is where it happened.** Frames that the sending port refused were never sent; frames that came too fast for the
//! receiving ring are counted apart from those that the gateway lost.
//!
//! A run has one IP family. No real TCP: see `template`.

mod addresses;
mod args;
mod arrival;
mod clock;
mod error;
mod flows;
mod neighbour;
mod pace;
mod pool;
mod ports;
mod report;
mod run;
mod sender;
mod share;
mod side;
mod stamp;
mod tally;
mod template;
#[cfg(test)]
mod tests;

use std::io::Write;

pub use args::{PktgenArgs, Protocol};
pub use error::PktgenError;
pub use flows::Order;
pub use pace::Rate;
pub use ports::{Backend, InterfaceError};
pub use sender::Size;
pub use share::Share;

use crate::failure::Failure;
use crate::output::Machine;
use report::Report;

/// Runs it and prints the result on `out`.
///
/// # Errors
/// A wrong argument, a port that could not be opened, or that nothing was received.
pub fn run(args: &PktgenArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let plan = args.plan().map_err(Failure::usage)?;
    let outcome = run::run(args, plan).map_err(|error| Failure::caused(&error))?;
    let report = Report::new(outcome);
    match args.output {
        Some(Machine::Json) => writeln!(out, "{:#}", report.json()),
        None => write!(out, "{}", report.text()),
    }
    .map_err(Failure::Output)?;
    if report.received() == 0 && report.expected_any() {
        return Err(Failure::refused(nothing_came(args)));
    }
    Ok(())
}

fn nothing_came(args: &PktgenArgs) -> String {
    let place = match &args.sink {
        Some(sink) if !args.reply => sink,
        _ => &args.interface,
    };
    format!(
        "error: nothing was received on {place}: check that the gateway has a Service at each --to and routes to the \
         backends and (for --reply) to --from, and that --answer or --next-hop cover the addresses it asks for"
    )
}
