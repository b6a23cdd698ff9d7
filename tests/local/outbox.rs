//! The outbox: every committed row becomes one message, in order, whatever dies or is poisoned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use halfmq_client::sql::{Outbox, OutboxBacklog, OutboxOptions, RelayHandle, RelayOptions};
use halfmq_client::{Client, Consumer, Delivery, Message, RetryLater};
use halfmq_proto::v1::SendRequest;
use halfmq_tests::{Coordinator, eventually, message};
use sqlx::Pool;
use tokio::task::JoinHandle;

use crate::database::{TestDatabase, on_every_database};

on_every_database!(
    rows_become_messages_once_and_in_order_whoever_dies,
    rolled_back_row_is_no_message,
    row_that_was_sent_already_is_not_doubled,
    poison_is_set_aside_and_the_rest_goes_on,
    finished_rows_are_not_looked_at,
);

type Received = Arc<Mutex<Vec<Delivery>>>;

fn start_relay<DB: TestDatabase>(
    outbox: &Outbox<DB>,
    client: &Client,
    pool: &Pool<DB>,
    options: RelayOptions,
) -> (RelayHandle, JoinHandle<()>) {
    let relay = outbox.relay(client, "shop", pool, options);
    (relay.handle(), tokio::spawn(relay.run()))
}

fn often() -> RelayOptions {
    RelayOptions { poll: Duration::from_millis(20), ..RelayOptions::default() }
}

/// Collects what a group receives.
fn start_consumer(client: &Client, topic: &str) -> Received {
    let received = Received::default();
    let into = Arc::clone(&received);
    let consumer = Consumer::new(client, [topic], "collector");
    tokio::spawn(consumer.run(move |delivery: Arc<Delivery>| {
        into.lock().expect("no panic").push((*delivery).clone());
        async { Ok::<_, RetryLater>(()) }
    }));
    received
}

async fn insert<DB: TestDatabase>(outbox: &Outbox<DB>, pool: &Pool<DB>, message: Message) -> String {
    let mut sql = pool.begin().await.expect("it begins");
    let id = outbox.insert(&mut sql, message).await.expect("inserted");
    sql.commit().await.expect("committed");
    id.as_str().to_owned()
}

async fn is_empty<DB: TestDatabase>(outbox: &Outbox<DB>, pool: &Pool<DB>) {
    eventually("an empty outbox", async || {
        let backlog = outbox.backlog(pool).await.expect("counted");
        (backlog.waiting == 0).then_some(())
    })
    .await;
}

async fn rows_become_messages_once_and_in_order_whoever_dies<DB: TestDatabase>() {
    const MESSAGES: usize = 400;
    const GROUPS: usize = 7;
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let mut coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let outbox = Outbox::<DB>::default();
    outbox.migrate(pool).await.expect("it migrates");
    let mut relays: Vec<_> = (0..3).map(|_| start_relay(&outbox, &client, pool, often())).collect();
    for number in 0..MESSAGES {
        let group = format!("group-{}", number % GROUPS);
        insert(&outbox, pool, Message::new("orders", number.to_string()).message_group(group)).await;
        if number == MESSAGES / 3 {
            coordinator.kill9().await;
            // A relay dies with whatever it is doing.
            relays.pop().expect("there are three").1.abort();
        }
        if number == MESSAGES / 2 {
            coordinator.restart().await;
        }
    }
    is_empty(&outbox, pool).await;
    let received = start_consumer(&client, "orders");
    eventually("all messages", async || (received.lock().expect("no panic").len() >= MESSAGES).then_some(()))
        .await;
    for (handle, relay) in relays {
        handle.stop();
        relay.await.expect("a relay does not panic");
    }
    let mut ids = BTreeSet::new();
    let mut last = BTreeMap::new();
    for delivery in received.lock().expect("no panic").iter() {
        let number: usize =
            std::str::from_utf8(&delivery.message.body).expect("text").parse().expect("a number");
        // The same message may be delivered twice, but must not exist twice.
        if delivery.attempt == 1 {
            assert!(ids.insert(number), "{number} exists twice");
            let before = last.insert(delivery.message.message_group.clone(), number);
            assert!(before.is_none_or(|before| before < number), "{number} came after {before:?}");
        }
    }
    assert_eq!(ids.len(), MESSAGES);
}

async fn rolled_back_row_is_no_message<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    // Woken by a notice where there is one: then it need not look for an hour.
    let poll = if DB::TITLE == "postgres" { Duration::from_secs(3_600) } else { Duration::from_millis(20) };
    let outbox = Outbox::<DB>::default();
    outbox.migrate(pool).await.expect("it migrates");
    let received = start_consumer(&client, "orders");
    let _relay = start_relay(&outbox, &client, pool, RelayOptions { poll, ..RelayOptions::default() });
    for round in ["first", "second", "third"] {
        let mut sql = pool.begin().await.expect("it begins");
        outbox.insert(&mut sql, Message::new("orders", "never")).await.expect("inserted");
        sql.rollback().await.expect("rolled back");
        insert(&outbox, pool, Message::new("orders", round)).await;
        eventually("the message", async || {
            let received = received.lock().expect("no panic");
            received.iter().any(|delivery| delivery.message.body == round).then_some(())
        })
        .await;
    }
    assert!(received.lock().expect("no panic").iter().all(|delivery| delivery.message.body != "never"));
}

async fn row_that_was_sent_already_is_not_doubled<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let outbox = Outbox::<DB>::default();
    outbox.migrate(pool).await.expect("it migrates");
    let id = insert(&outbox, pool, Message::new("orders", "once")).await;
    // What a relay did that died before it could settle the row.
    let sent = SendRequest {
        producer_group: "shop".into(),
        request_id: id,
        messages: vec![message("orders", "once")],
    };
    coordinator.driver().queues.send(sent).await.expect("sent");
    let _relay = start_relay(&outbox, &client, pool, often());
    is_empty(&outbox, pool).await;
    let topic = client.admin().describe_topic("orders").await.expect("described");
    assert_eq!(topic.queues.iter().map(|queue| queue.next).sum::<u64>(), 1);
}

async fn poison_is_set_aside_and_the_rest_goes_on<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let outbox = Outbox::<DB>::default();
    outbox.migrate(pool).await.expect("it migrates");
    let group = |topic: &str, body: &'static str| Message::new(topic, body).message_group("customer-7");
    insert(&outbox, pool, group("orders", "1")).await;
    let illegal = insert(&outbox, pool, group("no topic!", "2")).await;
    insert(&outbox, pool, group("orders", "3")).await;
    let unreadable = insert(&outbox, pool, group("orders", "4")).await;
    let garbage = vec![halfmq_client::sql::Value::Bytes(vec![0xff; 9])];
    let spoil = format!("UPDATE halfmq_outbox SET message = {} WHERE id = '{unreadable}'", DB::marker(1));
    let mut connection = pool.acquire().await.expect("a connection");
    assert_eq!(DB::execute(&mut connection, &spoil, garbage).await.expect("spoilt"), 1);
    drop(connection);
    let received = start_consumer(&client, "orders");
    let _relay = start_relay(&outbox, &client, pool, often());
    is_empty(&outbox, pool).await;
    insert(&outbox, pool, group("orders", "5")).await;
    eventually("the rest", async || (received.lock().expect("no panic").len() == 3).then_some(())).await;
    let bodies: Vec<_> =
        received.lock().expect("no panic").iter().map(|got| got.message.body.clone()).collect();
    assert_eq!(bodies, ["1", "3", "5"]);
    // A message can be there before its row is settled.
    is_empty(&outbox, pool).await;

    let backlog = outbox.backlog(pool).await.expect("counted");
    assert_eq!(backlog, OutboxBacklog { waiting: 0, quarantined: 2 });
    let set_aside = outbox.quarantined(pool, 10).await.expect("listed");
    let story: Vec<_> =
        set_aside.iter().map(|row| (row.id.as_str().to_owned(), row.message.is_some())).collect();
    assert_eq!(story, [(illegal, true), (unreadable, false)]);
    assert!(set_aside.iter().all(|row| !row.reason.is_empty()), "{set_aside:?}");

    // Mended, it is given back; hopeless, it is dropped by hand.
    let [illegal, unreadable] = set_aside.as_slice() else { panic!("two rows") };
    assert!(outbox.release(pool, &illegal.id).await.expect("released"));
    eventually("the same again", async || {
        let backlog = outbox.backlog(pool).await.expect("counted");
        (backlog == OutboxBacklog { waiting: 0, quarantined: 2 }).then_some(())
    })
    .await;
    assert!(outbox.discard(pool, &unreadable.id).await.expect("discarded"));
    assert!(!outbox.discard(pool, &unreadable.id).await.expect("looked for"), "it is gone");
    assert_eq!(outbox.backlog(pool).await.expect("counted").quarantined, 1);
}

async fn finished_rows_are_not_looked_at<DB: TestDatabase>() {
    const FINISHED: usize = 20_000;
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let outbox = Outbox::<DB>::new(OutboxOptions { keep_sent: true, ..OutboxOptions::default() });
    outbox.migrate(pool).await.expect("it migrates");
    for batch in 0..FINISHED / 1_000 {
        let rows: Vec<String> = (0..1_000)
            .map(|row| {
                let number = batch * 1_000 + row;
                format!("('finished-{number}', {}, 1, 'x')", number % 16)
            })
            .collect();
        let rows = format!("INSERT INTO halfmq_outbox (id, lane, state, message) VALUES {}", rows.join(", "));
        DB::setup(pool, &[&rows]).await;
    }
    let analyze = if DB::TITLE == "mysql" { "ANALYZE TABLE halfmq_outbox" } else { "ANALYZE halfmq_outbox" };
    DB::setup(pool, &[analyze]).await;
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let (handle, relay) = start_relay(&outbox, &client, pool, often());
    for number in 0..50 {
        insert(&outbox, pool, Message::new("orders", number.to_string())).await;
    }
    is_empty(&outbox, pool).await;
    handle.stop();
    relay.await.expect("a relay does not panic");
    let plans = [
        "SELECT number FROM halfmq_outbox WHERE state = 0 AND lane = 3 ORDER BY number LIMIT 256",
        "SELECT lane FROM halfmq_outbox_lanes WHERE EXISTS (SELECT 1 FROM halfmq_outbox \
         WHERE halfmq_outbox.state = 0 AND halfmq_outbox.lane = halfmq_outbox_lanes.lane)",
    ];
    for query in plans {
        let plan = DB::plan(pool, query).await;
        assert!(!plan.contains(DB::WHOLE_TABLE), "{query}: {plan}");
    }
    let kept = outbox.prune_sent(pool, 100).await.expect("pruned");
    assert_eq!(kept as usize, FINISHED + 50 - 100);
}
