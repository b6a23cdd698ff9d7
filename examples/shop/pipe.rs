//! What the shop and its services say to each other: a JSON object a line, on stdin and stdout.

#![expect(clippy::print_stdout, reason = "stdout is the pipe to the shop")]

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::fail_point::{FailPoints, Point};
use crate::order::Order;

/// From the shop to a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    /// Place this order, and answer.
    Place(Order),
    /// Stand still when this point is reached next.
    Halt(Point),
    /// Forget about halting; whoever stands still goes on.
    GoOn,
}

/// From a service to the shop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// It does its work from now on.
    Ready,
    /// What became of an order.
    Answer { number: u32, answer: Answer },
    /// It stands still; `what` names the transaction or the message.
    Halted { what: String },
}

/// What a customer is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The order is in the database.
    Placed,
    /// It is not, and never will be.
    SoldOut,
    /// It is not, for a reason that has nothing to do with the order.
    TryAgain(String),
    /// Database and coordinator disagree: HalfMQ has a defect.
    Broken(String),
}

/// Reports to the shop. A shop that is gone ends the service, for its stdin ends too.
pub(crate) fn report(report: &Report) {
    println!("{}", serde_json::to_string(report).expect("reports are made of text and numbers"));
}

/// Obeys the shop until it is gone; orders are handed on.
pub(crate) async fn obey(points: &FailPoints, orders: mpsc::UnboundedSender<Order>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line).expect("the shop speaks this language") {
            Command::Place(order) => drop(orders.send(order)),
            Command::Halt(point) => points.halt(point),
            Command::GoOn => points.go_on(),
        }
    }
}
