//! The account: what became of each number of each producer group, and how far consumer groups are.
//!
//! Numbers of a producer group rise with time. So of numbers that nothing is known of, those behind one that was
//! prepared since the receipts' floor are missing; the others may have been pruned with their receipts, and are
//! neither missing nor accounted for, but not checked.

use std::collections::{BTreeMap, BTreeSet};

use halfmq_proto::v1::message_receipt::Released;
use halfmq_proto::v1::{Group, Transaction, TransactionState};
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::super::table::Table;
use super::super::text;

/// Findings that are written out; more are counted.
const SHOWN_MAX: usize = 20;

/// What became of one message, and when its transaction was prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    end: End,
    prepared_at: Moment,
}

/// Seconds and nanoseconds of a timestamp: comparable.
type Moment = (i64, i32);

fn moment(at: Option<&Timestamp>) -> Moment {
    at.map_or((0, 0), |at| (at.seconds, at.nanos))
}

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
    producers: BTreeMap<String, Numbers>,
    pub(super) transactions: BTreeMap<String, Known>,
    findings: Vec<String>,
    /// The receipts' floor.
    since: Option<Timestamp>,
}

/// The numbers of a producer group.
#[derive(Debug, Default)]
struct Numbers {
    lines: BTreeMap<u64, Line>,
    /// The last one that was given out, when the coordinator was asked.
    last: u64,
}

impl Accounts {
    /// Takes note of the last number of each producer group.
    pub(super) fn given_out(&mut self, last: impl IntoIterator<Item = (String, u64)>) {
        for (group, last) in last {
            self.producers.entry(group).or_default().last = last;
        }
    }

    /// Takes note of the receipts' floor: what was prepared before may have lost its receipt.
    pub(super) fn receipts_since(&mut self, since: Option<Timestamp>) {
        self.since = since;
    }

    /// Whether the receipt of this transaction may be gone; its id tells when it was prepared.
    #[cfg(feature = "resolver")]
    pub(super) fn may_be_pruned(&self, id: &str) -> bool {
        let Ok(id) = id.parse::<halfmq_core::TransactionId>() else { return false };
        let micros = i64::try_from(id.made_at().as_micros()).unwrap_or(i64::MAX);
        let nanos = i32::try_from(micros % 1_000_000 * 1_000).unwrap_or_default();
        self.since.is_some_and(|since| (micros / 1_000_000, nanos) < moment(Some(&since)))
    }

    /// Takes a transaction in. The same one again, decided meanwhile, replaces what was known.
    pub(super) fn add(&mut self, transaction: Transaction) {
        let state = transaction.state();
        let receipts = transaction.receipt.clone().unwrap_or_default();
        let sent = transaction.producer_instance.is_empty() && transaction.prepared_at == receipts.decided_at;
        let again =
            self.transactions.insert(transaction.transaction_id.clone(), Known { state, sent }).is_some();
        let numbers = &mut self.producers.entry(transaction.producer_group.clone()).or_default().lines;
        let prepared_at = moment(transaction.prepared_at.as_ref());
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
            let before = numbers.insert(message.sequence, Line { end, prepared_at });
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
            for Gap { first, last, .. } in self.gaps(numbers).iter().filter(|gap| !gap.may_be_pruned) {
                let what = if first == last {
                    format!("sequence {first}")
                } else {
                    format!("sequences {first} to {last}")
                };
                findings
                    .push(format!("{group}: nothing is known of {what}: lost, or sent without a request id"));
            }
            for (sequence, line) in &numbers.lines {
                if let End::At { topic, queue, offset } = &line.end
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
        let mut table: Table<9> = Table::new([
            "PRODUCER GROUP",
            "NUMBERS",
            "RELEASED",
            "SCHEDULED",
            "ROLLED BACK",
            "OPEN",
            "IN DOUBT",
            "MISSING",
            "NOT CHECKED",
        ]);
        for (group, numbers) in &self.producers {
            let counts = self.counts(numbers);
            table.row([
                group.clone(),
                counts.range(),
                counts.released.to_string(),
                counts.scheduled.to_string(),
                counts.rolled_back.to_string(),
                counts.open.to_string(),
                counts.in_doubt.to_string(),
                counts.missing.to_string(),
                counts.not_checked.to_string(),
            ]);
        }
        table.render("No producer groups.")
    }

    /// What it comes to, in words.
    pub(super) fn verdict(&self, findings: &[String]) -> String {
        let total = |count: fn(&Counts) -> u64| -> u64 {
            self.producers.values().map(|numbers| count(&self.counts(numbers))).sum()
        };
        let (missing, not_checked) = (total(|counts| counts.missing), total(|counts| counts.not_checked));
        let since = text::time(self.since.as_ref());
        let mut lines = findings.to_vec();
        if missing > 0 {
            lines.push(format!(
                "{} without a receipt: lost, or sent without a request id, of which no receipt is kept.",
                text::count(missing, "number")
            ));
        }
        if lines.is_empty() && not_checked == 0 {
            lines.push("Every message is accounted for.".to_owned());
        } else if lines.is_empty() {
            lines.push("Nothing is missing among what can be checked.".to_owned());
        }
        if not_checked > 0 {
            lines.push(format!(
                "{} not checked: before the receipts' floor. Receipts from before {since} are not all kept.",
                text::count(not_checked, "number")
            ));
        }
        lines.join("\n")
    }

    /// The same for programs.
    pub(super) fn json(&self, groups: Value, findings: &[String]) -> Value {
        let producers = self.producers.iter().map(|(group, numbers)| {
            let counts = self.counts(numbers);
            json!({
                "producer_group": group, "last_sequence": counts.last, "released": counts.released,
                "scheduled": counts.scheduled, "rolled_back": counts.rolled_back, "open": counts.open,
                "in_doubt": counts.in_doubt, "missing": counts.missing, "not_checked": counts.not_checked,
            })
        });
        json!({
            "producers": producers.collect::<Vec<_>>(), "groups": groups, "findings": findings,
            "receipts_since": self.since.as_ref().map(text::in_millis),
        })
    }

    fn counts(&self, numbers: &Numbers) -> Counts {
        let mut counts = Counts { last: numbers.end(), ..Counts::default() };
        for line in numbers.lines.values() {
            *match line.end {
                End::At { .. } => &mut counts.released,
                End::Scheduled => &mut counts.scheduled,
                End::RolledBack => &mut counts.rolled_back,
                End::Open => &mut counts.open,
                End::InDoubt => &mut counts.in_doubt,
            } += 1;
        }
        for gap in self.gaps(numbers) {
            *if gap.may_be_pruned { &mut counts.not_checked } else { &mut counts.missing } +=
                gap.last - gap.first + 1;
        }
        counts
    }

    /// Numbers from 1 to the last that was given out that nothing is known of.
    fn gaps(&self, numbers: &Numbers) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let (mut before, mut prepared_before) = (0, None);
        let known = numbers.lines.iter().map(|(number, line)| (*number, Some(line.prepared_at)));
        for (number, prepared_at) in known.chain([(numbers.end() + 1, None)]) {
            if before + 1 < number {
                let may_be_pruned = self.since.is_some_and(|since| {
                    prepared_before.is_none_or(|prepared| prepared < moment(Some(&since)))
                });
                gaps.push(Gap { first: before + 1, last: number - 1, may_be_pruned });
            }
            (before, prepared_before) = (number, prepared_at);
        }
        gaps
    }
}

impl Numbers {
    /// The last one that is heard of.
    fn end(&self) -> u64 {
        self.lines.last_key_value().map_or(0, |(last, _)| *last).max(self.last)
    }
}

/// Numbers that nothing is known of.
#[derive(Debug, Clone, Copy)]
struct Gap {
    first: u64,
    last: u64,
    /// Their receipts may have been kept once, and not any more.
    may_be_pruned: bool,
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
    not_checked: u64,
}

impl Counts {
    fn range(&self) -> String {
        if self.last == 0 { "-".to_owned() } else { format!("1..{}", self.last) }
    }
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

    #[test]
    fn what_lies_below_the_receipts_floor_is_neither_missing_nor_accounted_for() {
        const FLOOR: i64 = 100;
        // Numbers that are known, with the second of their prepare; the last one given out; the floor.
        type Case = (&'static [(u64, i64)], u64, Option<i64>);
        let cases: [(&str, Case, [u64; 2], &str); 8] = [
            ("all is kept", (&[(1, 50), (2, 60)], 2, None), [0, 0], "Every message is accounted for."),
            (
                "all is kept, one is lost",
                (&[(1, 50), (3, 60)], 3, None),
                [1, 0],
                "1 number without a receipt",
            ),
            ("the last is lost", (&[(1, 50)], 3, None), [2, 0], "sequences 2 to 3"),
            (
                "pruned",
                (&[(5, 100), (6, 101)], 6, Some(FLOOR)),
                [0, 4],
                "Receipts from before 1970-01-01 00:01:40",
            ),
            ("pruned around one", (&[(3, 99), (6, 101)], 6, Some(FLOOR)), [0, 4], "4 numbers not checked"),
            ("lost since", (&[(5, 100), (7, 101)], 8, Some(FLOOR)), [2, 4], "2 numbers without a receipt"),
            ("silent since", (&[], 9, Some(FLOOR)), [0, 9], "9 numbers not checked"),
            (
                "nothing is gone",
                (&[(1, 99), (2, 101)], 2, Some(FLOOR)),
                [0, 0],
                "Every message is accounted for.",
            ),
        ];
        for (name, (known, last, floor), [missing, not_checked], words) in cases {
            let seconds = |seconds| Some(Timestamp { seconds, nanos: 0 });
            let mut accounts = Accounts::default();
            accounts.given_out([("shop".to_owned(), last)]);
            for (number, prepared_at) in known {
                let transaction =
                    transaction(&number.to_string(), TransactionState::Committed, &[*number], *number);
                accounts.add(Transaction { prepared_at: seconds(*prepared_at), ..transaction });
            }
            accounts.receipts_since(floor.and_then(seconds));
            let counts = accounts.counts(&accounts.producers["shop"]);
            assert_eq!([counts.missing, counts.not_checked], [missing, not_checked], "{name}");
            let findings = accounts.findings();
            assert_eq!(findings.is_empty(), missing == 0, "{name}: {findings:?}");
            let verdict = accounts.verdict(&findings);
            assert!(verdict.contains(words), "{name}: {verdict}");
            let all_is_well = verdict.contains("Every message is accounted for");
            assert_eq!(all_is_well, missing + not_checked == 0, "{name}: {verdict}");
        }
    }
}
