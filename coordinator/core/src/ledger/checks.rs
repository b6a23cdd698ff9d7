//! Asking about silent transactions. Only answers are counted; not reaching anybody costs nothing.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use super::Ledger;
use super::produce::Receipt;
use super::transactions::Decide;
use crate::check::NextCheck;
use crate::event::{Event, Log};
use crate::ids::TransactionId;
use crate::message::{Extent, Message};
use crate::names::{InstanceId, ProducerGroup, RequestId};
use crate::rejection::Rejection;
use crate::time::Timestamp;
use crate::transaction::{DecidedBy, Decision};

/// A transaction to ask about.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Question {
    pub transaction: TransactionId,
    pub producer_group: ProducerGroup,
    pub instance: Option<InstanceId>,
    pub request_id: Option<RequestId>,
    pub prepared_at: Timestamp,
    pub answered: u32,
    pub contents: Vec<Extent>,
}

/// What a producer said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The local transaction has this outcome.
    Decided(Decision),
    /// Its outcome cannot be told yet.
    Unknown,
}

impl Ledger {
    /// Takes up to `max` due transactions of producer groups that can be asked, and puts off their next
    /// check until `claim` is over: whoever took them asks meanwhile. Nothing of this is durable, since
    /// a question nobody answers must cost nothing. Oldest due first.
    pub fn claim_checks(
        &mut self,
        now: Timestamp,
        reachable: &[ProducerGroup],
        max: usize,
        claim: Duration,
    ) -> Vec<Question> {
        let mut questions = Vec::new();
        let mut oldest: BinaryHeap<_> = reachable
            .iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|group| Some(Reverse((self.oldest_due(group, now)?, group))))
            .collect();
        while questions.len() < max {
            let Some(Reverse(((due, id), group))) = oldest.pop() else { break };
            questions.extend(self.claim((due, id), group, now.after(claim)));
            oldest.extend(self.oldest_due(group, now).map(|next| Reverse((next, group))));
        }
        questions
    }

    fn oldest_due(&self, group: &ProducerGroup, now: Timestamp) -> Option<(Timestamp, TransactionId)> {
        self.producers.get(group)?.due.first().copied().filter(|(due, _)| *due <= now)
    }

    fn claim(
        &mut self,
        (due, id): (Timestamp, TransactionId),
        group: &ProducerGroup,
        until: Timestamp,
    ) -> Option<Question> {
        let producer = self.producers.get_mut(group)?;
        producer.due.remove(&(due, id));
        let open = self.open.get_mut(&id)?;
        open.next_check = until;
        producer.due.insert((until, id));
        Some(Question {
            transaction: id,
            producer_group: group.clone(),
            instance: open.instance.clone(),
            request_id: open.request_id.clone(),
            prepared_at: open.prepared_at,
            answered: open.answered,
            contents: open.halves.iter().map(|half| half.content).collect(),
        })
    }

    /// When the next transaction of these producer groups is due.
    #[must_use]
    pub fn next_check(&self, reachable: &[ProducerGroup]) -> Option<Timestamp> {
        let first = |group| Some(self.producers.get(group)?.due.first()?.0);
        reachable.iter().filter_map(first).min()
    }

    /// Puts off a check that nobody answered. Not counted, not durable.
    pub fn put_off(&mut self, transaction: TransactionId, until: Timestamp) {
        let Some(open) = self.open.get_mut(&transaction) else { return };
        let Some(producer) = self.producers.get_mut(&open.producer_group) else { return };
        producer.due.remove(&(open.next_check, transaction));
        open.next_check = until;
        producer.due.insert((until, transaction));
    }

    /// Takes the answer to a check, with the messages that a commit replaces. Returns the receipt if that
    /// decided the transaction.
    ///
    /// # Errors
    /// As for [`Ledger::decide`]; an answer may come after somebody else decided.
    pub fn answer(
        &mut self,
        now: Timestamp,
        transaction: TransactionId,
        answer: Answer,
        reason: String,
        replacements: Vec<(u16, Message)>,
        log: &mut dyn Log,
    ) -> Result<Option<Receipt>, Rejection> {
        let decide =
            |by, decision, reason| Decide { transaction, decision, by, reason, replacements: Vec::new() };
        let decided = match answer {
            Answer::Decided(decision) => {
                Decide { replacements, ..decide(DecidedBy::Check, decision, reason) }
            }
            Answer::Unknown => {
                let Some(open) = self.open.get(&transaction) else { return Ok(None) };
                let answered = open.answered.saturating_add(1);
                let (next_check, in_doubt) = match open.policy.after_unknown(transaction, answered, now) {
                    NextCheck::Ask(at) => (at, false),
                    NextCheck::InDoubt(at) => (at, true),
                    NextCheck::Decide(decision) => {
                        let reason =
                            format!("in doubt after {answered} UNKNOWN answers; the policy says {decision}");
                        let decide = decide(DecidedBy::Policy, decision, reason);
                        return self.decide(now, decide, log).map(Some);
                    }
                };
                self.record(log, Event::Checked { transaction, answered, next_check, in_doubt });
                return Ok(None);
            }
        };
        self.decide(now, decided, log).map(Some)
    }

    /// The producer groups that can be asked at a URL.
    pub fn callbacks(&self) -> impl Iterator<Item = (&ProducerGroup, &str)> {
        self.producers.iter().filter_map(|(group, producer)| Some((group, producer.callback.as_deref()?)))
    }

    /// The sequence that each producer group was given last.
    pub fn last_sequences(&self) -> impl Iterator<Item = (&ProducerGroup, u64)> {
        self.producers.iter().map(|(group, producer)| (group, producer.sequence))
    }

    /// Where this producer group can be asked.
    #[must_use]
    pub fn callback(&self, producer_group: &ProducerGroup) -> Option<&str> {
        self.producers.get(producer_group)?.callback.as_deref()
    }
}
