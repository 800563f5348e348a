//! One run: resolve the gateway, send and receive until the time is up, wait for the last packets.
//!
//! ```text
//!  ── ARP ──┬── warm-up ──┬── measured ───────────┬── drain ──
//!           sent, uncounted  sent and counted       only received
//! ```
//!
//! One thread sends, receives and sends replies, in turn; with `--threads 2` the sink has its own. A thread with nothing to
//! do yields its CPU and then checks again.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pollgate_common::net::{Mac, PortId};
use pollgate_common::time::Instant;
use pollgate_dataplane::port::xdp::Program;

use super::args::{PktgenArgs, Plan};
use super::arrival::Way;
use super::clock::Clock;
use super::error::PktgenError;
use super::ports;
use super::report::{Outcome, Sent};
use super::sender::Sender;
use super::side::{Seen, Side, Task};
use super::tally::Span;

/// Buffers of the sending side: what a port may keep for a while, and a burst.
const BUFFERS: usize = 1024;
/// How long to wait for the gateway's hardware address, and how often to ask.
const ARP_PATIENCE: Duration = Duration::from_secs(3);
const ARP_PAUSE: Duration = Duration::from_millis(500);
/// The drain ends after this time without packets; a shorter time once all have arrived; and at the latest after the third.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_AFTER_ALL: Duration = Duration::from_millis(50);
const DRAIN: Duration = Duration::from_secs(3);
/// Packets that were due and are late at the end may still be sent for so long.
const GRACE: Duration = Duration::from_millis(5);

/// Runs it.
pub(super) fn run(args: &PktgenArgs, plan: Plan) -> Result<Outcome, PktgenError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(PktgenError::Signals)?;
    }
    let clock = Clock::start();
    let began = SystemTime::now();
    let (mut client, _steering) = open(args, &plan, "--interface", &args.interface, PortId(0))?;
    let sink = args.sink.as_ref().filter(|sink| **sink != args.interface);
    let sink = sink.map(|name| open(args, &plan, "--sink", name, PortId(1))).transpose()?;
    // The programs stay attached until this function ends.
    let (sink, _steering_of_sink) = sink.map_or((None, None), |(side, program)| (Some(side), program));
    let gateway = gateway_mac(args, &mut client, &clock, &stop)?;
    let start = clock.now();
    let from = start.plus(args.warmup);
    let span = Span { from, until: from.plus(args.duration) };
    let sender = Sender::new(plan.send.clone(), start, span, client.mac(), gateway);
    let mut stage = Stage { client, sink, sender, clock, span, watch: Watch::new(args, from), stop };
    let (ended, others) = stage.play(args.threads > 1);
    let unix_ns = began.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Ok(stage.outcome(&plan, ended, others, unix_ns))
}

fn open(
    args: &PktgenArgs,
    plan: &Plan,
    option: &'static str,
    name: &str,
    id: PortId,
) -> Result<(Side, Option<Program>), PktgenError> {
    let is_sink = args.sink.as_deref() == Some(name);
    let mut answers = plan.next_hops.clone();
    if id == PortId(0) {
        answers.push(plan.clients);
    }
    if is_sink {
        answers.extend(&plan.backends);
    }
    let addresses = answers.iter().flat_map(|block| (0..block.count()).map(|n| block.nth(n)));
    let (port, mac, program) = ports::open(args.backend, option, name, id, addresses)?;
    let task = Task {
        run: plan.send.run,
        clients: plan.clients,
        answers,
        endpoints: plan.backends.clone(),
        reply: args.reply && is_sink,
        end: if args.sink.is_some() && !args.reply { Way::There } else { Way::Back },
        slots: plan.send.flows.count,
    };
    Ok((Side::new(task, id, mac, port, BUFFERS), program))
}

/// Asks for the gateway's hardware address until a reply comes.
fn gateway_mac(args: &PktgenArgs, client: &mut Side, clock: &Clock, stop: &AtomicBool) -> Result<Mac, PktgenError> {
    let gateway = match (args.gateway_mac, args.gateway) {
        (Some(mac), _) => return Ok(mac),
        (None, Some(gateway)) => gateway,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let (begun, mut next) = (clock.now(), clock.now());
    let interface = args.interface.clone();
    while clock.now().since(begun) < ARP_PATIENCE {
        if stop.load(Relaxed) {
            return Err(PktgenError::Interrupted { gateway, interface });
        }
        if clock.now() >= next {
            client.ask(gateway, clock);
            next = next.plus(ARP_PAUSE);
        }
        if let Some(mac) = client.listen(gateway, clock) {
            return Ok(mac);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(PktgenError::NoAnswer { gateway, interface, patience: ARP_PATIENCE })
}

/// All that takes part.
struct Stage {
    client: Side,
    sink: Option<Side>,
    sender: Sender,
    clock: Clock,
    span: Span,
    watch: Watch,
    stop: Arc<AtomicBool>,
}

impl Stage {
    /// Returns when sending ended, and what a sink on its own thread has seen.
    fn play(&mut self, apart: bool) -> (Instant, Option<Seen>) {
        self.client.start(self.span);
        if let Some(sink) = &mut self.sink {
            sink.start(self.span);
            self.watch.follow(sink);
        }
        self.watch.follow(&self.client);
        let Some(mut sink) = self.sink.take_if(|_| apart) else {
            let ended = self.send();
            self.drain();
            return (ended, None);
        };
        let (done, clock) = (AtomicBool::new(false), self.clock);
        thread::scope(|scope| {
            let receiving = scope.spawn(|| {
                while !done.load(Relaxed) {
                    if sink.receive(&clock) == 0 {
                        thread::yield_now();
                    }
                }
                sink.seen
            });
            let ended = self.send();
            self.drain();
            done.store(true, Relaxed);
            let seen = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (ended, Some(seen))
        })
    }

    fn send(&mut self) -> Instant {
        while !self.stop.load(Relaxed) {
            let sent = self.sender.send(&mut self.client, &self.clock);
            let received = self.receive();
            let now = self.clock.now();
            if now >= self.span.until && (sent == 0 || now >= self.span.until.plus(GRACE)) {
                break;
            }
            if sent == 0 && received == 0 {
                thread::yield_now();
            }
            self.watch.look(now, &self.sender);
        }
        self.clock.now().min(self.span.until)
    }

    fn receive(&mut self) -> usize {
        let clock = self.clock;
        self.client.receive(&clock) + self.sink.as_mut().map_or(0, |sink| sink.receive(&clock))
    }

    /// Until nothing comes any more, or it has taken long enough.
    fn drain(&mut self) {
        let begun = self.clock.now();
        let (mut last, mut received) = (begun, self.watch.received());
        let sent = self.sender.sent.saturating_sub(self.client.seen.unsent_counted[0]);
        loop {
            let quiet = if received < sent { QUIET } else { QUIET_AFTER_ALL };
            let now = self.clock.now();
            if now.since(last) >= quiet || now.since(begun) >= DRAIN {
                return;
            }
            if self.receive() == 0 {
                thread::yield_now();
            }
            if received != self.watch.received() {
                (last, received) = (self.clock.now(), self.watch.received());
            }
        }
    }

    fn outcome(self, plan: &Plan, ended: Instant, others: Option<Seen>, began_unix_ns: u128) -> Outcome {
        let mut seen = vec![self.client.seen];
        seen.extend(self.sink.map(|sink| sink.seen));
        seen.extend(others);
        Outcome {
            rate: plan.send.rate,
            elapsed: ended.since(self.span.from),
            interrupted: ended < self.span.until,
            sent: Sent {
                packets: self.sender.sent,
                strays: self.sender.strays,
                bytes: self.sender.bytes,
                flows: self.sender.flows_opened(),
                tuples: plan.tuples,
            },
            endpoints: plan.backends.clone(),
            began_unix_ns,
            seen,
        }
    }
}

/// Prints the progress each second.
struct Watch {
    wanted: bool,
    next: Instant,
    sides: Vec<Arc<std::sync::atomic::AtomicU64>>,
    before: (u64, u64),
}

impl Watch {
    fn new(args: &PktgenArgs, from: Instant) -> Watch {
        let wanted = args.progress || std::io::stderr().is_terminal();
        Watch { wanted, next: from.plus(Duration::from_secs(1)), sides: Vec::new(), before: (0, 0) }
    }

    fn follow(&mut self, side: &Side) {
        self.sides.push(Arc::clone(&side.seen.received));
    }

    fn received(&self) -> u64 {
        self.sides.iter().map(|side| side.load(Relaxed)).sum()
    }

    fn look(&mut self, now: Instant, sender: &Sender) {
        if !self.wanted || now < self.next {
            return;
        }
        self.next = self.next.plus(Duration::from_secs(1));
        let (sent, received) = (sender.sent, self.received());
        let (sent_now, received_now) = (sent - self.before.0, received - self.before.1);
        self.before = (sent, received);
        // Nothing can be done if stderr is closed.
        drop(writeln!(
            std::io::stderr(),
            "sent {sent_now} packets/s, received {received_now} packets/s; so far {sent} sent, {} in transit or lost",
            sent.saturating_sub(received)
        ));
    }
}
