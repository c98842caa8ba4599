//! Aligned columns for a person at a terminal.

use std::io::{self, Write};

/// Writes a head line and `rows` below each other, columns two spaces apart.
/// Control characters, which may come from a peer, are replaced.
///
/// # Errors
/// What the writer reports.
pub(crate) fn write<const N: usize>(
    out: &mut dyn Write,
    head: [&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let head = head.map(str::to_owned);
    let lines: Vec<[String; N]> = std::iter::once(&head)
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| clean(cell)))
        .collect();
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let cells = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// `text` with its control characters replaced.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_escapes_do_not_reach_the_terminal() {
        let rows = [
            ["a\u{1b}[2J".to_owned(), "b".to_owned()],
            ["äö".to_owned(), String::new()],
        ];
        let mut out = Vec::new();
        write(&mut out, ["x", "y"], &rows).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "x      y\na\u{fffd}[2J  b\näö\n"
        );
    }
}
