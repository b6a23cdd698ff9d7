//! The one binary, `halfmq`.

use std::process::ExitCode;

/// What one thread takes another mostly gives back, which costs the usual allocator a fifth of the server's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    halfmq_coordinator::cli::main()
}
