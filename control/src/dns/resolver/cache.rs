//! What upstreams have answered, for as long as they say; what they say was cut to half a minute ([`super::message`]).
//!
//! Answers and denials have a share each. A share has a bound of entries and of bytes; what was used least recently goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollgate_common::dns::records::rr;
use pollgate_common::dns::relay::{Record, Relayed};

use super::message::Question;

/// Entries of a share (as CoreDNS' `cache`).
const ENTRIES: usize = 9984;
/// Bytes of a share's records.
const BYTES: usize = 16 << 20;
/// How long it is remembered that no upstream gave an answer (RFC 9520 §3.2; CoreDNS has the same).
const FAILURE: Duration = Duration::from_secs(5);
/// How long an expired answer may serve (RFC 8767 §5).
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Time to live of an expired answer, seconds (RFC 8767 §4).
const STALE_TTL: u32 = 30;
/// What is left of its time when an answer that is used is asked for again: a tenth.
const PREFETCH: u32 = 10;

/// What the cache knows.
#[derive(Debug)]
pub(super) enum Found {
    /// An answer that still holds.
    Fresh {
        answer: Arc<Relayed>,
        /// Its age in seconds.
        age: u32,
        /// It is used, and should be asked for again.
        expires_soon: bool,
    },
    /// No upstream gave an answer a moment ago.
    Failure,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    keeps_stale: bool,
    answers: Share,
    denials: Share,
    failures: Share,
}

#[derive(Debug)]
struct Entry {
    /// `None`: a failure.
    answer: Option<Arc<Relayed>>,
    since: Instant,
    until: Instant,
    uses: u64,
    used: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Share {
    entries: HashMap<Question, Entry>,
    /// By use, the oldest first.
    order: BTreeMap<u64, Question>,
    next: u64,
    bytes: usize,
}

impl Cache {
    /// `keeps_stale`: expired answers stay until their room is needed.
    pub(super) fn new(keeps_stale: bool) -> Cache {
        Cache { keeps_stale, answers: Share::default(), denials: Share::default(), failures: Share::default() }
    }

    /// What is known about a question.
    pub(super) fn find(&mut self, question: &Question, now: Instant) -> Option<Found> {
        let has_failed = self.failures.used(question).is_some_and(|entry| now < entry.until);
        for share in [&mut self.answers, &mut self.denials] {
            let Some(entry) = share.used(question) else { continue };
            let Some(answer) = entry.answer.clone().filter(|_| now < entry.until) else { continue };
            let (left, whole) = (entry.until - now, entry.until - entry.since);
            let expires_soon = !has_failed && entry.uses > 1 && left * PREFETCH < whole;
            let age = u32::try_from((now - entry.since).as_secs()).unwrap_or(u32::MAX);
            return Some(Found::Fresh { answer, age, expires_soon });
        }
        has_failed.then_some(Found::Failure)
    }

    /// An answer that has expired.
    pub(super) fn stale(&mut self, question: &Question, now: Instant) -> Option<Arc<Relayed>> {
        let share =
            [&mut self.answers, &mut self.denials].into_iter().find(|share| share.entries.contains_key(question))?;
        let entry = share.used(question).filter(|entry| now < entry.until + STALE)?;
        entry.answer.as_deref().map(|answer| Arc::new(with_ttl(answer, STALE_TTL)))
    }

    /// Keeps an answer for as long as it says, or that there was none.
    pub(super) fn insert(&mut self, question: &Question, answer: Option<&Arc<Relayed>>, now: Instant) {
        let lifetime = answer.map_or(FAILURE, |answer| lifetime(answer, question.rtype));
        let entry = Entry {
            answer: answer.cloned(),
            since: now,
            until: now + lifetime,
            uses: 0,
            used: 0,
            bytes: question.name.len() + answer.map_or(0, |answer| size(answer)),
        };
        if answer.is_some() {
            // It may have been of another kind before.
            [&mut self.answers, &mut self.denials, &mut self.failures]
                .into_iter()
                .for_each(|share| share.remove(question));
        }
        let share = match answer {
            None => &mut self.failures,
            Some(answer) if answer.has(question.rtype) => &mut self.answers,
            Some(_) => &mut self.denials,
        };
        if !lifetime.is_zero() || self.keeps_stale {
            share.insert(question.clone(), entry);
        }
    }
}

impl Share {
    /// The entry, which counts as used now.
    fn used(&mut self, question: &Question) -> Option<&Entry> {
        let entry = self.entries.get_mut(question)?;
        self.next += 1;
        let slot = self.order.remove(&entry.used).unwrap_or_else(|| question.clone());
        self.order.insert(self.next, slot);
        (entry.used, entry.uses) = (self.next, entry.uses + 1);
        Some(entry)
    }

    fn insert(&mut self, question: Question, entry: Entry) {
        self.remove(&question);
        self.next += 1;
        self.bytes += entry.bytes;
        self.order.insert(self.next, question.clone());
        self.entries.insert(question, Entry { used: self.next, ..entry });
        while self.entries.len() > ENTRIES || self.bytes > BYTES {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.forget(&oldest);
        }
    }

    fn remove(&mut self, question: &Question) {
        if let Some(used) = self.entries.get(question).map(|entry| entry.used) {
            self.order.remove(&used);
            self.forget(question);
        }
    }

    fn forget(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            self.bytes -= entry.bytes;
        }
    }
}

fn size(answer: &Relayed) -> usize {
    let records = answer.answers.iter().chain(&answer.authority);
    records.map(|record| record.owner.len() + record.data.len() + size_of::<Record>()).sum()
}

/// The shortest time to live of the records; for a denial, what its SOA says (RFC 2308 §5). One without SOA is not kept.
fn lifetime(answer: &Relayed, rtype: u16) -> Duration {
    let ttls = answer.answers.iter().map(|record| record.ttl).min();
    let soa = answer.authority.iter().find(|record| record.rtype == rr::SOA);
    let minimum = soa.and_then(|soa| Some(soa.ttl.min(u32::from_be_bytes(*soa.data.last_chunk()?))));
    let seconds = match answer.has(rtype) {
        true => ttls.unwrap_or(0),
        false => minimum.unwrap_or(0).min(ttls.unwrap_or(u32::MAX)),
    };
    Duration::from_secs(seconds.into())
}

/// The answer with this time to live.
fn with_ttl(answer: &Relayed, ttl: u32) -> Relayed {
    let with = |records: &[Record]| records.iter().map(|record| Record { ttl, ..record.clone() }).collect();
    Relayed { rcode: answer.rcode, answers: with(&answer.answers), authority: with(&answer.authority) }
}

#[cfg(test)]
mod tests {
    use pollgate_common::dns::message::Rcode;

    use super::*;

    fn question(name: &str) -> Question {
        Question { zone: 0, name: name.as_bytes().into(), rtype: rr::A, dnssec_ok: false, checking_disabled: false }
    }

    fn record(rtype: u16, ttl: u32, len: usize) -> Record {
        Record { owner: Box::new([0]), rtype, ttl, data: vec![0; len].into() }
    }

    fn answer(ttls: &[u32]) -> Arc<Relayed> {
        let answers = ttls.iter().map(|ttl| record(rr::A, *ttl, 4)).collect();
        Arc::new(Relayed { rcode: Rcode::NoError, answers, authority: Vec::new() })
    }

    /// A denial whose SOA has this TTL and minimum.
    fn denial(ttl: u32, minimum: u8) -> Arc<Relayed> {
        let mut soa = record(rr::SOA, ttl, 24);
        soa.data[23] = minimum;
        Arc::new(Relayed { rcode: Rcode::NxDomain, answers: Vec::new(), authority: vec![soa] })
    }

    struct Bench {
        cache: Cache,
        start: Instant,
    }

    impl Bench {
        fn new(keeps_stale: bool) -> Bench {
            Bench { cache: Cache::new(keeps_stale), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn insert(&mut self, name: &str, answer: Option<&Arc<Relayed>>, millis: u64) {
            self.cache.insert(&question(name), answer, self.at(millis));
        }

        /// Its age in seconds and whether it expires soon; a failure is `None` inside.
        fn find(&mut self, name: &str, millis: u64) -> Option<Option<(u32, bool)>> {
            let at = self.at(millis);
            self.cache.find(&question(name), at).map(|found| match found {
                Found::Fresh { age, expires_soon, .. } => Some((age, expires_soon)),
                Found::Failure => None,
            })
        }
    }

    /// RFC 2181 §5.2 (the shortest of a set), RFC 2308 §5 (a denial as long as its SOA says), RFC 9520 §3.2 (failures).
    #[test]
    fn an_answer_holds_for_as_long_as_it_says() {
        let mut bench = Bench::new(false);
        bench.insert("two", Some(&answer(&[30, 20])), 0);
        bench.insert("zero", Some(&answer(&[0])), 0);
        bench.insert("denied", Some(&denial(30, 7)), 0);
        bench.insert("soa", Some(&denial(3, 7)), 0);
        bench.insert("failed", None, 0);
        let no_soa = Relayed { rcode: Rcode::NxDomain, answers: Vec::new(), authority: Vec::new() };
        bench.insert("bare", Some(&Arc::new(no_soa)), 0);
        for (name, seconds) in [("two", 20), ("denied", 7), ("soa", 3), ("failed", 5)] {
            assert!(bench.find(name, seconds * 1000 - 1).is_some(), "{name}");
            assert!(bench.find(name, seconds * 1000).is_none(), "{name}");
        }
        assert!(bench.find("zero", 0).is_none() && bench.find("bare", 0).is_none() && bench.find("none", 0).is_none());
        assert_eq!(bench.find("two", 2500), Some(Some((2, false))));
        let elsewhere = Question { zone: 1, ..question("two") };
        assert!(bench.cache.find(&elsewhere, bench.start).is_none(), "other servers may say something else");
    }

    #[test]
    fn one_that_is_used_is_asked_for_again_in_its_last_tenth() {
        let mut bench = Bench::new(false);
        bench.insert("www", Some(&answer(&[20])), 0);
        assert_eq!(bench.find("www", 19_000), Some(Some((19, false))), "the first use");
        assert_eq!(bench.find("www", 17_900), Some(Some((17, false))));
        assert_eq!(bench.find("www", 18_100), Some(Some((18, true))));
        bench.insert("www", None, 18_200);
        assert_eq!(bench.find("www", 18_300), Some(Some((18, false))), "not at once after a failure");
        bench.insert("www", Some(&answer(&[20])), 18_400);
        assert_eq!(bench.find("www", 20_000), Some(Some((1, false))), "a new one");
    }

    /// RFC 8767 §4 and §5: with a short time to live, and not for ever.
    #[test]
    fn an_expired_answer_stays_while_there_is_no_other() {
        let mut bench = Bench::new(true);
        bench.insert("www", Some(&answer(&[20])), 0);
        bench.insert("www", None, 30_000);
        assert_eq!(bench.find("www", 31_000), Some(None));
        let day = 24 * 3600 * 1000;
        for (millis, is_there) in [(31_000, true), (day + 19_999, true), (day + 20_000, false)] {
            let at = bench.at(millis);
            let stale = bench.cache.stale(&question("www"), at);
            assert_eq!(stale.map(|answer| answer.answers[0].ttl), is_there.then_some(STALE_TTL), "{millis}");
        }
        bench.insert("www", Some(&denial(20, 20)), 40_000);
        let at = bench.at(70_000);
        let stale = bench.cache.stale(&question("www"), at).expect("the denial");
        assert_eq!(stale.rcode, Rcode::NxDomain, "the newest");
    }

    #[test]
    fn a_flood_of_denials_displaces_no_answer_and_memory_is_bounded() {
        let mut bench = Bench::new(false);
        bench.insert("www", Some(&answer(&[30])), 0);
        for n in 0..ENTRIES + 100 {
            bench.insert(&format!("n{n}"), Some(&denial(30, 30)), 0);
        }
        assert!(bench.find("www", 1).is_some());
        assert_eq!(bench.cache.denials.entries.len(), ENTRIES);
        assert!(bench.find("n99", 1).is_none() && bench.find("n100", 1).is_some(), "the oldest go first");
        let large = Relayed { rcode: Rcode::NoError, answers: vec![record(rr::A, 30, 1 << 20)], authority: Vec::new() };
        let large = Arc::new(large);
        for n in 0..40 {
            bench.insert(&format!("large{n}"), Some(&large), 0);
            assert!(bench.find("www", 1).is_some(), "one that is used stays");
        }
        assert!(bench.cache.answers.bytes <= BYTES && bench.cache.answers.entries.len() == 16);
        let share = &bench.cache.answers;
        assert_eq!(share.entries.len(), share.order.len());
        assert_eq!(share.bytes, share.entries.values().map(|entry| entry.bytes).sum::<usize>());
    }
}
