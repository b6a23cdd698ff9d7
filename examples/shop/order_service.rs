//! The order service, a process of its own: order and messages, both or neither.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halfmq_client::{
    Check, CheckSettings, Client, LocalOutcome, LocalTransaction, Message, Resolution, TransactionChecker,
    TransactionError, TransactionOptions, TransactionProducer,
};
use tokio::sync::mpsc;

use crate::Failure;
use crate::database::{self, Database};
use crate::fail_point::{FailPoints, Point};
use crate::order::{CART, Order, POINTS};
use crate::pipe::{Answer, Report, obey, report};
use crate::shop_database::{self, NotPlaced};

pub(crate) const PRODUCER_GROUP: &str = "order-service";

/// How long an order or a check waits while the other instance writes.
const PATIENCE: Duration = Duration::from_secs(1);

struct OrderService {
    producer: TransactionProducer,
    shop: Database,
    points: Arc<FailPoints>,
}

/// Serves until the shop is gone.
pub(crate) async fn run(endpoint: &str, shop: &Path) -> Result<(), Failure> {
    let client = Client::connect_with(endpoint, crate::client_options())?;
    let shop = Database::open(shop, PATIENCE)?;
    let checker = TransactionLog { shop: shop.clone() };
    let options = TransactionOptions { check: check_settings(), ..TransactionOptions::default() };
    let producer = TransactionProducer::with_options(&client, PRODUCER_GROUP, checker, options);
    let points = Arc::new(FailPoints::default());
    let service = OrderService { producer: producer.clone(), shop, points: Arc::clone(&points) };
    let (orders, mut arriving) = mpsc::unbounded_channel::<Order>();
    let service = Arc::new(service);
    tokio::spawn(async move {
        while let Some(order) = arriving.recv().await {
            let service = Arc::clone(&service);
            tokio::spawn(async move {
                let answer = service.place(&order).await;
                report(&Report::Answer { number: order.number, answer });
            });
        }
    });
    producer.registered().await;
    report(&Report::Ready);
    obey(&points, orders).await;
    Ok(())
}

/// Impatient, so that the story is short; a real shop would keep the defaults.
fn check_settings() -> CheckSettings {
    CheckSettings {
        first_after: Some(Duration::from_millis(500)),
        interval: Some(Duration::from_millis(500)),
        interval_max: Some(Duration::from_secs(1)),
        ..CheckSettings::default()
    }
}

impl OrderService {
    async fn place(&self, order: &Order) -> Answer {
        match shop_database::is_placed(&*self.shop.lock().await, order.number) {
            Ok(true) => return Answer::Placed,
            Ok(false) => {}
            Err(error) => return Answer::TryAgain(error.to_string()),
        }
        let body = serde_json::to_string(order).expect("an order is text and numbers");
        let key = order.number.to_string();
        let messages = [Message::new(CART, body.clone()).key(&key), Message::new(POINTS, body).key(&key)];
        match self.producer.transaction(messages, |transaction| self.local(transaction, order)).await {
            // Whether the commit is confirmed or pending: the order stands, and the messages follow.
            Ok(_committed) => Answer::Placed,
            Err(TransactionError::RolledBack { error: NotPlaced::SoldOut, .. }) => Answer::SoldOut,
            Err(TransactionError::RolledBack { error, .. }) => Answer::TryAgain(format!("{error:?}")),
            Err(TransactionError::NotPrepared(error)) => Answer::TryAgain(error.to_string()),
            Err(TransactionError::Undecided { .. }) => Answer::TryAgain("the database did not say".into()),
            Err(TransactionError::CommitRefused(error)) => Answer::Broken(error.to_string()),
            Err(TransactionError::RollbackRefused { cause, .. }) => Answer::Broken(cause.to_string()),
            Err(other) => Answer::Broken(format!("{other:?}")),
        }
    }

    /// The local transaction, with a moment before and after it at which somebody may kill this process.
    async fn local(&self, transaction: LocalTransaction, order: &Order) -> LocalOutcome<(), NotPlaced> {
        let id = transaction.id().to_string();
        // Held while it stands still, so that a frozen process holds no lock of the database.
        let connection = self.shop.lock().await;
        self.points.reach(Point::BeforeDatabase, &id).await;
        let (order, own_id) = (order.clone(), id.clone());
        let (connection, outcome) =
            database::run(connection, move |shop| shop_database::place(shop, &order, &own_id)).await;
        drop(connection);
        if outcome == LocalOutcome::Commit(()) {
            self.points.reach(Point::AfterDatabase, &id).await;
        }
        outcome
    }
}

/// Answers checks from the database, for the transactions of every instance.
struct TransactionLog {
    shop: Database,
}

impl TransactionChecker for TransactionLog {
    async fn check(&self, check: Check) -> Resolution {
        let id = String::from(check.transaction_id);
        let connection = self.shop.lock().await;
        let (_connection, resolved) =
            database::run(connection, move |shop| shop_database::resolve(shop, &id)).await;
        match resolved {
            Ok(resolution) => resolution,
            Err(error) if database::is_locked(&error) => Resolution::Unknown,
            // A checker that panics has said nothing, which costs nothing: somebody else is asked.
            Err(error) => panic!("the transaction log cannot be read: {error}"),
        }
    }
}
