//! Protobuf's encoding: tagged numbers and byte strings.

/// A value as it stands in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes one field off the front: its number and value. `None` for the wire types that no message here uses.
pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Option<Wire<'a>>), String> {
    let tag = varint(bytes)?;
    let wire = match tag & 7 {
        0 => Some(Wire::Number(varint(bytes)?)),
        1 => {
            take(bytes, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).unwrap_or(usize::MAX);
            Some(Wire::Bytes(take(bytes, length)?))
        }
        5 => {
            take(bytes, 4)?;
            None
        }
        other => return Err(format!("wire type {other} does not exist")),
    };
    Ok((tag >> 3, wire))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (value, rest) = bytes.split_at_checked(length).ok_or("it is truncated")?;
    *bytes = rest;
    Ok(value)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it is truncated")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".to_owned())
}

/// Appends a number.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

/// Appends bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_head(out, number, value.len());
    out.extend_from_slice(value);
}

/// Appends what stands before `length` bytes.
pub(super) fn put_head(out: &mut Vec<u8>, number: u64, length: usize) {
    put_varint(out, number << 3 | 2);
    put_varint(out, length as u64);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f).to_le_bytes()[0];
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, 5, value);
            put_bytes(&mut out, 1000, b"text");
            let mut bytes = &out[..];
            assert_eq!(field(&mut bytes), Ok((5, Some(Wire::Number(value)))));
            assert_eq!(field(&mut bytes), Ok((1000, Some(Wire::Bytes(b"text")))));
            assert!(bytes.is_empty());
        }
        for (bytes, expected) in [
            (&[1 << 3 | 2, 100][..], "it is truncated"),
            (&[1 << 3 | 1, 0], "it is truncated"),
            (&[0xff; 11], "a number is too long"),
            (&[1 << 3 | 3], "wire type 3 does not exist"),
        ] {
            assert_eq!(field(&mut &bytes[..]), Err(expected.to_owned()));
        }
    }
}
