//! The account: what became of each number of each producer group, and how far consumer groups are.

use std::collections::{BTreeMap, BTreeSet};

use halfmq_proto::v1::message_receipt::Released;
use halfmq_proto::v1::{Group, Transaction, TransactionState};
use serde_json::{Value, json};

use super::super::table::Table;

/// Findings that are written out; more are counted.
const SHOWN_MAX: usize = 20;

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    At { topic: String, queue: u32, offset: u64 },
    Scheduled,
    RolledBack,
    Open,
    InDoubt,
}

/// What is known of one transaction, for a comparison with a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) state: TransactionState,
    /// It was sent without a local transaction, so no log knows it.
    pub(super) sent: bool,
}

#[derive(Debug, Default)]
pub(super) struct Accounts {
    producers: BTreeMap<String, BTreeMap<u64, End>>,
    pub(super) transactions: BTreeMap<String, Known>,
    findings: Vec<String>,
}

impl Accounts {
    /// Takes a transaction in. The same one again, decided meanwhile, replaces what was known.
    pub(super) fn add(&mut self, transaction: Transaction) {
        let state = transaction.state();
        let receipts = transaction.receipt.clone().unwrap_or_default();
        let sent = transaction.producer_instance.is_empty() && transaction.prepared_at == receipts.decided_at;
        let again =
            self.transactions.insert(transaction.transaction_id.clone(), Known { state, sent }).is_some();
        let numbers = self.producers.entry(transaction.producer_group.clone()).or_default();
        for (index, message) in transaction.messages.iter().enumerate() {
            let released = receipts.messages.get(index).and_then(|receipt| receipt.released.clone());
            let end = match (state, released) {
                (TransactionState::Prepared, _) => End::Open,
                (TransactionState::InDoubt, _) => End::InDoubt,
                (TransactionState::RolledBack, _) => End::RolledBack,
                (TransactionState::Committed, Some(Released::Place(place))) => {
                    End::At { topic: place.topic, queue: place.queue, offset: place.offset }
                }
                (TransactionState::Committed, Some(Released::ScheduledFor(_))) => End::Scheduled,
                (TransactionState::Committed | TransactionState::Unspecified, _) => {
                    self.findings.push(format!("{}: committed without a place", message.message_id));
                    continue;
                }
            };
            let before = numbers.insert(message.sequence, end);
            if before.is_some() && !again {
                self.findings.push(format!(
                    "{}: sequence {} was given twice, again to {}",
                    transaction.producer_group, message.sequence, message.message_id
                ));
            }
        }
    }

    /// What is missing or doubled, in words.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut findings = self.findings.clone();
        let mut places = BTreeSet::new();
        for (group, numbers) in &self.producers {
            for (first, last) in missing(numbers) {
                let what = if first == last {
                    format!("sequence {first}")
                } else {
                    format!("sequences {first} to {last}")
                };
                findings
                    .push(format!("{group}: nothing is known of {what}: lost, or sent without a request id"));
            }
            for (sequence, end) in numbers {
                if let End::At { topic, queue, offset } = end
                    && !places.insert((topic, queue, offset))
                {
                    findings.push(format!(
                        "{group}: sequence {sequence} shares its place {topic}/{queue}/{offset}"
                    ));
                }
            }
        }
        let more = findings.len().saturating_sub(SHOWN_MAX);
        findings.truncate(SHOWN_MAX);
        if more > 0 {
            findings.push(format!("and {more} more"));
        }
        findings
    }

    pub(super) fn table(&self) -> String {
        let mut table: Table<8> = Table::new([
            "PRODUCER GROUP",
            "NUMBERS",
            "RELEASED",
            "SCHEDULED",
            "ROLLED BACK",
            "OPEN",
            "IN DOUBT",
            "MISSING",
        ]);
        for (group, numbers) in &self.producers {
            let counts = Counts::of(numbers);
            table.row([
                group.clone(),
                counts.range(),
                counts.released.to_string(),
                counts.scheduled.to_string(),
                counts.rolled_back.to_string(),
                counts.open.to_string(),
                counts.in_doubt.to_string(),
                counts.missing.to_string(),
            ]);
        }
        table.render("No producer groups.")
    }

    pub(super) fn json(&self) -> Value {
        let producers = self.producers.iter().map(|(group, numbers)| {
            let counts = Counts::of(numbers);
            json!({
                "producer_group": group, "last_sequence": counts.last, "released": counts.released,
                "scheduled": counts.scheduled, "rolled_back": counts.rolled_back, "open": counts.open,
                "in_doubt": counts.in_doubt, "missing": counts.missing,
            })
        });
        producers.collect()
    }
}

#[derive(Default)]
struct Counts {
    last: u64,
    released: u64,
    scheduled: u64,
    rolled_back: u64,
    open: u64,
    in_doubt: u64,
    missing: u64,
}

impl Counts {
    fn of(numbers: &BTreeMap<u64, End>) -> Self {
        let mut counts = Self::default();
        for end in numbers.values() {
            *match end {
                End::At { .. } => &mut counts.released,
                End::Scheduled => &mut counts.scheduled,
                End::RolledBack => &mut counts.rolled_back,
                End::Open => &mut counts.open,
                End::InDoubt => &mut counts.in_doubt,
            } += 1;
        }
        counts.last = numbers.last_key_value().map_or(0, |(last, _)| *last);
        counts.missing = missing(numbers).map(|(first, last)| last - first + 1).sum();
        counts
    }

    fn range(&self) -> String {
        if self.last == 0 { "-".to_owned() } else { format!("1..{}", self.last) }
    }
}

/// Numbers from 1 on that nobody can account for, as ranges.
fn missing(numbers: &BTreeMap<u64, End>) -> impl Iterator<Item = (u64, u64)> {
    let before = std::iter::once(0).chain(numbers.keys().copied());
    before
        .zip(numbers.keys().copied())
        .filter(|(before, next)| before + 1 < *next)
        .map(|(before, next)| (before + 1, next - 1))
}

/// How far consumer groups are.
pub(super) fn consumers(groups: &[Group]) -> Table<7> {
    let mut table =
        Table::new(["GROUP", "TOPIC", "RELEASED", "SETTLED", "DELIVERED", "WAITING", "DEAD LETTERS"]);
    for group in groups {
        for topic in &group.topics {
            let released: u64 = topic.queues.iter().map(|queue| queue.next).sum();
            table.row([
                group.group.clone(),
                topic.topic.clone(),
                released.to_string(),
                released.saturating_sub(topic.undelivered).to_string(),
                topic.in_flight.to_string(),
                topic.undelivered.saturating_sub(topic.in_flight).to_string(),
                group.dead_letters.to_string(),
            ]);
        }
    }
    table
}

pub(super) fn consumers_json(groups: &[Group]) -> Value {
    let rows = groups.iter().flat_map(|group| {
        group.topics.iter().map(|topic| {
            let released: u64 = topic.queues.iter().map(|queue| queue.next).sum();
            json!({
                "group": group.group, "topic": topic.topic, "released": released,
                "settled": released.saturating_sub(topic.undelivered), "delivered": topic.in_flight,
                "waiting": topic.undelivered.saturating_sub(topic.in_flight), "dead_letters": group.dead_letters,
            })
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use halfmq_proto::v1::{DecisionReceipt, MessageReceipt, Place, TransactionMessage};

    fn transaction(id: &str, state: TransactionState, sequences: &[u64], offset: u64) -> Transaction {
        let receipts = sequences.iter().zip(offset..).map(|(_, offset)| MessageReceipt {
            message_id: String::new(),
            released: Some(Released::Place(Place { topic: "orders".into(), queue: 0, offset })),
        });
        Transaction {
            transaction_id: id.into(),
            state: state.into(),
            producer_group: "shop".into(),
            receipt: Some(DecisionReceipt { messages: receipts.collect(), ..DecisionReceipt::default() }),
            messages: sequences
                .iter()
                .map(|sequence| TransactionMessage { sequence: *sequence, ..TransactionMessage::default() })
                .collect(),
            ..Transaction::default()
        }
    }

    #[test]
    fn every_number_is_accounted_for_or_named() {
        use TransactionState::{Committed, Prepared, RolledBack};
        let whole = [
            transaction("a", Prepared, &[2], 0),
            transaction("b", Committed, &[1, 3], 0),
            transaction("c", RolledBack, &[4, 5], 0),
        ];
        let lossy = [transaction("a", Committed, &[2], 0), transaction("b", Committed, &[3, 7], 1)];
        let doubled = [transaction("a", Committed, &[1], 0), transaction("b", Committed, &[1], 1)];
        let same_place = [transaction("a", Committed, &[1], 0), transaction("b", Committed, &[2], 0)];
        let decided_meanwhile = [transaction("a", Prepared, &[1], 0), transaction("a", Committed, &[1], 0)];
        for (name, transactions, words) in [
            ("whole", whole.to_vec(), vec![]),
            ("lossy", lossy.to_vec(), vec!["sequence 1:", "sequences 4 to 6"]),
            ("doubled", doubled.to_vec(), vec!["given twice"]),
            ("same place", same_place.to_vec(), vec!["shares its place orders/0/0"]),
            ("decided meanwhile", decided_meanwhile.to_vec(), vec![]),
        ] {
            let mut accounts = Accounts::default();
            transactions.into_iter().for_each(|transaction| accounts.add(transaction));
            let findings = accounts.findings();
            assert_eq!(findings.len(), words.len(), "{name}: {findings:?}");
            for (finding, word) in findings.iter().zip(words) {
                assert!(finding.contains(word), "{name}: {finding}");
            }
        }
    }
}
