//! `GET live`: what happens, once a second, for the page.
//!
//! ```text
//!  counters, tables, objects ─▶ one task, while a page is open ─▶ the latest tick ─┬─▶ viewer: tick │ list │ service │ detail
//!                                                                                  └─▶ viewer …     one JSON object per line
//! ```
//!
//! | parameter | |
//! |---|---|
//! | `service` | `namespace/name`: also the counters of this Service, and all about it whenever it changes |
//! | `list` | `EPOCH.VERSION` of the list that the viewer has, so that it gets only what changed since |
//!
//! The first line is `{"hello": …}`: what the numbers mean. Ticks are made once for all viewers. A viewer keeps no queue: it gets the
//! latest tick when its connection has room, and skips those that it was too slow for. A viewer costs a bounded amount: lines are of
//! bounded size, and the look at one Service is repeated at most five times a second, or a hundred times more seldom than it takes.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use pollgate_common::counters::DECLARED;
use pollgate_common::reasons::{DropReason, PassReason};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::query::{given, only, parsed, query};
use super::shared::Api;
use super::status::Status;
use crate::compile::resolve::ServiceName;
use crate::objects::Kind;
use crate::observe::dump::DumpSource;
use crate::observe::live::{self, Listing, News, Sampler, Tick};

/// Where the stream is.
pub const LIVE_PATH: &str = "/apis/pollgate.io/v1alpha1/live";

/// Pages that may be open.
const VIEWERS: usize = 16;
/// Between two ticks.
const TICK: Duration = Duration::from_secs(1);
/// How long ticks go on without a viewer: a page that selects another Service opens another stream.
const LINGER: u32 = 5;
/// Changes of the list in a line.
const ROWS: usize = 1000;
/// Commits that are looked through for news when a page opens, and that times are kept of.
const COMMITS: usize = 256;
/// News that are kept while a page is open.
const NEWS: usize = 200;
/// Services that are looked at before other tasks run.
const TURN: usize = 128;
/// Between two looks at one Service.
const LOOK: Duration = Duration::from_millis(200);
/// The time between two looks, in times that one takes.
const SPARE: u32 = 100;
/// A look is never postponed for longer.
const LATEST: Duration = Duration::from_secs(10);

pub(crate) fn router() -> Router<Api> {
    Router::new().route(LIVE_PATH, get(open))
}

/// What viewers share.
#[derive(Debug)]
pub(super) struct Live {
    permits: Arc<Semaphore>,
    shared: Mutex<Shared>,
    /// How long the last writes took, by the revision they made.
    took: Mutex<VecDeque<(u64, Duration)>>,
}

/// News, with their times.
#[derive(Debug, Clone, Serialize)]
struct Told {
    #[serde(flatten)]
    news: News,
    /// Milliseconds since 1970.
    time: u64,
    /// Microseconds from the request until all of it was published; `None` if no request of the API caused it.
    took: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    listing: Listing,
    news: VecDeque<Told>,
    /// The latest tick, while the task runs that makes them.
    ticks: Option<watch::Sender<Bytes>>,
}

impl Default for Live {
    fn default() -> Live {
        Live { permits: Arc::new(Semaphore::new(VIEWERS)), shared: Mutex::default(), took: Mutex::default() }
    }
}

impl Live {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how long a write took until it was published.
    pub(super) fn published(&self, revision: u64, took: Duration) {
        let mut all = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == COMMITS {
            all.pop_front();
        }
        all.push_back((revision, took));
    }

    fn took(&self, revision: u64) -> Option<u64> {
        let all = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, took) = all.iter().rfind(|(made, _)| *made == revision)?;
        u64::try_from(took.as_micros()).ok()
    }

    /// The ticks; the task that makes them is started if it does not run.
    fn ticks(api: &Api, source: &DumpSource) -> watch::Receiver<Bytes> {
        let mut shared = api.live.shared();
        if let Some(ticks) = &shared.ticks {
            let mut ticks = ticks.subscribe();
            // The latest is news to a new viewer.
            ticks.mark_changed();
            return ticks;
        }
        let (sender, receiver) = watch::channel(Bytes::new());
        (shared.ticks, shared.listing) = (Some(sender), Listing::default());
        tokio::spawn(make_ticks(api.clone(), source.clone()));
        receiver
    }
}

async fn open(State(api): State<Api>, request: Request) -> Result<Response, Status> {
    let parameters = query(&request.into_parts().0)?;
    only(&parameters, &["service", "list"])?;
    let service = parsed(&parameters, "service", "NAMESPACE/NAME", |text| {
        text.split_once('/').map(|(namespace, name)| ServiceName::new(namespace, name))
    })?;
    let list = given(&parameters, "list").and_then(|text| {
        let (epoch, version) = text.split_once('.')?;
        Some((epoch.parse().ok()?, version.parse().ok()?))
    });
    let source = api.dump.clone().ok_or_else(Status::no_resource)?;
    let permit = Arc::clone(&api.live.permits).try_acquire_owned();
    let permit = permit.map_err(|_| Status::too_many_viewers(VIEWERS))?;
    let viewer = Viewer {
        ticks: Live::ticks(&api, &source),
        revision: api.replica.revision(),
        list: list.unwrap_or((0, 0)),
        told: 0,
        service: service.map(Looked::new),
        lines: VecDeque::from([line("hello", &hello(&api, &source))]),
        stop: api.stop.clone(),
        api,
        source,
        _permit: permit,
    };
    let lines = stream::unfold(viewer, |mut viewer| async move {
        let line = viewer.next().await?;
        Some((Ok::<Bytes, Infallible>(line), viewer))
    });
    let head = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((head, Body::from_stream(lines)).into_response())
}

/// `{"NAME": …}` and the end of the line.
fn line(name: &str, value: &impl Serialize) -> Bytes {
    let value = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    format!("{{\"{name}\":{value}}}\n").into()
}

/// What the numbers mean.
fn hello(api: &Api, source: &DumpSource) -> Value {
    let reason = |name: &str, sentence: &str, action: &str, severity: &str| json!({"name": name, "sentence": sentence, "action": action, "severity": severity});
    let drops = DropReason::ALL.iter().map(|known| {
        let severity = format!("{:?}", known.severity()).to_lowercase();
        reason(known.name(), known.sentence(), known.action(), &severity)
    });
    let passes = PassReason::ALL.iter().map(|known| reason(known.name(), known.sentence(), known.action(), "info"));
    let counters = DECLARED.iter().map(|counter| {
        json!({"name": counter.name, "kind": counter.kind.name(), "unit": counter.unit.name(), "sentence": counter.sentence})
    });
    let reader = source.tables.reader();
    let pin = reader.pin();
    let settings = pin.load().settings();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "domain": api.replica.read().cluster.settings().domain, "dns": settings.dns,
        "drops": drops.collect::<Vec<_>>(), "passes": passes.collect::<Vec<_>>(), "counters": counters.collect::<Vec<_>>(),
    })
}

/// Makes ticks while there are viewers.
async fn make_ticks(api: Api, source: DumpSource) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sampler, mut followed, mut idle) = (Sampler::default(), None, 0);
    let mut before = Instant::now();
    loop {
        ticks.tick().await;
        followed = Some(follow(&api, followed).await);
        let now = Instant::now();
        let tick = take(&api, &source, &mut sampler, now - before);
        before = now;
        let mut shared = api.live.shared();
        let Some(sender) = &shared.ticks else { return };
        sender.send_replace(line("tick", &tick));
        idle = if sender.receiver_count() == 0 { idle + 1 } else { 0 };
        if idle > LINGER {
            *shared = Shared::default();
            return;
        }
    }
}

fn take(api: &Api, source: &DumpSource, sampler: &mut Sampler, elapsed: Duration) -> Tick {
    let revision = api.replica.read().cluster.revision();
    let faults = api.checks.all().into_iter().filter_map(|check| Some((check.name, check.fault?))).collect();
    let reader = source.tables.reader();
    let pin = reader.pin();
    let mut shared = api.live.shared();
    let tick = sampler.sample(&source.counters, source.max_flows, pin.load(), &mut shared.listing, elapsed);
    Tick { revision, faults, time: now(), ..tick }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    milliseconds(SystemTime::now())
}

fn milliseconds(time: SystemTime) -> u64 {
    let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Brings the list up to date with the objects, from those of revision `followed` on. Returns their revision.
async fn follow(api: &Api, followed: Option<u64>) -> u64 {
    let (revision, names) = touched(api, followed);
    tell(api, followed.unwrap_or(0));
    for names in names.chunks(TURN) {
        update(api, names);
        yield_now().await;
    }
    revision
}

fn update(api: &Api, names: &[ServiceName]) {
    let state = api.replica.read();
    let mut shared = api.live.shared();
    names.iter().for_each(|name| shared.listing.update(&state.cluster, name));
}

/// Keeps the news of commits after a revision.
fn tell(api: &Api, followed: u64) {
    let state = api.replica.read();
    let mut shared = api.live.shared();
    for (commit, time) in state.history.latest(followed, COMMITS) {
        let took = api.live.took(commit.revision);
        shared.news.extend(live::news(commit).into_iter().map(|news| Told { news, time: milliseconds(time), took }));
    }
    let surplus = shared.news.len().saturating_sub(NEWS);
    shared.news.drain(..surplus);
}

/// The Services that may have changed after a revision; all of them if that is too long ago.
fn touched(api: &Api, followed: Option<u64>) -> (u64, Vec<ServiceName>) {
    let state = api.replica.read();
    let revision = state.cluster.revision();
    let commits = followed.map(|followed| state.history.after(followed));
    let Some(Ok(commits)) = commits else {
        let all = state.cluster.objects(Kind::Service, None);
        return (revision, all.map(|object| ServiceName::new(object.namespace(), object.name())).collect());
    };
    let mut names = BTreeSet::new();
    commits.for_each(|commit| names.extend(commit.touched().services));
    (revision, names.into_iter().collect())
}

/// One open page.
struct Viewer {
    api: Api,
    source: DumpSource,
    ticks: watch::Receiver<Bytes>,
    revision: watch::Receiver<u64>,
    /// Epoch and version of the list it has.
    list: (u64, u64),
    /// The revision of the last news it was sent.
    told: u64,
    service: Option<Looked>,
    /// To be sent before anything else.
    lines: VecDeque<Bytes>,
    stop: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

/// The Service that a viewer looks at.
struct Looked {
    name: ServiceName,
    /// What was sent last.
    sent: Bytes,
    /// The generation of tables that was looked at.
    generation: Option<u64>,
    /// Whether its objects may have changed since.
    is_due: bool,
    next: Instant,
}

impl Looked {
    fn new(name: ServiceName) -> Looked {
        Looked { name, sent: Bytes::new(), generation: None, is_due: true, next: Instant::now() }
    }
}

impl Viewer {
    /// The next line; `None` when the server stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.look().await || self.changes_of_the_list() {
                continue;
            }
            self.wait().await?;
        }
    }

    /// Waits for the next tick, or until there is a reason to look at the Service again.
    async fn wait(&mut self) -> Option<()> {
        let due = self.service.as_ref().filter(|looked| looked.is_due).map(|looked| looked.next);
        let look = async {
            match due {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.ticks.changed() => {
                changed.ok()?;
                self.tick();
            }
            () = look => {}
            // The other end is in the replica, which lives as long as this.
            _ = self.revision.changed() => self.service.iter_mut().for_each(|looked| looked.is_due = true),
            _ = self.stop.changed() => return None,
        }
        Some(())
    }

    fn tick(&mut self) {
        let tick = self.ticks.borrow_and_update().clone();
        if !tick.is_empty() {
            self.lines.push_back(tick);
        }
        self.news();
        let reader = self.source.tables.reader();
        let pin = reader.pin();
        let tables = pin.load();
        let Some(looked) = &mut self.service else { return };
        looked.is_due |= looked.generation != Some(tables.generation());
        let values = live::values(&self.source.counters, tables, &looked.name);
        self.lines
            .push_back(line("service", &json!({"name": looked.name.to_string(), "time": now(), "ports": values})));
    }

    fn news(&mut self) {
        let shared = self.api.live.shared();
        let fresh: Vec<&Told> = shared.news.iter().filter(|told| told.news.revision > self.told).collect();
        let Some(last) = fresh.last() else { return };
        self.told = last.news.revision;
        self.lines.push_back(line("news", &fresh));
    }

    /// Looks at the Service, if it is time. Returns whether there is news.
    async fn look(&mut self) -> bool {
        let Some(looked) = &mut self.service else { return false };
        let start = Instant::now();
        if !looked.is_due || start < looked.next {
            return false;
        }
        looked.is_due = false;
        self.revision.mark_unchanged();
        let (api, source, name) = (self.api.clone(), self.source.clone(), looked.name.clone());
        let tell = move || {
            let state = api.replica.read();
            let detail = live::detail(source.tables.reader().pin().load(), &state.cluster, &name);
            (detail.generation, serde_json::to_value(detail).unwrap_or_default())
        };
        // A look at every Pod of its namespace.
        let told = spawn_blocking(tell).await;
        let spare = (start.elapsed() * SPARE).clamp(LOOK, LATEST);
        looked.next = Instant::now() + spare;
        let Ok((generation, mut detail)) = told else { return false };
        looked.generation = Some(generation);
        // Other objects give another revision and nothing else.
        let revision = detail["revision"].take();
        let generation = detail["generation"].take();
        let bare = Bytes::from(detail.to_string());
        if bare == looked.sent {
            return false;
        }
        looked.sent = bare;
        (detail["revision"], detail["generation"]) = (revision, generation);
        self.lines.push_back(line("detail", &detail));
        true
    }

    /// What the viewer's list lacks. Returns whether there was anything.
    fn changes_of_the_list(&mut self) -> bool {
        let shared = self.api.live.shared();
        let listing = &shared.listing;
        // Before the first tick there is no list.
        if (listing.epoch(), listing.version()) == self.list || self.ticks.borrow().is_empty() {
            return false;
        }
        let (epoch, seen) = self.list;
        let delta = listing.since(epoch, seen, ROWS);
        let is_news = delta.reset && (epoch, seen) != (listing.epoch(), 0) || delta.version != seen;
        self.list = (delta.epoch, delta.version);
        if is_news {
            self.lines.push_back(line("list", &delta));
        }
        is_news
    }
}
