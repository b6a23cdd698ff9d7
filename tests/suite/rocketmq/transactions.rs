//! Half messages are kept once, and the first decision stands.

use halfmq_proto::rocketmq as v2;
use halfmq_tests::{CHECKS_SOON, Coordinator};
use v2::{Code, MessageType, TransactionResolution as End};

use super::{Peer, code, message, receive, resource};

#[tokio::test]
async fn half_message_sent_again_is_the_same_transaction() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    let first = peer.half("orders", "M1", "body").await;
    assert_eq!(peer.half("orders", "M1", "body").await, first);
    let other = peer.send([message("orders", "M1", "other body", MessageType::Transaction)]).await;
    assert_eq!(code(&other.status), Code::IllegalMessageId, "the id was used for another body");
    // Ids are made from machine and process, which are not unique; client ids tell them apart.
    let neighbour = Peer::new(&coordinator, "two").await;
    assert_ne!(neighbour.half("orders", "M1", "body").await, first);
}

#[tokio::test]
async fn first_decision_stands_for_rocketmq_clients() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    for (first, second) in [(End::Commit, End::Rollback), (End::Rollback, End::Commit)] {
        let id = peer.half("orders", &format!("{first:?}"), "body").await;
        assert_eq!(peer.end(&id, first).await, Code::Ok);
        assert_eq!(peer.end(&id, first).await, Code::Ok, "again");
        assert_eq!(peer.end(&id, second).await, Code::InvalidTransactionId, "the opposite");
        assert_eq!(peer.end(&id, End::Unspecified).await, Code::Ok, "nothing to say");
    }
    for unknown in ["", "M1", "00000000-0000-7000-8000-000000000000"] {
        assert_eq!(peer.end(unknown, End::Commit).await, Code::InvalidTransactionId, "{unknown:?}");
    }
    let (_, messages) = peer.receive(receive("orders", "readers", 0)).await;
    assert_eq!(messages.len(), 1, "only one was committed");
}

/// A client may have two streams for a while; losing one must not make it deaf.
#[tokio::test]
async fn every_stream_of_a_client_can_be_asked() {
    let coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let peer = Peer::new(&coordinator, "one").await;
    let mut older = peer.line().await;
    let newer = peer.line().await;
    let id = peer.half("orders", "M1", "body").await;
    drop(newer);
    let (asked, message) = older.question().await;
    assert_eq!(asked, id);
    let system = message.system_properties.expect("some libraries crash without them");
    assert_eq!(system.message_id, "M1");
    assert_eq!(system.message_type(), MessageType::Transaction);
    assert_eq!(system.body_digest.expect("one library crashes without it").checksum.len(), 32);
    assert_eq!(message.topic, Some(resource("orders")));
    // This library does not say that it was asked.
    assert_eq!(peer.end(&id, End::Commit).await, Code::Ok);
    let (_, messages) = peer.receive(receive("orders", "readers", 5)).await;
    assert_eq!(messages.len(), 1);
}

/// It goes on after a restart without introducing itself: heartbeats and routes tell enough.
#[tokio::test]
async fn producer_without_settings_is_asked() {
    let mut coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let peer = Peer::new(&coordinator, "one").await;
    let id = peer.half("orders", "M1", "body").await;
    coordinator.restart().await;
    assert_eq!(peer.heartbeat(v2::ClientType::Producer).await, Code::Ok);
    assert_eq!(code(&peer.route("orders").await.status), Code::Ok);
    let mut line = peer.line().await;
    assert_eq!(line.question().await.0, id);
}

#[tokio::test]
async fn transaction_has_one_half_message() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    let half = |id| message("orders", id, "body", MessageType::Transaction);
    assert_eq!(code(&peer.send([half("M1"), half("M2")]).await.status), Code::BadRequest);
    let mut slow = half("M3");
    if let Some(system) = &mut slow.system_properties {
        let recovery = prost_types::Duration { seconds: 3_601, nanos: 0 };
        system.orphaned_transaction_recovery_duration = Some(recovery);
    }
    assert_eq!(code(&peer.send([slow]).await.status), Code::BadRequest, "an hour at most");
}
