//! Refused half messages, decisions and registrations.

use halfmq_proto::v1::{
    CheckAnswer, CheckSettings, ChecksRequest, CommitRequest, DescribeTransactionRequest,
    ListTransactionsRequest, Message, PrepareRequest, Registration, Replacement, Resolution, RollbackRequest,
    TransactionState, checks_request, message,
};
use halfmq_tests::{Refusal, half, message, seconds, transaction_id, within};

use super::{
    Call, Case, DECISION_CONFLICT, Expected, ILLEGAL_NAME, ILLEGAL_NAMES, INVALID, REQUEST_ID_REUSED,
    TOO_LARGE, UNKNOWN_TOPIC, UNKNOWN_TRANSACTION, case, refuse, start,
};

const MIB: usize = 1024 * 1024;

fn order() -> Message {
    message("orders", "o-1")
}

fn of_bytes(bytes: usize) -> Message {
    Message { body: vec![b'x'; bytes].into(), ..order() }
}

fn prepare(name: impl Into<String>, messages: Vec<Message>, expected: Expected) -> Case {
    case(name, Call::Prepare(half("shop", messages)), expected)
}

fn checked_by(name: &str, check: CheckSettings) -> Case {
    case(name, Call::Prepare(PrepareRequest { check: Some(check), ..half("shop", [order()]) }), INVALID)
}

#[tokio::test]
async fn half_messages_are_checked_before_they_are_kept() {
    let (_coordinator, driver) = start().await;
    let delay = |seconds| Some(message::Visibility::Delay(seconds));
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let year = seconds(367.0 * 86_400.0);
    let header = |bytes| [("h".to_owned(), "x".repeat(bytes))].into();
    let mut cases = vec![
        prepare("no message", vec![], INVALID),
        prepare("257 messages", vec![order(); 257], INVALID),
        prepare("one good and one bad", vec![order(), message("nowhere", "o")], UNKNOWN_TOPIC),
        prepare("body of 4 MiB + 1", vec![of_bytes(4 * MIB + 1)], TOO_LARGE),
        prepare("16 MiB + 1 together", [vec![of_bytes(4 * MIB); 4], vec![of_bytes(1)]].concat(), TOO_LARGE),
        prepare("header of 64 KiB", vec![Message { headers: header(64 * 1024), ..order() }], TOO_LARGE),
        prepare(
            "key of 64 KiB + 1",
            vec![Message { keys: vec!["k".repeat(64 * 1024 + 1)], ..order() }],
            TOO_LARGE,
        ),
        prepare("unknown topic", vec![message("nowhere", "o")], UNKNOWN_TOPIC),
        prepare("dead-letter topic", vec![message("dlq.billing", "o")], ILLEGAL_NAME),
        prepare("long topic", vec![message(&"t".repeat(128), "o")], ILLEGAL_NAME),
        prepare("tag of two words", vec![Message { tag: "a||b".into(), ..order() }], ILLEGAL_NAME),
        prepare(
            "message group of control characters",
            vec![Message { message_group: "\0".into(), ..order() }],
            ILLEGAL_NAME,
        ),
        prepare("delay of 367 days", vec![Message { visibility: delay(year), ..order() }], INVALID),
        prepare("negative delay", vec![Message { visibility: delay(negative), ..order() }], INVALID),
        checked_by(
            "first check in the past",
            CheckSettings { first_after: Some(negative), ..Default::default() },
        ),
        checked_by(
            "checks without a pause",
            CheckSettings { interval: Some(seconds(0.0)), ..Default::default() },
        ),
        checked_by("a million and one checks", CheckSettings { checks_max: 1_000_001, ..Default::default() }),
        checked_by("a policy of the future", CheckSettings { in_doubt: 99, ..Default::default() }),
    ];
    for name in ILLEGAL_NAMES {
        cases.push(prepare(format!("topic {name:?}"), vec![message(name, "o")], ILLEGAL_NAME));
        let half = half(name, [order()]);
        cases.push(case(format!("producer group {name:?}"), Call::Prepare(half), ILLEGAL_NAME));
    }
    let instance = PrepareRequest { producer_instance: "p\n1".into(), ..half("shop", [order()]) };
    cases.push(case("instance with a line break", Call::Prepare(instance), ILLEGAL_NAME));
    let request_id = PrepareRequest { request_id: "r".repeat(256), ..half("shop", [order()]) };
    cases.push(case("long request id", Call::Prepare(request_id), ILLEGAL_NAME));
    refuse(&driver, cases).await;
}

#[tokio::test]
async fn request_id_names_one_content() {
    let (_coordinator, driver) = start().await;
    let with_key =
        |messages: Vec<Message>| PrepareRequest { request_id: "r-1".into(), ..half("shop", messages) };
    driver.prepare(with_key(vec![order()])).await;
    let other = |name: &str, messages| case(name, Call::Prepare(with_key(messages)), REQUEST_ID_REUSED);
    let cases = vec![
        other("another body", vec![message("orders", "o-2")]),
        other("another tag", vec![Message { tag: "t".into(), ..order() }]),
        other("another header", vec![Message { headers: [("a".into(), "b".into())].into(), ..order() }]),
        other("one more message", vec![order(), order()]),
    ];
    refuse(&driver, cases).await;
}

#[tokio::test]
async fn decisions_need_a_transaction_that_is_open_or_agrees() {
    let (_coordinator, driver) = start().await;
    let open = driver.prepare(half("shop", [order()])).await.transaction_id;
    let committed = driver.prepare(half("shop", [order()])).await.transaction_id;
    driver.commit(&committed).await;
    let rolled_back = driver.prepare(half("shop", [order()])).await.transaction_id;
    driver.rollback(&rolled_back).await;

    let commit = |id: &str| CommitRequest { transaction_id: id.into(), ..Default::default() };
    let rollback = |id: &str| RollbackRequest { transaction_id: id.into(), ..Default::default() };
    let describe = |id: &str| DescribeTransactionRequest { transaction_id: id.into() };
    let mut cases = vec![
        case("commit after rollback", Call::Commit(commit(&rolled_back)), DECISION_CONFLICT),
        case("rollback after commit", Call::Rollback(rollback(&committed)), DECISION_CONFLICT),
    ];
    let unknown = transaction_id();
    for (id, expected) in
        [("", INVALID), ("42", INVALID), ("not-a-uuid", INVALID), (&unknown, UNKNOWN_TRANSACTION)]
    {
        cases.push(case(format!("commit {id:?}"), Call::Commit(commit(id)), expected));
        cases.push(case(format!("rollback {id:?}"), Call::Rollback(rollback(id)), expected));
        cases.push(case(format!("describe {id:?}"), Call::DescribeTransaction(describe(id)), expected));
    }
    let replacing = |index, bytes| {
        let body = Some(vec![b'x'; bytes].into());
        CommitRequest { replacements: vec![Replacement { index, body, headers: None }], ..commit(&open) }
    };
    cases.push(case("replacement of message 1 of 1", Call::Commit(replacing(1, 1)), INVALID));
    cases.push(case("replacement past every index", Call::Commit(replacing(70_000, 1)), INVALID));
    cases.push(case("replacement too large", Call::Commit(replacing(0, 4 * MIB + 1)), TOO_LARGE));
    let reason = "r".repeat(1_025);
    cases.push(case("long reason", Call::Rollback(RollbackRequest { reason, ..rollback(&open) }), TOO_LARGE));
    let page = ListTransactionsRequest { page_size: 1_001, ..Default::default() };
    cases.push(case("page of 1,001", Call::ListTransactions(page), INVALID));
    let token = ListTransactionsRequest { page_token: "no such page".into(), ..Default::default() };
    cases.push(case("page token of one's own", Call::ListTransactions(token), INVALID));
    refuse(&driver, cases).await;
    assert_eq!(driver.describe(&open).await.state(), TransactionState::Prepared, "refusals decide nothing");
}

#[tokio::test]
async fn check_streams_begin_with_one_registration() {
    let (_coordinator, driver) = start().await;
    let register = |group: &str, instance: &str| {
        let registration = Registration {
            producer_group: group.into(),
            producer_instance: instance.into(),
            has_checker: true,
        };
        ChecksRequest { kind: Some(checks_request::Kind::Registration(registration)) }
    };
    let resolution = Resolution::Commit.into();
    let answer = CheckAnswer { transaction_id: transaction_id(), resolution, ..CheckAnswer::default() };
    let answer = ChecksRequest { kind: Some(checks_request::Kind::Answer(answer)) };
    let cases = [
        ("answer first", vec![answer], INVALID),
        ("nothing in it", vec![ChecksRequest { kind: None }], INVALID),
        ("two registrations", vec![register("shop", "p1"), register("shop", "p1")], INVALID),
        ("no group", vec![register("", "p1")], ILLEGAL_NAME),
        ("illegal instance", vec![register("shop", "p\n1")], ILLEGAL_NAME),
    ];
    for (name, requests, expected) in cases {
        // The client keeps its side open, so that the end is the coordinator's doing.
        let (_keep_open, end) = tokio::sync::mpsc::channel::<ChecksRequest>(1);
        let requests = tokio_stream::iter(requests);
        let requests =
            tokio_stream::StreamExt::chain(requests, tokio_stream::wrappers::ReceiverStream::new(end));
        let refused = within(name, async {
            let mut responses = driver.transactions.clone().checks(requests).await?.into_inner();
            while responses.message().await?.is_some() {}
            Ok::<(), tonic::Status>(())
        })
        .await;
        let refusal = Refusal::from(refused.expect_err(name));
        assert_eq!(refusal.kind(), expected, "{name}: {refusal:?}");
    }
}
