//! Wakes consumers that wait for messages, when it is not a release that they wait for: the store leases
//! what is released to those who stand by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halfmq_core::{ConsumerGroup, Receipt, Timestamp, TopicName};
use tokio::sync::Notify;

/// Who waits for what. Nothing here is needed for a message to be found: a wake that is missed costs time,
/// never a message.
#[derive(Default)]
pub struct Arrivals {
    topics: Mutex<HashMap<TopicName, HashMap<ConsumerGroup, Arc<Notify>>>>,
    /// The next delayed message may come earlier than the timekeeper thinks.
    pub(super) delayed: Notify,
    earliest: Mutex<Option<Timestamp>>,
}

impl Arrivals {
    /// Tells that messages will be released later. Of those that were released now the store itself tells
    /// whoever stands by.
    pub fn announce(&self, receipt: &Receipt) {
        self.announce_all(std::iter::once(receipt));
    }

    /// Tells of many receipts.
    pub(super) fn announce_all<'a>(&self, receipts: impl Iterator<Item = &'a Receipt>) {
        receipts
            .flat_map(|receipt| &receipt.messages)
            .filter_map(|(_, at)| at.as_ref().err())
            .for_each(|at| self.expect(*at));
    }

    /// Wakes one waiting consumer of each group of this topic.
    pub fn wake(&self, topic: &TopicName) {
        if let Some(groups) = self.topics().get(topic) {
            groups.values().for_each(|group| group.notify_one());
        }
    }

    /// What a consumer of this group waits on.
    pub(super) fn of(&self, topic: &TopicName, group: &ConsumerGroup) -> Arc<Notify> {
        Arc::clone(self.topics().entry(topic.clone()).or_default().entry(group.clone()).or_default())
    }

    /// Whether the topic is known to exist.
    pub(super) fn knows(&self, topic: &TopicName) -> bool {
        self.topics().contains_key(topic)
    }

    pub(super) fn learn(&self, topic: &TopicName) {
        self.topics().entry(topic.clone()).or_default();
    }

    /// The topic is gone; it may be made again.
    pub(super) fn forget(&self, topic: &TopicName) {
        if let Some(groups) = self.topics().remove(topic) {
            groups.values().for_each(|group| group.notify_one());
        }
    }

    /// The time of the earliest delayed message announced since the last call.
    pub(super) fn take_earliest(&self) -> Option<Timestamp> {
        self.earliest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn expect(&self, at: Timestamp) {
        let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        if earliest.is_none_or(|earliest| at < earliest) {
            *earliest = Some(at);
            self.delayed.notify_one();
        }
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<TopicName, HashMap<ConsumerGroup, Arc<Notify>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
