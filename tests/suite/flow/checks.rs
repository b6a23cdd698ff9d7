//! Asking producers: who is asked, what is counted, and what becomes of doubt.

use halfmq_proto::v1::{
    CheckAnswer, CheckSettings, DecidedBy, InDoubtPolicy, ListTransactionsRequest, PrepareRequest,
    Replacement, Resolution, TransactionState,
};
use halfmq_tests::{CHECKS_SOON, CheckStream, Coordinator, Driver, bodies, half, message};

async fn start() -> (Coordinator, Driver) {
    let coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    (coordinator, driver)
}

fn doubtful(checks_max: u32, in_doubt: InDoubtPolicy) -> PrepareRequest {
    let check = CheckSettings { checks_max, in_doubt: in_doubt.into(), ..CheckSettings::default() };
    PrepareRequest { check: Some(check), ..half("shop", [message("orders", "o-1")]) }
}

#[tokio::test]
async fn lost_commit_is_found_by_a_check() {
    let (_coordinator, driver) = start().await;
    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    let prepared = driver.prepare(half("shop", [message("orders", "o-1")])).await;

    let question = checker.question().await;
    assert_eq!(question.transaction_id, prepared.transaction_id);
    assert_eq!((question.producer_instance.as_str(), question.checks_answered), ("p1", 0));
    assert_eq!(question.messages, [message("orders", "o-1")], "the question brings the messages along");
    checker.answer(&prepared.transaction_id, Resolution::Commit).await;

    let deliveries = driver.receive("orders", "billing", 1).await;
    assert_eq!(bodies(&deliveries), ["o-1"]);
    assert_eq!(deliveries[0].message_id, prepared.message_ids[0]);
    let transaction = driver.describe(&prepared.transaction_id).await;
    assert_eq!(
        (transaction.state(), transaction.decided_by()),
        (TransactionState::Committed, DecidedBy::Check)
    );
}

#[tokio::test]
async fn check_brings_what_the_lost_commit_would_have_replaced() {
    let (_coordinator, driver) = start().await;
    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    let half = PrepareRequest { request_id: "cart-7".into(), ..half("shop", [message("orders", "half")]) };
    driver.prepare(half).await;
    let question = checker.question().await;
    assert_eq!(question.request_id, "cart-7", "the producer recognises it by its own key");
    checker
        .say(CheckAnswer {
            transaction_id: question.transaction_id,
            resolution: Resolution::Commit.into(),
            reason: "row 42 is there".into(),
            replacements: vec![Replacement { index: 0, body: Some("order 42".into()), headers: None }],
        })
        .await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["order 42"]);
}

#[tokio::test]
async fn lost_rollback_is_found_by_a_check() {
    let (_coordinator, driver) = start().await;
    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    let id = driver.prepare(half("shop", [message("orders", "o-1")])).await.transaction_id;
    assert_eq!(checker.question().await.transaction_id, id);
    checker.answer(&id, Resolution::Rollback).await;

    let transaction = driver.becomes(&id, TransactionState::RolledBack).await;
    assert_eq!(transaction.decided_by(), DecidedBy::Check);
    assert!(driver.receive_now("orders", "billing").await.is_empty());
}

#[tokio::test]
async fn only_answers_are_counted() {
    let (_coordinator, driver) = start().await;
    let id = driver.prepare(half("shop", [message("orders", "o-1")])).await.transaction_id;

    // Nobody connected; then one that dies with the question in its hands; then one that is silent.
    let mut dies = CheckStream::open(&driver, "shop", "p1").await;
    assert_eq!(dies.question().await.checks_answered, 0, "nobody was there: not counted");
    drop(dies);
    let mut checker = CheckStream::open(&driver, "shop", "p2").await;
    assert_eq!(checker.question().await.checks_answered, 0, "the stream broke: not counted");
    let asked_again = checker.question().await;
    assert_eq!(asked_again.checks_answered, 0, "silence: not counted");

    for counted in 1..=2 {
        checker.answer(&id, Resolution::Unknown).await;
        assert_eq!(checker.question().await.checks_answered, counted, "UNKNOWN is an answer");
    }
    assert_eq!(driver.describe(&id).await.checks_answered, 2);
    assert_eq!(driver.describe(&id).await.state(), TransactionState::Prepared);
}

#[tokio::test]
async fn in_doubt_is_flagged_and_still_asked_about() {
    let (_coordinator, driver) = start().await;
    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    let id = driver.prepare(doubtful(2, InDoubtPolicy::Keep)).await.transaction_id;
    for _ in 0..2 {
        assert_eq!(checker.question().await.transaction_id, id);
        checker.answer(&id, Resolution::Unknown).await;
    }
    assert_eq!(driver.becomes(&id, TransactionState::InDoubt).await.checks_answered, 2);
    let request = ListTransactionsRequest { state: TransactionState::InDoubt.into(), ..Default::default() };
    let listed = driver.transactions.clone().list_transactions(request).await.expect("a list").into_inner();
    let listed: Vec<_> = listed.transactions.iter().map(|listed| listed.transaction_id.as_str()).collect();
    assert_eq!(listed, [id.as_str()], "people can find what is in doubt");

    assert_eq!(checker.question().await.checks_answered, 2, "asking goes on");
    checker.answer(&id, Resolution::Commit).await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["o-1"], "nothing was dropped");
}

#[tokio::test]
async fn operator_can_decide_what_is_in_doubt() {
    let (_coordinator, driver) = start().await;
    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    let id = driver.prepare(doubtful(1, InDoubtPolicy::Keep)).await.transaction_id;
    checker.question().await;
    checker.answer(&id, Resolution::Unknown).await;
    driver.becomes(&id, TransactionState::InDoubt).await;

    let reason = "the ledger shows the payment".to_owned();
    let commit = halfmq_proto::v1::CommitRequest {
        transaction_id: id.clone(),
        reason: reason.clone(),
        replacements: vec![],
    };
    driver.transactions.clone().commit(commit).await.expect("an operator's commit");
    let transaction = driver.describe(&id).await;
    assert_eq!((transaction.decided_by(), transaction.reason), (DecidedBy::Call, reason));
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["o-1"]);
}

#[tokio::test]
async fn in_doubt_policy_decides_where_its_owner_said_so() {
    for (policy, state) in [
        (InDoubtPolicy::Rollback, TransactionState::RolledBack),
        (InDoubtPolicy::Commit, TransactionState::Committed),
    ] {
        let (_coordinator, driver) = start().await;
        let mut checker = CheckStream::open(&driver, "shop", "p1").await;
        let id = driver.prepare(doubtful(2, policy)).await.transaction_id;
        for _ in 0..2 {
            assert_eq!(checker.question().await.transaction_id, id);
            checker.answer(&id, Resolution::Unknown).await;
        }
        let transaction = driver.becomes(&id, state).await;
        assert_eq!(transaction.decided_by(), DecidedBy::Policy, "{policy:?}");
        let visible = driver.receive_now("orders", "billing").await.len();
        assert_eq!(visible, usize::from(state == TransactionState::Committed), "{policy:?}");
    }
}

#[tokio::test]
async fn sending_instance_is_asked_first_then_any_of_its_group() {
    let (_coordinator, driver) = start().await;
    let mut first = CheckStream::open(&driver, "shop", "p1").await;
    let mut second = CheckStream::open(&driver, "shop", "p2").await;
    let mut stranger = CheckStream::open(&driver, "other", "p1").await;
    let by = |instance: &str| PrepareRequest {
        producer_instance: instance.into(),
        ..half("shop", [message("orders", "o")])
    };
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(driver.prepare(by("p1")).await.transaction_id);
    }
    let mut asked = Vec::new();
    while asked.len() < sent.len() {
        let question = first.question().await;
        first.answer(&question.transaction_id, Resolution::Commit).await;
        asked.push(question.transaction_id);
    }
    asked.sort();
    assert_eq!(asked, sent, "all are asked of the instance that sent them");

    let own = driver.prepare(by("p2")).await.transaction_id;
    assert_eq!(second.question().await.transaction_id, own, "and none of another instance");
    second.answer(&own, Resolution::Commit).await;

    let orphan = driver.prepare(by("p1")).await.transaction_id;
    drop(first);
    let question = second.question().await;
    assert_eq!((&question.transaction_id, question.producer_instance.as_str()), (&orphan, "p1"));
    second.answer(&orphan, Resolution::Commit).await;
    driver.becomes(&orphan, TransactionState::Committed).await;

    let theirs = driver.prepare(half("other", [message("orders", "o")])).await.transaction_id;
    assert_eq!(
        stranger.question().await.transaction_id,
        theirs,
        "other groups are asked about their own only"
    );
}

#[tokio::test]
async fn late_answer_changes_nothing() {
    let (_coordinator, driver) = start().await;
    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    let id = driver.prepare(half("shop", [message("orders", "o-1")])).await.transaction_id;
    checker.question().await;
    let receipt = driver.rollback(&id).await;
    checker.answer(&id, Resolution::Commit).await;

    // The stream survives: its next question comes after the late answer was dealt with.
    let next = driver.prepare(half("shop", [message("orders", "o-2")])).await.transaction_id;
    assert_eq!(checker.question().await.transaction_id, next);
    assert_eq!(driver.rollback(&id).await, receipt);
    assert!(driver.receive_now("orders", "billing").await.is_empty());
}

#[tokio::test]
async fn instance_without_a_checker_is_not_asked() {
    use halfmq_proto::v1::{ChecksRequest, Registration, checks_request};
    let (_coordinator, driver) = start().await;
    let registration =
        Registration { producer_group: "shop".into(), producer_instance: "p1".into(), has_checker: false };
    let request = ChecksRequest { kind: Some(checks_request::Kind::Registration(registration)) };
    let (keep_open, requests) = tokio::sync::mpsc::channel(1);
    keep_open.send(request).await.expect("the receiver is right here");
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut stream = driver.transactions.clone().checks(requests).await.expect("a stream").into_inner();
    stream.message().await.expect("an answer").expect("the registration is answered");

    let prepared = driver.prepare(half("shop", [message("orders", "o-1")])).await;
    assert_eq!(prepared.warnings.len(), 1, "nobody can be asked");
    let mut checker = CheckStream::open(&driver, "shop", "p2").await;
    assert_eq!(checker.question().await.transaction_id, prepared.transaction_id);
}
