//! The index is disposable: gone, damaged or of another journal, every decision that was made still stands.

mod by_hand;

use std::fs;
use std::path::{Path, PathBuf};

use halfmq_coordinator::store::embedded::{Embedded, EngineOptions, JournalOptions};
use halfmq_coordinator::store::{CheckAnswer, Store, Unavailable};
use halfmq_core::{
    Answer, CheckPolicy, Decide, DecidedBy, Decision, Message, Prepare, Receipt, Rejection, Send,
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
