//! The log: lines to stderr, by a thread of their own.
//!
//! ```text
//! any thread ──▶ line ──▶ queue (bounded) ──▶ thread "log" ──▶ stderr
//!                           └ full: lost, counted   └ error: lost, counted
//! ```
//!
//! What reads stderr may be slow, hang, run out of space or go away: no other thread waits for it, and nothing ends because
//! of it. When lines can be written again, the first one says how many were lost. `tracing-appender` does nearly this, but neither
//! counts lines that cannot be written nor survives a full queue with stdout closed (its end prints).

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use pollgate_control::threads::{self, Role};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{self, LogFormat, LogLevel};

/// Lines that wait to be written.
const CAPACITY: usize = 1024;

/// How long the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines lost so far. There is one log per process.
static LOST: AtomicU64 = AtomicU64::new(0);

/// What the thread is given.
enum Item {
    Line(Vec<u8>),
    /// Everything before has been written when this is dropped.
    Flush {
        _done: Sender<()>,
    },
}

/// The running log.
pub(super) struct Log {
    queue: Sender<Item>,
    /// What is written; `None` if `RUST_LOG` decides.
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl Log {
    /// Writes lines of this level and above from now on.
    ///
    /// # Errors
    /// Why they are not.
    pub(super) fn set_level(&self, level: LogLevel) -> Result<(), String> {
        let filter = self.filter.as_ref().ok_or("the environment variable RUST_LOG decides what is logged")?;
        filter.reload(of_level(level)).map_err(|error| error.to_string())
    }
}

fn of_level(level: LogLevel) -> Targets {
    Targets::new().with_default(match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    })
}

/// Starts it. `RUST_LOG` overrides the configured level.
///
/// # Errors
/// If its thread cannot be started.
pub(super) fn start(config: config::Log) -> io::Result<Log> {
    let (queue, items) = bounded(CAPACITY);
    threads::spawn(Role::Log, "log", move || write_all(&items, &mut io::stderr()))?;
    let environment: Option<Targets> = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let is_fixed = environment.is_some();
    let (filter, handle) = reload::Layer::new(environment.unwrap_or_else(|| of_level(config.level)));
    let log = Log { queue, filter: (!is_fixed).then_some(handle) };
    // Never colours, also where another crate switches them on: lines are for files and journals.
    let lines = fmt::layer().with_writer(Lines(log.queue.clone())).with_target(false).with_ansi(false);
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // An earlier subscriber (of a test) stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(log)
}

/// Lines that were lost since the process started.
pub(super) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

impl Drop for Log {
    /// Waits for the last lines, but not for ever.
    fn drop(&mut self) {
        let (done, written) = bounded(0);
        if self.queue.send_timeout(Item::Flush { _done: done }, PATIENCE).is_ok() {
            let _ = written.recv_timeout(PATIENCE);
        }
    }
}

fn write_all(items: &Receiver<Item>, out: &mut dyn Write) {
    let mut reported = 0;
    for item in items {
        let Item::Line(line) = item else { continue };
        let lost = lost();
        let report =
            if lost > reported { format!("{} lines of this log were lost\n", lost - reported) } else { String::new() };
        match out.write_all(report.as_bytes()).and_then(|()| out.write_all(&line)) {
            Ok(()) => reported = lost,
            Err(_) => count_lost(),
        }
    }
}

fn count_lost() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// Makes one writer per line.
struct Lines(Sender<Item>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(&self.0)
    }
}

/// Puts a line into the queue. `tracing_subscriber` writes each in one piece.
struct LineWriter<'a>(&'a Sender<Item>);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Item::Line(line.to_vec())).is_err() {
            count_lost();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as many writes as `fails` says, and takes those that follow.
    struct Full {
        written: String,
        fails: u32,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.fails > 0 {
                self.fails -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written += std::str::from_utf8(bytes).expect("text");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_reported_later() {
        let (queue, items) = bounded(4);
        let before = lost();
        for line in ["a\n", "b\n", "c\n", "d\n", "e\n"] {
            LineWriter(&queue).write_all(line.as_bytes()).expect("never an error");
        }
        assert_eq!(lost() - before, 1, "the queue takes four");
        drop(queue);
        let mut out = Full { written: String::new(), fails: 2 };
        write_all(&items, &mut out);
        assert_eq!(lost() - before, 3);
        assert!(out.written.ends_with(" lines of this log were lost\nc\nd\n"), "{:?}", out.written);
    }
}
