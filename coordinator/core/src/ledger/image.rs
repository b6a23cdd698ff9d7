//! Writing the ledger down whole, reading it back, and moving contents that it needs.

use super::{Delayed, Group, Inconsistency, Ledger, Subscription};
use crate::cursor::Cursor;
use crate::event::{Event, Log};
use crate::ids::MessageId;
use crate::image::{Half, Holder, Image, OpenTransaction};
use crate::message::{Extent, Message};
use crate::queue::{Entry, Place, Queue, Topic};

/// Entries of a queue in one event.
const ENTRIES_MAX: usize = 256;

impl Ledger {
    /// Everything that must survive, as events that make the same ledger again.
    pub fn image(&self) -> impl Iterator<Item = Event> + '_ {
        let began = std::iter::once(Image::Began);
        let topics = self.topics.iter().flat_map(|(name, topic)| {
            let queues = topic.queues.iter().map(Queue::image).collect();
            let head = Image::Topic { topic: name.clone(), released: topic.released, queues };
            let entries = (0..).zip(&topic.queues).flat_map(move |(number, queue)| {
                queue.chunks(ENTRIES_MAX).map(move |entries| Image::Entries {
                    topic: name.clone(),
                    queue: number,
                    entries,
                })
            });
            std::iter::once(head).chain(entries)
        });
        let producers = self.producers.iter().map(|(group, producer)| Image::Producer {
            producer_group: group.clone(),
            sequence: producer.sequence,
            callback: producer.callback.clone(),
        });
        let open = self.open.iter().map(|(id, open)| Image::Open { transaction: *id, open: open.clone() });
        let delayed = self.delayed.iter().map(|((due, id), delayed)| Image::Delayed {
            due: *due,
            id: *id,
            producer_group: delayed.producer_group.clone(),
            half: delayed.half.clone(),
        });
        let decided = self
            .decided
            .iter()
            .map(|(id, decided)| Image::Decided { transaction: *id, decided: decided.clone() });
        let groups = self.groups.iter().flat_map(|(name, group)| {
            let dead = group.dead.iter().map(|(number, origin)| (*number, origin.clone())).collect();
            let head = Image::Group { group: name.clone(), retry: group.retry.clone(), dead };
            let subscriptions = group.subscriptions.iter().map(|(topic, subscription)| Image::Subscription {
                group: name.clone(),
                topic: topic.clone(),
                filter: subscription.filter.clone(),
                cursors: subscription.cursors.iter().map(Cursor::image).collect(),
            });
            std::iter::once(head).chain(subscriptions)
        });
        let pieces = began.chain(topics).chain(producers).chain(open).chain(delayed).chain(decided);
        pieces.chain(groups).chain(std::iter::once(Image::Ended)).map(Event::Image)
    }

    /// Every content that is needed, by whom, and where it is.
    pub fn contents(&self) -> impl Iterator<Item = (Holder, Extent)> + '_ {
        let halves = self.open.iter().flat_map(|(id, open)| {
            (0..)
                .zip(&open.halves)
                .map(|(index, half)| (Holder::Half(MessageId { transaction: *id, index }), half.content))
        });
        let delayed = self
            .delayed
            .iter()
            .map(|((due, id), delayed)| (Holder::Delayed(*due, *id), delayed.half.content));
        let released = self.topics.iter().flat_map(|(name, topic)| {
            (0..).zip(&topic.queues).flat_map(move |(queue, entries)| {
                entries.entries().map(move |(offset, entry)| {
                    (Holder::Released(Place { topic: name.clone(), queue, offset }), entry.content)
                })
            })
        });
        halves.chain(delayed).chain(released)
    }

    /// Writes a content anew, so that nobody needs the old copy. One that nobody needs any more is left.
    pub fn move_content(&mut self, holder: Holder, message: Message, log: &mut dyn Log) {
        if self.content_mut(&holder).is_some() {
            self.record(log, Event::Moved { holder, message });
        }
    }

    pub(super) fn moved(&mut self, holder: &Holder, extents: &[Extent]) -> Result<(), Inconsistency> {
        let extent = extents.first().ok_or(Inconsistency("an extent for each message"))?;
        *self.content_mut(holder).ok_or(Inconsistency("a move of nothing"))? = *extent;
        Ok(())
    }

    pub(super) fn restored(&mut self, image: Image) -> Result<(), Inconsistency> {
        match image {
            Image::Began => *self = Self::new(self.retention),
            Image::Topic { topic, released, queues } => {
                let queues = queues.into_iter().map(Queue::restored).collect();
                self.topics.insert(topic, Topic { queues, released, ..Topic::default() });
            }
            Image::Entries { topic, queue, entries } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistency("topic"))?;
                topic.queue_mut(queue).ok_or(Inconsistency("queue"))?.restore(entries);
            }
            Image::Producer { producer_group, sequence, callback } => {
                let producer = self.producers.entry(producer_group).or_default();
                producer.sequence = sequence;
                producer.callback = callback;
            }
            Image::Open { transaction, open } => return self.restored_open(transaction, open),
            Image::Delayed { due, id, producer_group, half } => {
                self.topics.get_mut(&half.topic).ok_or(Inconsistency("topic"))?.delayed += 1;
                self.delayed.insert((due, id), Delayed { producer_group, half });
            }
            Image::Decided { transaction, decided } => {
                if let Some(request_id) = &decided.request_id {
                    self.requests.insert((decided.producer_group.clone(), request_id.clone()), transaction);
                }
                self.decided.insert(transaction, decided);
            }
            Image::Group { group, retry, dead } => {
                let dead = dead.into_iter().collect();
                self.groups.insert(group, Group { retry, dead, ..Group::default() });
            }
            Image::Subscription { group, topic, filter, cursors } => {
                let cursors = cursors.into_iter().map(Cursor::restored).collect();
                let group = self.groups.get_mut(&group).ok_or(Inconsistency("group"))?;
                group.subscriptions.insert(topic, Subscription { filter, cursors, turn: 0 });
            }
            Image::Ended => {}
        }
        Ok(())
    }

    fn restored_open(
        &mut self,
        id: crate::ids::TransactionId,
        open: OpenTransaction,
    ) -> Result<(), Inconsistency> {
        for Half { topic, .. } in &open.halves {
            self.topics.get_mut(topic).ok_or(Inconsistency("topic"))?.halves += 1;
        }
        self.producers.entry(open.producer_group.clone()).or_default().due.insert((open.next_check, id));
        if let Some(request_id) = &open.request_id {
            self.requests.insert((open.producer_group.clone(), request_id.clone()), id);
        }
        self.in_doubt += usize::from(open.in_doubt);
        self.open.insert(id, open);
        Ok(())
    }

    fn content_mut(&mut self, holder: &Holder) -> Option<&mut Extent> {
        match holder {
            Holder::Half(MessageId { transaction, index }) => {
                let half = self.open.get_mut(transaction)?.halves.get_mut(usize::from(*index))?;
                Some(&mut half.content)
            }
            Holder::Delayed(due, id) => Some(&mut self.delayed.get_mut(&(*due, *id))?.half.content),
            Holder::Released(Place { topic, queue, offset }) => {
                let entry: &mut Entry = self.topics.get_mut(topic)?.queue_mut(*queue)?.entry_mut(*offset)?;
                Some(&mut entry.content)
            }
        }
    }
}
