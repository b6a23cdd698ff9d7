//! Points at which a service stands still when it was told to, so that whoever kills it there can be
//! certain of the moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::pipe::{Report, report};

/// A moment in the life of an order or of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Point {
    /// The half message is durable, the local transaction has not begun.
    BeforeDatabase,
    /// The local transaction is committed, and nobody has been told.
    AfterDatabase,
}

#[derive(Debug, Default)]
pub(crate) struct FailPoints {
    armed: Mutex<Option<Point>>,
    go_on: Notify,
}

impl FailPoints {
    /// The next one who reaches this point stands still.
    pub(crate) fn halt(&self, point: Point) {
        *self.armed() = Some(point);
    }

    /// Nobody stands still any longer.
    pub(crate) fn go_on(&self) {
        self.armed().take();
        self.go_on.notify_waiters();
    }

    /// Passes by, or reports and stands still.
    pub(crate) async fn reach(&self, point: Point, what: &str) {
        let go_on = self.go_on.notified();
        if self.armed().take_if(|armed| *armed == point).is_some() {
            report(&Report::Halted { what: what.to_owned() });
            go_on.await;
        }
    }

    /// Only single assignments happen under this lock, so a panic elsewhere leaves it whole.
    fn armed(&self) -> MutexGuard<'_, Option<Point>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
