//! A shop that sells through disasters.
//!
//! ```text
//! customers ──► order service ×2 ──half message, commit──► coordinator ──► cart service   ──► cart.db
//!                    │   ▲                                      │    └───► points service ──► points.db
//!                    ▼   └────────── check: what became of it? ─┘
//!                 shop.db
//! ```
//! Every box is a process. While customers order, each of them is killed at the worst moment, and the
//! network loses answers. In the end an account is drawn up from the databases and from what the
//! coordinator says: as many effects as orders, none missing, none double, none for an order that was
//! rolled back. Exit code 0 if that is so, 1 if not.

#![expect(clippy::print_stderr, reason = "a program that tells a story")]

mod account;
mod cart;
mod chaos;
mod coordinator;
mod customers;
mod database;
mod effects;
mod fail_point;
mod network;
mod order;
mod order_service;
mod pipe;
mod points;
mod process;
mod shop;
mod shop_database;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use halfmq_client::{BackoffOptions, ClientOptions};

/// Why the shop or a service cannot go on; only read by people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A shop that sells through disasters
#[derive(Debug, Parser)]
#[command(name = "shop")]
struct Arguments {
    /// How many customers come
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    orders: u32,
    /// The shop starts itself in these roles
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(name = "order-service", hide = true)]
    Order { endpoint: String, database: PathBuf },
    #[command(name = "cart-service", hide = true)]
    Cart { endpoint: String, database: PathBuf },
    #[command(name = "points-service", hide = true)]
    Points { endpoint: String, database: PathBuf },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a machine that runs processes has threads");
    let result = runtime.block_on(run(arguments));
    // A thread that waits for stdin would hold up a regular end.
    runtime.shutdown_background();
    result.unwrap_or_else(|failure| {
        eprintln!("shop: {failure}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.role {
        None => return shop::run(arguments.orders).await,
        Some(Role::Order { endpoint, database }) => order_service::run(&endpoint, &database).await?,
        Some(Role::Cart { endpoint, database }) => cart::run(&endpoint, &database).await?,
        Some(Role::Points { endpoint, database }) => points::run(&endpoint, &database).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Impatient, so that the story is short; a real service would keep the defaults.
pub(crate) fn client_options() -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_secs(1),
        attempt_timeout: Duration::from_secs(5),
        backoff: BackoffOptions { first: Duration::from_millis(10), pause_max: Duration::from_millis(200) },
        ..ClientOptions::default()
    }
}
