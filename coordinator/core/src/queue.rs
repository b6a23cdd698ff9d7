//! Topics and their queues: which queue a message goes to, and what stands where.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use crate::event::Release;
use crate::ids::MessageId;
use crate::image::QueueImage;
use crate::limits::TRIM_MAX;
use crate::message::{Extent, Tag};
use crate::names::{ConsumerGroup, ProducerGroup, TopicName};
use crate::shelf::{Found, PageRef, Shelf};
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
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Entry {
    pub id: MessageId,
    pub content: Extent,
    pub tag: Option<Tag>,
    /// Hash of the message group.
    pub message_group: Option<u64>,
    pub producer_group: ProducerGroup,
    pub sequence: u64,
    pub previous: u64,
    pub released_at: Timestamp,
    pub origin: Option<Box<Origin>>,
}

impl Entry {
    /// Whether its content is still kept. Behind a message that somebody is not done with, the contents of
    /// others are let go of, but their entries stay, so that offsets are dense.
    pub(crate) fn is_kept(&self) -> bool {
        self.content != Extent::NONE
    }

    pub(crate) fn let_go(&mut self) {
        self.content = Extent::NONE;
    }
}

/// A queue: what everybody is done with and is let go, then pages on the shelf, then entries in memory.
///
/// ```text
///   0 ┄┄┄┄ base ┄┄ page │ page │ page │ hot entries ┄┄ next
/// ```
#[derive(Debug, Default)]
pub(crate) struct Queue {
    base: u64,
    pages: VecDeque<PageRef>,
    /// Offset of the first hot entry.
    hot_base: u64,
    hot: VecDeque<Entry>,
    /// Sequence released last, of each producer group: the other end of the link.
    last: HashMap<ProducerGroup, u64>,
}

impl Queue {
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn next(&self) -> u64 {
        self.hot_base + self.hot.len() as u64
    }

    pub(crate) fn entry(&self, offset: u64, shelf: &dyn Shelf) -> Option<Found<'_>> {
        if offset < self.base {
            return None;
        }
        if let Some(index) = offset.checked_sub(self.hot_base) {
            return self.hot.get(usize::try_from(index).ok()?).map(Found::Hot);
        }
        let page = self.pages.get(self.pages.partition_point(|page| page.end() <= offset))?;
        let index = usize::try_from(offset.checked_sub(page.first)?).ok()?;
        let entries = shelf.page(page.extent)?;
        (index < entries.len()).then_some(Found::Cold(entries, index))
    }

    pub(crate) fn last(&self, producer_group: &ProducerGroup) -> u64 {
        self.last.get(producer_group).copied().unwrap_or(0)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if entry.origin.is_none() {
            self.last.insert(entry.producer_group.clone(), entry.sequence);
        }
        self.hot.push_back(entry);
    }

    pub(crate) fn trim(&mut self, base: u64) {
        self.base = self.base.max(base.min(self.next()));
        while self.pages.front().is_some_and(|page| page.end() <= self.base) {
            self.pages.pop_front();
        }
        while self.hot_base < self.base && self.pages.is_empty() && self.hot.pop_front().is_some() {
            self.hot_base += 1;
        }
    }

    /// When the oldest message that is kept was released.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        let page = self.pages.front().map(|page| page.released.0);
        page.or_else(|| self.hot.front().map(|entry| entry.released_at))
    }

    /// How far messages released at or before `time` reach, at most up to `bound`, and not further than
    /// one tick may let go of. Pages go whole or not at all.
    pub(crate) fn expired(&self, time: Timestamp, bound: u64) -> u64 {
        let bound = bound.min(self.base + TRIM_MAX);
        let whole = self.pages.iter().take_while(|page| page.released.1 <= time && page.end() <= bound);
        let whole = whole.last().map_or(self.base, PageRef::end);
        if whole < self.hot_base {
            return whole;
        }
        let room = usize::try_from(bound.saturating_sub(self.hot_base)).unwrap_or(usize::MAX);
        let old = self.hot.iter().take(room).take_while(|entry| entry.released_at <= time);
        whole.max(self.hot_base + old.count() as u64)
    }

    pub(crate) fn offset_of(&self, start: Start, shelf: &dyn Shelf) -> u64 {
        let time = match start {
            Start::Beginning => return self.base,
            Start::End => return self.next(),
            Start::At(time) => time,
        };
        let earlier = |entry: &Entry| entry.released_at < time;
        let (first, index) = match self.pages.get(self.pages.partition_point(|page| page.released.1 < time)) {
            None => (self.hot_base, self.hot.partition_point(earlier)),
            Some(page) => {
                (page.first, shelf.page(page.extent).map_or(0, |page| page.partition_point(earlier)))
            }
        };
        self.base.max(first + index as u64)
    }

    pub(crate) fn hot_base(&self) -> u64 {
        self.hot_base
    }

    pub(crate) fn hot(&self) -> &VecDeque<Entry> {
        &self.hot
    }

    pub(crate) fn hot_mut(&mut self, offset: u64) -> Option<&mut Entry> {
        self.hot.get_mut(usize::try_from(offset.checked_sub(self.hot_base)?).ok()?)
    }

    pub(crate) fn pages(&self) -> &VecDeque<PageRef> {
        &self.pages
    }

    /// Entries went onto the shelf: the first hot ones, or those of a page that is replaced.
    pub(crate) fn paged(&mut self, page: PageRef) -> Option<()> {
        if page.first == self.hot_base {
            let count = usize::try_from(page.count).ok().filter(|count| *count <= self.hot.len())?;
            self.hot.drain(..count);
            self.hot_base += count as u64;
            self.pages.push_back(page);
            return Some(());
        }
        let old = self.pages.iter_mut().find(|old| (old.first, old.count) == (page.first, page.count))?;
        *old = page;
        Some(())
    }

    /// The next hot entry of an image.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.hot.push_back(entry);
    }

    pub(crate) fn image(&self) -> QueueImage {
        QueueImage {
            base: self.base,
            hot_base: self.hot_base,
            last: self.last.iter().map(|(group, sequence)| (group.clone(), *sequence)).collect(),
            pages: self.pages.iter().cloned().collect(),
        }
    }
}

impl From<QueueImage> for Queue {
    fn from(image: QueueImage) -> Self {
        let QueueImage { base, hot_base, last, pages } = image;
        Self { base, pages: pages.into(), hot_base, hot: VecDeque::new(), last: last.into_iter().collect() }
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
