//! Harness of the black-box suites: the real binary, driven through its real doors.
//!
//! ```text
//!   suite (stories as data) ──► Driver, CheckStream, Callback ──► gRPC, HTTP ──► halfmq serve
//!                          └──► Coordinator: start, stop, kill -9, restart
//! ```
//!
//! Deliberately absent: rules of the coordinator, fixed ports, and waiting for luck. Whatever takes
//! time is waited for by its own event, and [`PATIENCE`] only bounds how long.

mod binary;
mod callback;
mod checks;
mod coordinator;
mod driver;
mod patience;
mod refusal;

pub use callback::{Asked, Callback, Reply};
pub use checks::CheckStream;
pub use coordinator::{CHECKS_SOON, Coordinator};
pub use driver::{Driver, bodies, grouped, half, message, seconds, transaction_id};
pub use patience::{PATIENCE, eventually, within};
pub use refusal::Refusal;
