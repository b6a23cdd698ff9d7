//! Loss detection against the real coordinator: what a message's chain proves when somebody takes one away.

use std::sync::{Arc, Mutex};

use halfmq_client::{
    Client, Consumer, ConsumerOptions, Continuity, Delivery, Finding, Message, Place, Producer, PullConsumer,
    RetryLater, Source, TransactionOptions, TransactionProducer,
};
use halfmq_tests::{Coordinator, eventually};

/// Messages of a producer with rollbacks in between, so that sequences have numbers that never come.
async fn produce(client: &Client, count: usize) {
    let (producer, transactions) = (
        Producer::new(client, "shop"),
        TransactionProducer::without_checker(client, "shop", TransactionOptions::default()),
    );
    for number in 0..count {
        let dropped = transactions.begin([Message::new("orders", "never")]).await.expect("prepared");
        dropped.rollback().await.expect("rolled back");
        producer.send(Message::new("orders", number.to_string())).await.expect("sent");
    }
}

#[tokio::test]
async fn message_that_is_taken_away_behind_its_back_is_missed() {
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    client.admin().create_topic("orders", 1).await.expect("created");
    produce(&client, 20).await;
    let findings = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&findings);
    let continuity =
        Arc::new(Continuity::new(move |finding| found.lock().expect("no panic").push(finding.clone())));

    // Five are seen. Then somebody who shares the group takes two, and nobody ever does their work.
    let pull = PullConsumer::new(&client, "orders", "shipping", ConsumerOptions::default());
    for delivery in pull.receive(5).await.expect("received") {
        continuity.observe(&delivery);
        pull.ack(&delivery.receipt_handle).await.expect("acked");
    }
    let stolen = pull.receive(2).await.expect("received");
    for delivery in &stolen {
        pull.ack(&delivery.receipt_handle).await.expect("acked");
    }

    // The business code sees nothing of it.
    let options = ConsumerOptions { interceptors: vec![Arc::clone(&continuity) as _], ..Default::default() };
    let consumer = Consumer::with_options(&client, ["orders"], "shipping", options);
    let stop = consumer.stop_handle();
    let running = tokio::spawn(consumer.run(|_: Arc<Delivery>| async { Ok::<_, RetryLater>(()) }));
    eventually("all to be settled", async || {
        let group = client.admin().describe_group("shipping").await.expect("described");
        group.topics.iter().all(|topic| topic.undelivered == 0).then_some(())
    })
    .await;
    stop.stop();
    running.await.expect("no panic").expect("not refused");

    assert_eq!(continuity.verify(&client, "shipping").await.expect("verified"), 1);
    let source = Source { topic: "orders".into(), queue: 0, producer_group: "shop".into() };
    let (first, last) = (stolen.first().expect("two"), stolen.last().expect("two"));
    let expected = Finding::Gap {
        source,
        after: first.previous_sequence,
        missing: last.sequence,
        before: Place { offset: last.place.offset + 1, ..last.place.clone() },
    };
    assert_eq!(*findings.lock().expect("no panic"), [expected]);
    let statistics = continuity.statistics();
    assert_eq!((statistics.messages, statistics.gaps, statistics.holes), (18, 1, 0));
    let metrics = continuity.prometheus("shipping");
    for (name, number) in [("messages_total", 18), ("gaps_total", 1), ("unverified_total", 0), ("holes", 0)] {
        let line = format!("halfmq_client_continuity_{name}{{consumer_group=\"shipping\"}} {number}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    assert_eq!(continuity.verify(&client, "shipping").await.expect("verified"), 0, "told once");
}

#[tokio::test]
async fn nothing_is_missed_when_nothing_is_lost() {
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    client.admin().create_topic("orders", 2).await.expect("created");
    let continuity = Arc::new(Continuity::new(|finding| panic!("{finding}")));
    let options = ConsumerOptions { interceptors: vec![Arc::clone(&continuity) as _], ..Default::default() };
    let consumer = Consumer::with_options(&client, ["orders"], "shipping", options);
    let running = tokio::spawn(consumer.run(|delivery: Arc<Delivery>| async move {
        // Every third comes a second time, and late.
        if delivery.attempt == 1 && delivery.place.offset.is_multiple_of(3) {
            return Err(RetryLater::after(std::time::Duration::from_millis(1), "again"));
        }
        Ok(())
    }));
    produce(&client, 60).await;
    eventually("all to be seen and settled", async || {
        let group = client.admin().describe_group("shipping").await.expect("described");
        let settled = group.topics.iter().all(|topic| topic.undelivered == 0);
        (settled && continuity.statistics().messages == 60).then_some(())
    })
    .await;
    assert_eq!(continuity.verify(&client, "shipping").await.expect("verified"), 0);
    let statistics = continuity.statistics();
    assert!(statistics.redeliveries > 0, "{statistics:?}");
    assert_eq!((statistics.holes, statistics.duplicates, statistics.reorderings), (0, 0, 0));
    running.abort();
}
