//! The two formats of the page, and which of them a client asks for.

use std::fmt::Write;

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// As in `Content-Type`.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format of an `Accept` header (RFC 9110 §12.5.1): OpenMetrics for those who prefer it to text, Prometheus' for all others.
    pub fn accepted(accept: &str) -> Format {
        let (mut open, mut plain) = (0, 0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(String, &str)> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
                .collect();
            let parameter = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
            let quality = quality(parameter("q"));
            match (media.as_str(), parameter("version")) {
                ("application/openmetrics-text", None | Some("0.0.1" | "1.0.0")) => open = open.max(quality),
                ("text/plain", None | Some("0.0.4")) => plain = plain.max(quality),
                _ => {}
            }
        }
        if open > 0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
    }
}

/// In thousandths.
fn quality(value: Option<&str>) -> u32 {
    let Some(value) = value else { return 1000 };
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = format!("{fraction:0<3}");
    let thousandths = digits.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    match whole {
        "1" => 1000,
        "0" => thousandths,
        _ => 0,
    }
}

/// The same page in Prometheus' text format: there, a counter's name has its suffix everywhere, and there are no units, no information
/// metrics and no end.
pub(super) fn from_open_metrics(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page);
    let mut text = String::with_capacity(page.len());
    let mut help = "";
    for line in page.lines() {
        // Writing to a String cannot fail.
        let _ = match line.strip_prefix("# ").map(|rest| rest.split_once(' ').unwrap_or((rest, ""))) {
            None => writeln!(text, "{line}"),
            // The type follows, and decides the name.
            Some(("HELP", rest)) => {
                help = rest.split_once(' ').map_or("", |(_, help)| help);
                Ok(())
            }
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}")
            }
            // UNIT and EOF.
            Some(_) => Ok(()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_prefers_open_metrics_gets_it() {
        // Prometheus 2.42, Prometheus 3, curl, a browser, a health checker.
        let open = Format::OpenMetrics;
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                open,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                open,
            ),
            ("application/openmetrics-text; version=\"1.0.0\"", open),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Prometheus),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;version=9.0.0", Format::Prometheus),
            ("application/openmetrics-text;q=x", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn the_older_format_names_counters_in_full() {
        let page = "# HELP a Help, with # and TYPE.\n# TYPE a counter\n# UNIT a bytes\na_total{x=\"# y\"} 1\n\
                    # HELP b B.\n# TYPE b info\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 2\n# EOF\n";
        let text = "# HELP a_total Help, with # and TYPE.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n\
                    # HELP b_info B.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 2\n";
        assert_eq!(from_open_metrics(page.as_bytes()), text);
    }
}
