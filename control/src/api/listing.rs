//! Lists: whole or in pages, of the current or an earlier revision.
//!
//! ```text
//! limit=2                 a b │ continue=(revision 7, behind b)
//! limit=2&continue=…          │ c d │ continue=(revision 7, behind d)
//! limit=2&continue=…                │ e        all three show the state at revision 7
//! ```
//!
//! The token contains all that a page needs, so a client that does not continue leaves nothing behind. If the [history] no
//! longer reaches back to the first page's revision, the response is 410 with a token that continues from the same key in
//! the current state, as the API server does (apiserver `pkg/storage/continue.go`, `pkg/storage/etcd3/errors.go`).
//!
//! Which options may be combined is apimachinery's `ValidateListOptions`, with its messages.
//!
//! [history]: super::history

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::form::Form;
use super::query::{Parameters, number, text};
use super::render::{self, ListMeta};
use super::selector::Wanted;
use super::shared::Api;
use super::status::Status;
use super::view::{NoState, Page};
use crate::objects::fault::{Fault, Faults};
use crate::objects::{Key, Object};

/// How long a list waits for a revision that is still to come, as the API server does.
const FUTURE_TIME: Duration = Duration::from_secs(3);

/// Objects that are looked up together.
const TURN: usize = 256;
/// Longest page, objects: a client that asks for more gets this many and a token.
const LONGEST_PAGE: usize = 10_000;

/// Which state a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Moment {
    Now,
    /// The current state, which must not be older than this revision.
    NotBefore(u64),
    Exactly(u64),
    /// The rest of a list that was begun before.
    Rest(Token),
}

/// Where a list continues.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    /// The state to show; `None`: the newest.
    revision: Option<u64>,
    /// Behind this object.
    after: Key,
}

/// The response to a list request.
pub(crate) async fn list(api: &Api, wanted: &Wanted, form: Form, parameters: &Parameters) -> Result<Response, Status> {
    let faults = contradictions(parameters);
    if !faults.is_empty() {
        return Err(Status::invalid_options("ListOptions", &faults));
    }
    let limit = limit(parameters)?;
    let moment = Moment::of(parameters, limit.is_some(), wanted)?;
    let page = page(api, wanted, &moment, limit.unwrap_or(TURN)).await?;
    let revision = page.revision;
    // A list without a limit consists of many pages, read while it is sent; one with a limit ends here.
    let (next, rest) = if limit.is_none() { (page.last, None) } else { (None, page.last) };
    // Selected objects are not counted.
    let counted = rest.as_ref().filter(|_| wanted.selects_all());
    let remaining = counted.and_then(|after| api.replica.count_behind(wanted, revision, after).ok());
    let token = rest.map(|after| Token { revision: Some(revision), after }.encode());
    let meta = ListMeta { revision, token, remaining };
    let (kind, api, wanted) = (wanted.kind, api.clone(), wanted.clone());
    let walk = Walk { api, wanted, revision, page: page.objects.into_iter(), next };
    render::list(kind, &meta, walk, form).await
}

/// The objects of a list at one revision, looked up page by page as they are sent: a list that is read slowly costs no more
/// than one that is read at once. It is cut off if it is read so slowly that its revision is forgotten.
struct Walk {
    api: Api,
    wanted: Wanted,
    revision: u64,
    page: std::vec::IntoIter<Arc<Object>>,
    /// The key after which the next page begins, if there is one.
    next: Option<Key>,
}

impl Iterator for Walk {
    type Item = Result<Arc<Object>, NoState>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(object) = self.page.next() {
            return Some(Ok(object));
        }
        let after = self.next.take()?;
        match self.api.replica.page(&self.wanted, Some(self.revision), Some(&after), TURN) {
            Ok(page) => (self.page, self.next) = (page.objects.into_iter(), page.last),
            Err(error) => return Some(Err(error)),
        }
        self.page.next().map(Ok)
    }
}

/// The parameter `resourceVersion`; `None` if it is not given.
pub(crate) fn revision(parameters: &Parameters) -> Result<Option<u64>, Status> {
    match text(parameters, "resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            let fault = Fault::invalid("resourceVersion", text, &why);
            Status::bad_request(format!("invalid resource version: {fault}"))
        }),
    }
}

/// Waits until the replica has reached the revision.
pub(crate) async fn reach(api: &Api, asked: u64) -> Result<(), Status> {
    let mut revision = api.replica.revision();
    // The sender lives as long as the replica.
    let reached = timeout(FUTURE_TIME, revision.wait_for(|current| *current >= asked)).await;
    let reached = reached.is_ok_and(|reached| reached.is_ok());
    let current = *revision.borrow();
    if reached { Ok(()) } else { Err(Status::future_revision(asked, current)) }
}

/// The first page of a list.
async fn page(api: &Api, wanted: &Wanted, moment: &Moment, limit: usize) -> Result<Page, Status> {
    if let Moment::NotBefore(revision) | Moment::Exactly(revision) = moment {
        reach(api, *revision).await?;
    }
    let (revision, after) = match moment {
        Moment::Now | Moment::NotBefore(_) => (None, None),
        Moment::Exactly(revision) => (Some(*revision), None),
        Moment::Rest(token) => (token.revision, Some(&token.after)),
    };
    api.replica.page(wanted, revision, after, limit).map_err(|error| no_state(error, after))
}

fn no_state(error: NoState, after: Option<&Key>) -> Status {
    match (error, after) {
        (NoState::Future { asked, current }, _) => Status::future_revision(asked, current),
        (NoState::TooOld(_), None) => Status::expired("The resourceVersion for the provided list is too old."),
        (NoState::TooOld(_), Some(after)) => {
            Status::list_expired(Token { revision: None, after: after.clone() }.encode())
        }
    }
}

/// `limit`; `None` for all objects.
fn limit(parameters: &Parameters) -> Result<Option<usize>, Status> {
    let limit = number(text(parameters, "limit"))?.unwrap_or(0);
    Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0).map(|limit| limit.min(LONGEST_PAGE)))
}

fn contradictions(parameters: &Parameters) -> Faults {
    let mut faults = Faults::new();
    let matching = text(parameters, "resourceVersionMatch");
    let mut forbid = |field: &str, why: &str| faults.push(Fault::forbidden(field, why));
    if !matching.is_empty() {
        if text(parameters, "resourceVersion").is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            forbid("resourceVersionMatch", why);
        }
        if !text(parameters, "continue").is_empty() {
            forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == "Exact" && text(parameters, "resourceVersion") == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            forbid("resourceVersionMatch", why);
        }
    }
    if parameters.contains_key("sendInitialEvents") {
        forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if !matches!(matching, "" | "Exact" | "NotOlderThan") {
        faults.push(Fault::not_supported("resourceVersionMatch", matching, &["Exact", "NotOlderThan", ""]));
    }
    faults
}

impl Moment {
    fn of(parameters: &Parameters, limited: bool, wanted: &Wanted) -> Result<Self, Status> {
        let revision = revision(parameters)?;
        let token = text(parameters, "continue");
        if !token.is_empty() {
            if revision.is_some_and(|revision| revision > 0) {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token = Token::decode(token, wanted);
            return token.map(Self::Rest).ok_or_else(|| {
                Status::bad_request("invalid continue token: continue key is not valid: it is not from this list")
            });
        }
        Ok(match (revision, text(parameters, "resourceVersionMatch")) {
            (None | Some(0), _) => Self::Now,
            (Some(revision), "Exact") => Self::Exactly(revision),
            // The meaning of `limit` before `resourceVersionMatch` existed, and still without it.
            (Some(revision), "") if limited => Self::Exactly(revision),
            (Some(revision), _) => Self::NotBefore(revision),
        })
    }
}

impl Token {
    /// Hexadecimal digits of its JSON: safe in a query, and clearly not meant to be written by hand.
    fn encode(&self) -> String {
        let Key { namespace, name, .. } = &self.after;
        let json = json!({"rv": self.revision, "ns": namespace, "name": name}).to_string();
        json.bytes().fold(String::with_capacity(2 * json.len()), |mut hex, byte| {
            hex.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
            hex
        })
    }

    /// `None` if the token was not made here, or is for another list.
    fn decode(hex: &str, wanted: &Wanted) -> Option<Self> {
        let digits = hex.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<u32>>>()?;
        let byte = |pair: &[u32]| u8::try_from(pair.first()? * 16 + pair.get(1)?).ok();
        let json = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        let value: Value = serde_json::from_slice(&json).ok()?;
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let revision = match value.get("rv")? {
            Value::Null => None,
            revision => Some(revision.as_u64()?),
        };
        let after = Key::new(wanted.kind, text("ns")?, text("name")?);
        wanted.covers(&after).then_some(Self { revision, after })
    }
}

#[cfg(test)]
mod tests;
