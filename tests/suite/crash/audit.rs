//! Compares what was acknowledged with what is there. Every finding is a broken promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use halfmq_proto::v1::{
    DescribeTopicRequest, DescribeTransactionRequest, ListTransactionsRequest, MessageReceipt, Topic,
    TransactionState, message_receipt,
};
use halfmq_tests::{Driver, PATIENCE};

use super::actors::{PRODUCER_GROUP, Stage};
use super::ledger::{Entries, Ledger, Seen, Spot};
use super::plan::Outcome;
use super::{CONSUMER_GROUPS, TOPICS};

/// Between two looks at what is still open.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until nothing is open, delayed or undelivered any more; what still is after [`PATIENCE`] is a
/// finding, and the others may tell why.
pub(super) async fn settle(driver: &Driver, ledger: &Ledger) {
    let settled = async {
        let mut pauses = tokio::time::interval(PAUSE);
        while unsettled(driver).await.is_some() {
            pauses.tick().await;
        }
    };
    if tokio::time::timeout(PATIENCE, settled).await.is_err()
        && let Some(what) = unsettled(driver).await
    {
        ledger.violation(format!("{} s after the last kill: {what}", PATIENCE.as_secs()));
    }
}

async fn unsettled(driver: &Driver) -> Option<String> {
    let open = driver.transactions.clone().list_transactions(ListTransactionsRequest::default()).await;
    let open = open.expect("the killing is over").into_inner().transactions;
    if let Some(oldest) = open.first() {
        return Some(format!("{} or more transactions are open, such as {oldest:?}", open.len()));
    }
    for (topic, _) in TOPICS {
        let topic = describe(driver, topic).await;
        let backlog: u64 = topic.groups.iter().map(|group| group.undelivered).sum();
        if topic.delayed > 0 || topic.open_transactions > 0 || backlog > 0 {
            return Some(format!("not everything was delivered: {topic:?}"));
        }
    }
    None
}

/// Everything that is not as it must be.
pub(super) async fn findings(driver: &Driver, stage: &Stage) -> Vec<String> {
    let mut findings = contradictions(driver, stage).await;
    findings.extend(gaps(driver, &stage.ledger).await);
    let entries = stage.ledger.entries();
    findings.extend(entries.violations.iter().cloned());
    findings.extend(lost(&entries, stage));
    findings.extend(ghosts(&entries, stage));
    findings.extend(released_twice(&entries));
    findings.extend(broken_links(&entries));
    if entries.receipts.is_empty() || entries.sent.is_empty() {
        findings.push("the campaign did nothing that could have been lost".into());
    }
    findings
}

async fn describe(driver: &Driver, topic: &str) -> Topic {
    let request = DescribeTopicRequest { topic: topic.into() };
    driver.admin.clone().describe_topic(request).await.expect("topics survive").into_inner()
}

/// P2: each acknowledged transaction ended as its local transaction did, and its receipt never changed.
async fn contradictions(driver: &Driver, stage: &Stage) -> Vec<String> {
    let (prepared, receipts) = {
        let entries = stage.ledger.entries();
        (entries.prepared.clone(), entries.receipts.clone())
    };
    let mut findings = Vec::new();
    for (key, prepared) in prepared {
        let request = DescribeTransactionRequest { transaction_id: prepared.transaction_id };
        let transaction = match driver.transactions.clone().describe_transaction(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                findings.push(format!("{key} was acknowledged and is gone: {}", status.message()));
                continue;
            }
        };
        let expected = match stage.plans.of(&key).outcome {
            Outcome::Commit => TransactionState::Committed,
            Outcome::Rollback => TransactionState::RolledBack,
        };
        if transaction.state() != expected {
            findings.push(format!("{key} must be {expected:?}, is {:?}", transaction.state()));
        }
        if let Some(receipt) =
            receipts.get(&key).filter(|receipt| transaction.receipt.as_ref() != Some(receipt))
        {
            findings.push(format!("receipt of {key} changed from {receipt:?} to {:?}", transaction.receipt));
        }
    }
    findings
}

/// Offsets are dense, and each consumer group saw every one of them.
async fn gaps(driver: &Driver, ledger: &Ledger) -> Vec<String> {
    let mut expected: BTreeSet<Spot> = BTreeSet::new();
    for (name, _) in TOPICS {
        for queue in describe(driver, name).await.queues {
            expected.extend((0..queue.next).map(|offset| (name.to_owned(), queue.queue, offset)));
        }
    }
    let entries = ledger.entries();
    let mut findings = Vec::new();
    for group in CONSUMER_GROUPS {
        let seen: BTreeSet<Spot> =
            entries.seen.keys().filter(|(by, _)| *by == group).map(|(_, spot)| spot.clone()).collect();
        findings.extend(expected.difference(&seen).map(|spot| format!("{group} never got {spot:?}")));
        findings
            .extend(seen.difference(&expected).map(|spot| format!("{group} got {spot:?}, which is gone")));
    }
    findings
}

/// P1 and P3: all messages of acknowledged commits and sends were delivered, at the place in the receipt.
fn lost(entries: &Entries, stage: &Stage) -> Vec<String> {
    let by_body: BTreeMap<(&str, &str), (&Spot, &Seen)> = entries
        .seen
        .iter()
        .map(|((group, spot), seen)| ((*group, seen.body.as_str()), (spot, seen)))
        .collect();
    let committed = entries.prepared.iter().filter(|(key, _)| stage.plans.of(key).outcome == Outcome::Commit);
    let mut expected: Vec<(String, &str)> = Vec::new();
    for (key, prepared) in committed {
        expected.extend(
            (0..).zip(&prepared.message_ids).map(|(index, id)| (format!("{key}/{index}"), id.as_str())),
        );
    }
    let receipts = entries.receipts.iter().map(|(key, receipt)| (key, &receipt.messages));
    let receipts: Vec<(String, &MessageReceipt)> = receipts
        .chain(&entries.sent)
        .flat_map(|(key, messages)| {
            (0..).zip(messages).map(move |(index, message)| (format!("{key}/{index}"), message))
        })
        .collect();
    expected.extend(receipts.iter().map(|(body, message)| (body.clone(), message.message_id.as_str())));

    let mut findings = Vec::new();
    for group in CONSUMER_GROUPS {
        for (body, id) in &expected {
            match by_body.get(&(group, body.as_str())) {
                Some((_, seen)) if seen.message_id == *id => {}
                other => findings.push(format!("{body} as {id} was acknowledged, {group} saw {other:?}")),
            }
        }
        for (body, message) in &receipts {
            let Some(message_receipt::Released::Place(place)) = &message.released else { continue };
            let place = (place.topic.clone(), place.queue, place.offset);
            let seen = by_body.get(&(group, body.as_str())).map(|(spot, _)| *spot);
            if seen != Some(&place) {
                findings.push(format!("the receipt of {body} says {place:?}, {group} saw it at {seen:?}"));
            }
        }
    }
    findings
}

/// P3: nothing was delivered whose local transaction rolled back.
fn ghosts(entries: &Entries, stage: &Stage) -> Vec<String> {
    let ghost = |seen: &&Seen| {
        let key = seen.body.split('/').next().unwrap_or_default();
        stage.plans.of(key).outcome == Outcome::Rollback
    };
    entries.seen.values().filter(ghost).map(|seen| format!("rolled back, but delivered: {seen:?}")).collect()
}

/// P4: one message has one id and one place, for every group, and a body was taken in once.
fn released_twice(entries: &Entries) -> Vec<String> {
    let mut places: BTreeMap<&str, BTreeSet<(&Spot, &str)>> = BTreeMap::new();
    for ((_, spot), seen) in &entries.seen {
        places.entry(&seen.body).or_default().insert((spot, &seen.message_id));
    }
    let twice = places.iter().filter(|(_, places)| places.len() > 1);
    twice.map(|(body, places)| format!("{body} was released more than once: {places:?}")).collect()
}

/// The links that let a reader prove that nothing is missing.
fn broken_links(entries: &Entries) -> Vec<String> {
    let mut last: BTreeMap<(&str, &str, u32), u64> = BTreeMap::new();
    let mut findings = Vec::new();
    for ((group, spot), seen) in &entries.seen {
        let (topic, queue, _) = spot;
        let before = last.insert((group, topic, *queue), seen.sequence).unwrap_or(0);
        if seen.previous_sequence != before || seen.producer_group != PRODUCER_GROUP {
            findings.push(format!("{spot:?} for {group} follows {before}, but says {seen:?}"));
        }
    }
    findings
}
