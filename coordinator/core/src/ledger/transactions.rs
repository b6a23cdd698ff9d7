//! Ending transactions, and looking at them.

use std::sync::Arc;

use super::Ledger;
use super::produce::{Receipt, receipt_lines};
use crate::check::CheckPolicy;
use crate::event::{Decided, Event, Log, Release};
use crate::ids::TransactionId;
use crate::image::{Half, OpenTransaction};
use crate::limits::{BODY_BYTES_MAX, PAGE_MAX, REASON_BYTES_MAX};
use crate::message::{Extent, Message};
use crate::names::{InstanceId, ProducerGroup, RequestId, TopicName};
use crate::queue::Placement;
use crate::rejection::Rejection;
use crate::time::Timestamp;
use crate::transaction::{DecidedBy, Decision, State, Verdict, again};

/// A decision to make.
#[derive(Clone, Debug)]
pub struct Decide {
    /// Which transaction.
    pub transaction: TransactionId,
    /// What is asked for.
    pub decision: Decision,
    /// By whom.
    pub by: DecidedBy,
    /// For the record.
    pub reason: String,
    /// Messages that a commit replaces, by position.
    pub replacements: Vec<(u16, Message)>,
}

/// A transaction that was decided: all that its receipt and its story need.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct DecidedTransaction {
    pub verdict: Verdict,
    pub producer_group: ProducerGroup,
    pub instance: Option<InstanceId>,
    pub request_id: Option<RequestId>,
    pub fingerprint: u64,
    pub prepared_at: Timestamp,
    pub answered: u32,
    pub messages: Vec<TxMessage>,
}

/// One message of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TxMessage {
    /// Where it goes.
    pub topic: TopicName,
    /// Its number among all messages of its producer group.
    pub sequence: u64,
    /// Where it went; `None` while open and after a rollback.
    pub release: Option<Release>,
}

/// A transaction, as shown to people.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct TransactionView {
    pub transaction: TransactionId,
    pub state: State,
    pub producer_group: ProducerGroup,
    pub instance: Option<InstanceId>,
    pub request_id: Option<RequestId>,
    pub prepared_at: Timestamp,
    pub answered: u32,
    pub next_check: Option<Timestamp>,
    pub receipt: Option<Receipt>,
    pub messages: Vec<TxMessage>,
    /// Contents of the half messages, while it is open.
    pub contents: Vec<Extent>,
    pub policy: Option<CheckPolicy>,
}

impl DecidedTransaction {
    /// The receipt, the same each time.
    #[must_use]
    pub fn receipt(&self, transaction: TransactionId) -> Receipt {
        let released =
            self.messages.iter().filter_map(|message| Some((&message.topic, message.release.as_ref()?)));
        Receipt { transaction, verdict: self.verdict.clone(), messages: receipt_lines(transaction, released) }
    }

    /// The receipt, if the decision asked for is the one that stands.
    ///
    /// # Errors
    /// [`Rejection::DecisionConflict`].
    pub fn decided_again(&self, transaction: TransactionId, asked: Decision) -> Result<Receipt, Rejection> {
        again(transaction, &self.verdict, asked)?;
        Ok(self.receipt(transaction))
    }

    /// As shown to people.
    #[must_use]
    pub fn view(&self, transaction: TransactionId) -> TransactionView {
        TransactionView {
            transaction,
            state: self.verdict.decision.into(),
            producer_group: self.producer_group.clone(),
            instance: self.instance.clone(),
            request_id: self.request_id.clone(),
            prepared_at: self.prepared_at,
            answered: self.answered,
            next_check: None,
            receipt: Some(self.receipt(transaction)),
            messages: self.messages.clone(),
            contents: Vec::new(),
            policy: None,
        }
    }
}

impl Decide {
    /// Checks what does not depend on the transaction.
    ///
    /// # Errors
    /// [`Rejection::TooLarge`].
    pub fn check(&self) -> Result<(), Rejection> {
        Rejection::if_larger("reason", self.reason.len(), REASON_BYTES_MAX)?;
        self.replacements
            .iter()
            .try_for_each(|(_, message)| Rejection::if_larger("body", message.body.len(), BODY_BYTES_MAX))?;
        self.replacements.iter().try_for_each(|(_, message)| message.check())
    }
}

impl Ledger {
    /// Ends a transaction. The first decision wins; the same again returns the same receipt.
    ///
    /// # Errors
    /// [`Rejection::DecisionConflict`] for the opposite of the decision that stands, and
    /// [`Rejection::UnknownTransaction`], also for one that only the engine still remembers.
    pub fn decide(
        &mut self,
        now: Timestamp,
        decide: Decide,
        log: &mut dyn Log,
    ) -> Result<Receipt, Rejection> {
        let id = decide.transaction;
        let Some(open) = self.open.get(&id) else {
            let decided = self.decided.get(&id).ok_or(Rejection::UnknownTransaction(id))?;
            return decided.decided_again(id, decide.decision);
        };
        decide.check()?;
        if decide.replacements.iter().any(|(index, _)| usize::from(*index) >= open.halves.len()) {
            let why = format!("the transaction has {} messages, counted from 0", open.halves.len());
            return Err(Rejection::Invalid { what: "index of a replacement", why });
        }
        let releases = match decide.decision {
            Decision::Rollback => Vec::new(),
            Decision::Commit => {
                let mut placement = Placement::default();
                let place = |half: &Half| match half.visibility.due(now) {
                    Some(at) => Ok(Release::Scheduled { at }),
                    None => {
                        let topic = self.topic(&half.topic)?;
                        let group = &open.producer_group;
                        Ok(placement.place(&half.topic, topic, half.message_group, group, half.sequence))
                    }
                };
                open.halves.iter().map(place).collect::<Result<Vec<_>, Rejection>>()?
            }
        };
        let verdict = Verdict { decision: decide.decision, by: decide.by, at: now, reason: decide.reason };
        let replacements = decide.replacements;
        self.record(log, Event::Decided(Decided { transaction: id, verdict, releases, replacements }));
        let decided = self.decided.get(&id).expect("applying the decision put it there");
        Ok(decided.receipt(id))
    }

    /// The transaction as people see it, unless only the engine still remembers it.
    #[must_use]
    pub fn describe(&self, id: TransactionId) -> Option<TransactionView> {
        let open = self.open.get(&id).map(|open| open.view(id));
        open.or_else(|| self.decided.get(&id).map(|decided| decided.view(id)))
    }

    /// Transactions after `after`, oldest first: open ones, or those in one state.
    #[must_use]
    pub fn list(
        &self,
        state: Option<State>,
        producer_group: Option<&ProducerGroup>,
        after: Option<TransactionId>,
        max: usize,
    ) -> Vec<TransactionView> {
        let from =
            (after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded), std::ops::Bound::Unbounded);
        let wanted = |group: &ProducerGroup| producer_group.is_none_or(|wanted| wanted == group);
        let max = max.min(PAGE_MAX);
        match state {
            None | Some(State::Prepared | State::InDoubt) => {
                let open = self.open.range(from).filter(|(_, open)| {
                    wanted(&open.producer_group) && state.is_none_or(|state| state == open.state())
                });
                open.take(max).map(|(id, open)| open.view(*id)).collect()
            }
            Some(state @ (State::Committed | State::RolledBack)) => {
                let decided = self.decided.range(from).filter(|(_, decided)| {
                    wanted(&decided.producer_group) && State::from(decided.verdict.decision) == state
                });
                decided.take(max).map(|(id, decided)| decided.view(*id)).collect()
            }
        }
    }

    /// A decided transaction that the ledger still holds, for whoever writes it down while the ledger goes on.
    #[must_use]
    pub fn decided_transaction(&self, id: TransactionId) -> Option<&Arc<DecidedTransaction>> {
        self.decided.get(&id)
    }

    /// Lets go of a decided transaction; from now on the engine answers for it.
    pub fn forget(&mut self, id: TransactionId) {
        let Some(decided) = self.decided.remove(&id) else { return };
        let Some(request_id) = &decided.request_id else { return };
        let Some(producer) = self.producers.get_mut(&decided.producer_group) else { return };
        // Since then the request id may have brought another transaction.
        if let Some((request_id, brought)) = producer.requests.remove_entry(request_id)
            && brought != id
        {
            producer.requests.insert(request_id, brought);
        }
    }
}

impl OpenTransaction {
    fn state(&self) -> State {
        if self.in_doubt { State::InDoubt } else { State::Prepared }
    }

    fn view(&self, transaction: TransactionId) -> TransactionView {
        let message =
            |half: &Half| TxMessage { topic: half.topic.clone(), sequence: half.sequence, release: None };
        TransactionView {
            transaction,
            state: self.state(),
            producer_group: self.producer_group.clone(),
            instance: self.instance.clone(),
            request_id: self.request_id.clone(),
            prepared_at: self.prepared_at,
            answered: self.answered,
            next_check: Some(self.next_check),
            receipt: None,
            messages: self.halves.iter().map(message).collect(),
            contents: self.halves.iter().map(|half| half.content).collect(),
            policy: Some(CheckPolicy::clone(&self.policy)),
        }
    }
}
