//! One transaction told as a story: what happened, what comes next, who can be asked.

use crate::cli::{json, table, table::Table, text};
use halfmq_proto::v1::{DecidedBy, Decision, DecisionReceipt, Transaction, TransactionState};

/// The whole story.
pub(super) fn tell(transaction: &Transaction) -> String {
    let facts = table::facts(&[
        ("transaction", transaction.transaction_id.clone()),
        ("state", json::state(transaction.state()).to_owned()),
        ("producer group", text::or_nothing(&transaction.producer_group).to_owned()),
        ("producer", text::or_nothing(&transaction.producer_instance).to_owned()),
        ("request id", text::or_nothing(&transaction.request_id).to_owned()),
    ]);
    [facts, events(transaction), messages(transaction)].join("\n\n")
}

fn events(transaction: &Transaction) -> String {
    let prepared_at = transaction.prepared_at.as_ref();
    let mut table = Table::new(["WHEN", "AFTER", "WHAT"]);
    table.row([
        text::time(prepared_at),
        String::new(),
        format!("prepared, {}", text::count(transaction.messages.len() as u64, "message")),
    ]);
    if transaction.checks_answered > 0 {
        let checks = text::count(u64::from(transaction.checks_answered), "check");
        table.row([String::new(), String::new(), format!("{checks} answered UNKNOWN")]);
    }
    match (transaction.state(), &transaction.receipt) {
        (TransactionState::Prepared, _) => next_check(&mut table, transaction),
        (TransactionState::InDoubt, _) => {
            let advice = format!(
                "in doubt: its producers no longer know. Find out, then `halfmq tx commit {0}` or `halfmq tx rollback {0}`",
                transaction.transaction_id
            );
            table.row([String::new(), String::new(), advice]);
            next_check(&mut table, transaction);
        }
        (TransactionState::Committed | TransactionState::RolledBack, Some(receipt)) => {
            let at = receipt.decided_at.as_ref();
            table.row([text::time(at), text::after(prepared_at, at), decision(transaction, receipt)]);
        }
        (TransactionState::Committed | TransactionState::RolledBack | TransactionState::Unspecified, _) => {}
    }
    table.render("")
}

fn next_check(table: &mut Table<3>, transaction: &Transaction) {
    let at = transaction.next_check_at.as_ref();
    let group = &transaction.producer_group;
    let who = if transaction.resolver_reachable {
        format!("next check; producer group {group} can be asked")
    } else {
        format!(
            "next check, but nobody of producer group {group} can be asked: start a producer with a checker, \
             or register a callback URL. Until then it costs nothing and is not counted"
        )
    };
    table.row([text::time(at), text::after(transaction.prepared_at.as_ref(), at), who]);
}

fn decision(transaction: &Transaction, receipt: &DecisionReceipt) -> String {
    let what = match receipt.decision() {
        Decision::Commit => "committed",
        Decision::Rollback => "rolled back",
        Decision::Unspecified => "decided",
    };
    let by = match transaction.decided_by() {
        DecidedBy::Call => " by a call",
        DecidedBy::Check => " by the answer to a check",
        DecidedBy::Policy => " by the in-doubt policy",
        DecidedBy::Unspecified => "",
    };
    if transaction.reason.is_empty() {
        format!("{what}{by}")
    } else {
        format!("{what}{by}: {}", transaction.reason)
    }
}

fn messages(transaction: &Transaction) -> String {
    let mut table = Table::new(["MESSAGE", "TOPIC", "SEQUENCE", "PLACE"]);
    for message in &transaction.messages {
        let receipts = transaction.receipt.iter().flat_map(|receipt| &receipt.messages);
        let place = receipts
            .filter(|receipt| receipt.message_id == message.message_id)
            .map(text::receipt)
            .next()
            .unwrap_or_else(|| nowhere(transaction.state()).to_owned());
        table.row([message.message_id.clone(), message.topic.clone(), message.sequence.to_string(), place]);
    }
    table.render("Its messages are no longer kept.")
}

fn nowhere(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Prepared | TransactionState::InDoubt => "invisible until decided",
        TransactionState::RolledBack => "dropped",
        TransactionState::Committed | TransactionState::Unspecified => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halfmq_proto::v1::{MessageReceipt, Place, TransactionMessage, message_receipt::Released};
    use prost_types::Timestamp;

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().expect("RFC 3339"))
    }

    fn prepared() -> Transaction {
        Transaction {
            transaction_id: "t-1".to_owned(),
            state: TransactionState::Prepared.into(),
            producer_group: "billing".to_owned(),
            prepared_at: at("2026-01-02T03:04:05Z"),
            checks_answered: 2,
            next_check_at: at("2026-01-02T03:04:31Z"),
            resolver_reachable: true,
            messages: vec![TransactionMessage {
                message_id: "m-1".to_owned(),
                topic: "orders".to_owned(),
                sequence: 7,
            }],
            ..Transaction::default()
        }
    }

    fn committed() -> Transaction {
        let place = Place { topic: "orders".to_owned(), queue: 2, offset: 17 };
        Transaction {
            state: TransactionState::Committed.into(),
            decided_by: DecidedBy::Check.into(),
            reason: "row is there".to_owned(),
            receipt: Some(DecisionReceipt {
                transaction_id: "t-1".to_owned(),
                decision: Decision::Commit.into(),
                decided_at: at("2026-01-02T03:04:11.500Z"),
                messages: vec![MessageReceipt {
                    message_id: "m-1".to_owned(),
                    released: Some(Released::Place(place)),
                }],
            }),
            ..prepared()
        }
    }

    #[test]
    fn the_story_says_what_happened_and_what_comes_next() {
        let cases = [
            (
                prepared(),
                vec!["prepared, 1 message", "2 checks answered UNKNOWN", "+26s", "billing can be asked"],
            ),
            (
                Transaction { resolver_reachable: false, ..prepared() },
                vec!["nobody of producer group billing"],
            ),
            (
                Transaction { state: TransactionState::InDoubt.into(), ..prepared() },
                vec!["in doubt", "halfmq tx commit t-1", "invisible until decided", "+26s"],
            ),
            (
                committed(),
                vec!["committed by the answer to a check: row is there", "+6s 500ms", "orders/2@17"],
            ),
        ];
        for (transaction, parts) in cases {
            let story = tell(&transaction);
            for part in parts {
                assert!(story.contains(part), "no {part:?} in\n{story}");
            }
        }
    }
}
