//! The upstreams of a zone, in order of preference.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use pollgate_common::counters::Counters;
use pollgate_common::dns::relay::Relayed;

use super::message::Question;
use super::upstream::{NoResponse, PATIENCE, Upstream, UpstreamStats};

/// How often each upstream is asked, while there is time.
const ROUNDS: usize = 3;

/// The upstreams.
#[derive(Debug)]
pub(super) struct Pool(Vec<Arc<Upstream>>);

impl Pool {
    pub(super) fn new(addresses: &[SocketAddr]) -> Pool {
        Pool(addresses.iter().map(|address| Arc::new(Upstream::new(*address))).collect())
    }

    pub(super) fn stats(&self) -> impl Iterator<Item = (SocketAddr, UpstreamStats)> {
        self.0.iter().map(|upstream| (upstream.address, upstream.stats()))
    }

    /// Asks one after the other, those that have failed last, until one answers or the time is over.
    pub(super) async fn ask(&self, question: &Question, counters: &Arc<Counters>) -> Result<Relayed, NoResponse> {
        let deadline = Instant::now() + PATIENCE;
        let mut failure = NoResponse::NotAsked;
        for _ in 0..ROUNDS {
            self.probe(question, deadline, counters);
            let mut is_worth_another = false;
            let (down, up): (Vec<_>, Vec<_>) = self.0.iter().partition(|upstream| upstream.is_down());
            for upstream in up.into_iter().chain(down) {
                if Instant::now() >= deadline {
                    return Err(failure);
                }
                match upstream.ask(question, deadline, counters.dns()).await {
                    Ok(answer) => return Ok(answer),
                    Err(NoResponse::Silence) => (is_worth_another, failure) = (true, NoResponse::Silence),
                    Err(NoResponse::Error) => failure = NoResponse::Error,
                    Err(NoResponse::NotAsked) => {}
                }
            }
            if !is_worth_another {
                break;
            }
        }
        Err(failure)
    }

    /// Finds out whether those that were down answer again, beside the question, which does not wait for it. If all are down, the
    /// question itself does.
    fn probe(&self, question: &Question, deadline: Instant, counters: &Arc<Counters>) {
        if self.0.iter().all(|upstream| upstream.is_down()) {
            return;
        }
        let now = Instant::now();
        for upstream in self.0.iter().filter(|upstream| upstream.takes_probe(now)) {
            let (upstream, question, counters) = (Arc::clone(upstream), question.clone(), Arc::clone(counters));
            // What it answers is noted.
            tokio::spawn(async move { drop(upstream.ask(&question, deadline, counters.dns()).await) });
        }
    }
}
