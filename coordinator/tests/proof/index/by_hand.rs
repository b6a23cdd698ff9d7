//! The index beside an engine without threads, whose groups and upkeep come when the story says so.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::store::Unavailable;
use halfmq_coordinator::store::embedded::disk::Directory;
use halfmq_coordinator::store::embedded::{Engine, EngineOptions, Index, JournalOptions, Work};
use halfmq_core::{Decision, Rejection, Timestamp, TransactionId};

use super::{decision, options, receipts_file, request};

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

/// What is decided leaves memory when the index has it, also out of a group that stood ready and was taken back;
/// and no group stands ready when upkeep is due, which would otherwise wait as long as the disk is busy.
#[test]
fn group_sealed_ahead_is_forgotten_as_others_are_and_does_not_hold_up_upkeep() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let (mut engine, index) = engine(directory.path(), &clock, u64::MAX);
    let prepare = |engine: &mut Engine, number| {
        let prepared = engine.turn().prepare(request(number, Vec::new())).expect("the index is fine");
        prepared.expect("legal").transaction
    };
    prepare(&mut engine, 0);
    let on_its_way = engine.seal().expect("the disk is fine").expect("it wrote something");
    let id = prepare(&mut engine, 1);
    let decided = engine.turn().decide(decision(id, Decision::Rollback)).expect("the index is fine");
    decided.expect("the first decision");
    let ready = engine.seal_ahead().expect("it wrote something");
    engine.reopen(ready);
    clock.advance(Duration::from_secs(1));
    prepare(&mut engine, 2);
    assert!(engine.seal_ahead().is_none(), "upkeep is due");
    let written = on_its_way.write();
    engine.settle(on_its_way, written).expect("the disk is fine");
    engine.upkeep();
    let began = Clock::stopwatch();
    for number in 3.. {
        rolled_back(&mut engine, &clock, number..number + 1);
        if engine.turn().ledger.decided_transaction(id).is_none() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the index has {}", index.through());
    }
    assert_eq!(answers(&mut engine, &[id]), ["receipt"]);
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
