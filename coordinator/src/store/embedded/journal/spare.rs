//! The next segment, made while the current one fills.
//!
//! ```text
//!   a segment was released ─► NNN.old ───────┐
//!   there is none ─► zeros, piece by piece ──┴─► MMM.seg, blank ─► its head ─► frames
//! ```
//!
//! Zeros cost the disk as much as the frames do. So they are written in step with the journal: a segment at a
//! time would hold up the syncs that callers wait for. A file that is reused is taken as it is. It keeps its
//! place on the disk, too, so that there is room on a full one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::JournalOptions;
use super::remover::Remover;
use super::segment::{self, AT_ONCE, Blank, Found, PIECE, Segment};
use crate::store::embedded::disk::Disk;

/// Released files that are kept for reuse: as many as one image lets go of.
const OLD_MAX: usize = 4;

/// How much longer than the current segment the next one may be.
const GROWTH: u64 = 4;

/// The next segment, and files that can become one.
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    in_background: bool,
    next: Next,
    /// Names of released files that are kept.
    old: Vec<String>,
    /// Takes away those that are not; starts with the first.
    remover: Option<Remover>,
}

enum Next {
    Missing,
    Coming(Maker),
    Ready(Blank),
}

impl Spares {
    /// Knows the files that were released before, and the next segment if it was ready.
    pub(super) fn open(disk: Arc<dyn Disk>, options: &JournalOptions, number: u64) -> io::Result<Self> {
        let next = match Segment::find_if_there(&*disk, number)? {
            Some(Found::Blank(blank)) => {
                // Whoever gave it its name may have died before that was durable.
                disk.sync_directory()?;
                Next::Ready(blank)
            }
            Some(_) | None => Next::Missing,
        };
        let mut old: Vec<String> =
            disk.list()?.into_iter().filter(|name| segment::is_released(name)).collect();
        for name in old.split_off(old.len().min(OLD_MAX)) {
            disk.remove(&name)?;
        }
        let JournalOptions { segment_bytes, spare_in_background, .. } = *options;
        Ok(Self { disk, segment_bytes, in_background: spare_in_background, next, old, remover: None })
    }

    /// The one that stands ready.
    pub(super) fn ready(&self) -> Option<&Blank> {
        match &self.next {
            Next::Ready(blank) => Some(blank),
            Next::Missing | Next::Coming(_) => None,
        }
    }

    pub(super) fn take(&mut self) -> Option<Blank> {
        match std::mem::replace(&mut self.next, Next::Missing) {
            Next::Ready(blank) => Some(blank),
            next @ (Next::Missing | Next::Coming(_)) => {
                self.next = next;
                None
            }
        }
    }

    /// Begins to make it, or sees whether it is made.
    ///
    /// # Errors
    /// Of the disk. Nothing is lost; try again later.
    pub(super) fn prepare(&mut self, current: &Segment, salt: impl FnOnce() -> u64) -> io::Result<()> {
        let number = current.number() + 1;
        // A new store begins with a small one; the next must not be too large to be made meanwhile.
        let length = self.segment_bytes.min(GROWTH * current.length());
        match std::mem::replace(&mut self.next, Next::Missing) {
            Next::Ready(blank) => self.next = Next::Ready(blank),
            Next::Coming(maker) if !maker.is_finished() => self.next = Next::Coming(maker),
            Next::Coming(maker) => self.next = Next::Ready(maker.join()?),
            Next::Missing if self.in_background => {
                self.next = Next::Coming(self.maker(number, length, salt())?)
            }
            Next::Missing => self.next = Next::Ready(self.make_now(number, length, salt())?),
        }
        Ok(())
    }

    /// Waits for it, or makes it, at least so long.
    ///
    /// # Errors
    /// Of the disk. Nothing is lost; try again later.
    pub(super) fn ensure(&mut self, number: u64, length: u64, salt: impl FnOnce() -> u64) -> io::Result<()> {
        match std::mem::replace(&mut self.next, Next::Missing) {
            Next::Coming(maker) => self.next = Next::Ready(maker.join()?),
            Next::Ready(blank) => self.next = Next::Ready(blank),
            Next::Missing => self.next = Next::Ready(self.make_now(number, length, salt())?),
        }
        match &mut self.next {
            // Never made anew: while that fails halfway, the room that decisions live on must stay.
            Next::Ready(blank) => blank.grow(length),
            Next::Missing | Next::Coming(_) => Ok(()),
        }
    }

    /// Tells that this share of the current segment is used.
    pub(super) fn keep_up(&mut self, used: u64, of: u64) {
        if let Next::Coming(maker) = &mut self.next {
            maker.allow(due(maker.length, used, of));
        }
    }

    /// Lets go of a segment, or keeps its file for reuse.
    ///
    /// # Errors
    /// Of the disk, unless a thread of its own has to do with it; the file then stays, and may be released after
    /// the next start.
    pub(super) fn recycle(&mut self, segment: Arc<Segment>) -> io::Result<()> {
        let (name, released) = (segment.name(), segment.released_name());
        // Whoever still reads in it must find what was there: then it is no file to write over.
        let unused = Arc::into_inner(segment).is_some_and(|segment| segment.length() == self.segment_bytes);
        if !unused || self.old.len() >= OLD_MAX {
            return self.remove(name);
        }
        self.disk.rename(&name, &released)?;
        self.old.push(released);
        Ok(())
    }

    fn remove(&mut self, name: String) -> io::Result<()> {
        if !self.in_background {
            return self.disk.remove(&name);
        }
        let remover = match self.remover.take() {
            Some(remover) => remover,
            None => Remover::start(Arc::clone(&self.disk))?,
        };
        self.remover.insert(remover).remove(name)
    }

    fn make_now(&mut self, number: u64, length: u64, salt: u64) -> io::Result<Blank> {
        let old = self.old.pop();
        make(&*self.disk, old, number, length, salt, &AT_ONCE)
    }

    fn maker(&mut self, number: u64, length: u64, salt: u64) -> io::Result<Maker> {
        let (disk, old) = (Arc::clone(&self.disk), self.old.pop());
        let pace = Arc::new(Pace::default());
        let of_thread = Arc::clone(&pace);
        let make = move || make(&*disk, old, number, length, salt, &|at| of_thread.wait(at));
        let thread = std::thread::Builder::new().name("halfmq-spare".into()).spawn(make)?;
        Ok(Maker { thread: Some(thread), pace, length, told: 0 })
    }
}

/// Begins and ends with the current segment, and leaves an eighth of it at either end: the thread needs some
/// time to begin, and the journal must not have to wait for the last piece.
fn due(bytes: u64, used: u64, of: u64) -> u64 {
    let eighth = (of / 8).max(1);
    let share = u128::from(used.saturating_sub(eighth)) * u128::from(bytes) / u128::from(6 * eighth);
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn make(
    disk: &dyn Disk,
    old: Option<String>,
    number: u64,
    length: u64,
    salt: u64,
    pace: &segment::Pace<'_>,
) -> io::Result<Blank> {
    match old {
        Some(old) => Blank::reuse(disk, &old, number, length, salt),
        None => Blank::make(disk, number, length, salt, pace),
    }
}

/// A thread that makes the next segment. It ends with the journal: nothing else writes into its files then.
struct Maker {
    thread: Option<JoinHandle<io::Result<Blank>>>,
    pace: Arc<Pace>,
    /// Of what it makes.
    length: u64,
    /// What it was last told.
    told: u64,
}

impl Maker {
    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets it go that far.
    fn allow(&mut self, bytes: u64) {
        if bytes / PIECE > self.told / PIECE {
            self.told = bytes;
            self.pace.allowed.store(bytes, Ordering::Release);
            self.wake();
        }
    }

    fn join(mut self) -> io::Result<Blank> {
        self.allow(u64::MAX);
        let panicked = || io::Error::other("the thread that makes segments panicked");
        self.thread.take().map_or_else(|| Err(panicked()), |thread| thread.join().map_err(|_| panicked())?)
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.pace.given_up.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[derive(Default)]
struct Pace {
    allowed: AtomicU64,
    given_up: AtomicBool,
}

impl Pace {
    /// Waits until the piece that begins there may be written; returns how far it may go.
    fn wait(&self, at: u64) -> io::Result<u64> {
        loop {
            if self.given_up.load(Ordering::Acquire) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let allowed = self.allowed.load(Ordering::Acquire);
            if allowed >= at {
                return Ok(allowed);
            }
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Anchor;
    use super::*;
    use crate::store::embedded::disk::Directory;

    #[test]
    fn files_beyond_those_kept_for_reuse_are_gone_when_the_journal_ends() -> io::Result<()> {
        const BYTES: u64 = 16 * 1024;
        for in_background in [false, true] {
            let directory = tempfile::tempdir()?;
            let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory.path().to_owned())?);
            let options = JournalOptions { segment_bytes: BYTES, spare_in_background: in_background };
            let mut spares = Spares::open(Arc::clone(&disk), &options, 0)?;
            let segment = |number, bytes| {
                let first = Anchor { address: 0, sequence: 1 };
                let blank = Blank::make(&*disk, number, bytes, 7, &AT_ONCE)?;
                blank.activate(first, 1, None).map(Arc::new)
            };
            let is_read = segment(0, BYTES)?;
            spares.recycle(Arc::clone(&is_read))?;
            spares.recycle(segment(1, BYTES / 2)?)?;
            for number in 2..10 {
                spares.recycle(segment(number, BYTES)?)?;
            }
            drop(spares);
            let mut left = disk.list()?;
            left.sort();
            assert_eq!(left, ["0000000002.old", "0000000003.old", "0000000004.old", "0000000005.old"]);
            is_read.read(&mut [0; 16], 0)?;
        }
        Ok(())
    }

    #[test]
    fn the_next_segment_grows_with_the_current_one() {
        let steps = [(0, 0), (100, 0), (101, 1), (400, 400), (700, 800), (800, 933)];
        for (used, expected) in steps {
            assert_eq!(due(800, used, 800), expected, "{used} of 800 used");
        }
        assert_eq!(due(800, 8, 8), 933, "a small one is soon full");
        assert!(due(u64::MAX, u64::MAX, 1) == u64::MAX && due(1, 0, 0) == 0, "no overflow");
    }
}
