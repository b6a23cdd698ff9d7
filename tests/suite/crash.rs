//! The campaign: kill -9 at random moments under load, with an outside ledger of all that was acknowledged.
//!
//! ```text
//!   producers ─► prepare, commit, roll back, or fall silent ─┐
//!   checker   ─► answers what the local database would say   ├─► halfmq serve ◄─ kill -9, restart
//!   consumers ─► receive, ack, or die before the ack        ─┘
//!        └────────► Ledger: what was acknowledged, what was seen ─► audit
//! ```
//!
//! What each transaction must come to is a function of the seed and its key, so that the checker knows it
//! without asking the producer. `HALFMQ_SEED` repeats plans and kills (not the interleaving);
//! `HALFMQ_KILLS` or `HALFMQ_CAMPAIGN=long` makes it longer.

mod actors;
mod audit;
mod ledger;
mod plan;

use std::env;
use std::sync::Arc;
use std::time::Duration;

use halfmq_tests::{CHECKS_SOON, Coordinator, eventually, within};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use actors::Stage;
use ledger::Ledger;
use plan::Plans;

const KILLS: u64 = 30;
const KILLS_LONG: u64 = 500;
const PRODUCERS: usize = 4;
/// Segments go while messages come, so that kills hit images, contents that are carried on, and reuse, too.
const SMALL_JOURNAL: [(&str, &str); 2] =
    [("HALFMQ_JOURNAL__SEGMENT_BYTES", "1048576"), ("HALFMQ_RETENTION_BYTES", "2097152")];
/// Rounds between two that wait for a segment to go.
const RECLAIMED_EVERY: u64 = 8;
/// Acknowledgements between two kills, at most.
const ROUND_MAX: u64 = 400;
/// Findings that a failed campaign tells; the first ones explain the others.
const FINDINGS_TOLD: usize = 40;
/// Topics and their queues.
const TOPICS: [(&str, u32); 2] = [("orders", 3), ("mail", 1)];
const CONSUMER_GROUPS: [&str; 2] = ["billing", "audit"];

#[tokio::test]
async fn kill_9_loses_nothing_and_releases_nothing_twice() {
    let seed = number("HALFMQ_SEED").unwrap_or_else(rand::random);
    let kills = number("HALFMQ_KILLS").unwrap_or(match env::var("HALFMQ_CAMPAIGN").as_deref() {
        Ok("long") => KILLS_LONG,
        Ok(_) | Err(_) => KILLS,
    });
    tell(&format!("campaign of {kills} kills, HALFMQ_SEED={seed}"));

    let settings = [&CHECKS_SOON[..], &SMALL_JOURNAL].concat();
    let mut coordinator = Coordinator::start_with(&settings).await;
    let driver = coordinator.driver();
    for (topic, queues) in TOPICS {
        driver.create_topic(topic, queues).await;
    }
    let stage = Arc::new(Stage::new(driver.clone(), Plans { seed }, Ledger::default()));
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        producers.spawn(actors::produce(Arc::clone(&stage), producer));
    }
    let mut others = JoinSet::new();
    others.spawn(actors::answer_checks(Arc::clone(&stage)));
    for (topic, _) in TOPICS {
        for group in CONSUMER_GROUPS {
            others.spawn(actors::consume(Arc::clone(&stage), topic, group));
        }
    }

    kill_again_and_again(&mut coordinator, &stage, kills, seed).await;
    stage.curtain();
    within("the producers to finish", async {
        while let Some(finished) = producers.join_next().await {
            finished.expect("producers do not panic");
        }
    })
    .await;
    audit::settle(&driver, &stage.ledger).await;
    others.shutdown().await;

    coordinator.restart().await;
    let findings = audit::findings(&driver, &stage).await;
    tell(&stage.ledger.story());
    let first = findings.iter().take(FINDINGS_TOLD).cloned().collect::<Vec<_>>().join("\n");
    assert!(findings.is_empty(), "HALFMQ_SEED={seed}, {} findings, such as\n{first}", findings.len());
}

async fn kill_again_and_again(coordinator: &mut Coordinator, stage: &Stage, kills: u64, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut killed, mut rounds) = (0, 0_u64);
    while killed < kills {
        // Some acknowledgements later, and then a moment that falls anywhere into the next ones.
        stage.ledger.acknowledged(rng.random_range(1..=ROUND_MAX)).await;
        if rounds % RECLAIMED_EVERY == 0 {
            a_segment_goes(coordinator).await;
        }
        rounds += 1;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..3_000))).await;
        stage.goes_down();
        coordinator.kill9().await;
        killed += 1;
        while killed < kills && rng.random_ratio(1, 5) {
            coordinator.kill9_while_starting(Duration::from_micros(rng.random_range(0..60_000))).await;
            killed += 1;
        }
        coordinator.restart().await;
        stage.comes_up();
    }
}

/// Waits until the coordinator lets go of a segment: what follows is cut as well.
async fn a_segment_goes(coordinator: &Coordinator) {
    let before = oldest_segment(coordinator);
    eventually("a segment to go", || async { (oldest_segment(coordinator) > before).then_some(()) }).await;
}

fn oldest_segment(coordinator: &Coordinator) -> u64 {
    let files = std::fs::read_dir(coordinator.data().join("journal")).expect("the journal is there");
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let number = |name: String| name.strip_suffix(".seg")?.parse().ok();
    names.filter_map(number).min().expect("there is a segment")
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a whole number")))
}

#[expect(clippy::print_stdout, reason = "the seed and the sums of a campaign are for people")]
fn tell(text: &str) {
    println!("{text}");
}
