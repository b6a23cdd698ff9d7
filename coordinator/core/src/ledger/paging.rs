//! Keeping memory and disk near what is needed: entries go onto the shelf, contents are carried forward.

use super::Ledger;
use crate::event::{Event, Log};
use crate::ids::MessageId;
use crate::image::Holder;
use crate::limits::PAGE_ENTRIES;
use crate::message::{Extent, Message};
use crate::names::TopicName;
use crate::queue::Place;
use crate::shelf::{Page, PageRef, Run};

/// What a stretch of storage still holds.
enum Needed {
    Content(Holder, Extent),
    Page { topic: TopicName, queue: u32, page: PageRef },
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

    /// Every stretch of storage that the ledger may still ask for.
    pub fn needed(&self, seen: &mut dyn FnMut(Run)) {
        self.each_needed(&mut |needed| match needed {
            Needed::Content(_, content) => seen(content.into()),
            Needed::Page { page, .. } => {
                seen(page.extent.into());
                page.contents.iter().for_each(|run| seen(*run));
            }
        });
    }

    /// Writes anew what is needed of the storage between two positions, up to some `bytes_max`. `read` gives
    /// the message of an extent; one that it cannot read stays where it is. Returns how many bytes were
    /// written.
    pub fn carry_forward(
        &mut self,
        (from, to): (u64, u64),
        bytes_max: u64,
        read: &dyn Fn(Extent) -> Option<Message>,
        log: &mut dyn Log,
    ) -> u64 {
        let mut needed = Vec::new();
        self.each_needed(&mut |item| {
            let touches = match &item {
                Needed::Content(_, content) => Run::from(*content).touches(from, to),
                Needed::Page { page, .. } => {
                    Run::from(page.extent).touches(from, to)
                        || page.contents.iter().any(|run| run.touches(from, to))
                }
            };
            // Enough for one call, so that this list has a bound.
            if touches && needed.len() < PAGE_ENTRIES {
                needed.push(item);
            }
        });
        let mut written = 0;
        for item in needed {
            if written >= bytes_max {
                break;
            }
            written += match item {
                Needed::Content(holder, content) => self.carry(holder, content, read, log),
                Needed::Page { topic, queue, page } => {
                    let budget = bytes_max - written;
                    self.carry_page(&topic, queue, &page, ((from, to), budget), read, log)
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
        topic: &TopicName,
        queue: u32,
        page: &PageRef,
        ((from, to), budget): ((u64, u64), u64),
        read: &dyn Fn(Extent) -> Option<Message>,
        log: &mut dyn Log,
    ) -> u64 {
        let Some(entries) = self.shelf.page(page.extent) else { return 0 };
        let mut entries = entries.to_vec();
        let base =
            self.topics.get(topic).and_then(|topic| topic.queue(queue)).map_or(0, crate::queue::Queue::base);
        let mut moved = 0;
        for (offset, entry) in (page.first..).zip(&mut entries) {
            let touches = offset >= base && Run::from(entry.content).touches(from, to);
            if !touches || (moved > 0 && moved >= budget) {
                continue;
            }
            let Some(message) = read(entry.content) else { continue };
            moved += u64::from(entry.content.length);
            let event = Event::Moved { holder: Holder::Page, message };
            entry.content = log.append(&event).first().copied().unwrap_or(entry.content);
        }
        let event = Event::Paged { topic: topic.clone(), queue, first: page.first, page: Page(entries) };
        self.record(log, event);
        moved + u64::from(page.extent.length)
    }

    fn each_needed(&self, seen: &mut dyn FnMut(Needed)) {
        for (name, topic) in &self.topics {
            for (number, queue) in (0..).zip(&topic.queues) {
                for page in queue.pages() {
                    seen(Needed::Page { topic: name.clone(), queue: number, page: page.clone() });
                }
                for (offset, entry) in
                    (queue.hot_base()..).zip(queue.hot()).skip_while(|(at, _)| *at < queue.base())
                {
                    let place = Place { topic: name.clone(), queue: number, offset };
                    seen(Needed::Content(Holder::Entry(place), entry.content));
                }
            }
        }
        for (transaction, open) in &self.open {
            for (index, half) in (0..).zip(&open.halves) {
                let id = MessageId { transaction: *transaction, index };
                seen(Needed::Content(Holder::Half(id), half.content));
            }
        }
        for ((due, id), delayed) in &self.delayed {
            seen(Needed::Content(Holder::Delayed(*due, *id), delayed.half.content));
        }
    }

    /// Where a content is now.
    pub(super) fn moved(&mut self, holder: &Holder, extents: &[Extent]) -> Option<()> {
        let content = match holder {
            Holder::Half(id) => {
                &mut self.open.get_mut(&id.transaction)?.halves.get_mut(usize::from(id.index))?.content
            }
            Holder::Delayed(due, id) => &mut self.delayed.get_mut(&(*due, *id))?.half.content,
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
