//! Aligned columns for terminals.

use super::text;

/// Rows under a head. Columns that hold only numbers are set to the right.
pub(super) struct Table<const COLUMNS: usize> {
    head: [&'static str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

/// What stands between two columns.
const GAP: &str = "  ";

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(head: [&'static str; COLUMNS]) -> Self {
        Self { head, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| text::safe(&cell).replace(['\n', '\t'], " ")));
    }

    /// The whole table, or `empty` if it has no rows.
    pub(super) fn render(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            return empty.to_owned();
        }
        let head = self.head.map(str::to_owned);
        let columns: Vec<Column> = (0..COLUMNS).map(|index| self.column(index)).collect();
        let lines: Vec<String> =
            std::iter::once(&head).chain(&self.rows).map(|cells| line(&columns, cells)).collect();
        lines.join("\n")
    }

    fn column(&self, index: usize) -> Column {
        let cells = || self.rows.iter().filter_map(move |row| row.get(index));
        let head = self.head.get(index).map_or(0, |head| head.chars().count());
        Column {
            width: cells().map(|cell| cell.chars().count()).fold(head, usize::max),
            is_number: cells().all(|cell| !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit())),
        }
    }
}

struct Column {
    width: usize,
    is_number: bool,
}

fn line(columns: &[Column], cells: &[String]) -> String {
    let padded: Vec<String> = columns
        .iter()
        .zip(cells)
        .map(
            |(&Column { width, is_number }, cell)| {
                if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            },
        )
        .collect();
    padded.join(GAP).trim_end().to_owned()
}

/// Facts one below the other: names on the left, values on the right.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = facts
        .iter()
        .map(|(name, value)| {
            let value = text::safe(value).replace(['\n', '\t'], " ");
            format!("{name:<width$}{GAP}{value}").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let mut table = Table::new(["TOPIC", "QUEUES", "NOTE"]);
        for [topic, queues, note] in [["orders", "4", "é"], ["a", "16", ""], ["evil\u{1b}[2J\nx", "1", "-"]]
        {
            table.row([topic.to_owned(), queues.to_owned(), note.to_owned()]);
        }
        let expected = [
            r"TOPIC            QUEUES  NOTE",
            r"orders                4  é",
            r"a                    16",
            r"evil\u{1b}[2J x       1  -",
        ];
        assert_eq!(table.render("none"), expected.join("\n"));
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(["TOPIC"]).render("No topics."), "No topics.");
    }

    #[test]
    fn facts_stand_below_each_other() {
        let text = facts(&[("a", "1".to_owned()), ("long", "2".to_owned())]);
        assert_eq!(text, "a     1\nlong  2");
    }
}
