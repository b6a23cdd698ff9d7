//! The check-transaction callback.

use std::sync::Arc;
use std::time::Duration;

use halfmq_client::{Check, Client, Message, Resolution, TransactionOptions, TransactionProducer};
use halfmq_proto::v1;
use tokio::sync::Semaphore;

use crate::fake::{Effect, Fake, away};

/// Answers by the id's first word: commit, rollback, panic or hang; anything else is unknown.
async fn by_name(check: Check) -> Resolution {
    match check.transaction_id.as_str().split('-').next() {
        Some("commit") => Resolution::Commit,
        Some("rollback") => Resolution::Rollback,
        Some("panic") => panic!("on purpose"),
        Some("hang") => std::future::pending().await,
        Some(_) | None => Resolution::Unknown,
    }
}

async fn registered(client: &Client) -> TransactionProducer {
    let producer = TransactionProducer::new(client, "shop", by_name);
    producer.registered().await;
    producer
}

#[tokio::test(start_paused = true)]
async fn every_resolution_reaches_the_coordinator() {
    let (fake, client) = Fake::start();
    let producer = registered(&client).await;
    for id in ["commit-1", "rollback-1", "other-1"] {
        fake.ask(id).await;
    }
    fake.until("three answers", |state| state.answers.len() == 3).await;
    let registration = fake.state().registrations[0].clone();
    assert_eq!((registration.producer_group.as_str(), registration.has_checker), ("shop", true));
    assert_eq!(registration.producer_instance, producer.instance());
    let state = fake.state();
    for expected in [
        ("commit-1".to_owned(), v1::Resolution::Commit),
        ("rollback-1".to_owned(), v1::Resolution::Rollback),
        ("other-1".to_owned(), v1::Resolution::Unknown),
    ] {
        assert!(state.answers.contains(&expected), "{expected:?} in {:?}", state.answers);
    }
}

#[tokio::test(start_paused = true)]
async fn checker_that_panics_or_hangs_answers_nothing_and_can_be_asked_again() {
    let (fake, client) = Fake::start();
    let _producer = registered(&client).await;
    for round in 0..40 {
        fake.ask(&format!("panic-{round}")).await;
        fake.ask(&format!("hang-{round}")).await;
    }
    fake.ask("commit-1").await;
    fake.until("the one answer", |state| !state.answers.is_empty()).await;
    assert_eq!(fake.state().answers, [("commit-1".into(), v1::Resolution::Commit)]);
}

#[tokio::test(start_paused = true)]
async fn checks_run_in_bounded_numbers() {
    let (fake, client) = Fake::start();
    let (running, room) = (Arc::new(Semaphore::new(2)), Arc::clone(&Arc::new(Semaphore::new(0))));
    let (seen, go) = (Arc::clone(&running), Arc::clone(&room));
    let checker = move |_: Check| {
        let (running, room) = (Arc::clone(&running), Arc::clone(&room));
        async move {
            let _one_of_two = running.try_acquire().expect("at most two at a time");
            room.acquire().await.expect("never closed").forget();
            Resolution::Commit
        }
    };
    let options = TransactionOptions { checks_in_flight_max: 2, ..TransactionOptions::default() };
    let producer = TransactionProducer::with_options(&client, "shop", checker, options);
    producer.registered().await;
    for number in 0..10 {
        fake.ask(&format!("q-{number}")).await;
    }
    tokio::time::timeout(Duration::from_secs(5), async {
        while seen.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("two are asked at once");
    go.add_permits(10);
    fake.until("ten answers", |state| state.answers.len() == 10).await;
}

#[tokio::test(start_paused = true)]
async fn producer_registers_again_after_a_restart() {
    let (fake, client) = Fake::start();
    let producer = registered(&client).await;
    fake.fail("checks", 5, Effect::None, away());
    fake.break_streams();
    fake.until("a second registration", |state| state.registrations.len() == 2).await;
    let registrations = fake.state().registrations.clone();
    assert_eq!(registrations[0], registrations[1]);
    producer.registered().await;
    fake.ask("commit-1").await;
    fake.until("an answer", |state| state.answers.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn running_local_transaction_is_unknown_without_asking_the_checker() {
    let (fake, client) = Fake::start();
    let producer = TransactionProducer::new(&client, "shop", |_: Check| async { Resolution::Rollback });
    producer.registered().await;
    let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
    fake.ask("tx-1").await;
    fake.until("an answer", |state| state.answers.len() == 1).await;
    drop(transaction);
    fake.ask("tx-1").await;
    fake.until("another answer", |state| state.answers.len() == 2).await;
    assert_eq!(
        fake.state().answers,
        [("tx-1".into(), v1::Resolution::Unknown), ("tx-1".into(), v1::Resolution::Rollback)]
    );
}

#[tokio::test(start_paused = true)]
async fn stream_closes_with_the_last_producer_and_transaction() {
    let (fake, client) = Fake::start();
    let producer = registered(&client).await;
    let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
    drop(producer);
    fake.ask("commit-1").await;
    fake.until("an answer", |state| state.answers.len() == 1).await;
    drop(transaction);
    fake.until("the end", |state| state.log.contains(&"stream closed".into())).await;
}
