//! The target of messages of DNS servers: whatever comes instead of a response, what a client gets of it is a sound response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pollgate_common::dns::message::{Edns, Query, upstream_query};
use pollgate_common::dns::name::{Seed, to_wire};
use pollgate_common::dns::relay::{Relayed, relay};

use super::cache::{Cache, Found};
use super::message::{Question, Response, read};
use crate::fuzz::choices::Choices;
use crate::fuzz::whole::read_whole;

const NAME: &str = "www.example.org";
const ID: u16 = 0x0102;
/// Room for a response: over TCP, over UDP, and too little.
const ROOM: [usize; 3] = [65_535, 1232, 100];

/// The target: a message as it is, or one made of records.
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let head = choices.byte();
    let question = Question {
        zone: 0,
        name: to_wire(NAME).expect("a name"),
        rtype: choices.of_list(&[1, 28, 5, 33, 255, 16, 6]),
        dnssec_ok: head & 2 == 0,
        checking_disabled: false,
    };
    let message = if head & 1 == 0 { choices.rest().to_vec() } else { message(&question, &mut choices) };
    let (mut cache, now) = (Cache::new(head & 4 == 0), Instant::now());
    match read(&message, ID, &question) {
        Response::Answer(answer) => {
            let answer = Arc::new(answer);
            cache.insert(&question, Some(&answer), now);
            relays(&question, &answer, 0);
            let later = now + Duration::from_secs(7);
            if let Some(Found::Fresh { answer, age, .. }) = cache.find(&question, later) {
                relays(&question, &answer, age);
            }
            if let Some(answer) = cache.stale(&question, now + Duration::from_secs(60)) {
                relays(&question, &answer, 0);
            }
        }
        Response::Truncated | Response::Error(_) | Response::Malformed | Response::Bogus => {
            cache.insert(&question, None, now);
            assert!(matches!(cache.find(&question, now), Some(Found::Failure)));
        }
    }
}

/// Writes the answer as a response to a client, and reads it by the library `domain`.
fn relays(question: &Question, answer: &Relayed, age: u32) {
    let edns = Edns::Opt { dnssec_ok: question.dnssec_ok };
    for room in ROOM {
        let mut buffer = upstream_query(ID, &question.name, question.rtype, false, edns);
        let length = buffer.len();
        let mut query = Query { can_forward: true, ..Query::default() };
        query.read(&buffer, length, Seed::random()).expect("a query");
        buffer.resize(room.max(length), 0xff);
        let Ok(answered) = relay(&query, &mut buffer, &[], answer, age) else {
            assert!(room < 512, "{room} bytes are room enough");
            continue;
        };
        buffer.truncate(answered.len);
        read_whole(&buffer, || format!("{buffer:02x?}"));
    }
}

fn message(question: &Question, choices: &mut Choices<'_>) -> Vec<u8> {
    let flags = if choices.one_in(8) { choices.half() } else { 0x8180 | choices.of_list(&[0, 0, 0, 3]) };
    let counts = [choices.below(5), choices.below(3), choices.below(3)];
    let mut bytes = [ID.to_be_bytes(), flags.to_be_bytes(), [0, 1]].concat();
    for count in counts {
        bytes.extend([0, u8::try_from(count).expect("few")]);
    }
    bytes.extend(&question.name);
    bytes.extend([question.rtype.to_be_bytes(), [0, 1]].concat());
    for _ in 0..counts.iter().sum() {
        record(&mut bytes, choices);
    }
    if choices.one_in(6) {
        let at = usize::from(choices.half()) % bytes.len();
        bytes[at] = choices.byte();
    }
    if choices.one_in(10) {
        bytes.truncate(usize::from(choices.half()) % bytes.len());
    }
    bytes
}

fn record(bytes: &mut Vec<u8>, choices: &mut Choices<'_>) {
    name(bytes, choices);
    let rtype: u16 = choices.of_list(&[1, 28, 5, 6, 2, 12, 15, 16, 33, 41, 43, 46, 47, 257, 65_280]);
    let class: u16 = if choices.one_in(12) { choices.half() } else { 1 };
    let ttl: u32 = choices.of_list(&[0, 1, 20, 300, u32::MAX, 1 << 31]);
    bytes.extend([rtype.to_be_bytes(), class.to_be_bytes()].concat());
    bytes.extend(ttl.to_be_bytes());
    let mut data = Vec::new();
    match rtype {
        1 => data.extend([192, 0, 2, choices.byte()]),
        28 => data.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, choices.byte()]),
        2 | 5 | 12 => name(&mut data, choices),
        6 => {
            name(&mut data, choices);
            name(&mut data, choices);
            data.extend([1; 20]);
        }
        15 | 33 => {
            data.extend(vec![0; if rtype == 15 { 2 } else { 6 }]);
            name(&mut data, choices);
        }
        16 => data.extend([&[5][..], b"hello"].concat()),
        _ => data.extend(choices.bytes(24)),
    }
    if choices.one_in(10) {
        data.extend(choices.bytes(4));
    }
    let length = if choices.one_in(16) { choices.half() } else { u16::try_from(data.len()).expect("short") };
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
}

/// A name: the question's, by a pointer; one with a pointer anywhere; or labels.
fn name(bytes: &mut Vec<u8>, choices: &mut Choices<'_>) {
    match choices.below(6) {
        0..=2 => bytes.extend([0xc0, 12]),
        3 => bytes.extend([0xc0 | choices.byte() & 0x3f, choices.byte()]),
        4 => bytes.extend(b"\x05other\x07example\x03org\0"),
        _ => {
            for _ in 0..choices.below(6) {
                let most = 1 + choices.below(63);
                let label = choices.bytes(most);
                bytes.push(u8::try_from(label.len()).expect("short"));
                bytes.extend(label);
            }
            if !choices.one_in(8) {
                bytes.push(0);
            }
        }
    }
}
