//! Queues and consumer groups: order, delay, retry, dead letters.

use std::collections::HashMap;

use halfmq_proto::v1::retry_later_response::Outcome;
use halfmq_proto::v1::{
    ConfigureGroupRequest, Delivery, DescribeTopicRequest, Edge, ExtendRequest, ListDeadLettersRequest,
    Message, ReceiveRequest, ResetGroupRequest, RetryPolicy, SelectDeadLetters, ShowDeadLetterRequest, Start,
    message, message_receipt, start,
};
use halfmq_tests::{Coordinator, Driver, bodies, grouped, half, message, seconds};
use prost_types::Timestamp;

async fn start(queues: u32) -> (Coordinator, Driver) {
    let coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", queues).await;
    (coordinator, driver)
}

fn later(time: &Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

fn message_group(delivery: &Delivery) -> String {
    delivery.message.as_ref().map(|message| message.message_group.clone()).unwrap_or_default()
}

#[tokio::test]
async fn every_group_gets_every_message_and_shares_it_out() {
    let (_coordinator, driver) = start(4).await;
    driver.send((0..10).map(|number| message("orders", &number.to_string()))).await;
    for group in ["billing", "mail"] {
        let mut seen = Vec::new();
        while seen.len() < 10 {
            // Two consumers of one group: what one holds, the other does not get.
            let one = driver.receive("orders", group, 1).await;
            seen.extend(bodies(&one));
            driver.ack("orders", group, &one).await;
        }
        seen.sort();
        assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], "{group}");
        assert!(driver.receive_now("orders", group).await.is_empty(), "{group}");
    }
}

#[tokio::test]
async fn offsets_are_dense_and_linked() {
    let (_coordinator, driver) = start(1).await;
    for number in 0..6 {
        let id = driver.prepare(half("shop", [message("orders", "o")])).await.transaction_id;
        match number % 2 {
            0 => driver.commit(&id).await,
            _ => driver.rollback(&id).await,
        };
    }
    let deliveries = driver.receive("orders", "billing", 3).await;
    let links: Vec<_> = deliveries
        .iter()
        .map(|delivery| {
            let offset = delivery.place.as_ref().map(|place| place.offset);
            (offset, delivery.previous_sequence, delivery.sequence)
        })
        .collect();
    assert_eq!(links, [(Some(0), 0, 1), (Some(1), 1, 3), (Some(2), 3, 5)], "rollbacks leave no false gaps");
}

#[tokio::test]
async fn message_group_is_delivered_in_order_one_at_a_time() {
    let (_coordinator, driver) = start(4).await;
    for number in 0..5 {
        let half = half("shop", ["a", "b"].map(|group| grouped("orders", group, &number.to_string())));
        let id = driver.prepare(half).await.transaction_id;
        driver.commit(&id).await;
    }
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    for round in 0..5 {
        let deliveries = driver.receive("orders", "billing", 2).await;
        let mut groups: Vec<_> = deliveries.iter().map(message_group).collect();
        groups.sort();
        assert_eq!(groups, ["a", "b"], "round {round}: one of each group");
        assert!(driver.receive_now("orders", "billing").await.is_empty(), "round {round}: both are busy");
        for (delivery, body) in deliveries.iter().zip(bodies(&deliveries)) {
            seen.entry(message_group(delivery)).or_default().push(body);
        }
        driver.ack("orders", "billing", &deliveries).await;
    }
    for group in ["a", "b"] {
        assert_eq!(seen[group], ["0", "1", "2", "3", "4"], "{group}");
    }
}

#[tokio::test]
async fn retry_holds_its_message_group_back_and_no_other() {
    let (_coordinator, driver) = start(1).await;
    driver
        .send([grouped("orders", "a", "a1"), grouped("orders", "a", "a2"), message("orders", "free")])
        .await;
    let deliveries = driver.receive("orders", "billing", 2).await;
    assert_eq!(bodies(&deliveries), ["a1", "free"]);
    driver.retry_now("billing", &deliveries[0], "not yet").await;

    let again = driver.receive("orders", "billing", 1).await;
    assert_eq!((bodies(&again), again[0].attempt), (vec!["a1".to_owned()], 2), "a1 comes before a2");
    driver.ack("orders", "billing", &again).await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["a2"]);
}

#[tokio::test]
async fn delayed_message_comes_out_on_time_and_not_before() {
    let (_coordinator, driver) = start(1).await;
    let delayed = Message {
        visibility: Some(message::Visibility::Delay(seconds(0.3))),
        ..message("orders", "delayed")
    };
    let past = Timestamp { seconds: 1, nanos: 0 };
    let overdue =
        Message { visibility: Some(message::Visibility::DeliverAt(past)), ..message("orders", "overdue") };
    let id = driver.prepare(half("shop", [delayed, overdue])).await.transaction_id;
    let receipt = driver.commit(&id).await;
    let Some(message_receipt::Released::ScheduledFor(scheduled)) = &receipt.messages[0].released else {
        panic!("a delayed message has no place yet: {receipt:?}");
    };
    let topic = DescribeTopicRequest { topic: "orders".into() };
    let topic = driver.admin.clone().describe_topic(topic).await.expect("a topic").into_inner();
    assert_eq!(topic.queues[0].next, 1 + u64::from(topic.delayed == 0), "each is delayed or in its queue");

    let deliveries = driver.receive("orders", "billing", 2).await;
    assert_eq!(bodies(&deliveries), ["overdue", "delayed"]);
    let released = deliveries[1].released_at.as_ref().expect("a delivery says when it was released");
    assert!(later(released) >= later(scheduled), "released at {released:?}, scheduled for {scheduled:?}");
    assert_eq!(driver.commit(&id).await, receipt, "the receipt stays as it was");
}

#[tokio::test]
async fn far_future_stays_hidden() {
    let (_coordinator, driver) = start(1).await;
    let hidden =
        Message { visibility: Some(message::Visibility::Delay(seconds(3_600.0))), ..message("orders", "x") };
    driver.send([hidden, message("orders", "visible")]).await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["visible"]);
    let topic = DescribeTopicRequest { topic: "orders".into() };
    let topic = driver.admin.clone().describe_topic(topic).await.expect("a topic").into_inner();
    assert_eq!((topic.delayed, topic.queues[0].next), (1, 1));
}

#[tokio::test]
async fn last_retry_makes_a_dead_letter_that_can_be_replayed() {
    let (_coordinator, driver) = start(1).await;
    let mut admin = driver.admin.clone();
    let retry = RetryPolicy { attempts_max: 2, ..RetryPolicy::default() };
    let configure = ConfigureGroupRequest { group: "billing".into(), retry: Some(retry) };
    admin.configure_group(configure).await.expect("a group");
    driver.send([message("orders", "o-1")]).await;

    let first = driver.receive("orders", "billing", 1).await;
    let outcome = driver.retry_now("billing", &first[0], "no stock").await.outcome;
    assert!(matches!(outcome, Some(Outcome::VisibleAt(_))), "{outcome:?}");
    let second = driver.receive("orders", "billing", 1).await;
    assert_eq!((second[0].attempt, &second[0].message_id), (2, &first[0].message_id));
    let outcome = driver.retry_now("billing", &second[0], "still no stock").await.outcome;
    let Some(Outcome::DeadLetter(dead)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((dead.topic.as_str(), dead.queue), ("dlq.billing", 0));
    assert!(driver.receive_now("orders", "billing").await.is_empty());

    let list = || ListDeadLettersRequest { group: "billing".into(), ..Default::default() };
    let letters = admin.list_dead_letters(list()).await.expect("a list").into_inner().dead_letters;
    assert_eq!((letters.len(), letters[0].number), (1, dead.offset));
    let origin = letters[0].origin.clone().expect("a dead letter has an origin");
    assert_eq!((origin.attempts, origin.reason.as_str()), (2, "still no stock"));
    assert_eq!(origin.place, first[0].place, "it says where it came from");
    let show = ShowDeadLetterRequest { group: "billing".into(), number: dead.offset };
    let shown = admin.show_dead_letter(show).await.expect("a dead letter").into_inner();
    assert_eq!(shown.message, Some(message("orders", "o-1")));
    let read = driver.receive("dlq.billing", "operators", 1).await;
    assert_eq!(bodies(&read), ["o-1"], "the dead-letter topic can be read like any other");
    assert_eq!(read[0].dead_letter.as_ref(), Some(&origin));

    let nothing = SelectDeadLetters { group: "billing".into(), ..SelectDeadLetters::default() };
    assert_eq!(admin.replay_dead_letters(nothing).await.expect("a replay").into_inner().count, 0);
    let all = SelectDeadLetters { group: "billing".into(), all: true, numbers: vec![] };
    assert_eq!(admin.replay_dead_letters(all).await.expect("a replay").into_inner().count, 1);
    let replayed = driver.receive("orders", "billing", 1).await;
    assert_eq!((replayed[0].attempt, &replayed[0].message_id), (1, &first[0].message_id));
    driver.ack("orders", "billing", &replayed).await;
    let letters = admin.list_dead_letters(list()).await.expect("a list").into_inner().dead_letters;
    assert_eq!(letters, []);
}

#[tokio::test]
async fn lease_that_ends_brings_the_message_again() {
    let (_coordinator, driver) = start(1).await;
    driver.send([message("orders", "o-1")]).await;
    let request = ReceiveRequest {
        topic: "orders".into(),
        group: "billing".into(),
        invisible: Some(seconds(1.0)),
        ..ReceiveRequest::default()
    };
    let first = driver.queues.clone().receive(request).await.expect("a receive").into_inner().deliveries;
    assert!(driver.receive_now("orders", "billing").await.is_empty(), "invisible while it is leased");
    let again = driver.receive("orders", "billing", 1).await;
    assert_eq!((again[0].attempt, &again[0].message_id), (2, &first[0].message_id));
    let until = first[0].invisible_until.as_ref().expect("a delivery says how long it is invisible");
    let until_again = again[0].invisible_until.as_ref().expect("a delivery says how long it is invisible");
    assert!(later(until) < later(until_again));

    let extend = ExtendRequest {
        topic: "orders".into(),
        group: "billing".into(),
        receipt_handle: again[0].receipt_handle.clone(),
        invisible: Some(seconds(3_600.0)),
    };
    let extended = driver.queues.clone().extend(extend).await.expect("an extension").into_inner();
    let extended = extended.invisible_until.expect("an extension says until when");
    assert!(later(&extended) > later(until_again), "an extension reaches further");
    driver.ack("orders", "billing", &again).await;
}

#[tokio::test]
async fn tag_filter_settles_what_nobody_wants() {
    let (_coordinator, driver) = start(1).await;
    let tagged = |tag: &str, body| Message { tag: tag.into(), ..message("orders", body) };
    driver.send([tagged("paid", "1"), tagged("new", "2"), tagged("sent", "3"), message("orders", "4")]).await;
    let request = ReceiveRequest {
        topic: "orders".into(),
        group: "billing".into(),
        max_messages: 10,
        tag_filter: "paid || sent".into(),
        ..ReceiveRequest::default()
    };
    let deliveries = driver.queues.clone().receive(request).await.expect("a receive").into_inner().deliveries;
    assert_eq!(bodies(&deliveries), ["1", "3"]);
    driver.ack("orders", "billing", &deliveries).await;
    let topic = DescribeTopicRequest { topic: "orders".into() };
    let topic = driver.admin.clone().describe_topic(topic).await.expect("a topic").into_inner();
    assert_eq!(topic.groups[0].undelivered, 0, "unwanted messages are no backlog");
}

#[tokio::test]
async fn groups_start_where_they_ask_and_can_be_reset() {
    let (_coordinator, driver) = start(1).await;
    driver.send([message("orders", "old")]).await;
    let at_end = Some(Start { kind: Some(start::Kind::Edge(Edge::End.into())) });
    let request = ReceiveRequest {
        topic: "orders".into(),
        group: "mail".into(),
        start: at_end,
        ..ReceiveRequest::default()
    };
    let first = driver.queues.clone().receive(request).await.expect("a receive").into_inner().deliveries;
    assert_eq!(bodies(&first), Vec::<String>::new());
    driver.send([message("orders", "new")]).await;
    assert_eq!(bodies(&driver.receive("orders", "mail", 1).await), ["new"]);

    let beginning = Some(Start { kind: Some(start::Kind::Edge(Edge::Beginning.into())) });
    let reset = ResetGroupRequest { group: "mail".into(), topic: "orders".into(), start: beginning };
    driver.admin.clone().reset_group(reset).await.expect("a reset");
    assert_eq!(bodies(&driver.receive("orders", "mail", 2).await), ["old", "new"]);
}
