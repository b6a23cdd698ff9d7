//! The index is disposable: gone, damaged or of another journal, every decision that was made still stands.

use std::fs;
use std::path::Path;

use halfmq_coordinator::store::embedded::{Embedded, EngineOptions, JournalOptions};
use halfmq_coordinator::store::{CheckAnswer, Store};
use halfmq_core::{
    Answer, CheckPolicy, Decide, DecidedBy, Decision, Message, Prepare, Receipt, Rejection, Send,
    TransactionId, Visibility,
};

const TRANSACTIONS: u32 = 60;

/// Nothing that is decided stays in memory once the index has it.
fn open(directory: &Path) -> Embedded {
    let options = EngineOptions {
        journal: JournalOptions { segment_bytes: 64 * 1024, ..JournalOptions::default() },
        decided_kept: 0,
        ..EngineOptions::default()
    };
    Embedded::open(directory, options).expect("the store opens").0
}

async fn prepare(store: &Embedded, number: u32) -> TransactionId {
    let message = Message {
        topic: "orders".parse().expect("a legal name"),
        body: number.to_string().into(),
        tag: None,
        keys: Vec::new(),
        headers: Vec::new(),
        message_group: None,
        visibility: Visibility::AtOnce,
    };
    let request_id = format!("request-{number}").parse().expect("a legal name");
    let prepare = Prepare {
        producer_group: "shop".parse().expect("a legal name"),
        instance: None,
        callback: None,
        policy: CheckPolicy::default(),
        send: Send::new(Some(request_id), vec![message]).expect("a legal message"),
    };
    let accepted = store.prepare(vec![prepare]).await.expect("the store works").pop().expect("an answer");
    accepted.expect("a legal prepare").transaction
}

async fn decide(
    store: &Embedded,
    transaction: TransactionId,
    decision: Decision,
) -> Result<Receipt, Rejection> {
    let decide = Decide {
        transaction,
        decision,
        by: DecidedBy::Call,
        reason: String::new(),
        replacements: Vec::new(),
    };
    store.decide(vec![(decide, Vec::new())]).await.expect("the store works").pop().expect("an answer")
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

#[tokio::test]
async fn index_of_another_journal_is_not_believed() {
    let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let receipts = decided(one.path()).await;
    decided(other.path()).await;
    fs::remove_dir_all(one.path().join("index")).expect("it is there");
    fs::rename(other.path().join("index"), one.path().join("index")).expect("it moves");
    all_stand(one.path(), &receipts, "with another's index").await;
}
