//! Prepares, decisions and sends on a Produce stream.

use std::collections::HashMap;

use halfmq_proto::v1;
use v1::produce_answer::Outcome;

use crate::server::{Produce, Server, commit, prepare, rollback, send, transaction};

/// Several messages ahead of their answers.
async fn pipeline(produce: &mut Produce, verbs: Vec<v1::produce_operation::Verb>) -> HashMap<u64, Outcome> {
    let count = verbs.len();
    let mut numbered = (0..).zip(verbs).peekable();
    while numbered.peek().is_some() {
        produce.say(numbered.by_ref().take(64).collect::<Vec<_>>()).await;
    }
    produce.answers(count).await
}

fn places(outcomes: &HashMap<u64, Outcome>) -> Vec<(u32, u64)> {
    let mut places = Vec::new();
    for outcome in outcomes.values() {
        let Outcome::Decided(receipt) = outcome else { panic!("not decided: {outcome:?}") };
        let Some(v1::message_receipt::Released::Place(place)) = &receipt.messages[0].released else {
            panic!("not placed: {receipt:?}");
        };
        places.push((place.queue, place.offset));
    }
    places.sort_unstable();
    places
}

#[tokio::test]
async fn pipelined_operations_are_answered_by_correlation_id() {
    let server = Server::start().await;
    let mut produce = server.produce().await;
    let bodies: Vec<_> = (0..300).map(|number| number.to_string()).collect();
    let prepared = pipeline(&mut produce, bodies.iter().map(|body| prepare("", body)).collect()).await;
    assert_eq!(server.orders().await.open_transactions, 300);

    let ids: Vec<_> = (0..300).map(|number| transaction(&prepared[&number])).collect();
    let decided = pipeline(&mut produce, ids.iter().map(|id| commit(id)).collect()).await;
    for (number, outcome) in &decided {
        let Outcome::Decided(receipt) = outcome else { panic!("{number}: {outcome:?}") };
        assert_eq!(receipt.transaction_id, transaction(&prepared[number]), "the answer to another commit");
    }
    // One place each, and no gap.
    let places = places(&decided);
    for queue in [0, 1] {
        let offsets: Vec<_> = places.iter().filter(|place| place.0 == queue).map(|place| place.1).collect();
        assert_eq!(offsets, (0..offsets.len() as u64).collect::<Vec<_>>());
    }
    assert_eq!(server.orders().await.open_transactions, 0);
}

#[tokio::test]
async fn refused_operation_is_typed_and_hurts_no_other() {
    let server = Server::start().await;
    let mut produce = server.produce().await;
    produce.say([(1, prepare("", "a")), (2, prepare("r", "b")), (3, send("", "c"))]).await;
    let answers = produce.answers(3).await;
    let (a, b) = (transaction(&answers[&1]), transaction(&answers[&2]));
    assert!(matches!(&answers[&3], Outcome::Sent(sent) if sent.messages.len() == 1));

    produce.say([(1, rollback(&a))]).await;
    produce.answers(1).await;
    let nothing = v1::ProduceOperation { correlation_id: 6, verb: None };
    let mut request =
        crate::server::request([(1, commit(&a)), (2, commit("x")), (3, commit(&b)), (4, prepare("r", "z"))]);
    request.operations.push(nothing);
    produce.requests.send(request).await.expect("the stream is open");
    let answers = produce.answers(5).await;
    for (id, code, reason) in [
        (1, tonic::Code::FailedPrecondition, v1::Reason::DecisionConflict),
        (2, tonic::Code::InvalidArgument, v1::Reason::InvalidArgument),
        (4, tonic::Code::AlreadyExists, v1::Reason::RequestIdReused),
        (6, tonic::Code::InvalidArgument, v1::Reason::InvalidArgument),
    ] {
        let Outcome::Refused(refusal) = &answers[&id] else { panic!("{id}: {:?}", answers[&id]) };
        assert_eq!((refusal.code, refusal.reason()), (code as u32, reason), "{id}: {}", refusal.message);
    }
    assert!(matches!(&answers[&3], Outcome::Decided(_)));
}

#[tokio::test]
async fn operations_sent_again_after_a_disconnect_take_effect_once() {
    let server = Server::start().await;
    let prepares =
        || (0..100).map(|number| (number, prepare(&format!("r{number}"), "x"))).collect::<Vec<_>>();
    let unheard = server.produce().await;
    unheard.say(prepares()).await;
    drop(unheard);
    let mut produce = server.produce().await;
    produce.say(prepares()).await;
    let prepared = produce.answers(100).await;
    assert_eq!(server.orders().await.open_transactions, 100);

    let commits = || {
        prepared.iter().map(|(number, outcome)| (*number, commit(&transaction(outcome)))).collect::<Vec<_>>()
    };
    let mut heard = server.produce().await;
    heard.say(commits()).await;
    let first = heard.answers(100).await;
    drop(heard);
    let mut produce = server.produce().await;
    produce.say(commits()).await;
    assert_eq!(produce.answers(100).await, first, "the receipts stay the same for ever");
    let released: u64 = server.orders().await.queues.iter().map(|queue| queue.next).sum();
    assert_eq!(released, 100);
}

#[tokio::test]
async fn client_that_ends_its_side_gets_every_answer() {
    let server = Server::start().await;
    let produce = server.produce().await;
    produce.say((0..64).map(|number| (number, send("", "x")))).await;
    let mut produce = produce.half_closed();
    produce.answers(64).await;
    assert!(produce.hear().await.expect("in good order").is_none());
}

#[tokio::test]
async fn stop_ends_the_stream_after_its_answers() {
    let server = Server::start().await;
    let mut produce = server.produce().await;
    produce.say([(1, prepare("", "x"))]).await;
    produce.answers(1).await;
    server.stop();
    let status = loop {
        match produce.hear().await {
            Ok(Some(_answers)) => {}
            Ok(None) => panic!("it must say why"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), crate::server::reason(&status)),
        (tonic::Code::Unavailable, Some("REASON_STOPPING"))
    );
}
