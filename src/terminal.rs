//! Output in which no control character reaches a terminal.
//!
//! Whoever may write an object writes some of what an operator's terminal shows. A terminal acts on control characters: C0 (below
//! 0x20), DEL, and C1 (U+0080 to U+009F), the second half of which are escape sequences in one character. Everything that a command
//! prints goes through here, so no printer can forget it. They are written as JSON writes them (`\u001b`), because the output may
//! be JSON; newline and tab stay.

use std::fmt;
use std::io::{self, Stderr, Write};

/// The first byte of U+0080 to U+00BF in UTF-8.
const LEAD: u8 = 0xc2;

/// A writer of UTF-8 text without control characters.
#[derive(Debug)]
pub struct Plain<W> {
    inner: W,
    /// Whether the last byte was a [`LEAD`], which is written with the next one.
    leads: bool,
}

impl<W: Write> Plain<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, leads: false }
    }
}

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut plain = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            let leads = std::mem::take(&mut self.leads);
            match byte {
                LEAD => self.leads = true,
                0x80..=0x9f if leads => write!(plain, "\\u00{byte:02x}")?,
                b'\n' | b'\t' => plain.push(byte),
                0..0x20 | 0x7f => write!(plain, "\\u00{byte:02x}")?,
                _ if leads => plain.extend([LEAD, byte]),
                _ => plain.push(byte),
            }
        }
        self.inner.write_all(&plain)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Standard error, for messages.
pub(crate) fn stderr() -> Plain<Stderr> {
    Plain::new(io::stderr())
}

/// A text without control characters.
pub(crate) struct PlainText<'a>(pub(crate) &'a str);

impl fmt::Display for PlainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = Vec::new();
        // Writing to memory does not fail, and what was UTF-8 still is.
        let _ = Plain::new(&mut plain).write(self.0.as_bytes());
        f.write_str(&String::from_utf8_lossy(&plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str, pieces: usize) -> String {
        let mut out = Vec::new();
        let mut writer = Plain::new(&mut out);
        text.as_bytes().chunks(pieces).for_each(|piece| writer.write_all(piece).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn control_characters_are_shown_and_everything_else_stays() {
        let all: String = (0..0x300).filter_map(char::from_u32).chain("€\u{10ffff}😀".chars()).collect();
        let shown = |c: char| match c {
            '\n' | '\t' => c.to_string(),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        let expected: String = all.chars().map(shown).collect();
        for pieces in [1, 2, 3, 7, 10_000] {
            assert_eq!(plain(&all, pieces), expected);
        }
        assert_eq!(PlainText("a\u{1b}[2J\u{9b}b").to_string(), "a\\u001b[2J\\u009bb");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"a": "\u{1b}\u{7f}\u{9b}\u{85}\n\t"});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&plain(&value.to_string(), 1000)).unwrap(), value);
    }
}
