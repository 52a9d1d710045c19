//! Columns that line up.

/// How a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under headings, two spaces between columns, no trailing spaces. A column whose cells are all empty is left out.
pub(super) fn table(headings: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let columns: Vec<(usize, usize)> = (0..headings.len())
        .filter(|column| rows.iter().any(|row| !cell(row, *column).is_empty()))
        .map(|column| {
            let widest = rows.iter().map(|row| width(&cell(row, column))).max().unwrap_or(0);
            (column, widest.max(width(headings[column].0)))
        })
        .collect();
    let line = |cells: &dyn Fn(usize) -> String| {
        let padded: Vec<String> =
            columns.iter().map(|(column, wide)| pad(&cells(*column), *wide, headings[*column].1)).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&|column| headings[column].0.to_owned());
    for row in rows {
        text += &line(&|column| cell(row, column));
    }
    text
}

/// Labels and values in two columns, the values lined up; a value of several lines goes on below itself.
pub(super) fn fields(indent: usize, entries: &[(&str, String)]) -> String {
    let widest = entries.iter().map(|(label, _)| width(label)).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
        for (at, line) in value.lines().enumerate() {
            let label = pad(if at == 0 { label } else { "" }, widest, Align::Left);
            let full = format!("{:indent$}{label}  {line}", "");
            text += full.trim_end();
            text.push('\n');
        }
    }
    text
}

fn pad(text: &str, wide: usize, align: Align) -> String {
    let spaces = " ".repeat(wide.saturating_sub(width(text)));
    match align {
        Align::Left => format!("{text}{spaces}"),
        Align::Right => format!("{spaces}{text}"),
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let rows =
            [vec!["a".to_owned(), String::new(), "7".to_owned()], vec!["größer".into(), String::new(), "12345".into()]];
        let text = table(&[("NAME", Align::Left), ("NOTE", Align::Left), ("SIZE", Align::Right)], &rows);
        assert_eq!(text, "NAME     SIZE\na           7\ngrößer  12345\n");
    }

    #[test]
    fn fields_line_up_and_empty_ones_are_left_out() {
        let entries = [("id", "1".to_owned()), ("error", String::new()), ("label", "x\ny".to_owned())];
        assert_eq!(fields(2, &entries), "  id     1\n  label  x\n         y\n");
    }
}
