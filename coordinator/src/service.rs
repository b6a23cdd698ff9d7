//! What every API calls: one set of verbs. Check, call the store, wake whoever waits for the outcome.
//!
//! Deliberately absent: rules (core), durability (store), the wire (api).

mod arrivals;
mod consume;
mod produce;
mod timekeeper;

use std::sync::Arc;
use std::time::Duration;

use halfmq_core::{
    CheckPolicy, ConsumerGroup, DeadLetter, GroupView, Message, Rejection, RetryPolicy, Start, Timestamp,
    TopicName, TopicView, TransactionId, TransactionView,
};

use tokio::sync::watch;

use crate::checker::Checker;
use crate::clock::Clock;
use crate::store::{Horizon, Replies, Store};

pub use arrivals::Arrivals;
pub(crate) use timekeeper::TICK;
// What the verbs take and give, so that callers need not know the port.
pub use crate::store::{
    Ack, Acked, CheckAnswer, GiveUp, Lease, Leased, ListTransactions, Recall, Refused, Replacement,
    Unavailable,
};

/// How far the floor of transactions stays behind the clock: more than clocks of coordinators differ.
const FLOOR_AGE_MIN: Duration = Duration::from_secs(300);

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
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        until(self.stopping.clone())
    }

    /// Whether the coordinator stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// The check policy of transactions that do not bring their own.
    #[must_use]
    pub fn policy(&self) -> &CheckPolicy {
        &self.settings.policy
    }

    /// Whether a topic is made when it is first used.
    #[must_use]
    pub fn creates_topics(&self) -> bool {
        self.settings.create_topics
    }

    /// Who asks.
    #[must_use]
    pub fn checker(&self) -> &Arc<Checker> {
        &self.checker
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

    /// The id below which no transaction is open, and none will be: the oldest open one, or, without any, an
    /// id from a while ago, because clocks of coordinators differ.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn transaction_floor(&self) -> Result<TransactionId, Refused> {
        // The time first: what is prepared after the list was made gets a later id.
        let while_ago = Timestamp::ZERO.after(self.clock.now().since(Timestamp::ZERO.after(FLOOR_AGE_MIN)));
        let oldest = ListTransactions { state: None, producer_group: None, after: None, max: 1 };
        let oldest = self.store.list(oldest).await?.first().map(|view| view.transaction);
        let latest = TransactionId::fresh(while_ago, [0; 10]);
        Ok(oldest.map_or(latest, |oldest| oldest.min(latest)))
    }

    /// How far back receipts reach, and how far the numbers of producer groups go.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn horizon(&self) -> Result<Horizon, Refused> {
        Ok(self.store.horizon().await?)
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

/// Resolves when this has become true. Whoever could still say so being gone means the same.
pub(crate) async fn until(mut said: watch::Receiver<bool>) {
    drop(said.wait_for(|said| *said).await);
}

/// The answer to a call with one item.
async fn one<T>(replies: Replies<T>) -> Result<T, Refused> {
    let mut answers = replies.await?;
    Ok(answers.pop().ok_or_else(unanswered)??)
}

/// The answer to a batch of one.
fn only<T>(mut answers: Vec<Result<T, Refused>>) -> Result<T, Refused> {
    answers.pop().ok_or_else(unanswered)?
}

/// Has the admitted items of a batch answered; every item's answer stands in its place.
async fn answer_admitted<I, T>(
    items: Vec<Result<I, Refused>>,
    call: impl FnOnce(Vec<I>) -> Replies<T>,
) -> Vec<Result<T, Refused>> {
    let mut admitted = Vec::with_capacity(items.len());
    let places: Vec<Result<(), Refused>> =
        items.into_iter().map(|item| item.map(|item| admitted.push(item))).collect();
    let replies = if admitted.is_empty() { Ok(Vec::new()) } else { call(admitted).await };
    let mut replies = replies.map(Vec::into_iter);
    let mut answer = |()| match &mut replies {
        Ok(replies) => Ok(replies.next().ok_or_else(unanswered)??),
        Err(unavailable) => Err(unavailable.clone().into()),
    };
    places.into_iter().map(|place| place.and_then(&mut answer)).collect()
}

/// The answers to a batch whose items are all admitted.
async fn answer_all<T>(replies: Replies<T>, items: usize) -> Vec<Result<T, Refused>> {
    match replies.await {
        Ok(replies) => replies.into_iter().map(|reply| reply.map_err(Refused::from)).collect(),
        Err(unavailable) => (0..items).map(|_| Err(unavailable.clone().into())).collect(),
    }
}

fn unanswered() -> Unavailable {
    Unavailable::Failed("it did not answer".to_owned())
}
