//! The local side of services on real databases: PostgreSQL, MariaDB, SQLite, Redis.
//!
//! Each test takes a database of its own. A server that is not installed is skipped loudly, and is a failure
//! where everything must run (`CI=true`).

mod audit;
mod chaos;
mod continuity;
mod database;
mod flow;
mod inbox;
mod outbox;
mod recipes;
mod redis;
mod resolver;
mod server;
mod tls;
mod transaction_log;
