//! Everything that is broken on purpose, and the certainty that it happened at the worst moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::time::{Instant, timeout};

use crate::coordinator::Coordinator;
use crate::customers::Door;
use crate::fail_point::Point;
use crate::network::Network;
use crate::process::Service;
use crate::{Failure, shop_database};

/// What can be broken, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disaster {
    KillBetweenCommits,
    KillBeforeDatabase,
    FreezeUntilRolledBack,
    KillCoordinator,
    KillCart,
    KillPoints,
    LoseAnswerToOrders,
    LoseAnswerToConsumers,
}

/// How often each is tried; they are spread evenly over all orders.
const PLAN: [(Disaster, u32); 8] = [
    (Disaster::KillBetweenCommits, 6),
    (Disaster::KillBeforeDatabase, 3),
    (Disaster::FreezeUntilRolledBack, 2),
    (Disaster::KillCoordinator, 4),
    (Disaster::KillCart, 3),
    (Disaster::KillPoints, 3),
    (Disaster::LoseAnswerToOrders, 12),
    (Disaster::LoseAnswerToConsumers, 6),
];

/// Nothing that is waited for takes longer, or the shop has failed.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// While a disaster waits for its moment, one more customer comes in this often.
const TRICKLE: Duration = Duration::from_millis(50);
/// Nobody is left who could bring the moment about.
const HOPELESS: Duration = Duration::from_secs(1);

/// Everything that can be broken.
pub(crate) struct Chaos<'a> {
    pub(crate) coordinator: &'a mut Coordinator,
    pub(crate) desks: &'a [Arc<Service>],
    pub(crate) cart: &'a Service,
    pub(crate) points: &'a Service,
    pub(crate) to_orders: &'a Network,
    pub(crate) to_consumers: &'a Network,
    pub(crate) shop_file: &'a Path,
}

/// How often each disaster happened.
pub(crate) type Tally = BTreeMap<Disaster, u32>;

impl Disaster {
    /// Who suffers, and what.
    pub(crate) fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::KillBetweenCommits => {
                ("order service", "kill -9 between database commit and message commit")
            }
            Self::KillBeforeDatabase => {
                ("order service", "kill -9 between half message and local transaction")
            }
            Self::FreezeUntilRolledBack => {
                ("order service", "frozen, woken when a check had rolled its transaction back")
            }
            Self::KillCoordinator => ("coordinator", "kill -9 under load, started again on the same data"),
            Self::KillCart => ("cart service", "kill -9 between effect and ack"),
            Self::KillPoints => ("points service", "kill -9 between effect and ack"),
            Self::LoseAnswerToOrders => ("network", "answer lost on its way to an order service"),
            Self::LoseAnswerToConsumers => ("network", "answer lost on its way to a consumer"),
        }
    }
}

/// All disasters in turn: the n-th of each kind comes after as large a share of the orders.
fn spread() -> Vec<Disaster> {
    let mut plan = Vec::new();
    for (disaster, times) in PLAN {
        plan.extend((0..times).map(|turn| ((2 * turn + 1) * 1_000 / times, disaster)));
    }
    plan.sort_unstable();
    plan.into_iter().map(|(_, disaster)| disaster).collect()
}

impl Chaos<'_> {
    /// Lets the customers in, a few before each disaster. The door is closed at the end.
    pub(crate) async fn rage(mut self, mut door: Door, orders: u32) -> Result<Tally, Failure> {
        let plan = spread();
        // Some are kept back: while a disaster waits for its moment, more customers come in.
        let share = (orders * 3 / 4 / u32::try_from(plan.len())?).max(1);
        let mut tally = Tally::new();
        for (turn, disaster) in plan.into_iter().enumerate() {
            if !door.is_crowded() {
                break;
            }
            door.let_in(share);
            if self.strike(disaster, turn, &mut door).await? {
                *tally.entry(disaster).or_default() += 1;
            }
        }
        door.let_in(orders);
        Ok(tally)
    }

    /// Whether it happened.
    async fn strike(&mut self, disaster: Disaster, turn: usize, door: &mut Door) -> Result<bool, Failure> {
        let (cart, points) = (self.cart, self.points);
        let desk = self.desks.iter().cycle().nth(turn).ok_or("a shop has a desk")?;
        match disaster {
            Disaster::KillBetweenCommits => kill_at(Point::AfterDatabase, desk, door).await,
            Disaster::KillBeforeDatabase => kill_at(Point::BeforeDatabase, desk, door).await,
            Disaster::FreezeUntilRolledBack => self.freeze(desk, door).await,
            Disaster::KillCart => kill_at(Point::AfterDatabase, cart, door).await,
            Disaster::KillPoints => kill_at(Point::AfterDatabase, points, door).await,
            Disaster::KillCoordinator => {
                until_busy(door).await;
                self.coordinator.kill().await.map(|()| true)
            }
            Disaster::LoseAnswerToOrders => lose_answer(self.to_orders, door).await,
            Disaster::LoseAnswerToConsumers => lose_answer(self.to_consumers, door).await,
        }
    }

    /// A service that stands still between half message and database is given up, another instance is
    /// asked and says ROLLBACK; then it wakes and tries to commit what is rolled back.
    async fn freeze(&self, desk: &Service, door: &mut Door) -> Result<bool, Failure> {
        let Some(transaction) = halt(Point::BeforeDatabase, desk, door).await? else { return Ok(false) };
        desk.freeze().await?;
        let rolled_back = self.rolled_back(&transaction).await;
        desk.thaw().await?;
        desk.go_on().await?;
        rolled_back.map(|()| true)
    }

    /// Waits for the tombstone that a check leaves in the transaction log.
    async fn rolled_back(&self, transaction: &str) -> Result<(), Failure> {
        let shop = Connection::open_with_flags(self.shop_file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let deadline = Instant::now() + WAIT_MAX;
        while shop_database::outcome(&shop, transaction)?.is_none() {
            if Instant::now() >= deadline {
                return Err(format!("nobody checked {transaction} while its producer was frozen").into());
            }
            tokio::time::sleep(TRICKLE).await;
        }
        Ok(())
    }
}

async fn kill_at(point: Point, service: &Service, door: &mut Door) -> Result<bool, Failure> {
    if halt(point, service, door).await?.is_none() {
        return Ok(false);
    }
    service.kill().await.map(|()| true)
}

/// Waits until a service stands still at a point; customers keep coming, so that it gets there.
async fn halt(point: Point, service: &Service, door: &mut Door) -> Result<Option<String>, Failure> {
    service.halt(point).await?;
    let deadline = Instant::now() + WAIT_MAX;
    while Instant::now() < deadline {
        let patience = if door.let_in(1) { TRICKLE } else { HOPELESS };
        if let Ok(what) = timeout(patience, service.halted()).await {
            return Ok(Some(what));
        }
        if !door.is_crowded() && patience == HOPELESS {
            break;
        }
    }
    service.go_on().await?;
    Ok(None)
}

/// Waits until customers are being served, so that the blow falls into the middle of things.
async fn until_busy(door: &mut Door) {
    let before = door.answered();
    let deadline = Instant::now() + HOPELESS;
    while door.answered() == before && Instant::now() < deadline {
        door.let_in(1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until it is lost, unless nothing is said any more.
async fn lose_answer(network: &Network, door: &mut Door) -> Result<bool, Failure> {
    let before = network.lost();
    network.lose_next_answer();
    let deadline = Instant::now() + HOPELESS * 5;
    while network.lost() == before && Instant::now() < deadline {
        door.let_in(1);
        tokio::time::sleep(TRICKLE).await;
    }
    Ok(network.lost() > before)
}
