//! The coordinator: half messages in, decisions made, committed messages out.
//!
//! ```text
//!   cli ─► config ─► server (composition root) ─► api ─► service ─► store (port) ─► store/embedded
//!                                                   checker ──────────┘
//! ```
//!
//! `api`, `sink` and `store` never know each other; only `server` names engines and APIs. Everything above
//! the port is stateless.

pub mod api;
pub mod checker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod listener;
#[cfg(feature = "resolver")]
pub mod resolver;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
mod wakes;
