//! Prepare, commit, roll back: who sees what, and who decides.

use halfmq_proto::v1::{
    CommitRequest, DecidedBy, Decision, Headers, Message, MessageReceipt, Place, Replacement, SendRequest,
    TransactionState, Warning, message_receipt,
};
use halfmq_tests::{CheckStream, Coordinator, Driver, bodies, half, message};
use tonic::Code;

/// Sends a message after all that a story did: whoever receives it and nothing before it has proof that
/// nothing else was released. The topic has one queue.
async fn assert_nothing_but_a_fence(driver: &Driver, topic: &str, group: &str) {
    driver.send([message(topic, "fence")]).await;
    assert_eq!(bodies(&driver.receive(topic, group, 1).await), ["fence"]);
}

fn place(receipt: &MessageReceipt) -> &Place {
    match &receipt.released {
        Some(message_receipt::Released::Place(place)) => place,
        other => panic!("expected a place, got {other:?}"),
    }
}

#[tokio::test]
async fn half_message_is_invisible_until_commit() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;

    let prepared = driver.prepare(half("shop", [message("orders", "o-1")])).await;
    assert_eq!(prepared.message_ids.len(), 1);
    assert!(driver.receive_now("orders", "billing").await.is_empty(), "nobody may see a half message");
    assert_nothing_but_a_fence(&driver, "orders", "audit").await;

    let receipt = driver.commit(&prepared.transaction_id).await;
    assert_eq!(receipt.decision(), Decision::Commit);
    let deliveries = driver.receive("orders", "billing", 2).await;
    assert_eq!(bodies(&deliveries), ["fence", "o-1"]);
    let delivery = deliveries.last().expect("there are two");
    assert_eq!(delivery.message_id, prepared.message_ids[0], "one id from prepare to ack");
    assert_eq!(delivery.place.as_ref(), Some(place(&receipt.messages[0])), "one place, as the receipt says");
    assert_eq!((delivery.attempt, delivery.producer_group.as_str()), (1, "shop"));

    driver.ack("orders", "billing", &deliveries).await;
    driver.ack("orders", "billing", &deliveries).await;
    assert_nothing_but_a_fence(&driver, "orders", "billing").await;
}

#[tokio::test]
async fn rolled_back_message_is_never_seen() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;

    let prepared = driver.prepare(half("shop", [message("orders", "o-1")])).await;
    let receipt = driver.rollback(&prepared.transaction_id).await;
    assert_eq!((receipt.decision(), receipt.messages.len()), (Decision::Rollback, 0));

    assert_nothing_but_a_fence(&driver, "orders", "billing").await;
    let transaction = driver.describe(&prepared.transaction_id).await;
    assert_eq!(transaction.state(), TransactionState::RolledBack);
    assert_eq!(transaction.decided_by(), DecidedBy::Call);
}

#[tokio::test]
async fn first_decision_wins_and_its_receipt_never_changes() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 4).await;

    let committed = driver.prepare(half("shop", [message("orders", "o-1")])).await.transaction_id;
    let receipt = driver.commit(&committed).await;
    driver.send([message("orders", "something in between")]).await;
    assert_eq!(driver.commit(&committed).await, receipt, "the same again is the same receipt");
    let refused = driver.refused_rollback(&committed).await;
    assert_eq!(refused.kind(), (Code::FailedPrecondition, "REASON_DECISION_CONFLICT"));

    let rolled_back = driver.prepare(half("shop", [message("orders", "o-2")])).await.transaction_id;
    let receipt = driver.rollback(&rolled_back).await;
    assert_eq!(driver.rollback(&rolled_back).await, receipt);
    let refused = driver.refused_commit(&rolled_back).await;
    assert_eq!(refused.kind(), (Code::FailedPrecondition, "REASON_DECISION_CONFLICT"));
    assert!(refused.message.contains("rollback"), "it says which decision stands: {refused:?}");
}

#[tokio::test]
async fn racing_decisions_agree_on_one() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    for round in 0..20 {
        let id = driver.prepare(half("shop", [message("orders", "o-1")])).await.transaction_id;
        let (mut committer, mut rollbacker) = (driver.transactions.clone(), driver.transactions.clone());
        let commit = CommitRequest { transaction_id: id.clone(), ..CommitRequest::default() };
        let rollback = halfmq_proto::v1::RollbackRequest { transaction_id: id.clone(), ..Default::default() };
        let (committed, rolled_back) = tokio::join!(committer.commit(commit), rollbacker.rollback(rollback));
        assert_ne!(committed.is_ok(), rolled_back.is_ok(), "round {round}: {committed:?} {rolled_back:?}");
        let expected = match committed {
            Ok(_) => TransactionState::Committed,
            Err(_) => TransactionState::RolledBack,
        };
        assert_eq!(driver.describe(&id).await.state(), expected, "round {round}");
    }
}

#[tokio::test]
async fn messages_of_a_transaction_are_released_together_or_not_at_all() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    let topics = ["orders", "stock", "mail"];
    for topic in topics {
        driver.create_topic(topic, 1).await;
    }
    let messages = || ["orders", "stock", "orders", "mail"].map(|topic| message(topic, "together"));
    let dropped = driver.prepare(half("shop", messages())).await;
    let kept = driver.prepare(half("shop", messages())).await;
    assert_eq!(kept.message_ids.len(), 4);
    driver.rollback(&dropped.transaction_id).await;
    for topic in topics {
        assert!(driver.receive_now(topic, "g").await.is_empty(), "{topic} before the commit");
    }

    let receipt = driver.commit(&kept.transaction_id).await;
    let places: Vec<_> = receipt.messages.iter().map(|message| place(message).clone()).collect();
    let expected = [("orders", 0), ("stock", 0), ("orders", 1), ("mail", 0)];
    let expected = expected.map(|(topic, offset)| Place { topic: topic.into(), queue: 0, offset });
    assert_eq!(places, expected);
    for (topic, count) in [("orders", 2), ("stock", 1), ("mail", 1)] {
        assert_eq!(bodies(&driver.receive_now(topic, "g").await), vec!["together"; count], "{topic}");
    }
}

#[tokio::test]
async fn commit_may_replace_what_was_born_in_the_local_transaction() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let headers = |value: &str| Headers { entries: [("id".to_owned(), value.to_owned())].into() };
    let with_header = |body| Message { headers: headers("old").entries, ..message("orders", body) };
    let half = half("shop", [with_header("kept"), with_header("new body"), with_header("new headers")]);
    let id = driver.prepare(half).await.transaction_id;

    let replacements = vec![
        Replacement { index: 1, body: Some("order 42".into()), headers: None },
        Replacement { index: 2, body: None, headers: Some(headers("42")) },
    ];
    let commit = CommitRequest { transaction_id: id, replacements, ..CommitRequest::default() };
    driver.transactions.clone().commit(commit).await.expect("a commit with replacements");

    let deliveries = driver.receive("orders", "billing", 3).await;
    let seen: Vec<_> = deliveries.into_iter().filter_map(|delivery| delivery.message).collect();
    let seen: Vec<_> =
        seen.iter().map(|message| (&message.body[..], message.headers["id"].as_str())).collect();
    assert_eq!(seen, [(&b"kept"[..], "old"), (b"order 42", "old"), (b"new headers", "42")]);
}

#[tokio::test]
async fn same_request_id_is_the_same_transaction() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let request = |body| {
        let half = half("shop", [message("orders", body)]);
        halfmq_proto::v1::PrepareRequest { request_id: "cart-7".into(), ..half }
    };
    let first = driver.prepare(request("o-1")).await;
    let again = driver.prepare(request("o-1")).await;
    assert_eq!((&again.transaction_id, &again.message_ids), (&first.transaction_id, &first.message_ids));
    let refused = driver.refused_prepare(request("another body")).await;
    assert_eq!(refused.kind(), (Code::AlreadyExists, "REASON_REQUEST_ID_REUSED"));

    driver.commit(&first.transaction_id).await;
    assert_eq!(
        driver.prepare(request("o-1")).await.transaction_id,
        first.transaction_id,
        "also once decided"
    );
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["o-1"]);
    assert_nothing_but_a_fence(&driver, "orders", "billing").await;
}

#[tokio::test]
async fn repeated_send_is_released_once() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let request = SendRequest {
        request_id: "import-1".into(),
        messages: vec![message("orders", "o-1"), message("orders", "o-2")],
        ..SendRequest::default()
    };
    let first = driver.queues.clone().send(request.clone()).await.expect("a send").into_inner();
    let again = driver.queues.clone().send(request).await.expect("the same send").into_inner();
    assert_eq!(first, again);
    assert_eq!(bodies(&driver.receive("orders", "billing", 2).await), ["o-1", "o-2"]);
    assert_nothing_but_a_fence(&driver, "orders", "billing").await;
}

#[tokio::test]
async fn prepare_warns_when_nobody_can_be_asked() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let alone = driver.prepare(half("shop", [message("orders", "o-1")])).await;
    assert_eq!(alone.warnings().collect::<Vec<_>>(), [Warning::NoResolver]);
    assert!(!driver.describe(&alone.transaction_id).await.resolver_reachable);

    let _checker = CheckStream::open(&driver, "shop", "p1").await;
    let watched = driver.prepare(half("shop", [message("orders", "o-2")])).await;
    assert_eq!(watched.warnings().collect::<Vec<_>>(), []);
    assert!(driver.describe(&watched.transaction_id).await.resolver_reachable);
}

#[tokio::test]
async fn listing_pages_through_open_transactions() {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(driver.prepare(half("shop", [message("orders", "o")])).await.transaction_id);
    }
    driver.prepare(half("other", [message("orders", "o")])).await;
    let decided = driver.prepare(half("shop", [message("orders", "o")])).await.transaction_id;
    driver.commit(&decided).await;

    let (mut listed, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = halfmq_proto::v1::ListTransactionsRequest {
            producer_group: "shop".into(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = driver.transactions.clone().list_transactions(request).await.expect("a page").into_inner();
        assert!(page.transactions.len() <= 2, "a page is not larger than asked for");
        listed.extend(page.transactions.into_iter().map(|transaction| transaction.transaction_id));
        page_token = page.next_page_token;
        pages += 1;
        if page_token.is_empty() || pages > open.len() {
            break;
        }
    }
    assert_eq!(listed, open, "each open one once, oldest first");
}
