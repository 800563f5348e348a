//! The lines of a description, and the fields that most kinds begin with.

use std::collections::BTreeMap;

use jiff::Zoned;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::super::text::{align, pairs};
use crate::admission::apply::LAST_APPLIED;

/// Longest annotation that stays on one line.
const MAX_ANNOTATION: usize = 140;

/// A date as kubectl writes it, which is RFC 1123's with a numeric zone.
const DATE: &str = "%a, %d %b %Y %H:%M:%S %z";

/// Go's zero time in that form: printed if an object has no date.
const NO_DATE: &str = "Mon, 01 Jan 0001 00:00:00 +0000";

/// Lines of cells. The cells of neighbouring lines are aligned, as Go's tabwriter does.
pub(super) struct Page {
    lines: Vec<Vec<String>>,
    now: Zoned,
}

impl Page {
    pub(super) fn new(now: &Zoned) -> Page {
        Page { lines: Vec::new(), now: now.clone() }
    }

    /// All lines. Text from an object may break lines and cells, but it contains no terminal control sequence.
    pub(super) fn text(&self) -> String {
        align(&self.lines, 2)
    }

    pub(super) fn cells<const N: usize>(&mut self, cells: [&str; N]) {
        let text = cells.join("\t").replace('\x1b', "^[").replace('\r', "\\r");
        self.lines.extend(text.split('\n').map(|line| line.split('\t').map(str::to_owned).collect()));
    }

    pub(super) fn line(&mut self, label: &str, text: impl AsRef<str>) {
        self.cells([label, text.as_ref()]);
    }

    /// A line, if there is a text.
    pub(super) fn maybe(&mut self, label: &str, text: Option<&str>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.line(label, text);
        }
    }

    /// The first text beside the label, the others below it.
    pub(super) fn several(&mut self, label: &str, texts: Vec<String>) {
        if texts.is_empty() {
            return self.line(label, "<none>");
        }
        for (index, text) in texts.into_iter().enumerate() {
            self.line(if index == 0 { label } else { "" }, text);
        }
    }

    /// The first lines of most kinds.
    pub(super) fn identity(&mut self, metadata: &ObjectMeta) {
        self.name(metadata);
        self.line("Namespace:", metadata.namespace.as_deref().unwrap_or_default());
        self.labels(metadata);
    }

    pub(super) fn name(&mut self, metadata: &ObjectMeta) {
        self.line("Name:", metadata.name.as_deref().unwrap_or_default());
    }

    pub(super) fn labels(&mut self, metadata: &ObjectMeta) {
        self.several("Labels:", pairs(metadata.labels.as_ref()));
        self.several("Annotations:", annotations(metadata.annotations.as_ref()));
    }

    /// In the time zone of the reader.
    pub(super) fn date(&self, time: Option<&Time>) -> String {
        let local = |time: &Time| time.0.to_zoned(self.now.time_zone().clone()).strftime(DATE).to_string();
        time.map_or_else(|| NO_DATE.to_owned(), local)
    }
}

fn annotations(annotations: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| *key != LAST_APPLIED) {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if key.len() + value.len() + 2 <= MAX_ANNOTATION && !value.contains('\n') {
            lines.push(format!("{key}: {value}"));
            continue;
        }
        lines.push(format!("{key}:"));
        lines.extend(value.split('\n').map(|line| format!("  {}", shortened(line, MAX_ANNOTATION - 2))));
    }
    lines
}

/// At most `length` bytes of the text, cut between characters, and dots if it is longer.
fn shortened(text: &str, length: usize) -> String {
    match text.len() <= length {
        true => text.to_owned(),
        false => format!("{}...", &text[..text.floor_char_boundary(length)]),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::{Offset, TimeZone};

    use super::*;

    #[test]
    fn dates_are_in_the_time_zone_of_the_reader() {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        let east = Page::new(&time.to_zoned(TimeZone::fixed(Offset::from_seconds(19_800).unwrap())));
        assert_eq!(east.date(Some(&Time(time))), "Wed, 15 Nov 2023 03:43:20 +0530");
        assert_eq!(east.date(None), NO_DATE);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("four", 4), "four");
        assert_eq!(shortened("fours", 4), "four...");
        assert_eq!(shortened("ééé", 3), "é...");
    }

    #[test]
    fn what_an_object_says_may_break_lines_and_cells() {
        let mut page = Page::new(&Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC));
        page.line("Long label:", "one\ttwo\nthree");
        page.line("Next:", "four");
        assert_eq!(page.text(), "Long label:  one  two\nthree\nNext:  four\n");
    }
}
