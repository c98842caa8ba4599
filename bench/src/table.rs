//! Aligned tables, the same for the terminal and for Markdown.

use std::fmt::{self, Write as _};

/// To which side of its column a cell keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names.
    Left,
    /// Numbers.
    Right,
}

/// A table: a head, and rows of as many cells.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns
            .iter()
            .map(|&(name, align)| (name.to_owned(), align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row at the end.
    ///
    /// # Panics
    /// When it does not have a cell for each column.
    pub(crate) fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(
            cells.len(),
            self.columns.len(),
            "a row of {cells:?} below {:?}",
            self.columns
        );
        self.rows.push(cells);
    }

    /// The table in Markdown, its source aligned as well.
    pub(crate) fn markdown(&self) -> String {
        let escape = |cell: &String| cell.replace('|', "\\|");
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(escape).collect())
            .collect();
        let heads: Vec<String> = self.columns.iter().map(|(name, _)| escape(name)).collect();
        // A rule needs three characters, and one more for the colon.
        let widths: Vec<usize> = widths(&heads, &rows).iter().map(|&n| n.max(4)).collect();
        let rules = widths
            .iter()
            .zip(&self.columns)
            .map(|(&width, (_, align))| match align {
                Align::Left => "-".repeat(width),
                Align::Right => format!("{}:", "-".repeat(width - 1)),
            });
        let mut text = String::new();
        let lines = std::iter::once(heads)
            .chain(std::iter::once(rules.collect()))
            .chain(rows);
        for line in lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {} |", self.cells(&line, &widths).join(" | "));
        }
        text
    }

    fn cells(&self, line: &[String], widths: &[usize]) -> Vec<String> {
        let cells = line.iter().zip(widths).zip(&self.columns);
        cells
            .map(|((cell, &width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let widths = widths(&heads, &self.rows);
        for line in std::iter::once(&heads).chain(&self.rows) {
            writeln!(f, "{}", self.cells(line, &widths).join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// The longest cell of each column, in characters.
fn widths(heads: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]);
        std::iter::once(&heads[column])
            .chain(cells)
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    (0..heads.len()).map(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("side", Align::Left), ("ns", Align::Right)]);
        table.row(["wheel", "2.81"]);
        table.row(["a|b", "1,234–5"]);
        table
    }

    #[test]
    fn columns_are_aligned_in_the_terminal() {
        let expected = "\
            side        ns\n\
            wheel     2.81\n\
            a|b    1,234–5\n";
        assert_eq!(table().to_string(), expected);
    }

    #[test]
    fn columns_are_aligned_in_markdown_and_bars_do_not_split_cells() {
        let expected = "\
            | side  |      ns |\n\
            | ----- | ------: |\n\
            | wheel |    2.81 |\n\
            | a\\|b  | 1,234–5 |\n";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    #[should_panic(expected = "a row of")]
    fn a_row_with_a_cell_too_few_is_refused() {
        table().row(["alone"]);
    }
}
