//! The inbox: one effect for each message, whatever is delivered again, at the same time, or too late.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use halfmq_client::sql::{Arrival, Dialect, Idempotent, Inbox, SqlHandler};
use halfmq_client::{
    Client, ConsumerOptions, Delivery, GivenBack, Handler, Message, Place, Producer, PullConsumer,
    RetryLater, RetryPolicy,
};
use halfmq_proto::v1::SelectDeadLetters;
use halfmq_tests::{Coordinator, within};
use sqlx::{Pool, Transaction};

use crate::database::{TestDatabase, on_every_database};

on_every_database!(
    message_that_comes_again_has_no_second_effect,
    failed_effect_leaves_no_trace_and_is_tried_again,
    same_message_at_the_same_time_has_one_effect,
    groups_share_a_table_and_prune_by_themselves,
    old_delivery_below_the_watermark_is_refused_and_a_replay_is_not,
);

const GROUP: &str = "points";

/// Adds a row for each message it handles; fails on the body `bad`.
struct Effect;

impl<DB: TestDatabase> SqlHandler<DB> for Effect {
    async fn handle<'a>(
        &'a self,
        sql: &'a mut Transaction<'static, DB>,
        delivery: &'a Delivery,
    ) -> Result<(), RetryLater> {
        DB::run(sql, &format!("INSERT INTO effects VALUES ('{}')", delivery.message_id)).await?;
        if delivery.message.body == "bad" { Err("it is bad".into()) } else { Ok(()) }
    }
}

pub(crate) fn delivery(number: u64, body: &'static str) -> Arc<Delivery> {
    Arc::new(Delivery {
        message_id: format!("message-{number}").into(),
        message: Message::new("orders", body),
        place: Place { topic: "orders".into(), queue: 0, offset: number },
        receipt_handle: format!("0-{number}-1").into(),
        attempt: 1,
        invisible_until: SystemTime::UNIX_EPOCH,
        released_at: SystemTime::UNIX_EPOCH,
        producer_group: "shop".into(),
        sequence: number + 1,
        previous_sequence: number,
        dead_letter: None,
    })
}

/// An inbox, its handler, and a table of effects.
async fn prepare<DB: TestDatabase>(pool: &Pool<DB>, client: &Client) -> (Inbox<DB>, Idempotent<DB, Effect>) {
    let inbox = Inbox::<DB>::new(GROUP);
    inbox.migrate(pool).await.expect("it migrates");
    DB::setup(pool, &["CREATE TABLE effects (message_id VARCHAR(100) NOT NULL)"]).await;
    let handler = inbox.wrap(client, pool, Effect);
    (inbox, handler)
}

async fn effects<DB: TestDatabase>(pool: &Pool<DB>) -> i64 {
    DB::number(pool, "SELECT COUNT(*) FROM effects").await
}

/// Nobody listens there: whoever asks the coordinator fails.
pub(crate) fn nobody() -> Client {
    let options =
        halfmq_client::ClientOptions { call_timeout: Duration::from_millis(50), ..Default::default() };
    Client::connect_with("http://127.0.0.1:1", options).expect("an endpoint")
}

async fn message_that_comes_again_has_no_second_effect<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let (_, handler) = prepare(&database.pool, &nobody()).await;
    for _ in 0..3 {
        for number in 0..5 {
            handler.handle(delivery(number, "good")).await.expect("handled");
        }
    }
    assert_eq!(effects(&database.pool).await, 5);
}

async fn failed_effect_leaves_no_trace_and_is_tried_again<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let (_, handler) = prepare(&database.pool, &nobody()).await;
    let refused = handler.handle(delivery(1, "bad")).await.expect_err("the handler failed");
    assert_eq!(refused.reason, "it is bad");
    assert_eq!(effects(&database.pool).await, 0);
    handler.handle(delivery(1, "good")).await.expect("handled");
    assert_eq!(effects(&database.pool).await, 1);
}

async fn same_message_at_the_same_time_has_one_effect<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let (_, handler) = prepare(&database.pool, &nobody()).await;
    let handler = Arc::new(handler);
    for round in 0..10 {
        let handlings: Vec<_> = (0..4)
            .map(|_| {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move { handler.handle(delivery(round, "good")).await })
            })
            .collect();
        let mut handled = 0;
        for handling in handlings {
            // Whoever loses a race inside the database gives the message back.
            handled += u64::from(handling.await.expect("no panic").is_ok());
        }
        assert!(handled >= 1, "round {round}: nobody handled it");
    }
    assert_eq!(effects(&database.pool).await, 10);
}

async fn groups_share_a_table_and_prune_by_themselves<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let (points, _) = prepare(pool, &nobody()).await;
    let cart = Inbox::<DB>::new("cart");
    for inbox in [&points, &cart] {
        for number in 0..2_500 {
            assert_eq!(record(inbox, pool, &delivery(number, "")).await, Arrival::First);
        }
    }
    let floor = Place { topic: "orders".into(), queue: 0, offset: 2_400 };
    let pruned = points.prune(pool, &floor).await.expect("pruned");
    assert_eq!((pruned.rows, pruned.gave_way), (2_400, false));
    for (inbox, number, expected) in [
        (&points, 2_399, Arrival::Pruned),
        (&points, 2_400, Arrival::Again),
        (&cart, 2_399, Arrival::Again),
        (&cart, 2_500, Arrival::First),
    ] {
        let arrival = record(inbox, pool, &delivery(number, "")).await;
        assert_eq!(arrival, expected, "{} {number}", inbox.group());
    }
    // A floor that lies lower, as after a reset, brings nothing back.
    let lower = Place { offset: 10, ..floor };
    points.prune(pool, &lower).await.expect("pruned");
    assert_eq!(record(&points, pool, &delivery(2_399, "")).await, Arrival::Pruned);
}

/// Records, and commits only what is new.
async fn record<DB: Dialect>(inbox: &Inbox<DB>, pool: &Pool<DB>, delivery: &Delivery) -> Arrival {
    let mut sql = pool.begin().await.expect("it begins");
    let arrival = inbox.record(&mut sql, delivery).await.expect("recorded");
    match arrival {
        Arrival::First => sql.commit().await.expect("committed"),
        Arrival::Again | Arrival::Pruned => sql.rollback().await.expect("rolled back"),
    }
    arrival
}

async fn old_delivery_below_the_watermark_is_refused_and_a_replay_is_not<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let (inbox, handler) = prepare(pool, &client).await;
    client.admin().create_topic("orders", 1).await.expect("created");
    let twice = RetryPolicy { attempts_max: 2, delay: Duration::from_millis(1), ..Default::default() };
    client.admin().configure_group(GROUP, twice).await.expect("configured");
    let producer = Producer::new(&client, "shop");
    producer.send_all([Message::new("orders", "good"), Message::new("orders", "bad")]).await.expect("sent");
    let options = ConsumerOptions { invisible: Duration::from_secs(1), ..Default::default() };
    let consumer = PullConsumer::new(&client, "orders", GROUP, options);

    // Somebody takes both and falls asleep; the leases end, and others do the work.
    let asleep = receive(&consumer, 2).await;
    for again in receive(&consumer, 2).await {
        match handler.handle(Arc::new(again.clone())).await {
            Ok(()) => consumer.ack(&again.receipt_handle).await.expect("acked"),
            Err(reason) => {
                let given_back =
                    consumer.retry_later(&again.receipt_handle, reason).await.expect("given back");
                assert!(matches!(given_back, GivenBack::DeadLetter(_)), "the last attempt: {given_back:?}");
            }
        }
    }
    assert_eq!(effects(pool).await, 1);
    let pruned = inbox.prune_settled(&client, pool).await.expect("pruned");
    assert_eq!(pruned.rows, 1, "both are settled, one had an effect");

    // The sleeper wakes up: no row says that the work is done, and it is not done again.
    for old in asleep {
        let refused = handler.handle(Arc::new(old)).await.expect_err("its lease is long over");
        assert!(refused.reason.contains("ReceiptExpired"), "{}", refused.reason);
    }
    assert_eq!(effects(pool).await, 1);

    // An operator gives the dead letter back. Mended now, it has its effect, and has it once.
    let replay = SelectDeadLetters { group: GROUP.into(), all: true, ..Default::default() };
    coordinator.driver().admin.replay_dead_letters(replay).await.expect("replayed");
    let mut replayed = receive(&consumer, 1).await.pop().expect("one");
    replayed.message.body = "mended".into();
    for _ in 0..2 {
        handler.handle(Arc::new(replayed.clone())).await.expect("handled");
    }
    consumer.ack(&replayed.receipt_handle).await.expect("acked");
    inbox.prune_settled(&client, pool).await.expect("pruned");
    handler.handle(Arc::new(replayed)).await.expect("known for good");
    assert_eq!(effects(pool).await, 2);
}

async fn receive(consumer: &PullConsumer, count: usize) -> Vec<Delivery> {
    within("deliveries", async {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(consumer.receive(16).await.expect("received"));
        }
        all
    })
    .await
}
