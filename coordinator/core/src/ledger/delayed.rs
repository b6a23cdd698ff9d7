//! Delayed messages leave memory and come back, are taken back where they are, and are carried forward.

use super::{Inconsistency, Ledger};
use crate::delayed::{Delayed, DelayedPage, DelayedPageRef, Due};
use crate::event::{Event, Log};
use crate::image::{Half, Holder};
use crate::message::{Extent, Message};
use crate::names::TopicName;
use crate::shelf::Run;
use crate::time::Timestamp;

impl Ledger {
    /// Delayed messages in memory.
    #[must_use]
    pub fn hot_delayed(&self) -> usize {
        self.delayed.soon().len()
    }

    /// When the next delayed message is due, or one was that was recalled.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.delayed.next_due()
    }

    /// Puts the delayed messages that are due last onto the shelf: one page of so many. Whether there were
    /// enough in memory. Call it several times at once: pages that are written together do not overlap.
    pub fn shelve_delayed(&mut self, messages: usize, log: &mut dyn Log) -> bool {
        let messages = messages.max(1);
        if self.delayed.soon().len() < messages {
            return false;
        }
        let last = self.delayed.soon().iter().rev().take(messages);
        let mut page: Vec<_> = last.map(|(due, delayed)| (*due, delayed.clone())).collect();
        page.reverse();
        self.record(log, Event::DelayedPaged { old: None, page: DelayedPage(page) });
        true
    }

    pub(super) fn delayed_paged(
        &mut self,
        old: Option<Due>,
        page: &DelayedPage,
        extents: &[Extent],
    ) -> Option<()> {
        self.delayed.paged(old, page, *extents.first()?)
    }

    /// Brings a page back. `false` if it cannot be read: then nothing of it, and nothing behind it, comes out.
    pub(super) fn load_delayed(&mut self, first: Due, log: &mut dyn Log) -> bool {
        let page = self.delayed.pages().get(&first).and_then(|page| self.shelf.delayed_page(page.extent));
        let Some(page) = page else { return false };
        log.append(&Event::DelayedLoaded { first });
        // Not by `apply`, which would read the page again.
        self.delayed_back(first, page).expect("the page is there, and its topics are");
        true
    }

    pub(super) fn delayed_loaded(&mut self, first: Due) -> Result<(), Inconsistency> {
        let page = self.delayed.pages().get(&first).ok_or(Inconsistency("a page of delayed messages"))?;
        let page = self.shelf.delayed_page(page.extent);
        self.delayed_back(first, page.ok_or(Inconsistency("a page of delayed messages cannot be read"))?)
    }

    fn delayed_back(&mut self, first: Due, page: DelayedPage) -> Result<(), Inconsistency> {
        let on_shelf = self.delayed.take(first).ok_or(Inconsistency("a page of delayed messages"))?;
        for (due, delayed) in on_shelf.alive(page) {
            let shared = self.shared(delayed)?;
            self.delayed.soon_mut().insert(due, shared);
        }
        Ok(())
    }

    /// With the names as the ledger has them already, so that a million messages share them.
    pub(super) fn shared(&self, delayed: Delayed) -> Result<Delayed, Inconsistency> {
        let Delayed { producer_group, half } = delayed;
        let known = self.producers.get_key_value(&producer_group).map(|(known, _)| known.clone());
        let half = Half { topic: self.topic_name(&half.topic)?, ..half };
        Ok(Delayed { producer_group: known.unwrap_or(producer_group), half })
    }

    /// A delayed message enters, from its commit or from an image.
    pub(super) fn delayed_restored(&mut self, due: Due, delayed: Delayed) -> Result<(), Inconsistency> {
        let delayed = self.shared(delayed)?;
        self.topics.get_mut(&delayed.half.topic).ok_or(Inconsistency("topic"))?.delayed += 1;
        self.delayed.soon_mut().insert(due, delayed);
        Ok(())
    }

    pub(super) fn delayed_page_restored(&mut self, mut page: DelayedPageRef) -> Result<(), Inconsistency> {
        for (topic, count) in &mut page.live {
            *topic = self.topic_name(topic)?;
            let count = usize::try_from(*count).map_err(|_| Inconsistency("messages of a page"))?;
            self.topics.get_mut(topic).ok_or(Inconsistency("topic"))?.delayed += count;
        }
        self.delayed.keep(page);
        Ok(())
    }

    /// The page that a message waits in, and its position there. Looks into those whose due times and ids
    /// reach around it; mostly that is one.
    pub(super) fn delayed_on_shelf(&self, topic: &TopicName, due: Due) -> Option<(Due, u64)> {
        let candidates = self.delayed.pages().range(..=due).map(|(_, page)| page);
        candidates.filter(|page| page.may_have(topic, due)).find_map(|on_shelf| {
            let DelayedPage(page) = self.shelf.delayed_page(on_shelf.extent)?;
            let index = page.binary_search_by_key(&due, |(due, _)| *due).ok()?;
            let (position, (_, delayed)) = (index as u64, page.get(index)?);
            let waits = delayed.half.topic == *topic && on_shelf.is_live(position, topic);
            waits.then_some((on_shelf.first, position))
        })
    }

    pub(super) fn recalled_on_shelf(
        &mut self,
        topic: &TopicName,
        page: Due,
        position: u64,
    ) -> Result<(), Inconsistency> {
        self.delayed.recalled(page, position, topic).ok_or(Inconsistency("a recall of nothing"))?;
        self.topics.get_mut(topic).ok_or(Inconsistency("topic"))?.delayed -= 1;
        Ok(())
    }

    /// Writes a page anew, with those of its messages that still wait, and their contents of this stretch.
    pub(super) fn carry_delayed_page(
        &mut self,
        on_shelf: &DelayedPageRef,
        ((from, to), budget): ((u64, u64), u64),
        read: &dyn Fn(Extent) -> Option<Message>,
        log: &mut dyn Log,
    ) -> u64 {
        let Some(page) = self.shelf.delayed_page(on_shelf.extent) else { return 0 };
        let mut page = on_shelf.alive(page);
        let alone = on_shelf.waiting() == on_shelf.count;
        let (mut moved, mut changed) = (0, !alone || Run::from(on_shelf.extent).touches(from, to));
        for (_, Delayed { half, .. }) in &mut page {
            if !Run::from(half.content).touches(from, to) || (moved > 0 && moved >= budget) {
                continue;
            }
            let Some(message) = read(half.content) else { continue };
            moved += u64::from(half.content.length);
            changed = true;
            let event = Event::Moved { holder: Holder::Page, message };
            half.content = log.append(&event).first().copied().unwrap_or(half.content);
        }
        if !changed {
            return 0;
        }
        self.record(log, Event::DelayedPaged { old: Some(on_shelf.first), page: DelayedPage(page) });
        moved + u64::from(on_shelf.extent.length)
    }
}
