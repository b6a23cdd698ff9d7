//! Two order services, two payment services and the coordinator, killed with -9 at random while orders run.
//! Then the databases are compared: as much was paid as was ordered, nothing is missing, nothing is double.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ::redis::AsyncCommands;
use halfmq_client::Client;
use halfmq_tests::{CHECKS_SOON, Coordinator, eventually, within};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::{Pool, Postgres};
use tokio::process::{Child, Command};

use crate::database::TestDatabase;
use crate::server;

/// Orders that must come in before the next kill, so that something is under way.
const ORDERS_BETWEEN_KILLS: std::ops::Range<i64> = 3..30;

/// How many processes die.
fn kills() -> usize {
    match env::var("HALFMQ_CAMPAIGN").as_deref() {
        Ok("long") => 250,
        _ => 25,
    }
}

/// An example as a process of its own.
fn example(name: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(path(name));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"))
}

/// `target/<profile>/examples`, beside the folder of this test.
fn path(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own file");
    test.ancestors()
        .nth(2)
        .expect("cargo puts tests into <target>/<profile>/deps")
        .join("examples")
        .join(name)
}

/// Builds the examples; nothing happens if they are built.
fn build() {
    let outputs = path("").parent().map(Path::to_owned).expect("<target>/<profile>/examples");
    let target = outputs.parent().expect("a profile's folder lies in the target folder");
    let profile = match outputs.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(profile) => profile,
    };
    let built = std::process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "-p", "halfmq-examples", "--examples", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be started, since it started this test");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// All that runs, and how each is started again.
struct World {
    coordinator: Coordinator,
    services: Vec<(&'static str, Vec<String>, Child)>,
}

impl World {
    fn start(&mut self, name: &'static str, arguments: &[&str]) {
        let endpoint = self.coordinator.endpoint();
        let arguments: Vec<String> =
            ["--endpoint", &endpoint].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        let child = example(name, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        self.services.push((name, arguments, child));
    }

    /// Kills a process and starts it again.
    async fn strike(&mut self, victim: usize) {
        match self.services.get_mut(victim) {
            Some((name, arguments, child)) => {
                child.kill().await.expect("our own child can be killed");
                *child = example(name, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
            }
            None => {
                self.coordinator.kill9().await;
                self.coordinator.restart().await;
            }
        }
    }

    /// Ends the services of this name for good.
    async fn end(&mut self, name: &str) {
        for (_, _, child) in self.services.iter_mut().filter(|(of, ..)| *of == name) {
            child.kill().await.expect("our own child can be killed");
        }
        self.services.retain(|(of, ..)| *of != name);
    }
}

async fn count(pool: &Pool<Postgres>, table: &str) -> i64 {
    // The table may not be there yet.
    let there =
        Postgres::number(pool, &format!("SELECT COUNT(*) FROM pg_tables WHERE tablename = '{table}'")).await;
    if there == 0 { 0 } else { Postgres::number(pool, &format!("SELECT COUNT(*) FROM {table}")).await }
}

#[tokio::test]
async fn databases_agree_whatever_is_killed() {
    let Some(database) = Postgres::fresh().await else { return };
    let Some(redis) = server::url("redis").await else { return };
    tokio::task::spawn_blocking(build).await.expect("building reports errors");
    let pool = &database.pool;
    let seed = env::var("HALFMQ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut world = World { coordinator: Coordinator::start_with(&CHECKS_SOON).await, services: Vec::new() };
    let client = Client::connect(world.coordinator.endpoint()).expect("an endpoint");
    client.admin().create_topic("orders", 4).await.expect("created");
    for _ in 0..2 {
        world.start("order_service", &["--database", &database.url]);
        world.start("idempotent_consumer", &["--database", &database.url]);
    }
    world.start("idempotent_consumer", &["--redis", &redis]);

    for kill in 0..kills() {
        let goal = count(pool, "orders").await + chance.random_range(ORDERS_BETWEEN_KILLS);
        eventually(&format!("orders before kill {kill} (seed {seed})"), async || {
            (count(pool, "orders").await >= goal).then_some(())
        })
        .await;
        let victim = chance.random_range(0..=world.services.len());
        world.strike(victim).await;
    }

    // No new orders. One process stays to answer for those that died.
    world.end("order_service").await;
    world.start("order_service", &["--database", &database.url, "--orders", "0"]);
    let admin = client.admin();
    eventually(&format!("all to be decided and settled (seed {seed})"), async || {
        let topic = admin.describe_topic("orders").await.ok()?;
        let settled = topic.groups.iter().filter(|group| group.undelivered == 0).count();
        (topic.open_transactions == 0 && settled == 2).then_some(())
    })
    .await;
    let ordered = Postgres::number(pool, "SELECT COUNT(*) FROM orders").await;
    for (rule, query, expected) in [
        ("paid once each", "SELECT COUNT(*) FROM payments", ordered),
        ("none is double", "SELECT COUNT(DISTINCT number) FROM payments", ordered),
        (
            "sums agree",
            "SELECT (SELECT SUM(cents) FROM orders)::bigint - (SELECT SUM(cents) FROM payments)::bigint",
            0,
        ),
        (
            "none is missing",
            "SELECT COUNT(*) FROM orders WHERE number NOT IN (SELECT number FROM payments)",
            0,
        ),
        (
            "none is a ghost",
            "SELECT COUNT(*) FROM payments WHERE number NOT IN (SELECT number FROM orders)",
            0,
        ),
    ] {
        assert_eq!(Postgres::number(pool, query).await, expected, "{rule} (seed {seed}, {ordered} orders)");
    }
    let mut redis = ::redis::aio::ConnectionManager::new(::redis::Client::open(redis).expect("a URL"))
        .await
        .expect("it runs");
    let booked: Vec<i64> = redis.hvals("{payments}:cents").await.expect("booked");
    let cents = Postgres::number(pool, "SELECT SUM(cents)::bigint FROM orders").await;
    assert_eq!((booked.len() as i64, booked.iter().sum::<i64>()), (ordered, cents), "in Redis (seed {seed})");
    let (code, told, complaint) =
        world.coordinator.cli(&["audit", "--group", "shop", "--database", &database.url]).await;
    assert_eq!(code, 0, "{told}{complaint} (seed {seed})");
    within("the end", async { drop(world) }).await;
}

#[tokio::test]
async fn outbox_example_sends_what_it_sells() {
    let Some(database) = Postgres::fresh().await else { return };
    tokio::task::spawn_blocking(build).await.expect("building reports errors");
    let coordinator = Coordinator::start().await;
    let endpoint = coordinator.endpoint();
    let arguments = ["--endpoint", &endpoint, "--database", &database.url, "--orders", "40"];
    let mut outbox = example("outbox", &arguments);
    let status = within("the example", outbox.wait()).await.expect("it can be waited for");
    assert!(status.success(), "{status}");
    let client = Client::connect(endpoint).expect("an endpoint");
    let topic = client.admin().describe_topic("orders").await.expect("described");
    assert_eq!(topic.queues.iter().map(|queue| queue.next).sum::<u64>(), 40);
    assert_eq!(count(&database.pool, "orders").await, 40);
}
