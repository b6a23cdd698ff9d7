//! What time alone does: delayed messages come out, last leases end, old messages are let go.

use super::consume::lease_ended;
use std::time::Duration;

use super::{Group, Ledger};
use crate::cursor::Cursor;
use crate::delayed::Next;
use crate::event::{Event, Log, Release};
use crate::ids::MessageId;
use crate::limits::{PAGES_LOADED_MAX, TICK_MAX};
use crate::names::{ConsumerGroup, TopicName};
use crate::queue::{Place, Placement};
use crate::time::Timestamp;

/// What a tick did, and when the next one has something to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tick {
    /// Topics that got messages.
    pub topics: Vec<TopicName>,
    /// `None` if nothing waits for its time.
    pub next: Option<Timestamp>,
}

impl Ledger {
    /// Does what is due.
    pub fn tick(&mut self, now: Timestamp, log: &mut dyn Log) -> Tick {
        let mut topics = self.release_delayed(now, log);
        topics.extend(self.end_last_leases(now, log));
        self.trim(now, log);
        topics.sort();
        topics.dedup();
        Tick { topics, next: self.delayed.next_due() }
    }

    fn release_delayed(&mut self, now: Timestamp, log: &mut dyn Log) -> Vec<TopicName> {
        let mut topics = Vec::new();
        let mut loaded = 0;
        for _ in 0..TICK_MAX {
            let due = match self.delayed.next() {
                Some(Next::Message(due)) if due.0 <= now => due,
                Some(Next::Page(first)) if first.0 <= now && loaded < PAGES_LOADED_MAX => {
                    if !self.load_delayed(first, log) {
                        break;
                    }
                    loaded += 1;
                    continue;
                }
                Some(Next::Message(_) | Next::Page(_)) | None => break,
            };
            let Some(delayed) = self.delayed.soon().get(&due) else { break };
            let (MessageId { transaction, index }, half) = (due.1, &delayed.half);
            let Some(topic) = self.topics.get(&half.topic) else { break };
            let release = Placement::default().place(
                &half.topic,
                topic,
                half.message_group,
                &delayed.producer_group,
                half.sequence,
            );
            let Release::Placed { queue, offset, previous } = release else { break };
            topics.push(half.topic.clone());
            self.record(log, Event::Released { transaction, index, queue, offset, previous, at: now });
        }
        topics
    }

    /// Messages whose last lease ended become dead letters even if nobody receives any more.
    fn end_last_leases(&mut self, now: Timestamp, log: &mut dyn Log) -> Vec<TopicName> {
        let mut ended: Vec<(ConsumerGroup, Place, u32)> = Vec::new();
        for (name, group) in &self.groups {
            for (topic, subscription) in &group.subscriptions {
                for (queue, cursor) in (0..).zip(&subscription.cursors) {
                    let room = TICK_MAX.saturating_sub(ended.len());
                    for (offset, attempts) in cursor.exhausted(group.retry.attempts_max, now).take(room) {
                        let place = Place { topic: topic.clone(), queue, offset };
                        ended.push((name.clone(), place, attempts));
                    }
                }
            }
        }
        let topics = ended.iter().map(|(_, place, _)| place.topic.clone()).collect();
        for (group, place, attempts) in ended {
            self.dead_letter(now, &group, place, attempts, lease_ended(), log);
        }
        topics
    }

    /// Lets go of messages that every group of the topic is done with, once retention has passed.
    /// A topic that nobody reads keeps all: its first reader may begin at the beginning. Of dead letters
    /// only those that were replayed or purged go.
    fn trim(&mut self, now: Timestamp, log: &mut dyn Log) {
        let old = self.kept_since(now);
        let mut trims = Vec::new();
        for (name, topic) in &self.topics {
            let with_old = (0..)
                .zip(&topic.queues)
                .filter(|(_, queue)| queue.oldest().is_some_and(|oldest| oldest <= old));
            for (number, queue) in with_old {
                let bound = self.needed_from(name, number).unwrap_or(queue.base());
                let base = queue.expired(old, bound);
                if base > queue.base() {
                    trims.push(Event::Trimmed { topic: name.clone(), queue: number, base });
                }
            }
        }
        trims.into_iter().for_each(|trim| self.record(log, trim));
    }

    /// Messages released before are kept only as long as somebody needs them.
    pub(super) fn kept_since(&self, now: Timestamp) -> Timestamp {
        now.before(if self.pressed { Duration::ZERO } else { self.retention })
    }

    /// The oldest offset that some group, or a dead letter, still needs; `None` if all are kept.
    fn needed_from(&self, topic: &TopicName, queue: u32) -> Option<u64> {
        let reader = |group: &Group| {
            group.subscriptions.get(topic)?.cursors.get(queue as usize).map(Cursor::oldest_needed)
        };
        let readers = self.groups.values().filter_map(reader).min();
        if readers.is_none() && !topic.is_dead_letter() {
            return None;
        }
        let letters = topic.dead_letters_of().and_then(|group| self.groups.get(&group));
        let oldest_letter = letters.and_then(|group| group.dead.numbers().next());
        let origins = self.groups.values().filter_map(|group| group.dead.oldest_of(topic, queue)).min();
        Some([readers, oldest_letter, origins].into_iter().flatten().min().unwrap_or(u64::MAX))
    }
}
