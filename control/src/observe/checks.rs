//! Whether the gateway works: one check for each thing that must hold.
//!
//! ```text
//!  gateway, once a second: look ──▶ Checks ──┬─▶ `/livez`, `/readyz`
//!                                            ├─▶ `pollgate stats`
//!                                            └─▶ log, the service manager's watchdog
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How old the results may be.
const MAX_AGE: Duration = Duration::from_secs(10);

/// What a failed check means.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The process does not make progress: only a restart helps.
    Live,
    /// Traffic should go to another gateway until it passes.
    #[default]
    Ready,
}

/// One thing that must hold, and whether it does.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// Its name, as in `/readyz/NAME`.
    pub name: String,
    /// What it means if it fails.
    pub scope: Scope,
    /// What is wrong and what to do; `None` if it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Check {
    /// One without which the process does not make progress.
    pub fn live(name: impl Into<String>, fault: Option<String>) -> Check {
        Check { name: name.into(), scope: Scope::Live, fault }
    }

    /// One without which traffic should go elsewhere.
    pub fn ready(name: impl Into<String>, fault: Option<String>) -> Check {
        Check { name: name.into(), scope: Scope::Ready, fault }
    }
}

/// The results of the last look, and whether anything can be stored.
#[derive(Debug, Default)]
pub struct Checks {
    /// With when the look was; none before the first.
    looked: Mutex<Option<(Instant, Vec<Check>)>>,
    store_failure: Mutex<Option<String>>,
}

impl Checks {
    /// Replaces the results by those of now. Returns those before.
    pub fn set(&self, results: Vec<Check>) -> Vec<Check> {
        self.lock().replace((Instant::now(), results)).map(|(_, before)| before).unwrap_or_default()
    }

    /// The results of the last look, and whether they are new enough to be believed.
    fn results(&self) -> Vec<Check> {
        self.results_at(Instant::now())
    }

    fn results_at(&self, now: Instant) -> Vec<Check> {
        let Some((at, mut results)) = self.lock().clone() else {
            return vec![Check::ready("checks", Some("the gateway is starting: wait".to_owned()))];
        };
        let age = now.saturating_duration_since(at);
        let is_old = age > MAX_AGE;
        let fault = is_old.then(|| format!("the last look at the gateway was {} s ago: restart it", age.as_secs()));
        results.push(Check::live("checks", fault));
        results
    }

    /// Notes why nothing can be written to the state file, or that writes succeed again.
    pub fn set_store_failure(&self, failure: Option<&str>) {
        *self.store_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure.map(str::to_owned);
    }

    /// Everything that must hold. What responds is alive.
    pub fn all(&self) -> Vec<Check> {
        let failure = self.store_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store = failure.map(|error| format!("nothing can be written to the state file: {error}"));
        let mut all = vec![Check::live("ping", None), Check::ready("store", store)];
        all.extend(self.results());
        all
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Vec<Check>)>> {
        // Whole between any two changes.
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_results_are_not_believed() {
        let checks = Checks::default();
        assert_eq!(checks.results()[0].fault.as_deref(), Some("the gateway is starting: wait"));
        assert_eq!(checks.set(vec![Check::ready("interface-eth0", None)]), []);
        let fault_after = |seconds| {
            let results = checks.results_at(Instant::now() + Duration::from_secs(seconds));
            assert_eq!(results.len(), 2);
            results[1].fault.clone()
        };
        assert_eq!(fault_after(9), None);
        assert_eq!(fault_after(3600).as_deref(), Some("the last look at the gateway was 3600 s ago: restart it"));
        let before = checks.set(vec![Check::ready("interface-eth0", Some("it is down".to_owned()))]);
        assert_eq!((before[0].fault.as_deref(), checks.results()[0].fault.as_deref()), (None, Some("it is down")));
    }
}
