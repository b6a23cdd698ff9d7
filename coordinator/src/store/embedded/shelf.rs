//! Pages of queue entries and of delayed messages, read back from the journal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use halfmq_core::{DelayedPage, Entry, Extent, Shelf};

use super::journal::{self, Segments};
use super::record::{self, Malformed};

/// Pages that stay in memory after they were read, in case the next entry is asked for.
const CACHED_PAGES: usize = 64;

/// The shelf of an engine.
#[derive(Default)]
pub(super) struct JournalShelf {
    segments: OnceLock<Segments>,
    /// Used last first.
    cache: Mutex<VecDeque<(u64, Arc<[Entry]>)>>,
    failed: OnceLock<String>,
}

impl JournalShelf {
    /// Pages are read from these segments from now on.
    pub(super) fn open(&self, segments: &Segments) {
        drop(self.segments.set(Arc::clone(segments)));
    }

    /// Why a page could not be read; nothing that was decided since may become durable.
    #[must_use]
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// What is read from now on is missing something, if this cannot be.
    fn read<T>(&self, extent: Extent, take: fn(&Bytes) -> Result<T, Malformed>) -> Option<T> {
        let taken = self.bytes(extent).and_then(|bytes| take(&bytes).map_err(|error| error.to_string()));
        taken
            .map_err(|error| {
                let what = format!("the page at journal address {}: {error}", extent.position);
                tracing::error!(error = what, "a page cannot be read: the store stops");
                drop(self.failed.set(what));
            })
            .ok()
    }

    fn bytes(&self, extent: Extent) -> Result<Bytes, String> {
        let segments = self.segments.get().ok_or("the journal is not open")?;
        journal::read(segments, extent.position, extent.length).map_err(|error| error.to_string())
    }
}

impl Shelf for JournalShelf {
    fn page(&self, extent: Extent) -> Option<Arc<[Entry]>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(position, _)| *position == extent.position) {
            let cached = cache.remove(at)?;
            let page = Arc::clone(&cached.1);
            cache.push_front(cached);
            return Some(page);
        }
        let page: Arc<[Entry]> = self.read(extent, record::page)?.0.into();
        cache.truncate(CACHED_PAGES - 1);
        cache.push_front((extent.position, Arc::clone(&page)));
        Some(page)
    }

    /// Not from the cache: it comes back only once.
    fn delayed_page(&self, extent: Extent) -> Option<DelayedPage> {
        self.read(extent, record::delayed_page)
    }
}

impl std::fmt::Debug for JournalShelf {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("JournalShelf").field("failed", &self.failed).finish_non_exhaustive()
    }
}
