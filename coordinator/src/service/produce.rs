//! Messages in, and decisions. Batches, because the store makes a batch durable at the price of one; a single
//! call is a batch of one.

use halfmq_core::{
    Accepted, Decide, DecidedBy, Decision, Prepare, ProducerGroup, Receipt, Rejection, Send, TransactionId,
};

use super::{Service, answer_admitted, only};
use crate::store::{Refused, Replacement};

impl Service {
    /// Keeps half messages. The flag says whether anybody could be asked about them.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn prepare(&self, prepare: Prepare) -> Result<(Accepted, bool), Refused> {
        only(self.prepare_all(vec![prepare]).await)
    }

    /// Keeps half messages of many transactions, each answered by itself in its place.
    pub async fn prepare_all(&self, batch: Vec<Prepare>) -> Vec<Result<(Accepted, bool), Refused>> {
        let mut owners = Vec::with_capacity(batch.len());
        let mut items = Vec::with_capacity(batch.len());
        for prepare in batch {
            owners.push((prepare.producer_group.clone(), prepare.callback.clone()));
            items.push(self.admit(prepare).await);
        }
        let answers = answer_admitted(items, |admitted| self.store.prepare(admitted)).await;
        let prepared =
            |(answer, (group, callback)): (Result<Accepted, Refused>, (ProducerGroup, Option<String>))| {
                let accepted = answer?;
                if let Some(url) = &callback {
                    self.checker.callback_registered(&group, url);
                }
                self.checker.nudge(accepted.first_check_at);
                Ok((accepted, self.checker.reachable(&group)))
            };
        answers.into_iter().zip(owners).map(prepared).collect()
    }

    /// Releases messages without a transaction.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn send(&self, group: ProducerGroup, send: Send) -> Result<Receipt, Refused> {
        only(self.send_all(vec![(group, send)]).await)
    }

    /// Releases messages of many sends, each answered by itself in its place.
    pub async fn send_all(&self, batch: Vec<(ProducerGroup, Send)>) -> Vec<Result<Receipt, Refused>> {
        let mut items = Vec::with_capacity(batch.len());
        for (group, send) in batch {
            let topics = self.create_missing(send.messages()).await;
            items.push(topics.map(|()| (group, send)));
        }
        let receipts = answer_admitted(items, |admitted| self.store.send(admitted)).await;
        self.arrivals.announce_all(receipts.iter().flatten());
        receipts
    }

    /// Ends a transaction by a call.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn decide(
        &self,
        transaction: TransactionId,
        decision: Decision,
        reason: String,
        replacements: Vec<Replacement>,
    ) -> Result<Receipt, Refused> {
        let decide = Decide { transaction, decision, by: DecidedBy::Call, reason, replacements: Vec::new() };
        only(self.decide_all(vec![(decide, replacements)]).await)
    }

    /// Ends many transactions, each answered by itself in its place.
    pub async fn decide_all(&self, batch: Vec<(Decide, Vec<Replacement>)>) -> Vec<Result<Receipt, Refused>> {
        let check = |(decide, replacements): (Decide, Vec<Replacement>)| {
            decide.check()?;
            Ok((decide, replacements))
        };
        let items = batch.into_iter().map(check).collect();
        let receipts = answer_admitted(items, |admitted| self.store.decide(admitted)).await;
        self.arrivals.announce_all(receipts.iter().flatten());
        receipts
    }

    async fn admit(&self, prepare: Prepare) -> Result<Prepare, Refused> {
        prepare.policy.check()?;
        if let Some(url) = &prepare.callback {
            let refused = |why| Rejection::CallbackNotAllowed { url: url.clone(), why };
            self.checker.admits(url).map_err(refused)?;
        }
        self.create_missing(prepare.send.messages()).await?;
        Ok(prepare)
    }
}
