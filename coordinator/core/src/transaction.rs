//! One decision: the first commit or rollback wins.
//!
//! ```text
//!              commit ┌───────────┐
//!           ┌────────►│ Committed │──┐ commit: the same receipt again
//! ┌─────────┴┐        └───────────┘◄─┘ rollback: conflict
//! │ Prepared │◄─┐ UNKNOWN: count, ask later
//! └──┬─────┬─┘──┘
//!    │     │ rollback ┌────────────┐
//!    │     └─────────►│ RolledBack │──┐ rollback: the same receipt again
//!    │ checks_max     └────────────┘◄─┘ commit: conflict
//!    ▼ UNKNOWNs              ▲
//! ┌─────────┐  as Prepared   │
//! │ InDoubt │────────────────┘  (asked slowly; never dropped)
//! └─────────┘
//! ```

use std::fmt;

use crate::ids::TransactionId;
use crate::rejection::Rejection;
use crate::time::Timestamp;

/// What ends a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Release the messages.
    Commit,
    /// Drop them.
    Rollback,
}

impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Commit => "commit",
            Self::Rollback => "rollback",
        })
    }
}

/// Whose decision it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecidedBy {
    /// A commit or rollback call.
    Call,
    /// The answer to a check.
    Check,
    /// The in-doubt policy.
    Policy,
}

/// The decision that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Which one.
    pub decision: Decision,
    /// Whose.
    pub by: DecidedBy,
    /// When, on the server's clock.
    pub at: Timestamp,
    /// As given with it; may be empty.
    pub reason: String,
}

/// Where a transaction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Open.
    Prepared,
    /// Open, and checks did not resolve it.
    InDoubt,
    /// Its messages are released.
    Committed,
    /// Its messages are dropped.
    RolledBack,
}

impl From<Decision> for State {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Commit => Self::Committed,
            Decision::Rollback => Self::RolledBack,
        }
    }
}

/// Whether `asked` agrees with the decision that stands.
///
/// # Errors
/// [`Rejection::DecisionConflict`] for the opposite decision.
pub(crate) fn again(transaction: TransactionId, stands: &Verdict, asked: Decision) -> Result<(), Rejection> {
    match (stands.decision, asked) {
        (Decision::Commit, Decision::Commit) | (Decision::Rollback, Decision::Rollback) => Ok(()),
        (Decision::Commit, Decision::Rollback) | (Decision::Rollback, Decision::Commit) => {
            Err(Rejection::DecisionConflict { transaction, stands: stands.clone(), asked })
        }
    }
}

impl Verdict {
    /// A plain commit by a call.
    pub(crate) fn by_call(at: Timestamp) -> Self {
        Self { decision: Decision::Commit, by: DecidedBy::Call, at, reason: String::new() }
    }
}
