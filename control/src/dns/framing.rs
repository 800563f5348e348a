//! Messages in a stream: each behind its length in two bytes (RFC 1035 §4.2.2).

use pollgate_common::dns::message;

/// The longest query that is read. None needs more: a name, and EDNS options.
pub(super) const LONGEST_QUERY: usize = 4096;
/// Bytes of the length.
pub(super) const PREFIX: usize = 2;

/// The length of a message that no query has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadLength;

/// The first message of `received`, if it has come whole.
pub(super) fn first(received: &[u8]) -> Result<Option<&[u8]>, BadLength> {
    let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*prefix));
    match length {
        message::LEN..=LONGEST_QUERY => Ok(rest.get(..length)),
        _ => Err(BadLength),
    }
}

/// Appends `message` with its length to `out`.
pub(super) fn push(out: &mut Vec<u8>, message: &[u8]) {
    // Responses are cut to what the length can say.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(&message[..usize::from(length)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, &vec![7; length]);
        out
    }

    #[test]
    fn a_message_is_whole_once_its_last_byte_is_there() {
        let stream = [framed(12), framed(40)].concat();
        for end in 0..14 {
            assert_eq!(first(&stream[..end]), Ok(None), "{end} bytes");
        }
        for end in [14, 15, 16, stream.len()] {
            assert_eq!(first(&stream[..end]), Ok(Some(&[7; 12][..])), "{end} bytes");
        }
        assert_eq!(first(&stream[14..]), Ok(Some(&[7; 40][..])));
    }

    #[test]
    fn no_query_is_shorter_than_its_header_or_absurdly_long() {
        for length in [0, 1, 11, LONGEST_QUERY + 1, 65535] {
            assert_eq!(first(&framed(length)), Err(BadLength), "{length}");
            assert_eq!(first(&framed(length)[..2]), Err(BadLength), "as soon as its length is known");
        }
        assert!(matches!(first(&framed(LONGEST_QUERY)), Ok(Some(message)) if message.len() == LONGEST_QUERY));
    }
}
