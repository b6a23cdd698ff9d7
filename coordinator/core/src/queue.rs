//! Topics and their queues: which queue a message goes to, and what stands where.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use crate::event::Release;
use crate::ids::MessageId;
use crate::limits::TRIM_MAX;
use crate::message::{Extent, Tag};
use crate::names::{ConsumerGroup, ProducerGroup, TopicName};
use crate::time::Timestamp;

/// The one place of a released message.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// Topic.
    pub topic: TopicName,
    /// Queue of the topic, from 0.
    pub queue: u32,
    /// Dense: 0, 1, 2, …
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.topic, self.queue, self.offset)
    }
}

/// Where a dead letter came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The group that failed on it.
    pub group: ConsumerGroup,
    /// Where it was released to.
    pub place: Place,
    /// Deliveries that failed.
    pub attempts: u32,
    /// As the consumer said, or that the lease ran out.
    pub reason: String,
    /// When it became a dead letter.
    pub at: Timestamp,
}

/// Where a group begins to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// With the oldest message that is kept.
    #[default]
    Beginning,
    /// With the next message that is released.
    End,
    /// With the first message released at this time or later.
    At(Timestamp),
}

/// A released message, as the rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: MessageId,
    pub(crate) content: Extent,
    pub(crate) tag: Option<Tag>,
    /// Hash of the message group.
    pub(crate) message_group: Option<u64>,
    pub(crate) producer_group: ProducerGroup,
    pub(crate) sequence: u64,
    pub(crate) previous: u64,
    pub(crate) released_at: Timestamp,
    pub(crate) origin: Option<Box<Origin>>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    base: u64,
    entries: VecDeque<Entry>,
    /// Sequence released last, of each producer group: the other end of the link.
    last: HashMap<ProducerGroup, u64>,
}

impl Queue {
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn next(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub(crate) fn entry(&self, offset: u64) -> Option<&Entry> {
        let index = offset.checked_sub(self.base)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn last(&self, producer_group: &ProducerGroup) -> u64 {
        self.last.get(producer_group).copied().unwrap_or(0)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if entry.origin.is_none() {
            self.last.insert(entry.producer_group.clone(), entry.sequence);
        }
        self.entries.push_back(entry);
    }

    pub(crate) fn trim(&mut self, base: u64) {
        while self.base < base && self.entries.pop_front().is_some() {
            self.base += 1;
        }
    }

    /// How far messages released at or before `time` reach, at most up to `bound`, and not further than
    /// one tick may let go of.
    pub(crate) fn expired(&self, time: Timestamp, bound: u64) -> u64 {
        let room = usize::try_from(bound.saturating_sub(self.base)).unwrap_or(usize::MAX).min(TRIM_MAX);
        let old = self.entries.iter().take(room).take_while(|entry| entry.released_at <= time);
        self.base + old.count() as u64
    }

    pub(crate) fn offset_of(&self, start: Start) -> u64 {
        match start {
            Start::Beginning => self.base,
            Start::End => self.next(),
            Start::At(time) => {
                self.base + self.entries.partition_point(|entry| entry.released_at < time) as u64
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) queues: Vec<Queue>,
    /// Messages released so far; the next one without a message group goes to this number modulo queues.
    pub(crate) released: u64,
    /// Half messages of open transactions.
    pub(crate) halves: usize,
    /// Committed messages whose time has not come.
    pub(crate) delayed: usize,
}

impl Topic {
    pub(crate) fn new(queues: u32) -> Self {
        Self { queues: (0..queues).map(|_| Queue::default()).collect(), ..Self::default() }
    }

    pub(crate) fn queue(&self, queue: u32) -> Option<&Queue> {
        self.queues.get(queue as usize)
    }

    pub(crate) fn queue_mut(&mut self, queue: u32) -> Option<&mut Queue> {
        self.queues.get_mut(queue as usize)
    }
}

/// Finds places for messages that are released together, one after the other.
#[derive(Default)]
pub(crate) struct Placement {
    placed: Vec<(TopicName, u32, u64)>,
}

impl Placement {
    /// The place of the next message: its message group's queue, or the queues in turn.
    pub(crate) fn place(
        &mut self,
        name: &TopicName,
        topic: &Topic,
        message_group: Option<u64>,
        producer_group: &ProducerGroup,
        sequence: u64,
    ) -> Release {
        let before = |queue: Option<u32>| {
            self.placed.iter().filter(move |(to, at, _)| to == name && queue.is_none_or(|queue| queue == *at))
        };
        let turn = message_group.unwrap_or_else(|| topic.released + before(None).count() as u64);
        let queue = u32::try_from(turn % (topic.queues.len().max(1) as u64)).unwrap_or(0);
        let tail = topic.queue(queue);
        let offset = tail.map_or(0, Queue::next) + before(Some(queue)).count() as u64;
        let previous = match before(Some(queue)).next_back() {
            Some((_, _, sequence)) => *sequence,
            None => tail.map_or(0, |tail| tail.last(producer_group)),
        };
        self.placed.push((name.clone(), queue, sequence));
        Release::Placed { queue, offset, previous }
    }
}
