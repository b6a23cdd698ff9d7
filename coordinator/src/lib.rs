//! The coordinator: half messages in, decisions made, committed messages out.

pub mod checker;
pub mod clock;
pub mod store;
