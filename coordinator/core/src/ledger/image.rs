//! Writing the whole ledger down, and reading it back.

use std::sync::Arc;

use super::{DecidedTransaction, Group, Inconsistency, Ledger, Producer, Subscription};
use crate::cursor::Cursor;
use crate::delayed::Delayed;
use crate::ids::TransactionId;
use crate::image::{Image, OpenTransaction};
use crate::limits::PAGE_ENTRIES;
use crate::names::{ConsumerGroup, ProducerGroup, TopicName};
use crate::queue::{Entry, Queue, Topic};
use crate::time::Timestamp;

type Restored = Result<(), Inconsistency>;

impl Ledger {
    /// The ledger as it is now, piece by piece.
    pub fn image(&self, now: Timestamp) -> impl Iterator<Item = Image> {
        let open = self.open.iter().map(|(transaction, open)| Image::Open {
            transaction: *transaction,
            open: OpenTransaction::clone(open),
        });
        let delayed = self.delayed.soon().iter().map(|((due, id), delayed)| Image::Delayed {
            due: *due,
            id: *id,
            producer_group: delayed.producer_group.clone(),
            half: delayed.half.clone(),
        });
        let delayed_pages =
            self.delayed.pages().values().map(|page| Image::DelayedPage { page: page.clone() });
        let decided = self.decided.iter().map(|(transaction, decided)| Image::Decided {
            transaction: *transaction,
            decided: DecidedTransaction::clone(decided),
        });
        std::iter::once(Image::Began { at: now })
            .chain(self.topics.iter().flat_map(|(name, topic)| topic_image(name, topic)))
            .chain(self.producers.iter().map(|(group, producer)| producer.image(group)))
            .chain(open)
            .chain(delayed)
            .chain(delayed_pages)
            .chain(decided)
            .chain(self.groups.iter().flat_map(|(name, group)| group_image(name, group)))
            .chain(std::iter::once(Image::Ended))
    }

    /// Takes a piece of an image in. The pieces before it must be there.
    pub(super) fn restored(&mut self, piece: Image) -> Restored {
        match piece {
            Image::Began { .. } => *self = Self::new(self.retention, self.shelf.clone()),
            Image::Ended => {}
            Image::Topic { topic, released, queues } => {
                let queues = queues.into_iter().map(Queue::from).collect();
                self.topics.insert(topic, Topic { queues, released, halves: 0, delayed: 0 });
            }
            Image::Entries { topic, queue, entries } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistency("topic"))?;
                let queue = topic.queue_mut(queue).ok_or(Inconsistency("queue"))?;
                entries.into_iter().for_each(|entry| queue.restore(entry));
            }
            Image::Producer { producer_group, sequence, callback } => {
                self.producers.insert(producer_group, Producer { sequence, callback, ..Producer::default() });
            }
            Image::Open { transaction, open } => self.open_restored(transaction, open)?,
            Image::Delayed { due, id, producer_group, half } => {
                self.delayed_restored((due, id), Delayed { producer_group, half })?;
            }
            Image::DelayedPage { page } => self.delayed_page_restored(page)?,
            Image::Decided { transaction, decided } => {
                if let Some(request_id) = &decided.request_id {
                    let producer = self.producers.get_mut(&decided.producer_group);
                    let producer = producer.ok_or(Inconsistency("producer group"))?;
                    producer.requests.insert(request_id.clone(), transaction);
                }
                self.decided.insert(transaction, Arc::new(decided));
            }
            Image::Group { group, retry } => {
                self.groups.insert(group, Group { retry, ..Group::default() });
            }
            Image::DeadLetters { group, letters } => {
                let group = self.groups.get_mut(&group).ok_or(Inconsistency("group"))?;
                letters.into_iter().for_each(|(number, origin)| group.dead.insert(number, origin));
            }
            Image::Subscription { group, topic, filter, cursors } => {
                let cursors = cursors.into_iter().map(Cursor::from).collect();
                let group = self.groups.get_mut(&group).ok_or(Inconsistency("group"))?;
                group.subscriptions.insert(topic, Subscription { filter, cursors, turn: 0 });
            }
        }
        Ok(())
    }

    /// An open transaction enters, from its prepare or from an image.
    pub(super) fn open_restored(&mut self, id: TransactionId, mut open: OpenTransaction) -> Restored {
        for half in &mut open.halves {
            half.topic = self.topic_name(&half.topic)?;
            self.topics.get_mut(&half.topic).ok_or(Inconsistency("topic"))?.halves += 1;
        }
        let (group, _) =
            self.producers.get_key_value(&open.producer_group).ok_or(Inconsistency("producer group"))?;
        open.producer_group = group.clone();
        let producer = self.producers.get_mut(&open.producer_group).ok_or(Inconsistency("producer group"))?;
        producer.share(&mut open);
        producer.due.insert((open.next_check, id));
        if let Some(request_id) = &open.request_id {
            producer.requests.insert(request_id.clone(), id);
        }
        self.in_doubt += usize::from(open.in_doubt);
        match self.open.insert(id, Box::new(open)) {
            None => Ok(()),
            Some(_) => Err(Inconsistency("a transaction was prepared twice")),
        }
    }

    /// The name as the ledger has it already, so that a million messages share one.
    pub(super) fn topic_name(&self, name: &TopicName) -> Result<TopicName, Inconsistency> {
        self.topics.get_key_value(name).map(|(name, _)| name.clone()).ok_or(Inconsistency("topic"))
    }
}

impl Producer {
    fn image(&self, group: &ProducerGroup) -> Image {
        Image::Producer {
            producer_group: group.clone(),
            sequence: self.sequence,
            callback: self.callback.clone(),
        }
    }

    /// Lets the transaction share what it has in common with the one before.
    fn share(&mut self, open: &mut OpenTransaction) {
        match &self.policy {
            Some(policy) if *policy == open.policy => open.policy = policy.clone(),
            Some(_) | None => self.policy = Some(open.policy.clone()),
        }
        match &self.instance {
            Some(instance) if open.instance.as_ref() == Some(instance) => {
                open.instance = Some(instance.clone());
            }
            Some(_) | None => self.instance.clone_from(&open.instance),
        }
    }
}

fn topic_image<'a>(name: &'a TopicName, topic: &'a Topic) -> impl Iterator<Item = Image> + 'a {
    let queues = topic.queues.iter().map(Queue::image).collect();
    let head = Image::Topic { topic: name.clone(), released: topic.released, queues };
    let entries = (0..).zip(&topic.queues).flat_map(move |(number, queue): (u32, &Queue)| {
        chunks(queue.hot().iter().cloned()).map(move |entries: Vec<Entry>| Image::Entries {
            topic: name.clone(),
            queue: number,
            entries,
        })
    });
    std::iter::once(head).chain(entries)
}

fn group_image<'a>(name: &'a ConsumerGroup, group: &'a Group) -> impl Iterator<Item = Image> + 'a {
    let head = Image::Group { group: name.clone(), retry: group.retry.clone() };
    let letters = chunks(group.dead.from(0).map(|(number, origin)| (number, origin.clone())))
        .map(|letters| Image::DeadLetters { group: name.clone(), letters });
    let subscriptions = group.subscriptions.iter().map(|(topic, reader)| Image::Subscription {
        group: name.clone(),
        topic: topic.clone(),
        filter: reader.filter.clone(),
        cursors: reader.cursors.iter().map(Cursor::image).collect(),
    });
    std::iter::once(head).chain(letters).chain(subscriptions)
}

/// Pieces of a bounded size.
fn chunks<T>(mut items: impl Iterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(PAGE_ENTRIES).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}
