//! What is sold, and what a customer wants.

use serde::{Deserialize, Serialize};

/// Where the cart service hears of orders.
pub(crate) const CART: &str = "cart";
/// Where the points service hears of orders.
pub(crate) const POINTS: &str = "points";

/// One order: what a customer asks for, and the body of both messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Chosen by the customer, so that an order which is repeated is still one order.
    pub(crate) number: u32,
    pub(crate) item: String,
    pub(crate) cents: u32,
}

/// Item, price in cents. The last one is scarce: orders for it fail on purpose.
const CATALOGUE: [(&str, u32); 5] =
    [("book", 1_900), ("kettle", 3_450), ("chair", 8_900), ("radio", 5_500), ("lamp", 2_750)];

impl Order {
    /// The order that customer `number` places.
    pub(crate) fn of_customer(number: u32) -> Self {
        let turn = usize::try_from(number).unwrap_or_default() % CATALOGUE.len();
        let (item, cents) = CATALOGUE.get(turn).copied().expect("a remainder is less than the divisor");
        Self { number, item: item.to_owned(), cents }
    }
}

/// How many pieces of each item the shop starts with: enough of all, and a third of the lamps.
pub(crate) fn stock_for(orders: u32) -> Vec<(&'static str, u32)> {
    let wanted = orders / u32::try_from(CATALOGUE.len()).unwrap_or(1);
    let pieces = |item: &str| if item == "lamp" { wanted / 3 } else { wanted + 1 };
    CATALOGUE.iter().map(|(item, _)| (*item, pieces(item))).collect()
}
