//! Asking a worker: through its mailbox, one client at a time.

use std::time::Duration;

use pollgate_common::inspect::{Letter, Mailbox, Request};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep, timeout};

use super::shared::Api;
use super::status::Status;

/// How long an answer may take to be complete.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How long a worker may take to answer at all, beyond that.
const GRACE_TIME: Duration = Duration::from_secs(1);
/// Between two looks for an answer. The worker does not wake the asker: that would cost it a system call.
const LOOK_TIME: Duration = Duration::from_millis(1);

/// A client's turn: the others wait for theirs.
pub(super) struct Turn<'a> {
    deadline: Instant,
    _guard: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Waits for the turn.
    pub(super) async fn wait(api: &Api) -> Result<Turn<'_>, Status> {
        let turn = timeout(ANSWER_TIME + GRACE_TIME, api.worker_turn.lock());
        let guard = turn.await.map_err(|_| Status::too_many_requests())?;
        Ok(Turn { deadline: Instant::now() + ANSWER_TIME, _guard: guard })
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The answer of `worker`: complete, or what there is when the turn is over.
    pub(super) async fn ask(
        &self,
        mailboxes: &[std::sync::Arc<Mailbox>],
        worker: usize,
        request: Request,
    ) -> Result<Request, Status> {
        let silent = || {
            let seconds = (ANSWER_TIME + GRACE_TIME).as_secs();
            Status::internal(format!("worker {worker} did not answer within {seconds} s; is it running?"))
        };
        let mailbox = mailboxes.get(worker).ok_or_else(silent)?;
        self.answer(mailbox, request).await.ok_or_else(silent)
    }

    async fn answer(&self, mailbox: &Mailbox, request: Request) -> Option<Request> {
        let mut left = mailbox.ask(Letter::new(request));
        loop {
            // The request of a client that went away may still be there.
            left = left.or_else(|request| mailbox.ask(request));
            if let Some(answer) = left.as_ref().ok().and_then(|number| mailbox.answer(*number)) {
                return Some(answer.request);
            }
            if Instant::now() >= self.deadline + GRACE_TIME {
                return None;
            }
            if self.is_over() {
                mailbox.hurry();
            }
            sleep(LOOK_TIME).await;
        }
    }
}
