//! The points service, a process of its own: one point for each 1.00 spent.

use std::path::Path;

use crate::order::{Order, POINTS};
use crate::{Failure, effects};

pub(crate) async fn run(endpoint: &str, file: &Path) -> Result<(), Failure> {
    effects::run(endpoint, file, POINTS, earns_points).await
}

fn earns_points(order: &Order) -> String {
    format!("{} points", order.cents / 100)
}
