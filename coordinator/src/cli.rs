//! The command line: serve, and everything an operator does to a server that runs.
//!
//! Client commands speak gRPC as any stranger would. Exit codes: 0 ok, 1 failed, 2 usage.
//! `--json` makes each command print JSON on stdout, one object a line, and errors as JSON on stderr.

mod audit;
mod bench;
mod consent;
mod dlq;
mod endpoint;
mod failure;
mod group;
mod json;
mod output;
mod receive;
mod repair;
mod send;
mod serve;
mod table;
mod text;
mod topic;
mod tx;

use clap::{Parser, Subcommand};
use failure::Failure;
use output::Output;
use std::process::ExitCode;

/// Coordinates transactional messages: nothing acknowledged is lost, nothing uncommitted is seen.
#[derive(Debug, Parser)]
#[command(name = "halfmq", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Print JSON, one object a line, instead of text for people
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator
    Serve(serve::Serve),
    /// Create, list, describe and delete topics
    Topic(topic::Topic),
    /// List, describe, configure and reset consumer groups
    Group(group::Group),
    /// Send one message without a transaction
    Send(send::Send),
    /// Receive messages, print them, then acknowledge them
    Receive(receive::Receive),
    /// Look at transactions and decide those in doubt
    Tx(tx::Tx),
    /// Look at dead letters, give them back to their group or forget them
    Dlq(dlq::Dlq),
    /// Account for every message, and compare with a service's database
    Audit(audit::Audit),
    /// Measure what this machine does with transactions
    Bench(bench::Bench),
    /// Look for damage in a data directory, and go on without what cannot be read
    Repair(repair::Repair),
}

/// Reads the command line, does what it says, and tells how that went.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version come this way too: clap knows where each belongs and its exit code.
        Err(error) => error.exit(),
    };
    let output = Output::new(arguments.json);
    match run(arguments.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.fail(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Of the server: one processor is left to the threads that write. More would only wake each other.
fn network_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() - 1).max(1))
}

fn run(command: Command, output: Output) -> Result<(), Failure> {
    let mut runtime = match command {
        Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        // Takes as little as it can from the server beside it: threads of its own only wake each other.
        Command::Bench(_)
        // One call after the other: threads would only cost start-up time.
        | Command::Topic(_)
        | Command::Group(_)
        | Command::Send(_)
        | Command::Receive(_)
        | Command::Tx(_)
        | Command::Dlq(_)
        | Command::Audit(_)
        | Command::Repair(_) => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.worker_threads(network_threads()).enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(async {
        match command {
            Command::Serve(serve) => serve.run(output).await,
            Command::Topic(topic) => topic.run(output).await,
            Command::Group(group) => group.run(output).await,
            Command::Send(send) => send.run(output).await,
            Command::Receive(receive) => receive.run(output).await,
            Command::Tx(tx) => tx.run(output).await,
            Command::Dlq(dlq) => dlq.run(output).await,
            Command::Audit(audit) => audit.run(output).await,
            Command::Bench(bench) => bench.run(output).await,
            Command::Repair(repair) => repair.run(output),
        }
    })
}

#[cfg(test)]
mod tests;
