//! The inbox in Redis: what its weaker promise still promises.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::AsyncCommands;
use ::redis::aio::ConnectionManager;
use halfmq_client::redis_inbox::{FencingToken, RedisInbox};
use halfmq_client::{Client, Delivery, Handler, Place, RetryLater};
use halfmq_tests::within;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::inbox::{delivery, nobody};
use crate::server;

/// An inbox in keys of its own, and a way to look at them.
async fn fresh() -> Option<(RedisInbox, ConnectionManager, String)> {
    let url = server::url("redis").await?;
    let client = ::redis::Client::open(url).expect("tests/server prints a URL");
    let connection = ConnectionManager::new(client).await.expect("it has started");
    let prefix = format!("test-{}", Uuid::new_v4());
    let inbox = RedisInbox::over(connection.clone(), "points", &prefix, Duration::from_secs(30));
    Some((inbox, connection, prefix))
}

/// Counts effects.
fn counting(inbox: &RedisInbox, client: &Client, effects: &Arc<AtomicU64>) -> impl Handler + use<> {
    let effects = Arc::clone(effects);
    inbox.handler(client, move |delivery: Arc<Delivery>, _token: FencingToken| {
        let effects = Arc::clone(&effects);
        async move {
            if delivery.message.body == "bad" {
                return Err(RetryLater::from("it is bad"));
            }
            effects.fetch_add(1, Ordering::AcqRel);
            Ok(())
        }
    })
}

#[tokio::test]
async fn message_that_comes_again_has_no_second_effect() {
    let Some((inbox, ..)) = fresh().await else { return };
    let effects = Arc::new(AtomicU64::new(0));
    let handler = counting(&inbox, &nobody(), &effects);
    handler.handle(delivery(0, "bad")).await.expect_err("it failed");
    for number in [0, 1, 2, 0, 1, 2] {
        handler.handle(delivery(number, "good")).await.expect("handled");
    }
    assert_eq!(effects.load(Ordering::Acquire), 3);
    // What is below the watermark and forgotten must be confirmed by a coordinator, and nobody is there.
    let floor = Place { topic: "orders".into(), queue: 0, offset: 2 };
    assert_eq!(inbox.prune(&floor).await.expect("pruned"), 2);
    handler.handle(delivery(1, "good")).await.expect_err("an old delivery");
    handler.handle(delivery(2, "good")).await.expect("known");
    handler.handle(delivery(3, "good")).await.expect("new");
    assert_eq!(effects.load(Ordering::Acquire), 4);
}

/// A sleeper loses its message when its lease ends; whoever takes over gets a higher token, and the sleeper
/// cannot record its effect.
#[tokio::test]
async fn sleeper_is_told_apart_by_its_token() {
    let Some((inbox, mut redis, prefix)) = fresh().await else { return };
    let (started, mut starts) = mpsc::unbounded_channel();
    let awake = Arc::new(Notify::new());
    let (tokens, wake) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&awake));
    let seen = Arc::clone(&tokens);
    let handler = Arc::new(inbox.handler(&nobody(), move |delivery: Arc<Delivery>, token: FencingToken| {
        let (seen, wake, started) = (Arc::clone(&seen), Arc::clone(&wake), started.clone());
        async move {
            seen.lock().expect("no panic").push(token);
            let _nobody_listens = started.send(());
            if delivery.attempt == 1 {
                wake.notified().await;
            }
            Ok::<_, RetryLater>(())
        }
    }));
    let sleeping = Arc::clone(&handler);
    let asleep = tokio::spawn(async move { sleeping.handle(delivery(0, "")).await });
    within("the first try", starts.recv()).await.expect("it starts");
    let again = Arc::new(Delivery { attempt: 2, ..(*delivery(0, "")).clone() });
    let busy = handler.handle(Arc::clone(&again)).await.expect_err("somebody is at it");
    assert!(busy.reason.contains("another process"), "{}", busy.reason);

    // Its lease ends.
    let keys: Vec<String> = redis.keys(format!("*{prefix}*:message:message-0")).await.expect("keys");
    redis.del::<_, ()>(keys).await.expect("deleted");
    handler.handle(again).await.expect("taken over");
    awake.notify_one();
    let late = asleep.await.expect("no panic").expect_err("it lost its lease");
    assert!(late.reason.contains("lease was lost"), "{}", late.reason);
    let tokens = tokens.lock().expect("no panic").clone();
    assert!(tokens.is_sorted() && tokens.len() == 2 && tokens.first() != tokens.last(), "{tokens:?}");
}
