//! The index is disposable: gone, damaged or of another journal, every decision that was made still stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::store::embedded::disk::Directory;
use halfmq_coordinator::store::embedded::{Embedded, Engine, EngineOptions, Index, JournalOptions, Work};
use halfmq_coordinator::store::{CheckAnswer, Store, Unavailable};
use halfmq_core::{
    Answer, CheckPolicy, Decide, DecidedBy, Decision, Message, Prepare, Receipt, Rejection, Send, Timestamp,
    TransactionId, Visibility,
};

const TRANSACTIONS: u32 = 60;

/// Nothing that is decided stays in memory once the index has it.
fn options() -> EngineOptions {
    EngineOptions {
        journal: JournalOptions { segment_bytes: 64 * 1024, ..JournalOptions::default() },
        decided_kept: 0,
        ..EngineOptions::default()
    }
}

fn open(directory: &Path) -> Embedded {
    Embedded::open(directory, options()).expect("the store opens").0
}

fn request(number: u32, body: Vec<u8>) -> Prepare {
    let message = Message {
        topic: "orders".parse().expect("a legal name"),
        body: body.into(),
        tag: None,
        keys: Vec::new(),
        headers: Vec::new(),
        message_group: None,
        visibility: Visibility::AtOnce,
    };
    let request_id = format!("request-{number}").parse().expect("a legal name");
    Prepare {
        producer_group: "shop".parse().expect("a legal name"),
        instance: None,
        callback: None,
        policy: CheckPolicy::default(),
        send: Send::new(Some(request_id), vec![message]).expect("a legal message"),
    }
}

async fn prepare(store: &Embedded, number: u32) -> TransactionId {
    let prepare = request(number, number.to_string().into());
    let accepted = store.prepare(vec![prepare]).await.expect("the store works").pop().expect("an answer");
    accepted.expect("a legal prepare").transaction
}

fn decision(transaction: TransactionId, decision: Decision) -> Decide {
    Decide { transaction, decision, by: DecidedBy::Call, reason: String::new(), replacements: Vec::new() }
}

async fn decide(
    store: &Embedded,
    transaction: TransactionId,
    decision: Decision,
) -> Result<Receipt, Rejection> {
    store
        .decide(vec![(self::decision(transaction, decision), Vec::new())])
        .await
        .expect("the store works")
        .pop()
        .expect("an answer")
}

/// What was decided, with the receipts.
async fn decided(directory: &Path) -> Vec<(u32, Receipt)> {
    let store = open(directory);
    let topic = "orders".parse().expect("a legal name");
    store.create_topic(topic, 2).await.expect("the store works").expect("a legal topic");
    let mut receipts = Vec::new();
    for number in 0..TRANSACTIONS {
        let id = prepare(&store, number).await;
        let decision = if number % 3 == 0 { Decision::Rollback } else { Decision::Commit };
        receipts.push((number, decide(&store, id, decision).await.expect("the first decision wins")));
    }
    store.close().await.expect("it closes");
    receipts
}

async fn all_stand(directory: &Path, receipts: &[(u32, Receipt)], story: &str) {
    let store = open(directory);
    for (number, receipt) in receipts {
        let id = prepare(&store, *number).await;
        assert_eq!(id, receipt.transaction, "{story}: the same request is the same transaction");
        let (asked, opposite) = match receipt.verdict.decision {
            Decision::Commit => (Decision::Commit, Decision::Rollback),
            Decision::Rollback => (Decision::Rollback, Decision::Commit),
        };
        assert_eq!(decide(&store, id, asked).await.as_ref(), Ok(receipt), "{story}: the same receipt");
        let conflict = decide(&store, id, opposite).await;
        assert!(matches!(conflict, Err(Rejection::DecisionConflict { .. })), "{story}: {conflict:?}");
        let late = CheckAnswer {
            transaction: id,
            answer: Answer::Decided(asked),
            reason: String::new(),
            replacements: Vec::new(),
        };
        let late = store.record_answers(vec![late]).await.expect("the store works").pop().expect("an answer");
        assert_eq!(late.as_ref(), Ok(&Some(receipt.clone())), "{story}: a late answer to a check");
    }
    store.close().await.expect("it closes");
}

#[tokio::test]
async fn decisions_outlive_memory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let receipts = decided(directory.path()).await;
    all_stand(directory.path(), &receipts, "from the index").await;
}

#[tokio::test]
async fn lost_index_is_made_again_from_the_journal() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let receipts = decided(directory.path()).await;
    fs::remove_dir_all(directory.path().join("index")).expect("it is there");
    all_stand(directory.path(), &receipts, "without an index").await;
    all_stand(directory.path(), &receipts, "with the new index").await;
}

#[tokio::test]
async fn damaged_index_is_made_again_from_the_journal() {
    for at in [0_usize, 3, 40, 500, 3_000, 9_000, 20_000] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let receipts = decided(directory.path()).await;
        for name in ["db", "conf"] {
            let path = directory.path().join("index").join(name);
            let mut bytes = fs::read(&path).expect("it is there");
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x55;
            }
            fs::write(&path, bytes).expect("it is there");
        }
        all_stand(directory.path(), &receipts, &format!("byte {at} flipped")).await;
    }
}

/// Where the index keeps receipts: each start begins a file.
fn receipts_file(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("index/receipts/{number:010}"))
}

#[tokio::test]
async fn damaged_receipts_are_no_answer_and_are_made_again_by_the_next_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let receipts = decided(directory.path()).await;
    let file = receipts_file(directory.path(), 0);
    let mut bytes = fs::read(&file).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&file, bytes).expect("it is there");
    let store = open(directory.path());
    let mut unanswered = 0;
    for (number, receipt) in &receipts {
        match store.prepare(vec![request(*number, number.to_string().into())]).await {
            Err(Unavailable::Failed(_)) => unanswered += 1,
            Err(other) => panic!("{other}"),
            Ok(answers) => {
                let accepted = answers.into_iter().next().expect("an answer").expect("a legal prepare");
                assert_eq!(accepted.transaction, receipt.transaction, "never a second transaction");
            }
        }
    }
    assert!(unanswered > 0, "the damage was met");
    store.close().await.expect("it closes");
    all_stand(directory.path(), &receipts, "after damage").await;
    all_stand(directory.path(), &receipts, "when it is mended").await;
}

#[tokio::test]
async fn lost_receipts_are_made_again_from_the_journal() {
    for story in ["gone", "cut"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let receipts = decided(directory.path()).await;
        let file = receipts_file(directory.path(), 0);
        match story {
            "gone" => fs::remove_file(&file).expect("it is there"),
            _ => {
                let bytes = fs::read(&file).expect("it is there");
                fs::write(&file, &bytes[..bytes.len() - 1]).expect("it is there");
            }
        }
        all_stand(directory.path(), &receipts, story).await;
    }
}

#[tokio::test]
async fn receipts_that_nobody_knows_of_are_thrown_away() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let receipts = decided(directory.path()).await;
    let strange = receipts_file(directory.path(), 9);
    fs::write(&strange, b"written before a power cut").expect("the folder is there");
    all_stand(directory.path(), &receipts, "with a strange file").await;
    assert!(!strange.exists());
}

#[tokio::test]
async fn index_of_another_journal_is_not_believed() {
    let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let receipts = decided(one.path()).await;
    decided(other.path()).await;
    fs::remove_dir_all(one.path().join("index")).expect("it is there");
    fs::rename(other.path().join("index"), one.path().join("index")).expect("it moves");
    all_stand(one.path(), &receipts, "with another's index").await;
}

/// Copies all files of a folder into another one, which has no others then.
fn copy(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    fs::create_dir_all(to).expect("it can be made");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is there");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("there is room");
    }
}

/// The journal comes back from a backup: what the index knows of later times did not happen. That holds also for an
/// index that is damaged, which a start otherwise mends and keeps.
#[tokio::test]
async fn index_does_not_tell_of_a_future_that_the_journal_has_lost() {
    for damaged in [false, true] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (journal, backup) = (directory.path().join("journal"), directory.path().join("backup"));
        let receipts = decided(directory.path()).await;
        copy(&journal, &backup);
        let store = open(directory.path());
        let mut future = Vec::new();
        for number in 100..140 {
            let id = prepare(&store, number).await;
            decide(&store, id, Decision::Commit).await.expect("the first decision wins");
            future.push((number, id));
        }
        store.close().await.expect("it closes");
        if damaged {
            let file = receipts_file(directory.path(), 0);
            let bytes = fs::read(&file).expect("it is there");
            fs::write(&file, bytes.iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>()).expect("it is there");
            let store = open(directory.path());
            let met = store.prepare(vec![request(0, b"0".to_vec())]).await;
            assert!(matches!(met, Err(Unavailable::Failed(_))), "the damage is met");
            store.close().await.expect("it closes");
        }
        copy(&backup, &journal);
        let store = open(directory.path());
        for (number, lost) in future {
            let id = prepare(&store, number).await;
            assert_ne!(id, lost, "damaged {damaged}: the journal does not know of {number}");
        }
        store.close().await.expect("it closes");
        all_stand(directory.path(), &receipts, &format!("from a backup, damaged {damaged}")).await;
    }
}

/// An engine without threads, so that upkeep comes when the story says so.
fn engine(directory: &Path, clock: &Clock, retention_bytes: u64) -> (Engine, Arc<Index>) {
    let index = Arc::new(Index::open(&directory.join("index")).expect("an index"));
    let options = EngineOptions {
        journal: JournalOptions { segment_bytes: 16 * 1024, spare_in_background: false },
        image_every: 32 * 1024,
        retention_bytes,
        receipt_retention: Duration::from_secs(3_600),
        clock: clock.clone(),
        ..options()
    };
    let disk = Arc::new(Directory::new(directory.join("journal")).expect("a directory"));
    let (mut engine, _) = Engine::open(disk, options, Some(Arc::clone(&index))).expect("the store opens");
    let topic = engine.run(Work::SMALL, |turn| {
        let (_, ledger, log) = turn.parts();
        ledger.create_topic(&"orders".parse().expect("a legal name"), 2, log)
    });
    topic.expect("the disk is fine").expect("the same topic each time");
    (engine, index)
}

/// Rolls transactions back, with time for upkeep in between. Returns their ids.
fn rolled_back(engine: &mut Engine, clock: &Clock, numbers: std::ops::Range<u32>) -> Vec<TransactionId> {
    let mut ids = Vec::new();
    for number in numbers {
        let prepare = request(number, vec![b'x'; 400]);
        let accepted = engine.run(Work::New { bytes: 4_096 }, |turn| turn.prepare(prepare));
        let id = accepted.expect("the disk is fine").expect("the index is fine").expect("legal").transaction;
        let rollback = decision(id, Decision::Rollback);
        let receipt = engine.run(Work::SMALL, |turn| turn.decide(rollback));
        receipt.expect("the disk is fine").expect("the index is fine").expect("the first decision");
        clock.advance(Duration::from_millis(300));
        engine.upkeep();
        ids.push(id);
    }
    ids
}

fn answers(engine: &mut Engine, ids: &[TransactionId]) -> Vec<&'static str> {
    let ask = |id: &TransactionId| {
        let again = decision(*id, Decision::Rollback);
        let answer = engine.run(Work::SMALL, |turn| turn.decide(again));
        match answer.expect("the disk is fine").expect("the index is fine") {
            Ok(_) => "receipt",
            Err(Rejection::ReceiptPruned(_)) => "pruned",
            Err(other) => panic!("{other}"),
        }
    };
    ids.iter().map(ask).collect()
}

/// A start adds the last decisions again, for the index cannot be sure that it has them all. The last one
/// may be the first in the order of ids, by which decisions stand side by side.
#[test]
fn decisions_added_again_do_not_displace_those_beside_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let (mut began, index) = engine(directory.path(), &clock, u64::MAX);
    let prepared = (0..20).map(|number| {
        let accepted =
            began.run(Work::New { bytes: 4_096 }, |turn| turn.prepare(request(number, Vec::new())));
        accepted.expect("the disk is fine").expect("the index is fine").expect("legal").transaction
    });
    let mut ids: Vec<_> = prepared.collect();
    ids.sort_unstable();
    ids.reverse();
    assert_eq!(answers(&mut began, &ids), vec!["receipt"; ids.len()]);
    drop(began);
    index.close();
    drop(index);
    for start in 1..4 {
        let (mut engine, index) = engine(directory.path(), &clock, u64::MAX);
        engine.upkeep();
        assert_eq!(answers(&mut engine, &ids), vec!["receipt"; ids.len()], "start {start}");
        drop(engine);
        index.close();
    }
}

/// Upkeep may come while verbs of a group have run that is not written yet: a start begins with the image, and
/// must not meet what was before it.
#[test]
fn image_begins_behind_what_the_group_has_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let (mut began, index) = engine(directory.path(), &clock, u64::MAX);
    let mut ids = Vec::new();
    for number in 0..300 {
        began.admit(Work::New { bytes: 4_096 }).expect("the disk is fine");
        let prepared = began.turn().prepare(request(number, vec![b'x'; 400])).expect("the index is fine");
        ids.push(prepared.expect("legal").transaction);
        clock.advance(Duration::from_millis(300));
        began.upkeep();
        began.commit().expect("the disk is fine");
    }
    drop(began);
    index.close();
    drop(index);
    let (mut again, _index) = engine(directory.path(), &clock, u64::MAX);
    assert_eq!(answers(&mut again, &ids), vec!["receipt"; ids.len()]);
}

#[test]
fn index_made_anew_after_segments_are_gone_knows_what_it_does_not_know() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let (mut engine_before, index) = engine(directory.path(), &clock, 0);
    let mut ids = rolled_back(&mut engine_before, &clock, 0..200);
    // What the index does not have yet is in the image; the story is about what only the index has.
    let began = Clock::stopwatch();
    while index.through() < 300 {
        assert!(began.elapsed() < Duration::from_secs(60), "the index has only {}", index.through());
        ids.extend(rolled_back(&mut engine_before, &clock, ids.len() as u32..ids.len() as u32 + 10));
    }
    ids.extend(rolled_back(&mut engine_before, &clock, ids.len() as u32..ids.len() as u32 + 200));
    assert!(
        !directory.path().join("journal/0000000001.seg").exists(),
        "the story needs a segment to be gone"
    );
    drop(engine_before);
    index.close();
    drop(index);
    let (mut with_index, index) = engine(directory.path(), &clock, 0);
    assert_eq!(answers(&mut with_index, &ids), vec!["receipt"; ids.len()], "the index has all");
    drop(with_index);
    index.close();
    drop(index);
    fs::remove_dir_all(directory.path().join("index")).expect("it is there");
    for story in ["made anew", "opened again"] {
        let (mut engine, index) = engine(directory.path(), &clock, 0);
        let answers = answers(&mut engine, &ids);
        assert_eq!(answers.last(), Some(&"receipt"), "{story}: {answers:?}");
        assert_eq!(answers.first(), Some(&"pruned"), "{story}: {answers:?}");
        let never = TransactionId::fresh(clock.now(), [7; 10]);
        let view = engine.turn().missing(never);
        assert_eq!(view, Rejection::UnknownTransaction(never), "{story}: it was never there");
        drop(engine);
        index.close();
    }
}

/// Of two files one is damaged, after the journal has let go of what was decided first. A start that mends it
/// reads from the journal what is still there, and must not throw away what only the index has.
#[test]
fn damage_costs_no_receipts_but_those_that_are_damaged() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let (mut began, index) = engine(directory.path(), &clock, 0);
    let old = rolled_back(&mut began, &clock, 0..400);
    drop(began);
    index.close();
    drop(index);
    let (mut again, index) = engine(directory.path(), &clock, 0);
    let young = rolled_back(&mut again, &clock, 400..600);
    assert!(
        !directory.path().join("journal/0000000001.seg").exists(),
        "the story needs a segment to be gone"
    );
    drop(again);
    index.close();
    drop(index);
    let file = receipts_file(directory.path(), 1);
    let whole = fs::read(&file).expect("it is there");
    fs::write(&file, whole.iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>()).expect("it is there");
    let (mut damaged, index) = engine(directory.path(), &clock, 0);
    let answer = damaged.run(Work::SMALL, |turn| turn.decide(decision(young[0], Decision::Rollback)));
    let unanswered = matches!(answer.expect("the disk is fine"), Err(Unavailable::Failed(_)));
    assert!(unanswered, "a damaged receipt is no answer");
    assert_eq!(answers(&mut damaged, &old[..1]), ["receipt"], "others are");
    drop(damaged);
    index.close();
    drop(index);
    for story in ["mended", "opened again"] {
        let (mut engine, index) = engine(directory.path(), &clock, 0);
        let old = answers(&mut engine, &old);
        assert!(old.iter().all(|answer| *answer == "receipt"), "{story}: only the index has them");
        assert_eq!(answers(&mut engine, &young[199..]), ["receipt"], "{story}: the journal has it");
        let first = engine.run(Work::SMALL, |turn| turn.decide(decision(young[0], Decision::Rollback)));
        let first = first.expect("the disk is fine").expect("the index is fine");
        assert!(!matches!(first, Err(Rejection::UnknownTransaction(_))), "{story}: {first:?}");
        drop(engine);
        index.close();
    }
}

#[test]
fn old_receipts_are_let_go_of_and_said_to_be() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let (mut engine, index) = engine(directory.path(), &clock, u64::MAX);
    let old = rolled_back(&mut engine, &clock, 0..50);
    drop(engine);
    index.close();
    drop(index);
    let (mut engine, index) = self::engine(directory.path(), &clock, u64::MAX);
    clock.advance(Duration::from_secs(3_700));
    // What stays in memory goes with the next decisions, once the index has it.
    let deadline = Duration::from_secs(60);
    let began = Clock::stopwatch();
    let mut number = 50;
    while answers(&mut engine, &old).contains(&"receipt") {
        assert!(began.elapsed() < deadline, "old receipts are still there");
        rolled_back(&mut engine, &clock, number..number + 10);
        number += 10;
    }
    let again = engine.run(Work::New { bytes: 4_096 }, |turn| turn.prepare(request(3, vec![b'x'; 400])));
    let again = again.expect("the disk is fine").expect("the index is fine").expect("legal").transaction;
    assert!(!old.contains(&again), "its request id is free again");
    index.close();
    assert!(!receipts_file(directory.path(), 0).exists(), "nothing in it is kept");
    assert!(receipts_file(directory.path(), 1).exists());
}
