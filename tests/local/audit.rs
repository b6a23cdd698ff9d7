//! `halfmq audit`: every number is accounted for, and a database is compared in both directions.

use halfmq_client::sql::TransactionLog;
use halfmq_client::{Client, Message, Producer, Transaction, TransactionOptions, TransactionProducer};
use halfmq_proto::v1::TransactionState;
use halfmq_tests::Coordinator;
use sqlx::Pool;

use crate::database::{TestDatabase, on_every_database};

on_every_database!(log_and_coordinator_are_reconciled);

async fn record<DB: TestDatabase>(log: &TransactionLog<DB>, pool: &Pool<DB>, transaction: &Transaction) {
    let mut sql = pool.begin().await.expect("it begins");
    log.record(&mut sql, transaction.id()).await.expect("recorded");
    sql.commit().await.expect("committed");
}

async fn log_and_coordinator_are_reconciled<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    // Nobody is asked in the time of a test: what differs stays different.
    let coordinator = Coordinator::start_with(&[("HALFMQ_CHECKS__FIRST_AFTER", "1h")]).await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let log = TransactionLog::<DB>::default();
    log.migrate(pool).await.expect("it migrates");
    let producer = TransactionProducer::without_checker(&client, "shop", TransactionOptions::default());
    let begin = async || producer.begin([Message::new("orders", "42")]).await.expect("prepared");

    let agreed = begin().await;
    record(&log, pool, &agreed).await;
    agreed.commit().await.expect("committed");
    let lost_commit = begin().await;
    record(&log, pool, &lost_commit).await;
    let lost_rollback = begin().await;
    let answers = log.checker(pool).resolve(&[lost_rollback.id().clone()]).await.expect("answered");
    assert_eq!(answers.len(), 1);
    let overruled = begin().await;
    record(&log, pool, &overruled).await;
    let overruled_id = overruled.id().clone();
    overruled.rollback().await.expect("rolled back");
    let without_row = begin().await;
    let without_row_id = without_row.id().clone();
    without_row.commit().await.expect("committed");
    let stranger = "ffffffff-0000-7000-8000-000000000001";
    let row = format!(
        "INSERT INTO halfmq_transaction_log (transaction_id, outcome) VALUES ('{stranger}', 'committed')"
    );
    DB::setup(pool, &[&row]).await;
    Producer::new(&client, "shop").send(Message::new("orders", "no transaction")).await.expect("sent");

    let compare = ["audit", "--group", "shop", "--database", &database.url];
    let (code, told, complaint) = coordinator.cli(&compare).await;
    assert_eq!(code, 1, "{told}{complaint}");
    for (id, words) in [
        (lost_commit.id().as_str(), "would commit it"),
        (lost_rollback.id().as_str(), "would roll it back"),
        (overruled_id.as_str(), "its messages are dropped; a person"),
        (without_row_id.as_str(), "released without a row"),
        (stranger, "without a message"),
    ] {
        let line = told.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("{id}: {told}"));
        assert!(line.contains(words), "{line}");
    }
    assert!(told.contains("5 differences"), "{told}");

    // Without a terminal it asks nobody and does nothing, unless it is told to.
    let (code, ..) = coordinator.cli(&[&compare[..], &["--repair"]].concat()).await;
    assert_eq!(code, 2);
    let driver = coordinator.driver();
    assert_eq!(driver.describe(lost_commit.id().as_str()).await.state(), TransactionState::Prepared);
    let (code, told, complaint) = coordinator.cli(&[&compare[..], &["--repair", "--yes"]].concat()).await;
    assert_eq!(code, 1, "three are left for a person: {told}{complaint}");
    assert_eq!(driver.describe(lost_commit.id().as_str()).await.state(), TransactionState::Committed);
    assert_eq!(driver.describe(lost_rollback.id().as_str()).await.state(), TransactionState::RolledBack);

    let (code, told, complaint) = coordinator.cli(&["audit"]).await;
    assert_eq!(code, 0, "{told}{complaint}");
    assert!(told.contains("1..6") && told.contains("Every message is accounted for."), "{told}");
    // A number that nobody knows anything of: sent by somebody without a request id.
    let nameless = halfmq_proto::v1::SendRequest {
        producer_group: "shop".into(),
        messages: vec![halfmq_tests::message("orders", "nameless")],
        ..Default::default()
    };
    coordinator.driver().queues.send(nameless).await.expect("sent");
    Producer::new(&client, "shop").send(Message::new("orders", "the next")).await.expect("sent");
    let (code, told, _) = coordinator.cli(&["audit"]).await;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("shop: nothing is known of sequence 7"), "{told}");
}
