//! The one binary, `halfmq`.

use std::process::ExitCode;

fn main() -> ExitCode {
    halfmq_coordinator::cli::main()
}
