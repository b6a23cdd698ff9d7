//! Standing by: what is released goes to those who wait for it, to nobody twice, and to nobody who has left.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::store::{Lease, Leased, Store};
use halfmq_core::{Message, Receive, Rejection, Send, Start, TagFilter, Timestamp, Visibility};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::ENGINES;

/// Groups that stand by, each with how many messages it takes; messages that are released; how many each got.
type Story = (&'static str, &'static [(&'static str, usize)], usize, &'static [usize]);

const STORIES: [Story; 4] = [
    ("a message goes to the one who stands by", &[("cart", 10)], 1, &[1]),
    ("every group gets it", &[("cart", 10), ("mail", 10)], 2, &[2, 2]),
    ("within a group whoever came first is served first", &[("cart", 2), ("cart", 2)], 3, &[2, 1]),
    ("what nobody has room for stays", &[("cart", 1)], 3, &[1]),
];

const PATIENCE: Duration = Duration::from_secs(30);

struct Waiting {
    leased: JoinHandle<Result<Leased, Rejection>>,
    give_up: oneshot::Sender<()>,
}

struct World {
    store: Arc<dyn Store>,
    _directory: tempfile::TempDir,
}

impl World {
    async fn all() -> Vec<(&'static str, Self)> {
        let mut worlds = Vec::new();
        for (engine, open) in ENGINES {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let store = open(directory.path(), Clock::System);
            let created = store.create_topic("orders".parse().expect("a legal name"), 1).await;
            created.expect("available").expect("it is new");
            worlds.push((engine, Self { store, _directory: directory }));
        }
        worlds
    }

    /// Stands by when this returns: on the one thread of these tests the task has made its call when this
    /// one goes on, and calls are taken in their order.
    async fn stand_by(&self, group: &str, max: usize) -> Waiting {
        self.stand_by_until(group, max, None).await
    }

    async fn stand_by_until(&self, group: &str, max: usize, looks_at: Option<Timestamp>) -> Waiting {
        let (give_up, given_up) = oneshot::channel::<()>();
        let until = Box::pin(async move {
            if given_up.await.is_err() {
                pending::<()>().await;
            }
        });
        let reply = self.store.stand_by(receive(group, max), looks_at, until);
        let leased = tokio::spawn(async move { reply.await.expect("available") });
        tokio::task::yield_now().await;
        self.store.topics().await.expect("available");
        Waiting { leased, give_up }
    }

    async fn release(&self, messages: usize) {
        self.send("orders", (0..messages).map(|number| number.to_string().into_bytes()).collect()).await;
    }

    async fn send(&self, topic: &str, bodies: Vec<Vec<u8>>) {
        let message = |body: Vec<u8>| Message {
            topic: topic.parse().expect("a legal name"),
            body: body.into(),
            tag: None,
            keys: Vec::new(),
            headers: Vec::new(),
            message_group: None,
            visibility: Visibility::AtOnce,
        };
        let send = Send::new(None, bodies.into_iter().map(message).collect()).expect("legal messages");
        let sent = self.store.send(vec![("shop".parse().expect("a legal name"), send)]).await;
        sent.expect("available").remove(0).expect("a legal send");
    }

    async fn left_for(&self, group: &str) -> usize {
        let leased = self.store.receive(vec![receive(group, 100)]).await.expect("available");
        leased.into_iter().map(|leased| leased.expect("it exists").deliveries.len()).sum()
    }
}

impl Waiting {
    async fn got(self) -> Leased {
        let leased = tokio::time::timeout(PATIENCE, self.leased).await.expect("it is served at once");
        leased.expect("it does not panic").expect("topic and group exist")
    }
}

fn receive(group: &str, max: usize) -> Receive {
    Receive {
        group: group.parse().expect("a legal name"),
        topic: "orders".parse().expect("a legal name"),
        max,
        invisible: Duration::from_secs(30),
        filter: TagFilter::parse("").expect("it means all"),
        start: Start::Beginning,
    }
}

#[tokio::test]
async fn released_messages_go_to_those_who_stand_by() {
    for (what, waiters, released, expected) in STORIES {
        for (engine, world) in World::all().await {
            let mut waiting = Vec::new();
            for (group, max) in waiters {
                waiting.push(world.stand_by(group, *max).await);
            }
            world.release(released).await;
            let mut got = Vec::new();
            for waiter in waiting {
                got.push(waiter.got().await.deliveries.len());
            }
            assert_eq!(got, expected, "{engine}: {what}");
            let of_cart = waiters.iter().zip(&got).filter(|((group, _), _)| *group == "cart");
            let of_cart: usize = of_cart.map(|(_, got)| got).sum();
            assert_eq!(world.left_for("cart").await, released - of_cart, "{engine}: {what}, the rest");
        }
    }
}

/// Of those who stand by, one has to look when a lease ends, whoever has it.
#[tokio::test]
async fn one_of_a_group_is_told_when_a_lease_ends() {
    for (engine, world) in World::all().await {
        let first = world.stand_by("cart", 1).await;
        let second = world.stand_by("cart", 1).await;
        world.release(1).await;
        let leased = first.got().await;
        let ends = leased.deliveries.first().map(|(delivery, _)| delivery.invisible_until);
        assert!(ends.is_some(), "{engine}: {leased:?}");
        assert_eq!(second.got().await.next_visible, ends, "{engine}: leased to the one beside it");

        let late = world.stand_by("cart", 1).await;
        assert_eq!(late.got().await.next_visible, ends, "{engine}: leased before it came");

        let sleeper = world.stand_by_until("cart", 1, ends).await;
        let handle = leased.deliveries.first().map(|(delivery, _)| delivery.handle).expect("it has one");
        let Receive { group, topic, .. } = receive("cart", 1);
        let lease = Lease { group, topic, handle };
        let given_back = world.store.retry_later(vec![(lease, Some(Duration::ZERO), String::new())]).await;
        given_back.expect("available").remove(0).expect("it is leased");
        let shorter = Receive { invisible: Duration::from_secs(1), ..receive("cart", 1) };
        let again =
            world.store.receive(vec![shorter]).await.expect("available").remove(0).expect("it exists");
        let ends = again.deliveries.first().map(|(delivery, _)| delivery.invisible_until);
        assert!(ends.is_some(), "{engine}: {again:?}");
        assert_eq!(sleeper.got().await.next_visible, ends, "{engine}: leased to one who did not stand by");
    }
}

#[tokio::test]
async fn nothing_is_leased_to_those_who_have_left() {
    for (engine, world) in World::all().await {
        let gives_up = world.stand_by("cart", 10).await;
        let goes_away = world.stand_by("cart", 10).await;
        gives_up.give_up.send(()).expect("it listens");
        let found = tokio::time::timeout(PATIENCE, gives_up.leased).await.expect("it ends at once");
        let found = found.expect("it does not panic").expect("topic and group exist");
        assert_eq!(found, Leased::default(), "{engine}: it was given up before anything was there");
        goes_away.leased.abort();
        assert!(goes_away.leased.await.is_err_and(|error| error.is_cancelled()));
        world.release(2).await;
        assert_eq!(world.left_for("cart").await, 2, "{engine}: both are there for whoever asks");
    }
}

/// Whoever gives up before the call has arrived is answered as well. It arrives late behind a call that fills
/// a group, which is a race, so it is run many times.
#[tokio::test]
async fn giving_up_at_once_is_answered() {
    for (engine, world) in World::all().await {
        let aside = world.store.create_topic("aside".parse().expect("a legal name"), 1).await;
        aside.expect("available").expect("it is new");
        for turn in 0..20 {
            let busy = world.send("aside", vec![vec![b'x'; 1024 * 1024]]);
            let found = world.store.stand_by(receive("cart", 10), None, Box::pin(std::future::ready(())));
            let all = async { tokio::join!(busy, found).1 };
            let found = tokio::time::timeout(PATIENCE, all).await;
            let found = found.unwrap_or_else(|_| panic!("{engine}: never answered, turn {turn}"));
            assert_eq!(found.expect("available"), Ok(Leased::default()), "{engine}");
        }
    }
}

#[tokio::test]
async fn standing_by_ends_with_the_topic() {
    for (engine, world) in World::all().await {
        let waiting = world.stand_by("cart", 10).await;
        let topic = "orders".parse().expect("a legal name");
        world.store.delete_topic(topic, true).await.expect("available").expect("it is forced");
        let ended = tokio::time::timeout(PATIENCE, waiting.leased).await.expect("it is told");
        let ended = ended.expect("it does not panic");
        assert!(matches!(ended, Err(Rejection::UnknownTopic(_))), "{engine}: {ended:?}");
    }
}
