//! Sending: which packet of which flow, and when.

use pollgate_common::net::Mac;
use pollgate_common::time::Instant;

use super::addresses::Family;
use super::addresses::Tuple;
use super::clock::Clock;
use super::flows::{Flow, FlowPlan, Flows};
use super::pace::{Pacer, Rate};
use super::share::{Chooser, Share};
use super::side::Side;
use super::stamp::{STRAY, Stamp};
use super::tally::Span;
use super::template::{Kind, Template};

/// The "simple IMIX" of the field: of twelve packets seven are small, four middling, one full; bytes without FCS.
const IMIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60];

/// Bytes of a frame, without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All the same.
    Bytes(usize),
    /// Seven small, four middling and one full frame of twelve.
    Imix,
}

/// What is to be sent.
#[derive(Clone, Debug)]
pub(super) struct SendPlan {
    /// Packets a second.
    pub(super) rate: Rate,
    /// Most packets at once.
    pub(super) burst: usize,
    /// Their size.
    pub(super) size: Size,
    /// The flows they belong to.
    pub(super) flows: FlowPlan,
    /// How the flows change.
    pub(super) churn: Churn,
    /// How many packets are for a Service.
    pub(super) hits: Share,
    /// The port of those that are not.
    pub(super) stray_port: u16,
    /// The run's number.
    pub(super) run: u16,
}

/// How flows change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Churn {
    /// They stay.
    None,
    /// So many per second are replaced, the oldest first.
    PerSecond(u64),
    /// Each packet is the first of its flow.
    EveryPacket,
}

/// The sending half of a run.
pub(super) struct Sender {
    plan: SendPlan,
    span: Span,
    pacer: Pacer,
    churn: Option<Pacer>,
    flows: Flows,
    templates: Templates,
    hits: Chooser,
    /// Counted packets handed to the port.
    pub(super) sent: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Counted packets to the stray port.
    pub(super) strays: u64,
}

impl Sender {
    /// Begins at `start`, the beginning of the warm-up; packets due in `span` count.
    pub(super) fn new(plan: SendPlan, start: Instant, span: Span, own: Mac, gateway: Mac) -> Sender {
        let churn = match plan.churn {
            Churn::PerSecond(rate) => Some(Pacer::new(Rate::PerSecond(rate), start)),
            Churn::None | Churn::EveryPacket => None,
        };
        Sender {
            span,
            pacer: Pacer::new(plan.rate, start),
            churn,
            flows: Flows::new(plan.flows.clone()),
            templates: Templates::new(plan.flows.tuples.family(), plan.size, own, gateway),
            hits: Chooser::new(plan.hits),
            sent: 0,
            bytes: 0,
            strays: 0,
            plan,
        }
    }

    /// Sends what is due, at most one burst; returns how many packets.
    pub(super) fn send(&mut self, side: &mut Side, clock: &Clock) -> u64 {
        let now = clock.now();
        // What is due at the end or later is not sent; what was due before and is late, is.
        let last = Instant(self.span.until.0.saturating_sub(1));
        if now > last && self.plan.rate == Rate::Max {
            return 0;
        }
        self.replace_flows(now.min(last));
        let due = self.pacer.take(now.min(last), self.plan.burst.min(side.room()));
        for time in due.times() {
            self.queue_one(side, time);
        }
        if due.count() > 0 {
            side.send(clock);
        }
        due.count()
    }

    /// Flows there have been.
    pub(super) fn flows_opened(&self) -> u64 {
        self.flows.opened()
    }

    fn replace_flows(&mut self, now: Instant) {
        let all = self.plan.flows.count as usize;
        let due = self.churn.as_mut().map_or(0, |churn| churn.take(now, all).count());
        for _ in 0..due {
            self.flows.replace_oldest();
        }
    }

    fn queue_one(&mut self, side: &mut Side, due: Instant) {
        let hits = self.hits.next();
        let flow = match self.plan.churn {
            _ if !hits => self.flows.borrow(),
            Churn::EveryPacket => self.flows.fresh(),
            Churn::None | Churn::PerSecond(_) => self.flows.next(),
        };
        let template = self.templates.next(kind(&flow));
        let Some(mut frame) = side.lend(template.len()) else { return };
        let (id, port) = if hits { (flow.id, flow.tuple.dst_port) } else { (STRAY, self.plan.stray_port) };
        let tuple = Tuple { dst_port: port, ..flow.tuple };
        template.write(&mut frame, &tuple, &Stamp::new(self.plan.run, id, flow.sent, due));
        if self.span.has(due) {
            self.sent += u64::from(hits);
            self.strays += u64::from(!hits);
            self.bytes += frame.len() as u64;
        }
        side.queue(frame);
    }
}

fn kind(flow: &Flow) -> Kind {
    match (flow.is_tcp, flow.sent) {
        (false, _) => Kind::Udp,
        (true, 0) => Kind::Syn,
        (true, _) => Kind::Ack,
    }
}

/// A template for each kind and size.
struct Templates {
    by_kind: [Vec<Template>; 3],
    turn: usize,
}

impl Templates {
    fn new(family: Family, size: Size, own: Mac, gateway: Mac) -> Templates {
        let sizes = match size {
            Size::Bytes(size) => vec![size],
            Size::Imix => IMIX.to_vec(),
        };
        let of = |kind| {
            let smallest = super::template::smallest(family, kind != Kind::Udp);
            sizes.iter().map(|size| Template::new(family, kind, smallest.max(*size), own, gateway)).collect()
        };
        Templates { by_kind: [of(Kind::Udp), of(Kind::Syn), of(Kind::Ack)], turn: 0 }
    }

    fn next(&mut self, kind: Kind) -> &Template {
        let templates = &self.by_kind[match kind {
            Kind::Udp => 0,
            Kind::Syn => 1,
            Kind::Ack => 2,
        }];
        self.turn = if self.turn + 1 < templates.len() { self.turn + 1 } else { 0 };
        &templates[self.turn]
    }
}
