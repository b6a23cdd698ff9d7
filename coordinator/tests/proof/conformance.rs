//! The contract of a storage engine: the same stories on every engine, once straight through and once with
//! a stop and a new start after every line, which must not make a difference.
//!
//! A story is a text: a call, `->`, and what is answered. `tick` moves time. See `conformance/stories`.

mod standing;
mod teller;

use std::path::Path;
use std::sync::Arc;

use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::store::Store;
use halfmq_coordinator::store::embedded::{Embedded, EngineOptions, JournalOptions};
use teller::Teller;

/// Opens an engine on a directory, again and again.
type Open = fn(&Path, Clock) -> Arc<dyn Store>;

/// Every engine there is. A new one is one line here.
const ENGINES: [(&str, Open); 1] = [("embedded", embedded)];

const STORIES: [(&str, &str); 6] = [
    ("transactions", include_str!("conformance/stories/transactions.txt")),
    ("checks", include_str!("conformance/stories/checks.txt")),
    ("consumption", include_str!("conformance/stories/consumption.txt")),
    ("order_and_time", include_str!("conformance/stories/order_and_time.txt")),
    ("dead_letters", include_str!("conformance/stories/dead_letters.txt")),
    ("administration", include_str!("conformance/stories/administration.txt")),
];

fn embedded(directory: &Path, clock: Clock) -> Arc<dyn Store> {
    let options = EngineOptions {
        journal: JournalOptions { segment_bytes: 64 * 1024, ..JournalOptions::default() },
        retention: std::time::Duration::from_secs(60),
        decided_kept: 10_000,
        warm_up: std::time::Duration::ZERO,
        hot_entries_max: 2,
        hot_delayed_max: 1,
        page_entries: 1,
        clock,
        ..EngineOptions::default()
    };
    Arc::new(Embedded::open(directory, options).expect("the store opens").0)
}

#[tokio::test]
async fn every_engine_tells_the_same_stories() {
    for (engine, open) in ENGINES {
        for (chapter, stories) in STORIES {
            for story in stories.split("\n# ").filter(|story| !story.trim().is_empty()) {
                Teller::tell(&format!("{engine} {chapter}"), story, open, false).await;
            }
        }
    }
}

#[tokio::test]
async fn a_restart_after_every_call_changes_no_answer() {
    for (engine, open) in ENGINES {
        for (chapter, stories) in STORIES {
            for story in stories.split("\n# ").filter(|story| !story.trim().is_empty()) {
                Teller::tell(&format!("{engine} {chapter}, restarted"), story, open, true).await;
            }
        }
    }
}
