//! Watches: what happens to the objects of a list, as it happens, one JSON line per event.
//!
//! ```text
//! resourceVersion unset or 0 ─▶ Begin(page by page at revision r) ─▶ Follow(r)
//!                      n ─────────────────────────────────────────▶ Follow(n)
//! Follow: history after my revision ─▶ events; nothing there: wait for the revision to move, the next bookmark, the end
//! ```
//!
//! A watcher is its place, its selectors and its connection. It keeps no queue: nothing is ever put aside for it, it reads
//! the [history](super::history) when its connection has room. One that falls behind what the history remembers gets
//! 410 and lists again; one that does not read at all is cut off by its connection. Even the objects it begins with are
//! read page by page at one revision, so a thousand watchers that begin at once hold a thousand pages and not a
//! thousand lists.
//!
//! Faults that show only once the watch has begun are events of type `ERROR` in a 200, as the API server has them. A revision that has
//! not come yet is one of them (504): the API server's own watch waits for it without an event, which after a restore
//! of an older state would never end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use pollgate_common::hash::random_seed;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::form::{Form, View};
use super::lines::{self, Event};
use super::listing::{reach, revision};
use super::query::{Parameters, flag, number, text};
use super::render;
use super::selector::Wanted;
use super::shared::Api;
use super::status::Status;
use super::view::NoState;
use crate::cluster::Commit;
use crate::objects::Key;
use crate::objects::fault::{Fault, Faults};

/// How long a watch lasts if the request names no time: between this and twice as long, so that not all reconnect at once.
const LASTS: Duration = Duration::from_secs(30 * 60);
/// Time between two bookmarks, for a watcher that allows them and gets no other event.
const BOOKMARK_TIME: Duration = Duration::from_secs(60);
/// Objects that are examined before other tasks run.
const TURN: usize = 64;
/// Changes that are examined without a match before other tasks run.
const SCAN: usize = 4096;

/// Handles a watch request.
pub(crate) fn watch(api: &Api, wanted: Wanted, form: Form, parameters: &Parameters) -> Result<Response, Status> {
    let faults = contradictions(parameters);
    if !faults.is_empty() {
        return Err(Status::invalid_options("ListOptions", &faults));
    }
    let options = Options::of(parameters)?;
    let form = form.of_stream()?;
    let permit = Arc::clone(&api.watches).try_acquire_owned();
    let permit = permit.map_err(|_| Status::too_many_watches(api.limits.watches))?;
    let watcher = Watcher::new(api, wanted, form, &options, permit);
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<Bytes, Infallible>(line), watcher))
    });
    Ok(([(header::CONTENT_TYPE, form.media.stream_type())], Body::from_stream(lines)).into_response())
}

/// The options of a watch.
#[derive(Debug)]
struct Options {
    /// `None` and 0: the newest.
    revision: u64,
    /// Whether to begin with the existing objects.
    initial: bool,
    /// Whether to mark the end of these.
    mark: bool,
    bookmarks: bool,
    lasts: Duration,
}

impl Options {
    fn of(parameters: &Parameters) -> Result<Self, Status> {
        let revision = revision(parameters)?.unwrap_or(0);
        let bookmarks = flag(parameters, "allowWatchBookmarks").unwrap_or(false);
        let initial = flag(parameters, "sendInitialEvents");
        Ok(Self {
            revision,
            initial: initial.unwrap_or(revision == 0),
            mark: initial == Some(true) && bookmarks,
            bookmarks,
            lasts: lasts(text(parameters, "timeoutSeconds"))?,
        })
    }
}

fn lasts(text: &str) -> Result<Duration, Status> {
    let seconds = number(text)?.unwrap_or(0);
    Ok(match u64::try_from(seconds) {
        Ok(1..) => Duration::from_secs(seconds.unsigned_abs().min(u32::MAX.into())),
        _ => LASTS + Duration::from_secs(random_seed()[0] % LASTS.as_secs()),
    })
}

fn contradictions(parameters: &Parameters) -> Faults {
    let mut faults = Faults::new();
    let matching = text(parameters, "resourceVersionMatch");
    let mut forbid = |why: &str| faults.push(Fault::forbidden("resourceVersionMatch", why));
    let initial = parameters.contains_key("sendInitialEvents");
    if initial && matching != "NotOlderThan" {
        forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if matching.is_empty() {
        return faults;
    }
    if !initial {
        forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if !text(parameters, "continue").is_empty() {
        forbid("resourceVersionMatch is forbidden when continue is provided");
    }
    if matching != "NotOlderThan" {
        faults.push(Fault::not_supported("resourceVersionMatch", matching, &["NotOlderThan"]));
    }
    faults
}

/// One watch.
struct Watcher {
    api: Api,
    wanted: Wanted,
    form: Form,
    /// For the first Table; taken by it.
    columns: Option<Value>,
    stage: Stage,
    /// Whether to mark the end of the initial objects.
    mark: bool,
    /// When the next bookmark is due; `None` if it allows none.
    bookmark: Option<Instant>,
    ends: Instant,
    revision: watch::Receiver<u64>,
    stop: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

/// A watcher's position.
enum Stage {
    /// It begins with the existing objects, at a state not older than this revision.
    Start { not_before: u64 },
    /// It gets the objects as of `revision`; all up to `after` have been sent.
    Begin { revision: u64, after: Option<Key> },
    /// It has everything up to `revision`, and of the next commit the changes before `index`.
    Follow { revision: u64, commit: Option<Arc<Commit>>, index: usize },
    /// Nothing more is sent.
    Over,
}

impl Stage {
    fn follow(revision: u64) -> Self {
        Self::Follow { revision, commit: None, index: 0 }
    }
}

/// The result of reading the history.
enum News {
    Line(Bytes),
    /// No event so far, and there is more to read.
    More,
    /// Everything has been sent.
    None,
}

impl Watcher {
    fn new(api: &Api, wanted: Wanted, form: Form, options: &Options, permit: OwnedSemaphorePermit) -> Self {
        let revision = api.replica.revision();
        let stage = match (options.initial, options.revision) {
            (true, not_before) => Stage::Start { not_before },
            (false, 0) => Stage::follow(*revision.borrow()),
            (false, revision) => Stage::follow(revision),
        };
        let now = Instant::now();
        Self {
            columns: matches!(form.view, View::Table(..)).then(|| render::columns(wanted.kind)),
            wanted,
            form,
            stage,
            mark: options.mark,
            bookmark: options.bookmarks.then(|| now + BOOKMARK_TIME),
            ends: now + options.lasts,
            revision,
            stop: api.stop.clone(),
            _permit: permit,
            api: api.clone(),
        }
    }

    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        match self.advance().await {
            Ok(bytes) => bytes,
            Err(status) => {
                self.stage = Stage::Over;
                Some(lines::error(&status, self.form))
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match &self.stage {
                Stage::Over => return Ok(None),
                Stage::Start { not_before } => {
                    let not_before = *not_before;
                    reach(&self.api, not_before).await?;
                    let revision = *self.revision.borrow();
                    self.stage = Stage::Begin { revision, after: None };
                }
                Stage::Begin { revision, after } => {
                    let (revision, after) = (*revision, after.clone());
                    if let Some(bytes) = self.begin(revision, after)? {
                        return Ok(Some(bytes));
                    }
                }
                Stage::Follow { .. } => match self.news()? {
                    News::Line(line) => return Ok(Some(line)),
                    News::More => tokio::task::yield_now().await,
                    News::None => {
                        if let Some(last_words) = self.wait().await {
                            return Ok(last_words);
                        }
                    }
                },
            }
        }
    }

    /// The next of the initial objects; after the last one the mark, if requested.
    fn begin(&mut self, revision: u64, after: Option<Key>) -> Result<Option<Bytes>, Status> {
        let page = self.api.replica.page(&self.wanted, Some(revision), after.as_ref(), TURN).map_err(gone)?;
        let mut bytes = Vec::new();
        for object in &page.objects {
            bytes.extend(lines::initial(object, self.form, self.columns.take().as_ref()));
        }
        match page.last {
            Some(last) => self.stage = Stage::Begin { revision, after: Some(last) },
            None => {
                self.stage = Stage::follow(revision);
                if self.mark {
                    bytes.extend(lines::bookmark(self.wanted.kind, revision, self.form, true));
                }
            }
        }
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }

    /// The next event after its position, which advances.
    fn news(&mut self) -> Result<News, Status> {
        let Stage::Follow { revision, commit, index } = &mut self.stage else {
            return Ok(News::None);
        };
        if commit.is_none() {
            *commit = self.api.replica.commit_after(*revision).map_err(gone)?;
            *index = 0;
        }
        let Some(current) = commit.clone() else {
            return Ok(News::None);
        };
        let rest = current.changes.iter().enumerate().skip(*index);
        for (at, change) in rest.take(SCAN) {
            *index = at + 1;
            let Some(event) = Event::of(change, &self.wanted) else {
                continue;
            };
            let line = match self.columns.take() {
                Some(columns) => lines::first_table(&current, at, event, self.form, &columns),
                None => self.api.lines.line(&current, at, event, self.form),
            };
            return Ok(line.map_or(News::More, News::Line));
        }
        if *index >= current.changes.len() {
            (*revision, *commit) = (current.revision, None);
        }
        Ok(News::More)
    }

    /// Waits until there may be events. Otherwise returns what to send instead: a bookmark, or the end.
    async fn wait(&mut self) -> Option<Option<Bytes>> {
        let alarm = self.bookmark.map_or(self.ends, |bookmark| bookmark.min(self.ends));
        tokio::select! {
            moved = self.revision.changed() => match moved {
                Ok(()) => return None,
                Err(_) => self.stage = Stage::Over,
            },
            // Nothing is ever sent on it; it is only dropped.
            _ = self.stop.changed() => self.stage = Stage::Over,
            () = sleep_until(alarm) => return Some(self.alarm()),
        }
        Some(None)
    }

    /// A bookmark, if requested; the last line, at the end.
    fn alarm(&mut self) -> Option<Bytes> {
        let Stage::Follow { revision, .. } = self.stage else {
            return None;
        };
        if Instant::now() >= self.ends {
            self.stage = Stage::Over;
        }
        let bookmark = self.bookmark.as_mut()?;
        *bookmark = Instant::now() + BOOKMARK_TIME;
        Some(lines::bookmark(self.wanted.kind, revision, self.form, false))
    }
}

fn gone(error: NoState) -> Status {
    match error {
        NoState::TooOld(too_old) => {
            Status::expired(format!("too old resource version: {} ({})", too_old.asked, too_old.oldest))
        }
        NoState::Future { asked, current } => Status::future_revision(asked, current),
    }
}

#[cfg(test)]
mod tests;
