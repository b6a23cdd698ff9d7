//! Queue entries that do not fit into memory: pages that the engine keeps with the events.
//!
//! A backlog of millions costs some hundred bytes of memory for every thousand messages. Short-lived
//! messages never get here.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::message::Extent;
use crate::queue::Entry;
use crate::time::Timestamp;

/// Reads pages back that were handed to the log.
pub trait Shelf: fmt::Debug + Send + Sync {
    /// The entries of a page. `None` if it cannot be read: whoever keeps the shelf must then see to it
    /// that nothing of what the rules decide without it becomes durable.
    fn page(&self, extent: Extent) -> Option<Arc<[Entry]>>;
}

/// A shelf with nothing on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyShelf;

impl Shelf for EmptyShelf {
    fn page(&self, _: Extent) -> Option<Arc<[Entry]>> {
        None
    }
}

/// Consecutive entries of one queue, as they are written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page(pub Vec<Entry>);

/// What stays in memory of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRef {
    /// Offset of its first entry.
    pub first: u64,
    /// Number of entries.
    pub count: u64,
    /// Where the page is.
    pub extent: Extent,
    /// When its first and its last entry were released.
    pub released: (Timestamp, Timestamp),
    /// Where the contents of its messages are.
    pub contents: Vec<Run>,
}

/// A stretch of the engine's storage with something in it that is still needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Position of the first byte.
    pub from: u64,
    /// Position behind the last byte.
    pub to: u64,
    /// Bytes in between that are needed.
    pub bytes: u64,
}

/// Contents further apart than this are in different runs.
const RUN_GAP_MAX: u64 = 1024 * 1024;

impl PageRef {
    pub(crate) fn new(first: u64, page: &Page, extent: Extent) -> Option<Self> {
        let released = (page.0.first()?.released_at, page.0.last()?.released_at);
        let mut contents: Vec<Run> = page.0.iter().map(|entry| Run::from(entry.content)).collect();
        contents.sort_unstable_by_key(|run| run.from);
        contents.dedup_by(|next, run| run.join(*next));
        Some(Self { first, count: page.0.len() as u64, extent, released, contents })
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.count
    }
}

impl Run {
    /// Whether it reaches into the stretch between two positions.
    #[must_use]
    pub fn touches(&self, from: u64, to: u64) -> bool {
        self.from < to && from < self.to
    }

    /// Takes the next one in if it is near.
    fn join(&mut self, next: Self) -> bool {
        let near = next.from <= self.to.saturating_add(RUN_GAP_MAX);
        if near {
            self.to = self.to.max(next.to);
            self.bytes += next.bytes;
        }
        near
    }
}

impl From<Extent> for Run {
    fn from(extent: Extent) -> Self {
        let bytes = u64::from(extent.length);
        Self { from: extent.position, to: extent.position + bytes, bytes }
    }
}

/// An entry, wherever it is.
pub(crate) enum Found<'a> {
    Hot(&'a Entry),
    Cold(Arc<[Entry]>, usize),
}

impl Deref for Found<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        match self {
            Self::Hot(entry) => entry,
            Self::Cold(page, index) => page.get(*index).expect("it was found there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_contents_are_one_run() {
        let run = |from, to, bytes| Run { from, to, bytes };
        let far = RUN_GAP_MAX * 2;
        for (mut first, next, joined) in [
            (run(0, 10, 10), run(10, 30, 20), Some(run(0, 30, 30))),
            (run(0, 10, 10), run(500, 530, 30), Some(run(0, 530, 40))),
            (run(0, 10, 10), run(far, far + 1, 1), None),
        ] {
            assert_eq!(first.join(next).then_some(first), joined);
        }
    }
}
