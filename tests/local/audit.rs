//! `halfmq audit`: every number is accounted for, and a database is compared in both directions.

use std::fs;
use std::path::Path;

use halfmq_client::sql::{Outbox, RelayOptions, TransactionLog};
use halfmq_client::{Client, Message, Producer, Transaction, TransactionOptions, TransactionProducer};
use halfmq_proto::v1::{
    DescribeFloorRequest, DescribeTransactionRequest, ListTransactionsRequest, TransactionState,
};
use halfmq_tests::{Coordinator, eventually};
use serde_json::{Value, json};
use sqlx::Pool;
use tokio::task::JoinSet;

use crate::database::{TestDatabase, on_every_database};

on_every_database!(log_and_coordinator_are_reconciled, end_that_the_coordinator_has_lost_is_found);

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
    // The last number that was given out counts, too, though nothing behind it shows that it was.
    let (code, told, _) = coordinator.cli(&["audit"]).await;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("1 number without a receipt: lost, or sent without a request id"), "{told}");
    Producer::new(&client, "shop").send(Message::new("orders", "the next")).await.expect("sent");
    let (code, told, _) = coordinator.cli(&["audit"]).await;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("shop: nothing is known of sequence 7"), "{told}");
}

/// Receipts that stay in memory, and a few more.
const RECEIPTS: usize = 10_400;

/// Old receipts are pruned; their numbers and their rows are not told to be lost, nor to be well.
#[tokio::test]
async fn what_lies_below_the_receipts_floor_is_not_checked() {
    let Some(database) = <sqlx::Sqlite as TestDatabase>::fresh().await else { return };
    let pool = &database.pool;
    let mut coordinator =
        Coordinator::start_with(&[("HALFMQ_RECEIPT_RETENTION", "1ms"), ("HALFMQ_CHECKS__FIRST_AFTER", "1h")])
            .await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let log = TransactionLog::<sqlx::Sqlite>::default();
    log.migrate(pool).await.expect("it migrates");
    let transactions = TransactionProducer::without_checker(&client, "shop", TransactionOptions::default());
    let mut last_old = None;
    for _ in 0..3 {
        let old = transactions.begin([Message::new("orders", "old")]).await.expect("prepared");
        record(&log, pool, &old).await;
        let id = old.id().clone();
        old.commit().await.expect("committed");
        last_old = Some(id);
    }
    let last_old = last_old.expect("three were made");
    let mut sends = JoinSet::new();
    for _ in 3..RECEIPTS {
        let producer = Producer::new(&client, "shop");
        sends.spawn(async move { producer.send(Message::new("orders", "new")).await });
    }
    for sent in sends.join_all().await {
        sent.expect("sent");
    }
    // A start looks for old receipts soon after it.
    coordinator.restart().await;
    let mut driver = coordinator.driver();
    eventually("old receipts to be pruned", async || {
        let ask = DescribeTransactionRequest { transaction_id: last_old.as_str().to_owned() };
        coordinator.driver().transactions.describe_transaction(ask).await.err()
    })
    .await;
    let floor = driver.transactions.describe_floor(DescribeFloorRequest::default()).await;
    let floor = floor.expect("told").into_inner();
    assert!(floor.last_sequences.is_empty(), "nobody asked for them");
    let since = floor.receipts_since.expect("not all are kept");

    let audit = ["audit", "--group", "shop", "--database", &database.url];
    let (code, told, complaint) = coordinator.cli(&audit).await;
    assert_eq!(code, 0, "{told}{complaint}");
    assert!(told.contains("before the receipts' floor"), "{told}");
    assert!(told.contains("Nothing is missing among what can be checked."), "{told}");
    assert!(told.contains("3 rows not checked"), "{told}");
    let (code, told, complaint) = coordinator.cli(&[&audit[..], &["--json"]].concat()).await;
    assert_eq!(code, 0, "{told}{complaint}");
    let mut answers = told.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let (account, comparison): (Value, Value) =
        (answers.next().expect("an account"), answers.next().expect("a comparison"));
    let shop = &account["producers"][0];
    let [not_checked, released, missing, last] =
        ["not_checked", "released", "missing", "last_sequence"].map(|what| shop[what].as_u64().expect(what));
    assert_eq!((missing, last), (0, RECEIPTS as u64), "{account}");
    assert_eq!(not_checked + released, last, "{account}");
    assert!(not_checked >= 3, "{account}");
    // It may have risen meanwhile.
    let told_since = account["receipts_since"].as_str().expect("a time");
    assert!(told_since.get(..19) >= since.to_string().get(..19), "{told_since} is before {since}");
    assert_eq!((&comparison["not_checked"], &comparison["rows"]), (&json!(3), &json!(3)), "{comparison}");
}

/// Everything in this folder, as it is now.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let copied = to.join(entry.file_name());
        match entry.file_type().expect("it has a type").is_dir() {
            true => copy(&entry.path(), &copied),
            false => drop(fs::copy(entry.path(), &copied).expect("there is room")),
        }
    }
}

/// A coordinator that somebody put back to an older state counts on as if nothing had happened, and its own
/// books are whole. Only the databases remember what it confirmed last.
async fn end_that_the_coordinator_has_lost_is_found<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let mut coordinator = Coordinator::start_with(&[("HALFMQ_CHECKS__FIRST_AFTER", "1h")]).await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let log = TransactionLog::<DB>::default();
    log.migrate(pool).await.expect("it migrates");
    let outbox = Outbox::<DB>::default();
    outbox.migrate(pool).await.expect("it migrates");
    let relay = outbox.relay(&client, "shop", pool, RelayOptions::default());
    let stop = relay.handle();
    let running = tokio::spawn(relay.run());
    let producer = TransactionProducer::without_checker(&client, "shop", TransactionOptions::default());
    let both_ways = async || {
        let transaction = producer.begin([Message::new("orders", "by the log")]).await.expect("prepared");
        record(&log, pool, &transaction).await;
        let by_log = transaction.id().as_str().to_owned();
        transaction.commit().await.expect("committed");
        let mut sql = pool.begin().await.expect("it begins");
        let message = Message::new("orders", "by the outbox").message_group("customer-7");
        let row = outbox.insert(&mut sql, message).await.expect("inserted");
        sql.commit().await.expect("committed");
        eventually("an empty outbox", async || {
            (outbox.backlog(pool).await.expect("counted").waiting == 0).then_some(())
        })
        .await;
        (by_log, row)
    };
    both_ways().await;
    let compare = ["audit", "--group", "shop", "--database", &database.url];
    let (code, told, complaint) = coordinator.cli(&compare).await;
    assert_eq!(code, 0, "{told}{complaint}");

    coordinator.stop().await;
    let older = tempfile::tempdir().expect("a temporary folder");
    copy(&coordinator.data(), older.path());
    coordinator.restart().await;
    let (lost_of_log, lost_of_outbox) = both_ways().await;
    let ask = ListTransactionsRequest { state: TransactionState::Committed.into(), ..Default::default() };
    let listed = coordinator.driver().transactions.list_transactions(ask).await.expect("listed").into_inner();
    let sent = listed.transactions.iter().find(|it| it.request_id == lost_of_outbox.as_str());
    let lost_of_outbox = sent.expect("it was sent").transaction_id.clone();
    stop.stop();
    running.await.expect("a relay does not panic");
    coordinator.stop().await;
    fs::remove_dir_all(coordinator.data()).expect("it is there");
    copy(older.path(), &coordinator.data());
    coordinator.restart().await;

    let (code, told, _) = coordinator.cli(&["audit"]).await;
    assert_eq!((code, told.contains("Every message is accounted for.")), (0, true), "{told}");
    let (code, told, complaint) = coordinator.cli(&compare).await;
    assert_eq!(code, 1, "{told}{complaint}");
    for (id, words) in [
        (&lost_of_log, "committed in the database, and without a message"),
        (&lost_of_outbox, "confirmed to the outbox, and unknown now"),
    ] {
        let line = told.lines().find(|line| line.starts_with(id.as_str()));
        let line = line.unwrap_or_else(|| panic!("{id} ({words}) is not told of: {told}"));
        assert!(line.contains(words), "{line}");
    }
}
