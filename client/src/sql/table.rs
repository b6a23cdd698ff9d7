//! Names of tables: checked once, so that they may stand in statements.

use std::fmt;

/// Characters of one part of a name; with a suffix of ours it still fits every database.
const PART_CHARS_MAX: usize = 48;

/// A table, with or without its schema: `halfmq_outbox`, `shop.halfmq_outbox`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    parts: Vec<String>,
}

/// A table name that is not made of one or two plain words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no table name: use letters, digits and _, at most 48 of them, and one dot behind a schema")]
pub struct IllegalTableName(
    /// What was given.
    pub String,
);

impl TableName {
    /// Checks the name: one or two words of `A-Z a-z 0-9 _` that begin with no digit.
    pub fn new(name: &str) -> Result<Self, IllegalTableName> {
        let parts: Vec<String> = name.split('.').map(str::to_owned).collect();
        let legal = (1..=2).contains(&parts.len()) && parts.iter().all(|part| is_word(part));
        if legal { Ok(Self { parts }) } else { Err(IllegalTableName(name.to_owned())) }
    }

    /// A name that this crate chose.
    pub(super) fn own(name: &'static str) -> Self {
        Self::new(name).expect("names of this crate are legal")
    }

    /// The table beside it whose name ends like this.
    pub(super) fn beside(&self, suffix: &str) -> Self {
        let mut parts = self.parts.clone();
        if let Some(table) = parts.last_mut() {
            table.push_str(suffix);
        }
        Self { parts }
    }

    /// As it stands in a statement.
    pub(super) fn quoted(&self, quote: char) -> String {
        let parts: Vec<String> = self.parts.iter().map(|part| format!("{quote}{part}{quote}")).collect();
        parts.join(".")
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("."))
    }
}

fn is_word(part: &str) -> bool {
    let starts = part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let plain = part.chars().all(|next| next.is_ascii_alphanumeric() || next == '_');
    starts && plain && part.len() <= PART_CHARS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_words_become_part_of_a_statement() {
        for (name, legal) in [
            ("halfmq_outbox", true),
            ("shop.halfmq_outbox", true),
            ("_t1", true),
            ("", false),
            ("1t", false),
            ("a.b.c", false),
            ("a.", false),
            ("t; DROP TABLE orders", false),
            ("t\"", false),
            ("tä", false),
            (&"t".repeat(49), false),
        ] {
            assert_eq!(TableName::new(name).is_ok(), legal, "{name}");
        }
    }

    #[test]
    fn suffix_and_quotes_go_to_the_right_place() {
        let table = TableName::new("shop.log").expect("legal");
        assert_eq!(table.beside("_watermark").quoted('"'), "\"shop\".\"log_watermark\"");
    }
}
