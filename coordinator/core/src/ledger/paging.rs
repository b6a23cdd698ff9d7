//! Keeping memory and disk near what is needed: entries go onto the shelf, contents are carried forward.

use std::cell::LazyCell;

use super::Ledger;
use crate::cursor::Cursor;
use crate::dead_letters::DeadLetters;
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

/// Who may still need messages of one queue.
struct Readers<'a> {
    topic: &'a TopicName,
    queue: u32,
    /// What was released since then is kept in any case.
    kept_since: Timestamp,
    cursors: Vec<&'a Cursor>,
    /// If the topic is for dead letters: those of its group, if that is there.
    letters_of: Option<Option<&'a DeadLetters>>,
    /// Those of all groups that have some.
    dead: Vec<&'a DeadLetters>,
}

impl Readers<'_> {
    fn need(&self, offset: u64, released_at: Timestamp) -> bool {
        self.needed_of(offset, offset + 1, released_at).is_none_or(|needed| needed > 0)
    }

    /// How many messages of a stretch some group, or a dead letter, still needs, at most; `None`: all, for the
    /// last of them was released so lately.
    fn needed_of(&self, first: u64, end: u64, released_at: Timestamp) -> Option<u64> {
        (released_at <= self.kept_since).then(|| self.needed_within(first, end))
    }

    fn needed_within(&self, first: u64, end: u64) -> u64 {
        let undone = self.cursors.iter().map(|cursor| cursor.undone_within(first, end)).max();
        let letters = self.letters_of.map(|dead| dead.map_or(0, |dead| dead.count_within(first, end)));
        if undone.is_none() && letters.is_none() {
            return end.saturating_sub(first);
        }
        let origins: u64 = self.dead.iter().map(|dead| dead.within(self.topic, self.queue, first, end)).sum();
        undone.unwrap_or(0) + letters.unwrap_or(0) + origins
    }
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
        self.each_held(now, (0, u64::MAX), &mut |held| match held {
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
        self.each_held(now, (from, to), &mut |item| {
            // Enough for one call, so that this list has a bound.
            if held.len() < PAGE_ENTRIES {
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
        let readers = self.readers(now, topic, queue);
        let (mut moved, mut changed) = (0, Run::from(page.extent).touches(from, to));
        for (offset, entry) in (page.first..).zip(&mut entries).filter(|(_, entry)| entry.is_kept()) {
            if !readers.need(offset, entry.released_at) {
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

    /// What touches this stretch of storage.
    fn each_held(&self, now: Timestamp, (from, to): (u64, u64), seen: &mut dyn FnMut(Held)) {
        let touches = |extent: Extent| Run::from(extent).touches(from, to);
        let any_touches = |runs: &[Run]| runs.iter().any(|run| run.touches(from, to));
        for (name, topic) in &self.topics {
            for (number, queue) in (0..).zip(&topic.queues) {
                // Of most queues nothing is asked.
                let readers = LazyCell::new(|| self.readers(now, name, number));
                for page in queue.pages().iter().filter(|it| touches(it.extent) || any_touches(&it.contents))
                {
                    let needed = readers.needed_of(page.first.max(queue.base()), page.end(), page.released.1);
                    let needed = needed.unwrap_or(page.count);
                    seen(Held::Page { topic: name.clone(), queue: number, page: page.clone(), needed });
                }
                let hot = (queue.hot_base()..).zip(queue.hot()).filter(|(_, entry)| touches(entry.content));
                for (offset, entry) in hot.filter(|(at, entry)| *at >= queue.base() && entry.is_kept()) {
                    let place = Place { topic: name.clone(), queue: number, offset };
                    seen(match readers.need(offset, entry.released_at) {
                        true => Held::Content(Holder::Entry(place), entry.content),
                        false => Held::Done(place, entry.content),
                    });
                }
            }
        }
        for (transaction, open) in &self.open {
            for (index, half) in (0..).zip(&open.halves).filter(|(_, half)| touches(half.content)) {
                let id = MessageId { transaction: *transaction, index };
                seen(Held::Content(Holder::Half(id), half.content));
            }
        }
        for ((due, id), delayed) in self.delayed.soon().iter().filter(|(_, it)| touches(it.half.content)) {
            seen(Held::Content(Holder::Delayed(*due, *id), delayed.half.content));
        }
        let pages = self.delayed.pages().values();
        for page in pages.filter(|page| touches(page.extent) || any_touches(&page.contents)) {
            seen(Held::DelayedPage(page.clone()));
        }
    }

    fn readers<'a>(&'a self, now: Timestamp, topic: &'a TopicName, queue: u32) -> Readers<'a> {
        let subscriptions = self.groups.values().filter_map(|group| group.subscriptions.get(topic));
        let letters_of = topic.dead_letters_of();
        Readers {
            topic,
            queue,
            kept_since: self.kept_since(now),
            cursors: subscriptions.filter_map(|reader| reader.cursors.get(queue as usize)).collect(),
            letters_of: letters_of.map(|group| self.groups.get(&group).map(|group| &group.dead)),
            dead: self.groups.values().map(|group| &group.dead).filter(|dead| dead.len() > 0).collect(),
        }
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
