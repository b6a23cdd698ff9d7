//! Keeping memory and disk near what is needed: entries go onto the shelf, contents are carried forward.

use super::Ledger;
use crate::delayed::DelayedPageRef;
use crate::event::{Event, Log};
use crate::ids::MessageId;
use crate::image::Holder;
use crate::limits::PAGE_ENTRIES;
use crate::message::{Extent, Message};
use crate::names::TopicName;
use crate::queue::Place;
use crate::shelf::{Page, PageRef, Run};
use crate::time::Timestamp;

/// What a stretch of storage still holds.
enum Held {
    /// A content; it is needed.
    Content(Holder, Extent),
    /// The content of an entry that only entries before it keep.
    Done(Place, Extent),
    /// A page, and how many of its entries are needed.
    Page { topic: TopicName, queue: u32, page: PageRef, needed: u64 },
    /// A page of delayed messages.
    DelayedPage(DelayedPageRef),
}

impl Ledger {
    /// Queue entries in memory.
    #[must_use]
    pub fn hot_entries(&self) -> usize {
        self.topics.values().flat_map(|topic| &topic.queues).map(|queue| queue.hot().len()).sum()
    }

    /// Puts the oldest entries of the queue with the most of them onto the shelf: one page of so many.
    /// Whether there was one.
    pub fn shelve(&mut self, entries: usize, log: &mut dyn Log) -> bool {
        let queues =
            self.topics.iter().flat_map(|(name, topic)| (0..).zip(&topic.queues).map(move |it| (name, it)));
        let longest = queues.max_by_key(|(_, (_, queue))| queue.hot().len());
        let Some((topic, (number, queue))) =
            longest.filter(|(_, (_, queue))| queue.hot().len() >= entries.max(1))
        else {
            return false;
        };
        let page = Page(queue.hot().iter().take(entries.max(1)).cloned().collect());
        let event = Event::Paged { topic: topic.clone(), queue: number, first: queue.hot_base(), page };
        self.record(log, event);
        true
    }

    /// Every stretch of storage that the ledger holds, and how many bytes of it are needed. What is held
    /// without need is let go of by [`Ledger::carry_forward`].
    pub fn held(&self, now: Timestamp, seen: &mut dyn FnMut(Run)) {
        self.each_held(now, &mut |held| match held {
            Held::Content(_, content) => seen(content.into()),
            Held::Done(_, content) => seen(Run { bytes: 0, ..content.into() }),
            Held::Page { page, needed, .. } => {
                seen(page.extent.into());
                shares(&page.contents, needed, page.count).for_each(&mut *seen);
            }
            Held::DelayedPage(page) => {
                seen(page.extent.into());
                shares(&page.contents, page.waiting(), page.count).for_each(&mut *seen);
            }
        });
    }

    /// Writes anew what is needed of the storage between two positions, up to some `bytes_max`, and lets go
    /// of the rest. `read` gives the message of an extent; one that it cannot read stays where it is.
    /// Returns how many bytes were written, about; 0: nothing is held there any more, or cannot be moved.
    pub fn carry_forward(
        &mut self,
        now: Timestamp,
        (from, to): (u64, u64),
        bytes_max: u64,
        read: &dyn Fn(Extent) -> Option<Message>,
        log: &mut dyn Log,
    ) -> u64 {
        let mut held = Vec::new();
        self.each_held(now, &mut |item| {
            let touches = |extent: Extent| Run::from(extent).touches(from, to);
            let wanted = match &item {
                Held::Content(_, content) | Held::Done(_, content) => touches(*content),
                Held::Page { page: PageRef { extent, contents, .. }, .. }
                | Held::DelayedPage(DelayedPageRef { extent, contents, .. }) => {
                    touches(*extent) || contents.iter().any(|run| run.touches(from, to))
                }
            };
            // Enough for one call, so that this list has a bound.
            if wanted && held.len() < PAGE_ENTRIES {
                held.push(item);
            }
        });
        let mut written = 0;
        for item in held {
            if written >= bytes_max {
                break;
            }
            written += match item {
                Held::Content(holder, content) => self.carry(holder, content, read, log),
                Held::Done(place, _) => {
                    let Place { topic, queue, offset } = place;
                    self.record(log, Event::LetGo { topic, queue, offsets: vec![offset] });
                    1
                }
                Held::Page { topic, queue, page, .. } => {
                    let budget = bytes_max - written;
                    self.carry_page(now, (&topic, queue, &page), ((from, to), budget), read, log)
                }
                Held::DelayedPage(page) => {
                    self.carry_delayed_page(&page, ((from, to), bytes_max - written), read, log)
                }
            };
        }
        written
    }

    fn carry(
        &mut self,
        holder: Holder,
        content: Extent,
        read: &dyn Fn(Extent) -> Option<Message>,
        log: &mut dyn Log,
    ) -> u64 {
        let Some(message) = read(content) else { return 0 };
        self.record(log, Event::Moved { holder, message });
        u64::from(content.length)
    }

    fn carry_page(
        &mut self,
        now: Timestamp,
        (topic, queue, page): (&TopicName, u32, &PageRef),
        ((from, to), budget): ((u64, u64), u64),
        read: &dyn Fn(Extent) -> Option<Message>,
        log: &mut dyn Log,
    ) -> u64 {
        let Some(entries) = self.shelf.page(page.extent) else { return 0 };
        let mut entries = entries.to_vec();
        let (mut moved, mut changed) = (0, Run::from(page.extent).touches(from, to));
        for (offset, entry) in (page.first..).zip(&mut entries).filter(|(_, entry)| entry.is_kept()) {
            if !self.is_needed(now, topic, queue, offset, entry.released_at) {
                entry.let_go();
                changed = true;
                continue;
            }
            if !Run::from(entry.content).touches(from, to) || (moved > 0 && moved >= budget) {
                continue;
            }
            let Some(message) = read(entry.content) else { continue };
            moved += u64::from(entry.content.length);
            changed = true;
            let event = Event::Moved { holder: Holder::Page, message };
            entry.content = log.append(&event).first().copied().unwrap_or(entry.content);
        }
        if !changed {
            return 0;
        }
        let event = Event::Paged { topic: topic.clone(), queue, first: page.first, page: Page(entries) };
        self.record(log, event);
        moved + u64::from(page.extent.length)
    }

    fn each_held(&self, now: Timestamp, seen: &mut dyn FnMut(Held)) {
        for (name, topic) in &self.topics {
            for (number, queue) in (0..).zip(&topic.queues) {
                for page in queue.pages() {
                    let needed = match page.released.1 <= self.kept_since(now) {
                        true => self.needed_within(name, number, page.first.max(queue.base()), page.end()),
                        false => page.count,
                    };
                    seen(Held::Page { topic: name.clone(), queue: number, page: page.clone(), needed });
                }
                let hot = (queue.hot_base()..).zip(queue.hot());
                for (offset, entry) in hot.filter(|(at, entry)| *at >= queue.base() && entry.is_kept()) {
                    let place = Place { topic: name.clone(), queue: number, offset };
                    seen(match self.is_needed(now, name, number, offset, entry.released_at) {
                        true => Held::Content(Holder::Entry(place), entry.content),
                        false => Held::Done(place, entry.content),
                    });
                }
            }
        }
        for (transaction, open) in &self.open {
            for (index, half) in (0..).zip(&open.halves) {
                let id = MessageId { transaction: *transaction, index };
                seen(Held::Content(Holder::Half(id), half.content));
            }
        }
        for ((due, id), delayed) in self.delayed.soon() {
            seen(Held::Content(Holder::Delayed(*due, *id), delayed.half.content));
        }
        self.delayed.pages().values().for_each(|page| seen(Held::DelayedPage(page.clone())));
    }

    fn is_needed(
        &self,
        now: Timestamp,
        topic: &TopicName,
        queue: u32,
        offset: u64,
        released_at: Timestamp,
    ) -> bool {
        released_at > self.kept_since(now) || self.needed_within(topic, queue, offset, offset + 1) > 0
    }

    /// How many messages of this stretch of a queue some group, or a dead letter, still needs, at most.
    fn needed_within(&self, topic: &TopicName, queue: u32, first: u64, end: u64) -> u64 {
        let readers = self.groups.values().filter_map(|group| group.subscriptions.get(topic));
        let cursors = readers.filter_map(|reader| reader.cursors.get(queue as usize));
        let undone = cursors.map(|cursor| cursor.undone_within(first, end)).max();
        let letters = topic
            .dead_letters_of()
            .map(|group| self.groups.get(&group).map_or(0, |group| group.dead.count_within(first, end)));
        if undone.is_none() && letters.is_none() {
            return end.saturating_sub(first);
        }
        let origins: u64 =
            self.groups.values().map(|group| group.dead.within(topic, queue, first, end)).sum();
        undone.unwrap_or(0) + letters.unwrap_or(0) + origins
    }

    pub(super) fn let_go(&mut self, topic: &TopicName, queue: u32, offsets: &[u64]) -> Option<()> {
        let queue = self.topics.get_mut(topic)?.queue_mut(queue)?;
        offsets.iter().try_for_each(|offset| queue.hot_mut(*offset).map(crate::queue::Entry::let_go))
    }

    /// Where a content is now.
    pub(super) fn moved(&mut self, holder: &Holder, extents: &[Extent]) -> Option<()> {
        let content = match holder {
            Holder::Half(id) => {
                &mut self.open.get_mut(&id.transaction)?.halves.get_mut(usize::from(id.index))?.content
            }
            Holder::Delayed(due, id) => &mut self.delayed.soon_mut().get_mut(&(*due, *id))?.half.content,
            Holder::Entry(Place { topic, queue, offset }) => {
                &mut self.topics.get_mut(topic)?.queue_mut(*queue)?.hot_mut(*offset)?.content
            }
            Holder::Page => return Some(()),
        };
        *content = *extents.first()?;
        Some(())
    }

    pub(super) fn paged(
        &mut self,
        topic: &TopicName,
        queue: u32,
        first: u64,
        page: &Page,
        extents: &[Extent],
    ) -> Option<()> {
        let page = PageRef::new(first, page, *extents.first()?)?;
        self.topics.get_mut(topic)?.queue_mut(queue)?.paged(page)
    }
}

/// What is needed of a page's contents if so many of its messages are.
fn shares(contents: &[Run], needed: u64, count: u64) -> impl Iterator<Item = Run> {
    contents.iter().map(move |run| Run { bytes: (run.bytes * needed).div_ceil(count.max(1)), ..*run })
}
