//! Half message, local transaction, decision.

use std::collections::HashMap;
use std::sync::Arc;

use halfmq_client::{
    Client, Confirmation, DecisionError, LocalOutcome, Message, ProducerInterceptor, Reason, Replacement,
    TransactionError, TransactionOptions, TransactionProducer, Warning,
};
use halfmq_proto::v1;
use tonic::Code;

use crate::fake::{Effect, Fake, away, refusal};

fn producer(client: &Client) -> TransactionProducer {
    TransactionProducer::without_checker(client, "shop", TransactionOptions::default())
}

fn order() -> [Message; 1] {
    [Message::new("orders", "42")]
}

#[tokio::test(start_paused = true)]
async fn ok_commits_and_gives_the_value_back() {
    let (fake, client) = Fake::start();
    let committed = producer(&client)
        .transaction(order(), |tx| async move { Ok::<_, String>(tx.id().to_string()) })
        .await
        .expect("it commits");
    assert_eq!(committed.value, "tx-1");
    assert!(committed.confirmation.receipt().is_some());
    assert_eq!(fake.state().log, ["DECISION_COMMIT tx-1"]);
}

#[tokio::test(start_paused = true)]
async fn err_rolls_back_and_gives_the_error_back() {
    let (fake, client) = Fake::start();
    let result = producer(&client).transaction(order(), |_| async { Err::<(), _>("no money") }).await;
    assert!(matches!(
        result,
        Err(TransactionError::RolledBack { error: "no money", confirmation: Confirmation::Confirmed(_), .. })
    ));
    assert_eq!(fake.state().log, ["DECISION_ROLLBACK tx-1"]);
}

#[tokio::test(start_paused = true)]
async fn unknown_sends_nothing() {
    let (fake, client) = Fake::start();
    let result =
        producer(&client).transaction(order(), |_| async { LocalOutcome::<(), String>::Unknown }).await;
    assert!(matches!(result, Err(TransactionError::Undecided { .. })));
    assert!(fake.state().log.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lost_answers_make_one_transaction_and_one_decision() {
    let (fake, client) = Fake::start();
    fake.fail("prepare", 2, Effect::Lost, away());
    fake.fail("commit", 2, Effect::Lost, away());
    let result = producer(&client).transaction(order(), |_| async { Ok::<_, String>(()) }).await;
    assert!(result.is_ok_and(|committed| committed.confirmation.receipt().is_some()));
    assert_eq!(fake.state().prepared.len(), 1);
    assert_eq!(fake.state().decisions.get("tx-1"), Some(&v1::Decision::Commit));
}

#[tokio::test(start_paused = true)]
async fn unreachable_prepare_runs_nothing_locally() {
    let (fake, client) = Fake::start();
    fake.fail("prepare", usize::MAX, Effect::None, away());
    let result = producer(&client)
        .transaction(order(), |_| async { panic!("the local transaction ran") as Result<(), String> })
        .await;
    assert!(matches!(result, Err(TransactionError::NotPrepared(error)) if error.is_retryable()));
}

#[tokio::test(start_paused = true)]
async fn prepare_that_a_check_decided_meanwhile_runs_nothing_locally() {
    let (fake, client) = Fake::start();
    fake.fail("prepare", 1, Effect::Lost, away());
    fake.state().decisions.insert("tx-1".into(), v1::Decision::Rollback);
    let result = producer(&client)
        .transaction(order(), |_| async { panic!("the local transaction ran") as Result<(), String> })
        .await;
    let Err(TransactionError::NotPrepared(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.reason(), Some(Reason::DecisionConflict));
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_commit_is_no_failure_and_can_be_confirmed_later() {
    let (fake, client) = Fake::start();
    fake.fail("commit", 20, Effect::None, away());
    let producer = producer(&client);
    let committed =
        producer.transaction(order(), |_| async { Ok::<_, String>(42) }).await.expect("committed locally");
    assert_eq!(committed.value, 42);
    assert!(matches!(committed.confirmation, Confirmation::Pending(_)));
    let mut decided = producer.resume(committed.transaction_id.clone()).commit().await;
    while decided.as_ref().is_err_and(DecisionError::is_retryable) {
        decided = producer.resume(committed.transaction_id.clone()).commit().await;
    }
    assert!(decided.is_ok());
}

#[tokio::test(start_paused = true)]
async fn conflict_is_typed() {
    let (fake, client) = Fake::start();
    let (producer, operator) = (producer(&client), fake.clone());
    let result = producer
        .transaction(order(), |_| async move {
            operator.state().decisions.insert("tx-1".into(), v1::Decision::Rollback);
            Ok::<_, String>(())
        })
        .await;
    assert!(matches!(result, Err(TransactionError::CommitRefused(DecisionError::Conflict { .. }))));
}

#[tokio::test(start_paused = true)]
async fn refusal_without_conflict_is_typed_and_a_full_disk_is_pending() {
    let (fake, client) = Fake::start();
    let producer = producer(&client);
    fake.fail("commit", 1, Effect::None, refusal(Code::InvalidArgument, "REASON_TOO_LARGE"));
    let refused = producer.begin(order()).await.expect("prepared").commit().await;
    assert!(
        matches!(refused, Err(DecisionError::Refused { rejection, .. }) if rejection.reason == Reason::TooLarge)
    );
    fake.fail("commit", 1, Effect::None, refusal(Code::ResourceExhausted, "REASON_DISK_FULL"));
    let pending = producer.begin(order()).await.expect("prepared").commit().await;
    assert!(matches!(pending, Err(DecisionError::Unconfirmed { .. })));
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_local_transaction_decides_nothing() {
    let (fake, client) = Fake::start();
    let producer = producer(&client);
    let panicked = tokio::spawn(async move {
        producer.transaction(order(), |_| async { panic!("on purpose") as Result<(), String> }).await.is_ok()
    });
    assert!(panicked.await.is_err_and(|error| error.is_panic()));
    // The producer went with the panic, so its stream closes behind everything it ever sent.
    fake.until("the stream is closed", |state| state.log.contains(&"stream closed".into())).await;
    assert!(fake.state().decisions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn dropped_local_transaction_decides_nothing() {
    let (fake, client) = Fake::start();
    let producer = producer(&client);
    let endless =
        producer.transaction(order(), |_| async { std::future::pending::<Result<(), String>>().await });
    assert!(tokio::time::timeout(std::time::Duration::from_secs(60), endless).await.is_err());
    drop(producer);
    fake.until("the stream is closed", |state| state.log.contains(&"stream closed".into())).await;
    assert_eq!(fake.state().prepared.len(), 1);
    assert!(fake.state().decisions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn replacements_travel_with_the_commit() {
    let (fake, client) = Fake::start();
    let headers = HashMap::from([("id".to_owned(), "9".to_owned())]);
    let replacements = vec![Replacement::body(0, "born late"), Replacement::headers(1, headers)];
    let messages = [Message::new("orders", ""), Message::new("audit", "")];
    producer(&client)
        .transaction(messages, |_| async { LocalOutcome::<_, String>::CommitWith((), replacements) })
        .await
        .expect("it commits");
    let commit = fake.state().commits.pop().expect("one commit");
    assert_eq!(commit.replacements[0].body.as_deref(), Some(&b"born late"[..]));
    assert_eq!(commit.replacements[1].index, 1);
    assert_eq!(commit.replacements[1].body, None);
    assert!(commit.replacements[1].headers.is_some());
}

#[tokio::test(start_paused = true)]
async fn open_transactions_have_a_bound() {
    let (_fake, client) = Fake::start();
    let options = TransactionOptions { open_max: 1, ..TransactionOptions::default() };
    let producer = TransactionProducer::without_checker(&client, "shop", options);
    let first = producer.begin(order()).await.expect("there is room");
    assert_eq!(first.warnings(), [Warning::NoResolver]);
    assert!(producer.begin(order()).await.is_err_and(|error| error.is_retryable()));
    drop(first);
    assert!(producer.begin(order()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn interceptors_run_in_order() {
    struct Mark(&'static str);
    impl ProducerInterceptor for Mark {
        fn before_prepare(&self, messages: &mut [Message]) {
            for message in messages {
                message.keys.push(self.0.into());
            }
        }
    }
    let (fake, client) = Fake::start();
    let options = TransactionOptions {
        interceptors: vec![Arc::new(Mark("first")), Arc::new(Mark("second"))],
        ..TransactionOptions::default()
    };
    let producer = TransactionProducer::without_checker(&client, "shop", options);
    drop(producer.begin(order()).await.expect("prepared"));
    assert_eq!(fake.state().prepared[0].messages[0].keys, ["first", "second"]);
}
