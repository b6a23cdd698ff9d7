//! What every API calls: one set of verbs. Check, call the store, wake whoever waits for the outcome.
//!
//! Deliberately absent: rules (core), durability (store), the wire (api).

mod arrivals;
mod timekeeper;

use std::sync::Arc;
use std::time::Duration;

use halfmq_core::{
    Accepted, CheckPolicy, ConsumerGroup, DeadLetter, Decide, DecidedBy, Decision, GroupView, Message,
    Prepare, ProducerGroup, Receipt, Receive, Rejection, Retry, RetryPolicy, Send, Start, Timestamp,
    TopicName, TopicView, TransactionId, TransactionView, limits,
};

use tokio::sync::watch;

use crate::checker::Checker;
use crate::clock::Clock;
use crate::store::{Acked, Leased, Replies, Store};
use crate::telemetry;

pub use crate::store::{Ack, CheckAnswer, Lease, ListTransactions, Refused, Replacement, Unavailable};
pub use arrivals::Arrivals;

/// What the verbs need to know.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Make a topic when it is first used.
    pub create_topics: bool,
    /// Queues of a topic that is made without saying how many.
    pub topic_queues: u32,
    /// For transactions that do not bring their own.
    pub policy: CheckPolicy,
}

/// The verbs of the coordinator.
pub struct Service {
    store: Arc<dyn Store>,
    clock: Clock,
    checker: Arc<Checker>,
    arrivals: Arc<Arrivals>,
    settings: ServiceSettings,
    stopping: watch::Receiver<bool>,
}

/// A transaction, as shown to people.
#[derive(Clone, PartialEq, Debug)]
pub struct Described {
    /// What the store knows.
    pub view: TransactionView,
    /// Whether somebody can be asked about it right now.
    pub reachable: bool,
}

impl Service {
    /// All verbs, over this store. Calls that wait for something end when `stopping` becomes true.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        checker: Arc<Checker>,
        arrivals: Arc<Arrivals>,
        settings: ServiceSettings,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { store, clock, checker, arrivals, settings, stopping }
    }

    /// Resolves when the coordinator stops.
    pub async fn stopping(&self) {
        // Whoever could still say so being gone means the same.
        drop(self.stopping.clone().wait_for(|stopping| *stopping).await);
    }

    /// The check policy of transactions that do not bring their own.
    #[must_use]
    pub fn policy(&self) -> &CheckPolicy {
        &self.settings.policy
    }

    /// Who asks.
    #[must_use]
    pub fn checker(&self) -> &Arc<Checker> {
        &self.checker
    }

    /// Keeps half messages. The flag says whether anybody could be asked about them.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn prepare(&self, prepare: Prepare) -> Result<(Accepted, bool), Refused> {
        prepare.policy.check()?;
        if let Some(url) = &prepare.callback {
            let refused = |why| Rejection::CallbackNotAllowed { url: url.clone(), why };
            self.checker.admits(url).map_err(refused)?;
        }
        self.create_missing(prepare.send.messages()).await?;
        let (group, callback) = (prepare.producer_group.clone(), prepare.callback.clone());
        let accepted = one(self.store.prepare(vec![prepare])).await?;
        if let Some(url) = &callback {
            self.checker.callback_registered(&group, url);
        }
        self.checker.nudge(accepted.first_check_at);
        Ok((accepted, self.checker.reachable(&group)))
    }

    /// Releases messages without a transaction.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn send(&self, group: ProducerGroup, send: Send) -> Result<Receipt, Refused> {
        self.create_missing(send.messages()).await?;
        let receipt = one(self.store.send(vec![(group, send)])).await?;
        self.arrivals.announce(&receipt);
        Ok(receipt)
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
        decide.check()?;
        let receipt = one(self.store.decide(vec![(decide, replacements)])).await?;
        self.arrivals.announce(&receipt);
        Ok(receipt)
    }

    /// Looks at a transaction.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn describe(&self, id: TransactionId) -> Result<Described, Refused> {
        let (view, _) = one(self.store.describe(vec![id])).await?;
        Ok(self.described(view))
    }

    /// Transactions, oldest first.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn list(&self, list: ListTransactions) -> Result<Vec<Described>, Refused> {
        let views = self.store.list(list).await?;
        Ok(views.into_iter().map(|view| self.described(view)).collect())
    }

    /// Leases messages; waits up to `wait` for the first one.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn receive(&self, receive: Receive, wait: Duration) -> Result<Leased, Refused> {
        let deadline = tokio::time::Instant::now() + wait.min(limits::WAIT_MAX);
        if self.settings.create_topics && !receive.topic.is_dead_letter() {
            self.create_topic_if_missing(&receive.topic).await?;
        }
        let arrivals = self.arrivals.of(&receive.topic, &receive.group);
        loop {
            let leased = one(self.store.receive(vec![receive.clone()])).await?;
            if leased.deliveries.len() >= receive.max {
                // There may be more, and one wake may have stood for many messages.
                arrivals.notify_one();
            }
            if !leased.deliveries.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(leased);
            }
            let visible = leased.next_visible.map_or(limits::WAIT_MAX, |at| at.since(self.clock.now()));
            let visible = tokio::time::Instant::now() + visible.max(Duration::from_millis(1));
            tokio::select! {
                () = arrivals.notified() => {}
                () = tokio::time::sleep_until(visible.min(deadline)) => {}
                () = self.stopping() => return Ok(leased),
            }
        }
    }

    /// Settles deliveries, one answer for each handle.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn ack(&self, ack: Ack) -> Result<Acked, Refused> {
        let topic = ack.topic.clone();
        let acked = one(self.store.ack(vec![ack])).await?;
        let settled = acked.results.iter().filter(|result| result.is_ok()).count();
        telemetry::acked(settled as u64);
        telemetry::receipts_expired((acked.results.len() - settled) as u64);
        if acked.freed {
            self.arrivals.wake(&topic);
        }
        Ok(acked)
    }

    /// Keeps a delivery invisible for longer.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn extend(&self, lease: Lease, invisible: Duration) -> Result<Timestamp, Refused> {
        one(self.store.extend(vec![(lease, invisible)])).await
    }

    /// Gives a delivery back.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn retry_later(
        &self,
        lease: Lease,
        delay: Option<Duration>,
        reason: String,
    ) -> Result<Retry, Refused> {
        let topic = lease.topic.clone();
        let retry = one(self.store.retry_later(vec![(lease, delay, reason)])).await?;
        if let Retry::DeadLetter(place) = &retry {
            self.arrivals.wake(&place.topic);
        }
        // Whoever waits computes anew when it will see something.
        self.arrivals.wake(&topic);
        Ok(retry)
    }

    /// Creates a topic; 0 queues means the setting.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn create_topic(&self, topic: TopicName, queues: u32) -> Result<TopicView, Refused> {
        let queues = if queues == 0 { self.settings.topic_queues } else { queues };
        Ok(self.store.create_topic(topic, queues).await??)
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn delete_topic(&self, topic: TopicName, force: bool) -> Result<(), Refused> {
        self.store.delete_topic(topic.clone(), force).await??;
        self.arrivals.forget(&topic);
        Ok(())
    }

    /// One topic.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn describe_topic(&self, topic: TopicName) -> Result<TopicView, Refused> {
        Ok(self.store.describe_topic(topic).await??)
    }

    /// All topics.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn topics(&self) -> Result<Vec<TopicView>, Refused> {
        Ok(self.store.topics().await?)
    }

    /// Creates a group or changes its retry policy.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn configure_group(
        &self,
        group: ConsumerGroup,
        retry: RetryPolicy,
    ) -> Result<GroupView, Refused> {
        Ok(self.store.configure_group(group, retry).await??)
    }

    /// One group.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn describe_group(&self, group: ConsumerGroup) -> Result<GroupView, Refused> {
        Ok(self.store.describe_group(group).await??)
    }

    /// All groups.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn groups(&self) -> Result<Vec<GroupView>, Refused> {
        Ok(self.store.groups().await?)
    }

    /// Moves a group's cursors in one topic.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn reset_group(
        &self,
        group: ConsumerGroup,
        topic: TopicName,
        to: Start,
    ) -> Result<GroupView, Refused> {
        let view = self.store.reset_group(group, topic.clone(), to).await??;
        self.arrivals.wake(&topic);
        Ok(view)
    }

    /// Dead letters from a number on.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn dead_letters(
        &self,
        group: ConsumerGroup,
        from: u64,
        max: usize,
    ) -> Result<Vec<DeadLetter>, Refused> {
        Ok(self.store.dead_letters(group, from, max).await??)
    }

    /// One dead letter, with its message.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn dead_letter(
        &self,
        group: ConsumerGroup,
        number: u64,
    ) -> Result<(DeadLetter, Message), Refused> {
        Ok(self.store.dead_letter(group, number).await??)
    }

    /// Gives dead letters (`None`: all) back to their group. Returns how many.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn replay(&self, group: ConsumerGroup, numbers: Option<Vec<u64>>) -> Result<u64, Refused> {
        let topics = self.store.replay_dead_letters(group, numbers).await??;
        topics.iter().for_each(|topic| self.arrivals.wake(topic));
        Ok(topics.len() as u64)
    }

    /// Forgets dead letters (`None`: all). Returns how many.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn purge(&self, group: ConsumerGroup, numbers: Option<Vec<u64>>) -> Result<u64, Refused> {
        Ok(self.store.purge_dead_letters(group, numbers).await??)
    }

    fn described(&self, view: TransactionView) -> Described {
        let reachable = self.checker.reachable(&view.producer_group);
        Described { view, reachable }
    }

    async fn create_missing(&self, messages: &[Message]) -> Result<(), Refused> {
        if self.settings.create_topics {
            for message in messages {
                self.create_topic_if_missing(&message.topic).await?;
            }
        }
        Ok(())
    }

    async fn create_topic_if_missing(&self, topic: &TopicName) -> Result<(), Refused> {
        if self.arrivals.knows(topic) {
            return Ok(());
        }
        match self.store.create_topic(topic.clone(), self.settings.topic_queues).await? {
            // Made by somebody else with another number of queues: there it is.
            Ok(_) | Err(Rejection::TopicExists { .. }) => self.arrivals.learn(topic),
            Err(rejection) => return Err(rejection.into()),
        }
        Ok(())
    }
}

/// The answer to a call with one item.
async fn one<T>(replies: Replies<T>) -> Result<T, Refused> {
    let mut answers = replies.await?;
    let answer = answers.pop().ok_or_else(|| Unavailable::Failed("it did not answer".to_owned()))?;
    Ok(answer?)
}
