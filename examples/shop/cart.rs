//! The cart service, a process of its own: what is ordered leaves the cart.

use std::path::Path;

use crate::order::{CART, Order};
use crate::{Failure, effects};

pub(crate) async fn run(endpoint: &str, file: &Path) -> Result<(), Failure> {
    effects::run(endpoint, file, CART, leaves_the_cart).await
}

fn leaves_the_cart(order: &Order) -> String {
    format!("the {} leaves the cart", order.item)
}
