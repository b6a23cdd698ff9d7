//! Asking a person before something is lost.

use super::failure::Failure;
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks on the terminal. Without one nothing is done: a script has to say `--yes`.
pub(super) fn obtain(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "{question}\n  nothing was changed; without a terminal to ask on, say --yes"
        )));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).map_err(Failure::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::Input)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Partly("nothing was changed".to_owned())),
    }
}
