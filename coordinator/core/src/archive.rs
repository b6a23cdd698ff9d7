//! Decided transactions, found again in events that a start does not need: what an index is rebuilt from.
//!
//! Events before the newest image cannot be applied to a ledger, since what came before them may be gone.
//! So this follows single transactions from their prepare, or from an image that has them open, to their
//! end. One whose beginning is gone is not found.

use std::collections::HashMap;

use crate::event::{Decided, Event, Prepared, Release, Sent};
use crate::ids::TransactionId;
use crate::image::{Image, OpenTransaction};
use crate::ledger::{DecidedTransaction, TxMessage};
use crate::names::TopicName;
use crate::time::Timestamp;
use crate::transaction::Verdict;

/// Transactions on their way through old events.
#[derive(Debug, Default)]
pub struct Archivist {
    open: HashMap<TransactionId, DecidedTransaction>,
}

impl Archivist {
    /// Takes the next event. Returns a transaction that it ended.
    pub fn follow(&mut self, event: Event) -> Option<(TransactionId, DecidedTransaction)> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not about transactions")]
        match event {
            Event::Prepared(prepared) => {
                self.open.insert(prepared.transaction, begun(prepared));
                None
            }
            Event::Checked { transaction, answered, .. } => {
                self.open.get_mut(&transaction)?.answered = answered;
                None
            }
            Event::Decided(Decided { transaction, verdict, releases, .. }) => {
                let mut ended = self.open.remove(&transaction)?;
                ended.verdict = verdict;
                release(&mut ended.messages, &releases);
                Some((transaction, ended))
            }
            Event::Sent(sent) if sent.request_id.is_some() => Some((sent.transaction, delivered(sent))),
            Event::Image(piece) => self.follow_image(*piece),
            _ => None,
        }
    }

    fn follow_image(&mut self, piece: Image) -> Option<(TransactionId, DecidedTransaction)> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not about transactions")]
        match piece {
            Image::Open { transaction, open } => {
                self.open.insert(transaction, opened(open));
                None
            }
            Image::Decided { transaction, decided } => Some((transaction, decided)),
            _ => None,
        }
    }
}

fn begun(prepared: Prepared) -> DecidedTransaction {
    let topics = prepared.messages.into_iter().map(|message| message.topic);
    DecidedTransaction {
        verdict: Verdict::by_call(prepared.at),
        producer_group: prepared.producer_group,
        instance: prepared.instance,
        request_id: prepared.request_id,
        fingerprint: prepared.fingerprint,
        prepared_at: prepared.at,
        answered: 0,
        messages: topics.zip(prepared.first_sequence..).map(unreleased).collect(),
    }
}

fn opened(open: OpenTransaction) -> DecidedTransaction {
    let lines = open.halves.into_vec().into_iter().map(|half| (half.topic, half.sequence));
    DecidedTransaction {
        verdict: Verdict::by_call(Timestamp::ZERO),
        producer_group: open.producer_group,
        instance: open.instance,
        request_id: open.request_id,
        fingerprint: open.fingerprint,
        prepared_at: open.prepared_at,
        answered: open.answered,
        messages: lines.map(unreleased).collect(),
    }
}

fn delivered(sent: Sent) -> DecidedTransaction {
    let topics = sent.messages.into_iter().map(|message| message.topic);
    let mut messages: Vec<_> = topics.zip(sent.first_sequence..).map(unreleased).collect();
    release(&mut messages, &sent.releases);
    DecidedTransaction {
        verdict: Verdict::by_call(sent.at),
        producer_group: sent.producer_group,
        instance: None,
        request_id: sent.request_id,
        fingerprint: sent.fingerprint,
        prepared_at: sent.at,
        answered: 0,
        messages,
    }
}

fn unreleased((topic, sequence): (TopicName, u64)) -> TxMessage {
    TxMessage { topic, sequence, release: None }
}

/// A rollback releases nothing.
fn release(messages: &mut [TxMessage], releases: &[Release]) {
    messages.iter_mut().zip(releases).for_each(|(message, release)| message.release = Some(*release));
}
