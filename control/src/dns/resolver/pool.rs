//! The upstreams of a zone, in order of preference.

use std::net::SocketAddr;
use std::time::Instant;

use pollgate_common::counters::WorkerCounters;
use pollgate_common::dns::relay::Relayed;

use super::message::Question;
use super::upstream::{NoResponse, PATIENCE, Upstream, UpstreamStats};

/// How often each upstream is asked, while there is time.
const ROUNDS: usize = 3;

/// The upstreams.
#[derive(Debug)]
pub(super) struct Pool(Vec<Upstream>);

impl Pool {
    pub(super) fn new(addresses: &[SocketAddr]) -> Pool {
        Pool(addresses.iter().map(|address| Upstream::new(*address)).collect())
    }

    pub(super) fn stats(&self) -> impl Iterator<Item = (SocketAddr, UpstreamStats)> {
        self.0.iter().map(|upstream| (upstream.address, upstream.stats()))
    }

    /// Asks one after the other, those that have failed last, until one answers or the time is over.
    pub(super) async fn ask(&self, question: &Question, counters: &WorkerCounters) -> Option<Relayed> {
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let mut is_worth_another = false;
            let (down, up): (Vec<_>, Vec<_>) = self.0.iter().partition(|upstream| upstream.is_down(now));
            for upstream in up.into_iter().chain(down) {
                if Instant::now() >= deadline {
                    return None;
                }
                match upstream.ask(question, deadline, counters).await {
                    Ok(answer) => return Some(answer),
                    Err(NoResponse::Silence) => is_worth_another = true,
                    Err(NoResponse::Error) => {}
                }
            }
            if !is_worth_another {
                break;
            }
        }
        None
    }
}
