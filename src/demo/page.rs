//! The output of the demo: chapters, sentences, tables, and one line per check.
//!
//! Plain text, at most 100 columns, so that it can be read on a serial console and quoted in a mail; colour only where a
//! terminal shows it and `NO_COLOR` (no-color.org) does not forbid it. A check that does not hold is printed where it
//! happened and once more at the end, for a reader who did not scroll back.

use std::fmt::{Debug, Display};
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Columns of a line, the margin included.
const WIDTH: usize = 100;
/// Before everything but titles.
const MARGIN: &str = "  ";

/// What was found instead of what should be.
pub(super) type Checked = Result<(), String>;

/// The page being written.
pub(super) struct Page {
    out: Box<dyn Write>,
    colours: bool,
    chapters: usize,
    checks: usize,
    wrong: Vec<String>,
    unwritten: Option<io::Error>,
    /// Whether the last line is empty, to avoid a second one.
    spaced: bool,
}

#[derive(Clone, Copy)]
enum Colour {
    Title,
    Good,
    Bad,
    Command,
}

impl Page {
    /// On standard output.
    pub(super) fn stdout() -> Page {
        let stdout = io::stdout();
        let colours = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Page::new(Box::new(stdout), colours)
    }

    fn new(out: Box<dyn Write>, colours: bool) -> Page {
        Page { out, colours, chapters: 0, checks: 0, wrong: Vec::new(), unwritten: None, spaced: true }
    }

    /// Begins a chapter.
    pub(super) fn chapter(&mut self, title: &str) {
        self.chapters += 1;
        let line = self.coloured(Colour::Title, &format!("{}. {title}", self.chapters));
        self.space();
        self.line(&line);
    }

    /// A paragraph, wrapped.
    pub(super) fn say(&mut self, text: &str) {
        for line in wrapped(text, WIDTH - MARGIN.len()) {
            self.line(&format!("{MARGIN}{line}"));
        }
    }

    /// Lines as they are, between two empty ones.
    pub(super) fn show(&mut self, lines: &str) {
        self.space();
        self.indented(lines);
        self.space();
    }

    /// A command and what it printed, from the first column on: its tables may need all of the width.
    pub(super) fn command(&mut self, line: &str, printed: &str) {
        let command = self.coloured(Colour::Command, &format!("$ {line}"));
        self.space();
        self.line(&command);
        printed.lines().for_each(|line| self.line(line.trim_end()));
        self.space();
    }

    /// Prints that a check passed, or what was found instead.
    pub(super) fn check(&mut self, what: &str, found: Checked) {
        self.checks += 1;
        let (mark, text) = match found {
            Ok(()) => (self.coloured(Colour::Good, "ok   "), what.to_owned()),
            Err(found) => {
                let text = format!("{what}: {found}");
                self.wrong.push(text.clone());
                (self.coloured(Colour::Bad, "WRONG"), text)
            }
        };
        let mut lines = wrapped(&text, WIDTH - MARGIN.len() - 7).into_iter();
        self.line(&format!("{MARGIN}{mark}  {}", lines.next().unwrap_or_default()));
        lines.for_each(|line| self.line(&format!("{MARGIN}       {line}")));
    }

    /// How many checks there were.
    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    /// What was not as it should be.
    pub(super) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// Why some of it was not written; a reader who had seen enough (`| head`) is no fault.
    pub(super) fn unwritten(&mut self) -> Option<io::Error> {
        self.unwritten.take().filter(|error| error.kind() != ErrorKind::BrokenPipe)
    }

    fn indented(&mut self, lines: &str) {
        lines.lines().for_each(|line| self.line(format!("{MARGIN}{line}").trim_end()));
    }

    fn space(&mut self) {
        if !self.spaced {
            self.line("");
        }
    }

    /// If nothing can be printed any more, the demo continues: its exit code is the result.
    fn line(&mut self, text: &str) {
        self.spaced = text.is_empty();
        if let Err(error) = writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            self.unwritten.get_or_insert(error);
        }
    }

    fn coloured(&self, colour: Colour, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Title => "1",
            Colour::Good => "32",
            Colour::Bad => "1;31",
            Colour::Command => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether two values are the same, and if not, what they are.
pub(super) fn same<T: PartialEq + Debug>(found: &T, expected: &T) -> Checked {
    if found == expected { Ok(()) } else { Err(format!("expected {expected:?}, found {found:?}")) }
}

/// Lines of cells as a table, two spaces between the columns.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

/// A row of a table.
pub(super) fn row<const N: usize>(cells: [&dyn Display; N]) -> [String; N] {
    cells.map(|cell| cell.to_string())
}

/// Text as lines of at most `width` characters, broken at spaces; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed(ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(colours: bool, write: impl FnOnce(&mut Page)) -> String {
        let paper = Paper::default();
        let mut page = Page::new(Box::new(paper.clone()), colours);
        write(&mut page);
        let bytes = paper.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_stay_within_the_width() {
        let text = written(false, |page| {
            page.chapter("The title");
            page.say(&"word ".repeat(100));
            page.check(&"claim ".repeat(100), same(&1, &2));
        });
        assert!(text.lines().all(|line| line.len() <= WIDTH && line.trim_end() == line), "{text}");
        assert_eq!(text.matches("word").count(), 100);
        assert!(text.starts_with("1. The title\n  word"), "{text}");
    }

    #[test]
    fn there_is_never_more_than_one_empty_line() {
        let text = written(false, |page| {
            page.say("first");
            page.show("a table");
            page.command("ls", "nothing\n");
            page.chapter("Next");
        });
        assert_eq!(text, "  first\n\n  a table\n\n$ ls\nnothing\n\n1. Next\n");
    }

    #[test]
    fn a_check_that_fails_is_remembered_with_what_was_found() {
        let mut page = Page::new(Box::new(io::sink()), false);
        page.check("two is two", same(&2, &2));
        page.check("one is two", same(&1, &2));
        assert_eq!(page.checks(), 2);
        assert_eq!(page.wrong(), ["one is two: expected 2, found 1"]);
    }

    #[test]
    fn colour_is_for_terminals() {
        let write = |page: &mut Page| {
            page.chapter("Title");
            page.check("it holds", Ok(()));
            page.check("it does not", Err("no".to_owned()));
        };
        assert!(!written(false, write).contains('\x1b'));
        let coloured = written(true, write);
        assert!(coloured.contains("\x1b[32mok   \x1b[0m  it holds"), "{coloured:?}");
        assert!(coloured.contains("\x1b[1;31mWRONG\x1b[0m  it does not: no"), "{coloured:?}");
    }

    #[test]
    fn a_reader_who_left_is_no_fault_and_a_full_disk_is() {
        let left = |kind| {
            let mut page = Page::new(Box::new(Closed(kind)), false);
            page.say("something");
            page.unwritten().map(|error| error.kind())
        };
        assert_eq!(left(ErrorKind::BrokenPipe), None);
        assert_eq!(left(ErrorKind::StorageFull), Some(ErrorKind::StorageFull));
    }

    #[test]
    fn a_table_has_columns() {
        let text = table(&[row([&"POD", &"IP"]), row([&"a-long-one", &1]), row([&"b", &""])]);
        assert_eq!(text, "POD         IP\na-long-one  1\nb\n");
    }
}
