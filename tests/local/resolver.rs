//! The SQL resolver: transactions are resolved while every producer is dead.

use halfmq_client::sql::TransactionLog;
use halfmq_client::{Client, Message, TransactionOptions, TransactionProducer};
use halfmq_proto::v1::TransactionState;
use halfmq_tests::{CHECKS_SOON, Coordinator};
use serde_json::json;

use crate::database::{TestDatabase, on_every_database};

on_every_database!(dead_producers_are_not_needed);

async fn dead_producers_are_not_needed<DB: TestDatabase>() {
    const TRANSACTIONS: usize = 120;
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let log = TransactionLog::<DB>::default();
    log.migrate(pool).await.expect("it migrates");
    let databases = json!([{ "url": database.url, "producer_groups": ["shop", "other"] }]).to_string();
    let mut environment = CHECKS_SOON.to_vec();
    environment.push(("HALFMQ_RESOLVER__DATABASES", &databases));
    // Not before the row is there, on a slow machine either.
    environment.push(("HALFMQ_CHECKS__FIRST_AFTER", "3s"));
    let mut coordinator = Coordinator::start_with(&environment).await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let producer = TransactionProducer::without_checker(&client, "shop", TransactionOptions::default());

    let mut wanted = Vec::new();
    let mut in_flight = None;
    for number in 0..TRANSACTIONS {
        let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
        assert_eq!(transaction.warnings(), [], "the resolver can be asked");
        let mut sql = pool.begin().await.expect("it begins");
        let state = match number % 3 {
            // Never came as far as the database.
            0 => TransactionState::RolledBack,
            1 => {
                log.record(&mut sql, transaction.id()).await.expect("recorded");
                drop(sql);
                TransactionState::RolledBack
            }
            _ => {
                log.record(&mut sql, transaction.id()).await.expect("recorded");
                sql.commit().await.expect("committed");
                TransactionState::Committed
            }
        };
        wanted.push((transaction.id().clone(), state));
    }
    // One still runs, so nobody may say anything about it. On SQLite it would hold up all the others.
    if DB::TITLE != "sqlite" {
        let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
        let mut sql = pool.begin().await.expect("it begins");
        log.record(&mut sql, transaction.id()).await.expect("recorded");
        in_flight = Some((transaction.id().clone(), sql));
    }
    drop(producer);
    coordinator.kill9().await;
    coordinator.restart().await;
    let driver = coordinator.driver();
    for (id, state) in &wanted {
        driver.becomes(id.as_str(), *state).await;
    }
    if let Some((id, sql)) = in_flight {
        let open = [TransactionState::Prepared, TransactionState::InDoubt];
        assert!(open.contains(&driver.describe(id.as_str()).await.state()), "UNKNOWN decides nothing");
        sql.commit().await.expect("nobody rolled it back");
        driver.becomes(id.as_str(), TransactionState::Committed).await;
    }
    assert!(!coordinator.log().contains(&database.url), "URLs may hold passwords, and are not shown");
}
