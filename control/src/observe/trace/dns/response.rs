//! The response, read by the `domain` crate from the whole message: compressed names need all of it.

use domain::base::{Message, ParsedName, ToName};
use domain::rdata::AllRecordData;

use super::super::RecordItem;

/// The records of its answer section; `None` if it cannot be read.
pub(super) fn answers(message: &[u8]) -> Option<Vec<RecordItem>> {
    let message = Message::from_octets(message).ok()?;
    let records = message.answer().ok()?.into_records::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
    let item = |record: domain::base::Record<_, AllRecordData<&[u8], ParsedName<&[u8]>>>| RecordItem {
        rtype: record.rtype().to_string(),
        ttl: record.ttl().as_secs(),
        data: text(record.data()),
    };
    records.map(|record| record.ok().map(item)).collect()
}

/// As in a zone file, names with their final dot.
fn text(data: &AllRecordData<&[u8], ParsedName<&[u8]>>) -> String {
    match data {
        AllRecordData::Srv(srv) => {
            format!("{} {} {} {}", srv.priority(), srv.weight(), srv.port(), srv.target().fmt_with_dot())
        }
        other => other.to_string(),
    }
}
