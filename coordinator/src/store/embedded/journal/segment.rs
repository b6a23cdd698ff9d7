//! One file of the journal: a head, then frames, then whatever the file held before.
//!
//! ```text
//! 0     head, twice
//! 4096  frames; the byte at address A stands at 4096 + A - base
//! ```
//!
//! A file that is whole and waits to be used has a blank head with its future salt: what stands in it are
//! zeros, or frames of its former life under another salt. Without any head it is one that is being made. The
//! head is synced before the first frame is written, so frames under a broken head mean damage.

mod head;

use std::io;
use std::sync::Arc;

use super::Stretch;
use super::frame::{self, Frame};
use crate::store::embedded::disk::{Disk, DiskFile, PAGE, ZEROS_MAX, zeros};

pub use head::Anchor;
use head::{Head, Stage};

pub(super) const HEAD_BYTES: u64 = 4_096;
/// Bytes of zeros that are written and synced at once: as few as that, and as many when there is haste.
pub(super) const PIECE: u64 = 256 * 1024;
const PIECE_MAX: u64 = ZEROS_MAX as u64;
const SUFFIX: &str = ".seg";
const RELEASED_SUFFIX: &str = ".old";

/// A file that waits to become a segment.
pub(super) struct Blank {
    file: Arc<dyn DiskFile>,
    number: u64,
    length: u64,
    salt: u64,
}

/// A segment in use.
pub struct Segment {
    file: Arc<dyn DiskFile>,
    length: u64,
    head: Head,
}

impl Blank {
    /// A new file.
    pub(super) fn make(
        disk: &dyn Disk,
        number: u64,
        length: u64,
        salt: u64,
        pace: &Pace<'_>,
    ) -> io::Result<Self> {
        let file = disk.open(&name(number))?;
        let filled = file.allocate(length).and_then(|()| fill_with_zeros(&*file, 0, length, pace));
        if let Err(error) = filled {
            // Half a spare only takes the room that decisions need.
            disk.remove(&name(number))?;
            return Err(error);
        }
        let blank = Self { file, number, length, salt };
        blank.write_head()?;
        disk.sync_directory()?;
        Ok(blank)
    }

    /// The file of a released segment, as it is: frames under another salt are none.
    pub(super) fn reuse(
        disk: &dyn Disk,
        released: &str,
        number: u64,
        length: u64,
        salt: u64,
    ) -> io::Result<Self> {
        // Were the old name to come back after a crash, it would be a segment with a strange head.
        disk.sync_directory()?;
        let file = disk.open(released)?;
        let mut blank = Self { length: file.length()?, file, number, salt };
        if let Err(error) = blank.write_head().and_then(|()| blank.grow(length)) {
            // Nobody knows it any more, and it takes the room that decisions need.
            disk.remove(released)?;
            return Err(error);
        }
        // Under its new name it is a segment with a broken head, unless it says that it is none yet.
        disk.rename(released, &name(number))?;
        disk.sync_directory()?;
        Ok(blank)
    }

    fn write_head(&self) -> io::Result<()> {
        let Self { number, salt, .. } = *self;
        let head = Head { number, base: 0, salt, identity: 0, sequence: 0, image: None };
        head.write(&*self.file, Stage::Blank)
    }

    /// Makes it at least this long. If that fails it is as long as it was.
    pub(super) fn grow(&mut self, length: u64) -> io::Result<()> {
        if length > self.length {
            fill_with_zeros(&*self.file, self.length, length, &AT_ONCE)?;
            self.length = length;
        }
        Ok(())
    }

    /// Bytes of frames it can take.
    pub(super) fn capacity(&self) -> u64 {
        self.length - HEAD_BYTES
    }

    /// Begins the segment whose first frame has this address and sequence; durable when it returns.
    pub(super) fn activate(self, first: Anchor, identity: u64, image: Option<Anchor>) -> io::Result<Segment> {
        let Self { file, number, length, salt } = self;
        let head = Head { number, base: first.address, salt, identity, sequence: first.sequence, image };
        let segment = Segment { file, length, head };
        segment.write_head(&segment.head)?;
        Ok(segment)
    }

    pub(super) fn salt(&self) -> u64 {
        self.salt
    }
}

/// What a file turned out to be.
pub(super) enum Found {
    Segment(Segment),
    /// Whole, and not used yet.
    Blank(Blank),
    /// It was being made.
    Unfinished,
    /// Its heads are broken although there are frames in it.
    Headless,
    /// It has the format of another version.
    Foreign(u32),
}

impl Segment {
    /// `None` if there is no such file.
    pub(super) fn find_if_there(disk: &dyn Disk, number: u64) -> io::Result<Option<Found>> {
        let there = disk.list()?.contains(&name(number));
        there.then(|| Self::find(disk, number)).transpose()
    }

    pub(super) fn find(disk: &dyn Disk, number: u64) -> io::Result<Found> {
        let file = disk.open(&name(number))?;
        let length = file.length()?;
        Ok(match head::read(&*file, length, number) {
            Some((Stage::Begun, head)) => Found::Segment(Self { file, length, head }),
            // It was begun, and its head was lost again.
            Some((Stage::Blank, Head { salt, .. })) if begins_with_frame(&*file, length, salt)? => {
                Found::Headless
            }
            Some((Stage::Blank, Head { salt, .. })) => Found::Blank(Blank { file, number, length, salt }),
            None => match head::other_version(&*file, length) {
                Some(version) => Found::Foreign(version),
                // Frames come only after a durable head: where there are none, a crash cut the making short.
                None if begins_with_zeros(&*file, length)? => Found::Unfinished,
                None => Found::Headless,
            },
        })
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn number(&self) -> u64 {
        self.head.number
    }

    pub(super) fn base(&self) -> u64 {
        self.head.base
    }

    pub(super) fn salt(&self) -> u64 {
        self.head.salt
    }

    /// What it covers: up to where the next one begins, if that is still there.
    pub(super) fn stretch(&self, next: Option<&Self>) -> Stretch {
        let from = self.head.base;
        let next = next.filter(|next| next.head.number == self.head.number + 1);
        let to = next.map_or(from + self.length.saturating_sub(HEAD_BYTES), |next| next.head.base);
        Stretch { from, to, file_bytes: self.length }
    }

    pub(super) fn name(&self) -> String {
        name(self.head.number)
    }

    /// What its file is called once it is released.
    pub(super) fn released_name(&self) -> String {
        format!("{:010}{RELEASED_SUFFIX}", self.head.number)
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of frames it can take.
    pub(super) fn capacity(&self) -> u64 {
        self.length.saturating_sub(HEAD_BYTES)
    }

    /// Offset in the file.
    pub(super) fn offset(&self, address: u64) -> u64 {
        HEAD_BYTES + (address - self.head.base)
    }

    pub(super) fn room_at(&self, address: u64) -> u64 {
        self.length.saturating_sub(self.offset(address))
    }

    pub(super) fn read(&self, buffer: &mut [u8], address: u64) -> io::Result<()> {
        self.file.read_at(buffer, self.offset(address))
    }

    /// Everything behind the head. What is zero on disk is not touched in memory: a segment is mostly
    /// that when a store is new, and what was touched once stays with the process for a while.
    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.length.saturating_sub(HEAD_BYTES)).unwrap_or(0)];
        let mut piece = vec![0; PIECE as usize];
        let mut at = HEAD_BYTES;
        for place in bytes.chunks_mut(piece.len()) {
            let (piece, _) = piece.split_at_mut(place.len());
            self.file.read_at(piece, at)?;
            if zeros(place.len()) != piece {
                place.copy_from_slice(piece);
            }
            at += place.len() as u64;
        }
        Ok(bytes)
    }

    pub(super) fn write(&self, bytes: &[u8], address: u64) -> io::Result<()> {
        self.file.write_at(bytes, self.offset(address))
    }

    /// A frame, and zeros up to the end of its last page: of a page that is written only in part the system
    /// would have to read the rest from the disk, while callers wait.
    pub(super) fn write_frame(&self, frame: Frame, records: &[u8]) -> io::Result<()> {
        let head = frame.head(self.head.salt, records);
        let offset = self.offset(frame.address);
        let end = offset + (head.len() + records.len()) as u64;
        let pad = end.next_multiple_of(PAGE as u64).min(self.length).saturating_sub(end);
        self.file.write_parts_at(&[&head, records, zeros(usize::try_from(pad).unwrap_or(0))], offset)
    }

    /// Zeros, durable when it returns. `offset` is in the file.
    pub(super) fn clear(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let end = self.length.min(offset.saturating_add(bytes));
        fill_with_zeros(&*self.file, offset, end, &AT_ONCE)
    }

    /// Makes durable what may only be in memory: the head, and the frame between these addresses.
    pub(super) fn write_again(&self, from: u64, to: u64) -> io::Result<()> {
        let mut frame = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        self.read(&mut frame, from)?;
        self.write(&frame, from)?;
        self.write_head(&self.head)
    }

    /// Says that a start can begin there; durable when it returns.
    pub(super) fn anchor(&self, image: Anchor) -> io::Result<()> {
        self.write_head(&Head { image: Some(image), ..self.head })
    }

    /// Says that the frame that would come next stands in another segment; durable when it returns. What is
    /// behind it in the file does not tell whether a frame is missing.
    pub(super) fn end(&self, next: Frame) -> io::Result<()> {
        if self.room_at(next.address) < frame::HEAD_BYTES as u64 {
            return Ok(());
        }
        self.write_frame(next, &[])?;
        self.sync()
    }

    fn write_head(&self, head: &Head) -> io::Result<()> {
        head.write(&*self.file, Stage::Begun)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

fn begins_with_zeros(file: &dyn DiskFile, length: u64) -> io::Result<bool> {
    let start = read_start(file, length, HEAD_BYTES)?;
    Ok(start.iter().all(|byte| *byte == 0))
}

fn begins_with_frame(file: &dyn DiskFile, length: u64, salt: u64) -> io::Result<bool> {
    let head = read_start(file, length, frame::HEAD_BYTES as u64)?;
    let Some((_, records)) = Frame::claimed(&head) else { return Ok(false) };
    let bytes = read_start(file, length, (frame::HEAD_BYTES + records) as u64)?;
    Ok(Frame::decode(salt, &bytes).is_some())
}

/// The first bytes behind the head, as many as there are.
fn read_start(file: &dyn DiskFile, length: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let bytes = length.saturating_sub(HEAD_BYTES).min(bytes);
    let mut start = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(&mut start, HEAD_BYTES.min(length))?;
    Ok(start)
}

/// Is asked before each piece, with where it begins, how far zeros may be written by now; may wait.
pub(super) type Pace<'a> = dyn Fn(u64) -> io::Result<u64> + 'a;

pub(super) const AT_ONCE: fn(u64) -> io::Result<u64> = |_| Ok(u64::MAX);

/// Zeros, durable when it returns. Synced piece by piece: a whole segment at once would hold up the syncs of
/// the journal behind it.
fn fill_with_zeros(file: &dyn DiskFile, from: u64, end: u64, pace: &Pace<'_>) -> io::Result<()> {
    let mut at = from;
    while at < end {
        let allowed = pace(at)?.saturating_sub(at).clamp(PIECE, PIECE_MAX);
        // Whole pages: others have to go through the memory of the system.
        let bytes = (allowed - allowed % PAGE as u64).min(end - at);
        file.write_zeros_at(usize::try_from(bytes).unwrap_or(ZEROS_MAX), at)?;
        file.sync()?;
        at += bytes;
    }
    Ok(())
}

/// Whether a file of this name was a segment and is none any more.
pub(super) fn is_released(name: &str) -> bool {
    name.strip_suffix(RELEASED_SUFFIX).is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The number of a segment's file; `None` for other files.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

pub(super) fn name(number: u64) -> String {
    format!("{number:010}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    /// Copies of the head that a power cut may break now.
    #[derive(Default)]
    struct Breakable(Mutex<BTreeSet<u64>>);

    impl DiskFile for Breakable {
        fn length(&self) -> io::Result<u64> {
            Ok(4 * HEAD_BYTES)
        }

        fn read_at(&self, buffer: &mut [u8], _: u64) -> io::Result<()> {
            buffer.fill(0);
            Ok(())
        }

        fn write_at(&self, _: &[u8], offset: u64) -> io::Result<()> {
            let mut breakable = self.0.lock().expect("nobody panics with it");
            breakable.extend((offset < HEAD_BYTES).then_some(offset));
            assert!(breakable.len() < 2, "a power cut may leave no copy of the head");
            Ok(())
        }

        fn allocate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            self.0.lock().expect("nobody panics with it").clear();
            Ok(())
        }
    }

    #[test]
    fn one_copy_of_the_head_is_good_all_the_time() {
        let blank = Blank { file: Arc::<Breakable>::default(), number: 3, length: 4 * HEAD_BYTES, salt: 5 };
        blank.write_head().expect("it takes all");
        let (first, image) = (Anchor { address: 7, sequence: 2 }, Anchor { address: 9, sequence: 3 });
        let segment = blank.activate(first, 1, None).expect("it takes all");
        segment.anchor(image).expect("it takes all");
        segment.write_again(first.address, image.address).expect("it takes all");
    }

    /// Remembers the zeros that were written: where, and how many.
    #[derive(Default)]
    struct Noted(Mutex<Vec<(u64, usize)>>);

    impl DiskFile for Noted {
        fn length(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write_zeros_at(&self, bytes: usize, offset: u64) -> io::Result<()> {
            self.0.lock().expect("nobody panics with it").push((offset, bytes));
            Ok(())
        }

        fn allocate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn zeros_come_in_whole_pages_whatever_the_pace() {
        let (piece, page) = (PIECE as usize, PAGE as u64);
        let end = 5 * PIECE + 7;
        let file = Noted::default();
        // First as little as there is, then an odd number of bytes each time, at last past the end.
        let pace = |at| Ok(if at < PIECE { 0 } else { at + PIECE + page + 1 });
        fill_with_zeros(&file, 0, end, &pace).expect("it takes all");
        let (first, second) = ((0, piece), (PIECE, piece + PAGE));
        let written = file.0.into_inner().expect("nobody panics with it");
        assert_eq!(written.first_chunk(), Some(&[first, second]));
        let (last, others) = written.split_last().expect("some");
        assert!(others.iter().all(|(at, bytes)| at.is_multiple_of(page) && bytes.is_multiple_of(PAGE)));
        assert!(last.0.is_multiple_of(page) && last.0 + last.1 as u64 == end, "only the end of it is none");
        assert_eq!(written.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>(), end);
    }

    #[test]
    fn names_tell_what_a_file_is() {
        assert_eq!(number(&name(3)), Some(3));
        assert_eq!(number("high-water"), None);
        assert!(is_released("0000000003.old") && number("0000000003.old").is_none());
        assert!(!is_released(&name(3)) && !is_released("notes.old"));
    }
}
