//! What a verb of a group sees and does: the ledger, and behind it the index for what was decided long ago.

use halfmq_core::{
    Accepted, Answer, Decide, DecidedTransaction, Ledger, Log, Message, Prepare, ProducerGroup, Receipt,
    Rejection, RequestId, Send, Timestamp, TransactionId, TransactionView,
};
use rand::Rng;
use rand::rngs::SmallRng;

use super::Group;
use crate::store::Unavailable;
use crate::store::embedded::index::Index;

/// One verb's access to the ledger.
pub struct Turn<'a> {
    /// The server's clock; it never goes back.
    pub now: Timestamp,
    /// The state.
    pub ledger: &'a mut Ledger,
    pub(super) log: &'a mut Group,
    pub(super) chance: &'a mut SmallRng,
    pub(super) index: Option<&'a Index>,
}

impl Turn<'_> {
    /// What the verb's events go to.
    pub fn parts(&mut self) -> (Timestamp, &mut Ledger, &mut dyn Log) {
        (self.now, self.ledger, self.log)
    }

    /// Keeps half messages.
    ///
    /// # Errors
    /// Of the index.
    pub fn prepare(&mut self, prepare: Prepare) -> Result<Result<Accepted, Rejection>, Unavailable> {
        let past = self.past(&prepare.producer_group, prepare.send.request_id())?;
        let fresh = self.fresh_id();
        Ok(self.ledger.prepare(self.now, fresh, prepare, past, self.log))
    }

    /// Takes messages in and releases them.
    ///
    /// # Errors
    /// Of the index.
    pub fn send(
        &mut self,
        group: ProducerGroup,
        send: Send,
    ) -> Result<Result<Receipt, Rejection>, Unavailable> {
        let past = self.past(&group, send.request_id())?;
        let fresh = self.fresh_id();
        Ok(self.ledger.send(self.now, fresh, group, send, past, self.log))
    }

    /// Ends a transaction, or answers the decision that stands, however long ago it was made.
    ///
    /// # Errors
    /// Of the index.
    pub fn decide(&mut self, decide: Decide) -> Result<Result<Receipt, Rejection>, Unavailable> {
        let (id, asked) = (decide.transaction, decide.decision);
        match self.ledger.decide(self.now, decide, self.log) {
            Err(Rejection::UnknownTransaction(_)) => Ok(match self.indexed(id)? {
                Some(decided) => decided.decided_again(id, asked),
                None => Err(self.missing(id)),
            }),
            answer => Ok(answer),
        }
    }

    /// Takes the answer to a check; a late one is answered by the decision that stands, however old it is.
    ///
    /// # Errors
    /// Of the index.
    pub fn answer(
        &mut self,
        id: TransactionId,
        answer: Answer,
        reason: String,
        replacements: Vec<(u16, Message)>,
    ) -> Result<Result<Option<Receipt>, Rejection>, Unavailable> {
        match (self.ledger.answer(self.now, id, answer, reason, replacements, self.log), answer) {
            (Err(Rejection::UnknownTransaction(_)), Answer::Decided(asked)) => {
                Ok(match self.indexed(id)? {
                    Some(decided) => decided.decided_again(id, asked).map(Some),
                    None => Err(self.missing(id)),
                })
            }
            (answered, Answer::Decided(_) | Answer::Unknown) => Ok(answered),
        }
    }

    /// Looks at a transaction, however long ago it was decided.
    ///
    /// # Errors
    /// Of the index.
    pub fn describe(&mut self, id: TransactionId) -> Result<Option<TransactionView>, Unavailable> {
        match self.ledger.describe(id) {
            Some(view) => Ok(Some(view)),
            None => Ok(self.indexed(id)?.map(|decided| decided.view(id))),
        }
    }

    /// Why nothing is known of this transaction: it never was, or its receipt is not kept any more.
    #[must_use]
    pub fn missing(&self, id: TransactionId) -> Rejection {
        match self.index {
            Some(index) if id.made_at() < index.floor() => Rejection::ReceiptPruned(id),
            Some(_) | None => Rejection::UnknownTransaction(id),
        }
    }

    fn indexed(&self, id: TransactionId) -> Result<Option<DecidedTransaction>, Unavailable> {
        self.index.map_or(Ok(None), |index| index.transaction(id))
    }

    fn past(
        &self,
        group: &ProducerGroup,
        request_id: Option<&RequestId>,
    ) -> Result<Option<(TransactionId, DecidedTransaction)>, Unavailable> {
        match (request_id, self.index) {
            (Some(request_id), Some(index)) if self.ledger.request(group, request_id).is_none() => {
                index.request(group, request_id)
            }
            (Some(_) | None, _) => Ok(None),
        }
    }

    fn fresh_id(&mut self) -> TransactionId {
        TransactionId::fresh(self.now, self.chance.random())
    }
}
