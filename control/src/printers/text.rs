//! Text that tables and descriptions have in common: ages, joined lists, aligned columns.

use jiff::Timestamp;

/// `a,b,c + 2 more...`: at most three, as kubectl shows endpoints and ports.
pub(super) const SHOWN: usize = 3;

/// The age of an object as kubectl writes it; `<unknown>` if the time of creation is unknown.
pub(super) fn age(created: Option<Timestamp>, now: Timestamp) -> String {
    created.map_or_else(|| "<unknown>".to_owned(), |created| human_duration(now.as_second() - created.as_second()))
}

/// `45s`, `3m20s`, `15m`, `3h20m`, `2d4h`, `100d`, `2y40d`, `9y` (apimachinery `duration.HumanDuration`).
fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days, years) = (seconds / 60, seconds / 3600, seconds / 86_400, seconds / (86_400 * 365));
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        small => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if years < 8 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// Lines of cells, the cells of neighbouring lines below each other: a column is as wide as its widest cell and `padding` more, and
/// ends where a line has no cell in it, as in Go's tabwriter. The last cell of a line is not padded.
pub(crate) fn align(lines: &[Vec<String>], padding: usize) -> String {
    let widths = column_widths(lines, padding);
    lines.iter().zip(widths).map(|(line, widths)| padded(line, &widths)).collect()
}

/// The same without the blanks at the ends of lines, columns three apart.
pub(crate) fn columns(lines: &[Vec<String>]) -> String {
    align(lines, 3).lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Lines of as many cells each, below lines whose columns were as wide as `widths` says: no column gets narrower.
pub fn align_after(lines: &[Vec<String>], padding: usize, widths: &mut Vec<usize>) -> String {
    for now in column_widths(lines, padding) {
        widths.resize(now.len().max(widths.len()), 0);
        widths.iter_mut().zip(now).for_each(|(width, now)| *width = now.max(*width));
    }
    lines.iter().map(|line| padded(line, &widths[..line.len().saturating_sub(1)])).collect()
}

/// A line whose first cells are as wide as `widths` says.
fn padded(line: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (column, cell) in line.iter().enumerate() {
        text.push_str(cell);
        if let Some(width) = widths.get(column) {
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
    }
    text.push('\n');
    text
}

/// Of each line, the widths of all cells but the last.
fn column_widths(lines: &[Vec<String>], padding: usize) -> Vec<Vec<usize>> {
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len().saturating_sub(1)]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or_default();
    for column in 0..columns {
        let mut start = 0;
        for block in lines.chunk_by(|a, b| (a.len() > column + 1) == (b.len() > column + 1)) {
            let cells = block.iter().filter(|line| line.len() > column + 1).map(|line| line[column].chars().count());
            let width = cells.max().unwrap_or_default() + padding;
            let own = widths[start..start + block.len()].iter_mut();
            own.filter_map(|widths| widths.get_mut(column)).for_each(|own| *own = width);
            start += block.len();
        }
    }
    widths
}

/// `k=v` pairs in order.
pub(super) fn pairs(map: Option<&std::collections::BTreeMap<String, String>>) -> Vec<String> {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect()
}

/// Joined, or a word for nothing.
pub(super) fn joined(items: &[String], nothing: &str) -> String {
    match items.is_empty() {
        true => nothing.to_owned(),
        false => items.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (12_000, "3h20m"),
            (3 * 3600, "3h"),
            (30_000, "8h"),
            (172_800, "2d"),
            (187_200, "2d4h"),
            (700_000, "8d"),
            (86_400 * 800, "2y70d"),
            (86_400 * 365 * 9, "9y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
        assert_eq!(age(None, Timestamp::UNIX_EPOCH), "<unknown>");
    }

    #[test]
    fn the_last_cell_is_not_padded() {
        let line = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let text = align(&[line(&["NAME", "AGE"]), line(&["a-long-name", "5s"]), line(&["é", "1d"])], 3);
        assert_eq!(text, "NAME          AGE\na-long-name   5s\né             1d\n");
        let mut widths = Vec::new();
        align_after(&[line(&["NAME", "AGE"])], 3, &mut widths);
        assert_eq!(align_after(&[line(&["a", "1d"])], 3, &mut widths), "a      1d\n");
        assert_eq!(align_after(&[line(&["longer", "1d"])], 3, &mut widths), "longer   1d\n");
        assert_eq!(align_after(&[line(&["b", "1d"])], 3, &mut widths), "b        1d\n");
        let text = align(&[line(&["long:", "1"]), line(&["Apart"]), line(&["a", "b", "c"]), line(&["d", "e"])], 1);
        assert_eq!(text, "long: 1\nApart\na b c\nd e\n");
    }
}
