//! Customers: each wants one thing, and repeats an order until it hears what became of it.

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::Failure;
use crate::order::Order;
use crate::pipe::Answer;
use crate::process::Service;

/// Customers in the shop at the same time.
const IN_SHOP_MAX: usize = 16;
/// A customer who was sent away this often gives up, and the shop has failed.
const TRIES_MAX: usize = 100;

/// What customers were told.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) placed: u32,
    pub(crate) sold_out: u32,
    /// Orders that were repeated because no answer came.
    pub(crate) repeated: u32,
}

/// The door through which customers come in.
pub(crate) struct Door {
    outside: std::ops::RangeInclusive<u32>,
    inside: mpsc::UnboundedSender<u32>,
    bar: ProgressBar,
}

impl Door {
    /// Lets some in; those that are left stay outside. Returns whether anybody came.
    pub(crate) fn let_in(&mut self, customers: u32) -> bool {
        let mut anybody = false;
        for number in self.outside.by_ref().take(customers as usize) {
            anybody |= self.inside.send(number).is_ok();
        }
        anybody
    }

    /// Whether somebody is still outside.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.outside.is_empty()
    }

    /// How many customers were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.bar.position()
    }
}

/// Customers 1 to `count`, and the door before them.
pub(crate) fn queue_up(
    count: u32,
    desks: Vec<Arc<Service>>,
    bar: ProgressBar,
) -> (Door, impl Future<Output = Result<Told, Failure>>) {
    let (inside, arriving) = mpsc::unbounded_channel();
    let door = Door { outside: 1..=count, inside, bar: bar.clone() };
    (door, serve_all(Arc::new(Mutex::new(arriving)), desks, bar))
}

/// Ends when the door is closed and everybody has an answer.
async fn serve_all(
    arriving: Arc<Mutex<mpsc::UnboundedReceiver<u32>>>,
    desks: Vec<Arc<Service>>,
    bar: ProgressBar,
) -> Result<Told, Failure> {
    let mut places = JoinSet::new();
    for _ in 0..IN_SHOP_MAX {
        let (arriving, desks, bar) = (Arc::clone(&arriving), desks.clone(), bar.clone());
        places.spawn(async move {
            let mut told = Told::default();
            loop {
                let next = arriving.lock().await.recv().await;
                let Some(number) = next else { return Ok::<_, Failure>(told) };
                shop(number, &desks, &mut told).await?;
                bar.inc(1);
            }
        });
    }
    let mut all = Told::default();
    while let Some(told) = places.join_next().await {
        let told = told??;
        all.placed += told.placed;
        all.sold_out += told.sold_out;
        all.repeated += told.repeated;
    }
    Ok(all)
}

/// One customer, from desk to desk.
async fn shop(number: u32, desks: &[Arc<Service>], told: &mut Told) -> Result<(), Failure> {
    let order = Order::of_customer(number);
    let mut reason = String::new();
    for (desk, _) in desks.iter().cycle().skip(number as usize % desks.len()).zip(0..TRIES_MAX) {
        match desk.place(order.clone()).await? {
            Some(Answer::Placed) => {
                told.placed += 1;
                return Ok(());
            }
            Some(Answer::SoldOut) => {
                told.sold_out += 1;
                return Ok(());
            }
            Some(Answer::Broken(how)) => return Err(format!("order {number} is broken: {how}").into()),
            Some(Answer::TryAgain(why)) => {
                reason = why;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            None => told.repeated += 1,
        }
    }
    Err(format!("customer {number} gives up after {TRIES_MAX} tries: {reason}").into())
}
