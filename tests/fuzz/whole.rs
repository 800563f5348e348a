//! Reads a DNS message from its first byte to its last by the library `domain`, apart from the gateway's code.

use domain::base::iana::Rtype;
use domain::base::{Message, ParsedRecord};
use domain::rdata::AllRecordData;

/// What a message has.
pub(crate) struct Whole {
    /// Where its question ends.
    pub(crate) question: usize,
    /// Its OPT records.
    pub(crate) opts: usize,
}

/// Panics, with `shown`, if a name, a record or its data cannot be read, or bytes follow the last record.
pub(crate) fn read_whole(message: &[u8], shown: impl Fn() -> String) -> Whole {
    let parsed = Message::from_slice(message).expect("a header");
    let mut section = parsed.question();
    for question in &mut section {
        let _ = question.unwrap_or_else(|error| panic!("{error}: {}", shown()));
    }
    let mut whole = Whole { question: section.pos(), opts: 0 };
    let mut next = Some(section.answer().expect("counted"));
    let mut end = 0;
    while let Some(mut section) = next {
        for record in &mut section {
            let record: ParsedRecord<'_, [u8]> = record.unwrap_or_else(|error| panic!("{error}: {}", shown()));
            whole.opts += usize::from(record.rtype() == Rtype::OPT);
            let data = record.to_any_record::<AllRecordData<_, _>>();
            let _ = data.unwrap_or_else(|error| panic!("{error}: {}", shown()));
        }
        end = section.pos();
        next = section.next_section().expect("counted");
    }
    assert_eq!(end, message.len(), "trailing bytes: {}", shown());
    whole
}
