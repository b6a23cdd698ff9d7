//! What a client may not do, and what a slow one cannot.

use std::time::Duration;

use halfmq_proto::v1;
use tonic::Status;

use crate::server::{Server, reason, request, send};

/// A client whose next message is not taken for so long is not read from.
const NOT_READ: Duration = Duration::from_millis(500);

#[tokio::test]
async fn client_that_takes_no_answers_is_not_read_from() {
    const MESSAGES_MAX: u64 = 4_000;
    let server = Server::start().await;
    let mut produce = server.produce().await;
    let mut sent = 0;
    // Without a bound all of it would be taken in: 256,000 operations.
    while sent < MESSAGES_MAX {
        let operations = (sent * 64..sent * 64 + 64).map(|id| (id, send("", "x")));
        let offered = produce.requests.send(request(operations));
        if tokio::time::timeout(NOT_READ, offered).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < MESSAGES_MAX, "the server went on reading");
    // It goes on as soon as the client does, and nothing was lost.
    produce.answers(usize::try_from(sent * 64).expect("it fits")).await;
}

async fn consume_refusal(server: &Server, requests: Vec<v1::ConsumeRequest>) -> Status {
    let mut consume = server.unsubscribed().await;
    for request in requests {
        consume.say(request).await;
    }
    consume.drain().await.expect_err("it is refused")
}

#[tokio::test]
async fn broken_rule_of_a_stream_ends_it_with_a_reason() {
    let server = Server::start().await;
    let subscribe = |topic: &str, group: &str, credits| {
        let (topic, group) = (topic.to_owned(), group.to_owned());
        let subscription = Some(v1::Subscription { topic, group, ..v1::Subscription::default() });
        v1::ConsumeRequest { subscription, credits, operations: Vec::new() }
    };
    let credit = |credits| v1::ConsumeRequest { credits, ..v1::ConsumeRequest::default() };
    let no_operations = vec![v1::ConsumeOperation::default(); 1_025];
    for (requests, expected) in [
        (vec![credit(1)], "REASON_INVALID_ARGUMENT"),
        (vec![subscribe("orders", "g", 0), subscribe("orders", "g", 0)], "REASON_INVALID_ARGUMENT"),
        (vec![subscribe("orders", "g", 0), credit(10_001)], "REASON_INVALID_ARGUMENT"),
        (vec![subscribe("or ders", "g", 1)], "REASON_ILLEGAL_NAME"),
        (vec![subscribe("elsewhere", "g", 1)], "REASON_UNKNOWN_TOPIC"),
        (
            vec![v1::ConsumeRequest { operations: no_operations, ..subscribe("orders", "g", 0) }],
            "REASON_INVALID_ARGUMENT",
        ),
    ] {
        let story = format!("{:.200}", format!("{requests:?}"));
        let status = consume_refusal(&server, requests).await;
        assert_eq!(reason(&status), Some(expected), "{story}: {status:?}");
    }
    let mut produce = server.produce().await;
    produce.say((0..1_025).map(|id| (id, send("", "x")))).await;
    let status = produce.hear().await.expect_err("it is refused");
    assert_eq!(reason(&status), Some("REASON_INVALID_ARGUMENT"), "{status:?}");
}
