//! The one place that writes for people and scripts.
//!
//! `println!` is not used even here: it panics when the reader of a pipe goes away.

use super::failure::Failure;
use serde_json::Value;
use std::io::{self, Write};

/// How this command answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    format: Format,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Text,
    Json,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { format: if json { Format::Json } else { Format::Text } }
    }

    /// Whether a person reads along.
    pub(super) fn is_for_people(self) -> bool {
        matches!(self.format, Format::Text)
    }

    /// Prints the answer in the form that was asked for, and sees it off: a caller may settle what
    /// was printed only after this.
    pub(super) fn answer(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        let answer = match self.format {
            Format::Text => text(),
            Format::Json => json().to_string(),
        };
        write_line(io::stdout().lock(), &answer).map_err(Failure::Output)
    }

    /// Tells a person something beside the answer; programs do not want it.
    pub(super) fn note(self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Text => write_line(io::stderr().lock(), text).map_err(Failure::Output),
            Format::Json => Ok(()),
        }
    }

    /// Says why the command failed.
    pub(super) fn fail(self, failure: &Failure) {
        if let Failure::Output(error) = failure
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return;
        }
        let text = match self.format {
            Format::Text => failure.text(),
            Format::Json => failure.json().to_string(),
        };
        // Nobody is left to tell when stderr is gone; the exit code still says it.
        drop(write_line(io::stderr().lock(), &text));
    }
}

fn write_line(mut to: impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.trim_end_matches('\n').as_bytes())?;
    to.write_all(b"\n")?;
    to.flush()
}
