//! The coordinator of transactional messages.

pub mod api;
pub mod cli;
pub mod config;
pub mod server;
pub mod telemetry;
