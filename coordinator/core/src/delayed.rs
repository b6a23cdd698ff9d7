//! Delayed messages: those that come out soon are in memory, the others in pages on the shelf.
//!
//! ```text
//!   soon    ●●●●●●●●●●●●● ●  ●   ●      ●         any due time; too many of them: the last ones go
//!   pages                  [──────][──────────]   written together: side by side
//!                       [────────────][──────]    written at another time: they may overlap
//!           now ─────────────────────────────► due
//! ```
//!
//! A page comes back whole when its first message is the next one of all, so the order of release is the
//! order of due times wherever a message is. Messages with random delays end up in about one page of every
//! time that pages were written; so many pages come back at once. An engine therefore does not put a page
//! away now and then but half of what it holds at a time: then all but a small part of any number of delayed
//! messages stays on the shelf (with a window of 64 pages at most one in 32).
//!
//! Memory per page: a [`DelayedPageRef`], with one line for each topic in it. Deliberately absent: pages that
//! are written anew because one message was recalled or a topic deleted; that waits until they are carried
//! forward.

use std::collections::BTreeMap;

use crate::ids::MessageId;
use crate::image::Half;
use crate::message::Extent;
use crate::names::{ProducerGroup, TopicName};
use crate::shelf::{Run, runs};
use crate::time::Timestamp;

/// When a delayed message is due, and which it is: the order in which they come out.
pub type Due = (Timestamp, MessageId);

/// A committed message whose time has not come.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Delayed {
    pub producer_group: ProducerGroup,
    pub half: Half,
}

/// Delayed messages in their order, as they are written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DelayedPage(pub Vec<(Due, Delayed)>);

/// What stays in memory of a page of delayed messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DelayedPageRef {
    /// The first one in it; it may have been recalled since.
    pub first: Due,
    /// The last one in it.
    pub last: Due,
    /// Smallest and largest id: ids grow with time, so this tells which page to look into.
    pub ids: (MessageId, MessageId),
    /// How many are in it, dead or alive.
    pub count: u64,
    /// How many of each topic still wait. Those of other topics were there before the topic was deleted.
    pub live: Vec<(TopicName, u64)>,
    /// Positions of those that were recalled.
    pub recalled: Vec<u64>,
    /// Where the page is.
    pub extent: Extent,
    /// Where the contents of its messages are.
    pub contents: Vec<Run>,
}

/// Runs of one page. More than for a queue: who is due together need not have come together.
const RUNS_MAX: usize = 64;

impl DelayedPageRef {
    fn new(DelayedPage(page): &DelayedPage, extent: Extent) -> Option<Self> {
        let ids = || page.iter().map(|((_, id), _)| *id);
        let mut live: BTreeMap<TopicName, u64> = BTreeMap::new();
        for (_, delayed) in page {
            *live.entry(delayed.half.topic.clone()).or_default() += 1;
        }
        Some(Self {
            first: page.first()?.0,
            last: page.last()?.0,
            ids: (ids().min()?, ids().max()?),
            count: page.len() as u64,
            live: live.into_iter().collect(),
            recalled: Vec::new(),
            extent,
            contents: runs(page.iter().map(|(_, delayed)| delayed.half.content), RUNS_MAX),
        })
    }

    /// How many still wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.live.iter().map(|(_, count)| count).sum()
    }

    /// Whether this message may be in it.
    pub(crate) fn may_have(&self, topic: &TopicName, due: Due) -> bool {
        let (earliest, latest) = self.ids;
        (self.first..=self.last).contains(&due)
            && (earliest..=latest).contains(&due.1)
            && self.live.iter().any(|(live, _)| live == topic)
    }

    /// Whether the message at this position still waits.
    pub(crate) fn is_live(&self, position: u64, topic: &TopicName) -> bool {
        self.live.iter().any(|(live, _)| live == topic) && !self.recalled.contains(&position)
    }

    /// Those of its messages that still wait.
    pub(crate) fn alive(&self, DelayedPage(page): DelayedPage) -> Vec<(Due, Delayed)> {
        let alive =
            |(position, (_, delayed)): &(u64, (Due, Delayed))| self.is_live(*position, &delayed.half.topic);
        (0..).zip(page).filter(alive).map(|(_, message)| message).collect()
    }
}

/// What comes out next of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// This message, which is in memory.
    Message(Due),
    /// A message of the page with this first one.
    Page(Due),
}

/// All delayed messages.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    soon: BTreeMap<Due, Delayed>,
    /// By their first message.
    pages: BTreeMap<Due, DelayedPageRef>,
}

impl Waiting {
    pub(crate) fn next(&self) -> Option<Next> {
        let message = self.soon.keys().next().copied();
        let page = self.pages.keys().next().copied();
        match (message, page) {
            (Some(message), Some(page)) if message < page => Some(Next::Message(message)),
            (_, Some(page)) => Some(Next::Page(page)),
            (Some(message), None) => Some(Next::Message(message)),
            (None, None) => None,
        }
    }

    /// When there is something to do again: a message is due, or a page has to come back.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.next().map(|(Next::Message((due, _)) | Next::Page((due, _)))| due)
    }

    pub(crate) fn soon(&self) -> &BTreeMap<Due, Delayed> {
        &self.soon
    }

    pub(crate) fn soon_mut(&mut self) -> &mut BTreeMap<Due, Delayed> {
        &mut self.soon
    }

    pub(crate) fn pages(&self) -> &BTreeMap<Due, DelayedPageRef> {
        &self.pages
    }

    /// Messages went onto the shelf, or the page that began with `old` was written anew.
    pub(crate) fn paged(&mut self, old: Option<Due>, page: &DelayedPage, extent: Extent) -> Option<()> {
        match old {
            Some(old) => drop(self.pages.remove(&old)?),
            None => page.0.iter().try_for_each(|(due, _)| self.soon.remove(due).map(drop))?,
        }
        self.keep(DelayedPageRef::new(page, extent)?);
        Some(())
    }

    /// A page is on the shelf.
    pub(crate) fn keep(&mut self, page: DelayedPageRef) {
        self.pages.insert(page.first, page);
    }

    /// A page is no longer on the shelf; its messages come back by [`Waiting::soon_mut`].
    pub(crate) fn take(&mut self, first: Due) -> Option<DelayedPageRef> {
        self.pages.remove(&first)
    }

    /// A message in a page waits no longer.
    pub(crate) fn recalled(&mut self, first: Due, position: u64, topic: &TopicName) -> Option<()> {
        let page = self.pages.get_mut(&first)?;
        let (_, live) = page.live.iter_mut().find(|(live, _)| live == topic)?;
        *live = live.checked_sub(1)?;
        page.recalled.push(position);
        page.live.retain(|(_, live)| *live > 0);
        if page.live.is_empty() {
            self.pages.remove(&first);
        }
        Some(())
    }

    /// The messages of a topic wait no longer.
    pub(crate) fn forget(&mut self, topic: &TopicName) {
        self.soon.retain(|_, delayed| delayed.half.topic != *topic);
        self.pages.retain(|_, page| {
            page.live.retain(|(live, _)| live != topic);
            !page.live.is_empty()
        });
    }
}
