//! Queue entries and delayed messages that do not fit into memory: pages that the engine keeps with the
//! events.
//!
//! A backlog of millions costs some hundred bytes of memory for every thousand messages. Short-lived
//! messages never get here.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::delayed::DelayedPage;
use crate::message::Extent;
use crate::queue::Entry;
use crate::time::Timestamp;

/// Reads pages back that were handed to the log.
pub trait Shelf: fmt::Debug + Send + Sync {
    /// The entries of a page. `None` if it cannot be read: whoever keeps the shelf must then see to it
    /// that nothing of what the rules decide without it becomes durable.
    fn page(&self, extent: Extent) -> Option<Arc<[Entry]>>;

    /// A page of delayed messages. `None` as for [`Shelf::page`].
    fn delayed_page(&self, extent: Extent) -> Option<DelayedPage>;
}

/// A shelf with nothing on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyShelf;

impl Shelf for EmptyShelf {
    fn page(&self, _: Extent) -> Option<Arc<[Entry]>> {
        None
    }

    fn delayed_page(&self, _: Extent) -> Option<DelayedPage> {
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

/// Contents nearer than this are in one run.
const RUN_GAP_MIN: u64 = 4 * 1024;
/// Runs of one page of a queue; beyond that the nearest are taken together.
const RUNS_MAX: usize = 16;

impl PageRef {
    pub(crate) fn new(first: u64, page: &Page, extent: Extent) -> Option<Self> {
        let released = (page.0.first()?.released_at, page.0.last()?.released_at);
        let contents = page.0.iter().filter(|entry| entry.is_kept()).map(|entry| entry.content);
        let contents = runs(contents, RUNS_MAX);
        Some(Self { first, count: page.0.len() as u64, extent, released, contents })
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// Where contents are: few runs, with the largest gaps between them.
pub(crate) fn runs(contents: impl Iterator<Item = Extent>, runs_max: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = contents.map(Run::from).collect();
    runs.sort_unstable_by_key(|run| run.from);
    let mut gaps: Vec<u64> =
        runs.iter().zip(runs.iter().skip(1)).map(|(run, next)| run.gap_to(next)).collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    let apart = gaps.get(runs_max.saturating_sub(1)).copied().unwrap_or(0).max(RUN_GAP_MIN);
    runs.dedup_by(|next, run| {
        let near = run.gap_to(next) <= apart;
        if near {
            run.to = run.to.max(next.to);
            run.bytes += next.bytes;
        }
        near
    });
    // There may be many pages, and each had room for a run of every entry.
    runs.shrink_to_fit();
    runs
}

impl Run {
    /// Whether it reaches into the stretch between two positions.
    #[must_use]
    pub fn touches(&self, from: u64, to: u64) -> bool {
        self.from < to && from < self.to
    }

    fn gap_to(&self, next: &Self) -> u64 {
        next.from.saturating_sub(self.to)
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
        let extent = |position| Extent { position, length: 10 };
        let bytes_of = |positions: &[u64]| runs(positions.iter().map(|at| extent(*at)), RUNS_MAX);
        assert_eq!(bytes_of(&[]), []);
        assert_eq!(bytes_of(&[500, 0]), [Run { from: 0, to: 510, bytes: 20 }]);
        let far = 10 * RUN_GAP_MIN;
        let (one, other) = (Run { from: 0, to: 10, bytes: 10 }, Run { from: far, to: far + 10, bytes: 10 });
        assert_eq!(bytes_of(&[0, far]), [one, other]);
        let many: Vec<u64> = (0..100).map(|at| at * far + (at / 10) * far).collect();
        let runs = bytes_of(&many);
        assert!((1..=RUNS_MAX).contains(&runs.len()), "{} runs", runs.len());
        assert_eq!(runs.iter().map(|run| run.bytes).sum::<u64>(), 1_000);
    }
}
