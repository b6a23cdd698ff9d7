//! Pages of queue entries, read back from the journal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use halfmq_core::{Entry, Extent, Shelf};

use super::journal::{self, Segments};
use super::record;

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

    fn read(&self, extent: Extent) -> Result<Arc<[Entry]>, String> {
        let segments = self.segments.get().ok_or("the journal is not open")?;
        let bytes =
            journal::read(segments, extent.position, extent.length).map_err(|error| error.to_string())?;
        record::page(&bytes).map(|page| page.0.into()).map_err(|error| error.to_string())
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
        match self.read(extent) {
            Ok(page) => {
                cache.truncate(CACHED_PAGES - 1);
                cache.push_front((extent.position, Arc::clone(&page)));
                Some(page)
            }
            Err(error) => {
                let what = format!("the queue page at journal address {}: {error}", extent.position);
                tracing::error!(error = what, "a page of a queue cannot be read: the store stops");
                drop(self.failed.set(what));
                None
            }
        }
    }
}

impl std::fmt::Debug for JournalShelf {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("JournalShelf").field("failed", &self.failed).finish_non_exhaustive()
    }
}
