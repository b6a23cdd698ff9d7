//! What is refused, with which code and reason. One table for each service.

mod admin;
mod queues;
mod transactions;

use halfmq_proto::v1::{
    AckRequest, CommitRequest, ConfigureGroupRequest, CreateTopicRequest, DeleteTopicRequest,
    DescribeGroupRequest, DescribeTopicRequest, DescribeTransactionRequest, ExtendRequest,
    ListDeadLettersRequest, ListTransactionsRequest, PrepareRequest, ReceiveRequest, ResetGroupRequest,
    RetryLaterRequest, RollbackRequest, SelectDeadLetters, SendRequest, ShowDeadLetterRequest,
};
use halfmq_tests::{Coordinator, Driver, Refusal, message};
use tonic::{Code, Status};

type Expected = (Code, &'static str);

const INVALID: Expected = (Code::InvalidArgument, "REASON_INVALID_ARGUMENT");
const ILLEGAL_NAME: Expected = (Code::InvalidArgument, "REASON_ILLEGAL_NAME");
const TOO_LARGE: Expected = (Code::InvalidArgument, "REASON_TOO_LARGE");
const UNKNOWN_TOPIC: Expected = (Code::NotFound, "REASON_UNKNOWN_TOPIC");
const UNKNOWN_GROUP: Expected = (Code::NotFound, "REASON_UNKNOWN_GROUP");
const UNKNOWN_TRANSACTION: Expected = (Code::NotFound, "REASON_UNKNOWN_TRANSACTION");
const UNKNOWN_DEAD_LETTER: Expected = (Code::NotFound, "REASON_UNKNOWN_DEAD_LETTER");
const DECISION_CONFLICT: Expected = (Code::FailedPrecondition, "REASON_DECISION_CONFLICT");
const RECEIPT_EXPIRED: Expected = (Code::FailedPrecondition, "REASON_RECEIPT_EXPIRED");
const TOPIC_IN_USE: Expected = (Code::FailedPrecondition, "REASON_TOPIC_IN_USE");
const REQUEST_ID_REUSED: Expected = (Code::AlreadyExists, "REASON_REQUEST_ID_REUSED");
const TOPIC_EXISTS: Expected = (Code::AlreadyExists, "REASON_TOPIC_EXISTS");

/// Names that no topic and no group may have.
const ILLEGAL_NAMES: [&str; 6] = ["", "with space", "päyments", "a/b", ".hidden", "line\nbreak"];

/// A call as data.
enum Call {
    Prepare(PrepareRequest),
    Commit(CommitRequest),
    Rollback(RollbackRequest),
    DescribeTransaction(DescribeTransactionRequest),
    ListTransactions(ListTransactionsRequest),
    Send(SendRequest),
    Receive(ReceiveRequest),
    Ack(AckRequest),
    Extend(ExtendRequest),
    RetryLater(RetryLaterRequest),
    CreateTopic(CreateTopicRequest),
    DescribeTopic(DescribeTopicRequest),
    DeleteTopic(DeleteTopicRequest),
    ConfigureGroup(ConfigureGroupRequest),
    DescribeGroup(DescribeGroupRequest),
    ResetGroup(ResetGroupRequest),
    ListDeadLetters(ListDeadLettersRequest),
    ShowDeadLetter(ShowDeadLetterRequest),
    ReplayDeadLetters(SelectDeadLetters),
}

/// What is called, and what it must be answered with.
struct Case {
    name: String,
    call: Call,
    expected: Expected,
}

fn case(name: impl Into<String>, call: Call, expected: Expected) -> Case {
    Case { name: name.into(), call, expected }
}

/// A coordinator with the one topic `orders` of one queue, which makes no others by itself.
async fn start() -> (Coordinator, Driver) {
    let coordinator = Coordinator::start_with(&[("HALFMQ_AUTO_CREATE_TOPICS", "false")]).await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    (coordinator, driver)
}

/// Runs a table, and proves that nothing of it was stored. Tells of every wrong line, not of the first.
async fn refuse(driver: &Driver, cases: Vec<Case>) {
    let before = orders(driver).await;
    let mut wrong = Vec::new();
    for Case { name, call, expected } in cases {
        match make(driver, call).await {
            Ok(()) => wrong.push(format!("{name}: accepted, expected {expected:?}")),
            Err(status) => {
                let refusal = Refusal::from(status);
                if refusal.kind() != expected || refusal.message.is_empty() {
                    wrong.push(format!("{name}: {refusal:?}, expected {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(orders(driver).await, before, "refused calls leave nothing behind");
    driver.send([message("orders", "still serving")]).await;
}

/// Open transactions, delayed messages, and the next offset of the topic `orders`.
async fn orders(driver: &Driver) -> (u64, u64, u64) {
    let request = DescribeTopicRequest { topic: "orders".into() };
    let topic = driver.admin.clone().describe_topic(request).await.expect("the topic").into_inner();
    (topic.open_transactions, topic.delayed, topic.queues[0].next)
}

async fn make(driver: &Driver, call: Call) -> Result<(), Status> {
    let Driver { mut transactions, mut queues, mut admin } = driver.clone();
    match call {
        Call::Prepare(request) => transactions.prepare(request).await.map(drop),
        Call::Commit(request) => transactions.commit(request).await.map(drop),
        Call::Rollback(request) => transactions.rollback(request).await.map(drop),
        Call::DescribeTransaction(request) => transactions.describe_transaction(request).await.map(drop),
        Call::ListTransactions(request) => transactions.list_transactions(request).await.map(drop),
        Call::Send(request) => queues.send(request).await.map(drop),
        Call::Receive(request) => queues.receive(request).await.map(drop),
        Call::Ack(request) => queues.ack(request).await.map(drop),
        Call::Extend(request) => queues.extend(request).await.map(drop),
        Call::RetryLater(request) => queues.retry_later(request).await.map(drop),
        Call::CreateTopic(request) => admin.create_topic(request).await.map(drop),
        Call::DescribeTopic(request) => admin.describe_topic(request).await.map(drop),
        Call::DeleteTopic(request) => admin.delete_topic(request).await.map(drop),
        Call::ConfigureGroup(request) => admin.configure_group(request).await.map(drop),
        Call::DescribeGroup(request) => admin.describe_group(request).await.map(drop),
        Call::ResetGroup(request) => admin.reset_group(request).await.map(drop),
        Call::ListDeadLetters(request) => admin.list_dead_letters(request).await.map(drop),
        Call::ShowDeadLetter(request) => admin.show_dead_letter(request).await.map(drop),
        Call::ReplayDeadLetters(request) => admin.replay_dead_letters(request).await.map(drop),
    }
}
