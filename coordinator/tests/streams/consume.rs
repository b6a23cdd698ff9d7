//! Deliveries and their acks on a Consume stream.

use halfmq_proto::v1;
use v1::consume_answer::Outcome;
use v1::consume_operation::Verb;

use crate::server::{Server, reason, within};

fn ack(handles: impl IntoIterator<Item = String>) -> Verb {
    Verb::Ack(v1::AckDeliveries { receipt_handles: handles.into_iter().collect() })
}

#[tokio::test]
async fn no_more_is_delivered_than_there_is_credit_for() {
    let server = Server::start().await;
    server.release(&["a", "b", "c", "d", "e", "f", "g"]).await;
    let mut consume = server.consume(3).await;
    consume.until(|consume| consume.deliveries.len() >= 3).await;
    // An answer that comes later than any delivery that should not have been sent.
    let first = consume.handles()[0].clone();
    consume.settle([(1, ack([first]))]).await;
    consume.until(|consume| consume.answers.contains_key(&1)).await;
    assert_eq!(consume.deliveries.len(), 3, "an ack is no credit");

    consume.credit(2).await;
    consume.until(|consume| consume.deliveries.len() >= 5).await;
    consume.credit(2).await;
    consume.until(|consume| consume.deliveries.len() >= 7).await;
    let mut bodies = consume.bodies();
    bodies.sort_unstable();
    assert_eq!(bodies, ["a", "b", "c", "d", "e", "f", "g"]);
}

#[tokio::test]
async fn message_wakes_a_stream_that_waits() {
    let server = Server::start().await;
    let mut consume = server.consume(10).await;
    assert!(consume.deliveries.is_empty());
    server.release(&["a"]).await;
    consume.until(|consume| consume.bodies() == ["a"]).await;
    server.release(&["b"]).await;
    consume.until(|consume| consume.bodies() == ["a", "b"]).await;
}

#[tokio::test]
async fn message_goes_to_whoever_of_the_group_is_still_there() {
    let server = Server::start().await;
    let gone = server.consume(10).await;
    let mut stays = server.consume(10).await;
    drop(gone);
    server.release(&["a", "b"]).await;
    stays.until(|consume| consume.deliveries.len() == 2).await;
}

#[tokio::test]
async fn every_handle_and_operation_is_answered_by_itself() {
    let server = Server::start().await;
    server.release(&["a", "b", "c", "d"]).await;
    let mut consume = server.consume(4).await;
    consume.until(|consume| consume.deliveries.len() == 4).await;
    let handles = consume.handles();
    let retry = |handle: &str| {
        let delay = Some(prost_types::Duration { seconds: 0, nanos: 0 });
        Verb::RetryLater(v1::RetryDelivery { receipt_handle: handle.into(), delay, reason: "no".into() })
    };
    let extend =
        |handle: &str| Verb::Extend(v1::ExtendDelivery { receipt_handle: handle.into(), invisible: None });
    let strange = ["7-7-7".to_owned(), "nonsense".to_owned()];
    consume
        .settle([
            (1, ack(handles[..2].iter().cloned().chain(strange))),
            (2, ack(["nonsense".to_owned()])),
            (3, ack([])),
            (4, extend(&handles[2])),
            (5, extend("7-7-7")),
            (6, retry(&handles[3])),
        ])
        .await;
    consume.until(|consume| consume.answers.len() == 6).await;

    let Outcome::Acked(acked) = &consume.answers[&1] else { panic!("{:?}", consume.answers) };
    let results: Vec<_> = acked.results.iter().map(|result| (result.ok, result.reason.as_str())).collect();
    let malformed = (false, "REASON_INVALID_ARGUMENT");
    assert_eq!(results, [(true, ""), (true, ""), (false, "REASON_RECEIPT_EXPIRED"), malformed]);
    let Outcome::Acked(acked) = &consume.answers[&2] else { panic!("{:?}", consume.answers) };
    assert_eq!((acked.results[0].ok, acked.results[0].reason.as_str()), malformed);
    for (id, expected) in [(3, v1::Reason::InvalidArgument), (5, v1::Reason::ReceiptExpired)] {
        let Outcome::Refused(refusal) = &consume.answers[&id] else { panic!("{id}: {:?}", consume.answers) };
        assert_eq!(refusal.reason(), expected, "{id}");
    }
    assert!(
        matches!(&consume.answers[&4], Outcome::Extended(extended) if extended.invisible_until.is_some())
    );
    assert!(matches!(&consume.answers[&6], Outcome::GivenBack(_)));

    // What was given back comes again, on new credit.
    consume.credit(1).await;
    consume.until(|consume| consume.deliveries.len() == 5).await;
    assert_eq!(consume.deliveries[4].attempt, 2);
    assert_eq!(consume.bodies()[4], consume.bodies()[3]);
}

#[tokio::test]
async fn delivery_of_a_broken_stream_is_acked_on_the_next() {
    let server = Server::start().await;
    server.release(&["a"]).await;
    let mut broken = server.consume(1).await;
    broken.until(|consume| consume.deliveries.len() == 1).await;
    let handle = broken.handles()[0].clone();
    drop(broken);
    let mut next = server.consume(1).await;
    next.settle([(1, ack([handle.clone()])), (2, ack([handle]))]).await;
    next.until(|consume| consume.answers.len() == 2).await;
    for outcome in next.answers.values() {
        assert!(matches!(outcome, Outcome::Acked(acked) if acked.results[0].ok), "{outcome:?}");
    }
    assert!(next.deliveries.is_empty(), "it was leased, then acked");
}

#[tokio::test]
async fn client_that_ends_its_side_gets_every_answer() {
    let server = Server::start().await;
    server.release(&["a", "b"]).await;
    let mut consume = server.consume(2).await;
    consume.until(|consume| consume.deliveries.len() == 2).await;
    consume.settle([(1, ack(consume.handles()))]).await;
    let mut consume = consume.half_closed();
    consume.drain().await.expect("in good order");
    assert!(consume.answers.contains_key(&1));
}

#[tokio::test]
async fn stop_ends_the_stream_and_says_why() {
    let server = Server::start().await;
    let mut consume = server.consume(2).await;
    server.stop();
    let status = within("the end", consume.drain()).await.expect_err("it must say why");
    assert_eq!((status.code(), reason(&status)), (tonic::Code::Unavailable, Some("REASON_STOPPING")));
}
