//! Long polls end in time, nothing is lost on the way, and handles are checked.

use std::time::Duration;

use halfmq_proto::rocketmq as v2;
use halfmq_tests::{Coordinator, within};
use v2::{Code, DigestType, MessageType};

use super::{Peer, code, frames, message, receive, resource};

/// For one library the long poll is all the time there is.
#[tokio::test]
async fn long_poll_answers_before_its_caller_gives_up() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    let mut request = peer.request(receive("orders", "readers", 2));
    request.set_timeout(Duration::from_secs(2));
    let answer = within("an answer", peer.client.clone().receive_message(request)).await;
    let (code, messages) = frames(answer.expect("the deadline is not reached").into_inner()).await;
    assert_eq!((code, messages), (Code::MessageNotFound, Vec::new()));
}

/// Its lease would last for 30 s, and nobody waits so long here.
#[tokio::test]
async fn caller_that_went_away_keeps_no_message() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    peer.route("orders").await;
    for round in 0..20 {
        let polls = (0..8).map(|at: u64| {
            let request = peer.request(receive("orders", "readers", 20));
            let mut client = peer.client.clone();
            let poll = async move { client.receive_message(request).await.map(drop) };
            tokio::spawn(tokio::time::timeout(Duration::from_millis(at * 2 + 1), poll))
        });
        let polls: Vec<_> = polls.collect();
        for poll in polls {
            assert!(poll.await.expect("no panic").is_err(), "there was nothing to receive");
        }
        let body = format!("body {round}");
        peer.send([message("orders", &body, &body, MessageType::Normal)]).await;
        let (code, messages) = peer.receive(receive("orders", "readers", 20)).await;
        assert_eq!((code, messages.len()), (Code::Ok, 1), "round {round}");
        let acked = peer.ack("orders", "readers", &[&handle(&messages[0])]).await;
        assert_eq!(self::code(&acked.status), Code::Ok);
    }
}

#[tokio::test]
async fn stale_and_foreign_handles_are_named_as_such() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    peer.send([message("orders", "M1", "body", MessageType::Normal)]).await;
    let (_, messages) = peer.receive(receive("orders", "readers", 5)).await;
    let good = handle(&messages[0]);
    let cases = [
        ("orders", "readers", "0-99-1", Code::InvalidReceiptHandle),
        ("orders", "readers", "no handle", Code::InvalidReceiptHandle),
        ("orders", "strangers", good.as_str(), Code::InvalidReceiptHandle),
        ("unheard-of", "readers", good.as_str(), Code::InvalidReceiptHandle),
        ("orders", "readers", good.as_str(), Code::Ok),
    ];
    for (topic, group, handle, expected) in cases {
        let answer = peer.ack(topic, group, &[handle]).await;
        assert_eq!(code(&answer.status), expected, "{topic} {group} {handle}");
    }
    let mixed = peer.ack("orders", "readers", &["0-99-1", &good]).await;
    assert_eq!(code(&mixed.status), Code::MultipleResults);
    let each: Vec<_> = mixed.entries.iter().map(|entry| code(&entry.status)).collect();
    assert_eq!(each, [Code::InvalidReceiptHandle, Code::Ok], "an ack that comes twice is fine");
}

#[tokio::test]
async fn zero_invisible_duration_is_legal() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    peer.send([message("orders", "M1", "body", MessageType::Normal)]).await;
    let (_, messages) = peer.receive(receive("orders", "readers", 5)).await;
    let request = peer.request(v2::ChangeInvisibleDurationRequest {
        group: Some(resource("readers")),
        topic: Some(resource("orders")),
        receipt_handle: handle(&messages[0]),
        invisible_duration: Some(prost_types::Duration::default()),
        ..v2::ChangeInvisibleDurationRequest::default()
    });
    let answer =
        peer.client.clone().change_invisible_duration(request).await.expect("gRPC is OK").into_inner();
    assert_eq!(code(&answer.status), Code::Ok);
    let (_, again) = peer.receive(receive("orders", "readers", 20)).await;
    let system = again[0].system_properties.clone().expect("they are there");
    assert_eq!(system.delivery_attempt, Some(2));
    let digest = system.body_digest.expect("it is there");
    assert_eq!(
        (digest.r#type(), digest.checksum.as_str()),
        (DigestType::Md5, "841A2D689AD86BD1611447453C22C6FC")
    );
}

#[tokio::test]
async fn largest_body_is_taken_and_a_larger_one_refused() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    for (bytes, expected) in [(4 << 20, Code::Ok), ((4 << 20) + 1, Code::MessageBodyTooLarge)] {
        let answer = peer.send([message("orders", "M1", &"x".repeat(bytes), MessageType::Normal)]).await;
        assert_eq!(code(&answer.status), expected, "{bytes}");
    }
}

fn handle(message: &v2::Message) -> String {
    let system = message.system_properties.as_ref();
    system.and_then(|system| system.receipt_handle.clone()).expect("deliveries have a handle")
}
