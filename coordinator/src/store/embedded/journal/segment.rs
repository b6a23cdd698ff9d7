//! One file of the journal: a head, then frames, then zeros.
//!
//! ```text
//! 0     head: magic "HMQs" · version u32 LE · number u64 LE · base u64 LE · salt u64 LE ·
//!       identity u64 LE of the journal · first sequence u64 LE ·
//!       newest whole image: address u64 LE, sequence u64 LE (0: none) ·
//!       crc32c u32 LE of the bytes before
//! 2048  the same head again
//! 4096  frames; the byte at address A stands at 4096 + A - base
//! ```
//!
//! A file whose heads are zero is a spare that was never used. The head is synced before the first frame
//! is written, so frames under a broken head mean damage. It is written again, one copy after the other,
//! when an image is whole; of two good copies the one with the newer image counts.

use std::io;
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};

use super::Stretch;
use crate::store::embedded::disk::{Disk, DiskFile};

pub(super) const HEAD_BYTES: u64 = 4_096;
const COPY_AT: u64 = 2_048;
const HEAD: usize = 68;
const MAGIC: [u8; 4] = *b"HMQs";
const VERSION: u32 = 2;
/// Bytes of zeros that are written and synced at once: as few as that, and as many when there is haste.
pub(super) const PIECE: u64 = 256 * 1024;
const PIECE_MAX: u64 = 4 * PIECE;
const SUFFIX: &str = ".seg";
const RELEASED_SUFFIX: &str = ".old";

/// A file of zeros that waits to become a segment.
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

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) number: u64,
    /// Journal address of the first frame.
    pub(super) base: u64,
    pub(super) salt: u64,
    /// The same in all segments of a journal.
    pub(super) identity: u64,
    /// Of the first frame.
    pub(super) sequence: u64,
    /// The newest whole image: a start begins there.
    pub(super) image: Option<Anchor>,
}

/// Where a frame stands from which a start can begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Anchor {
    /// Journal address of the frame.
    pub address: u64,
    /// Its sequence.
    pub sequence: u64,
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
        disk.sync_directory()?;
        Ok(Self { file, number, length, salt })
    }

    /// The file of a released segment. Until all of it is zero its name says that it is none.
    pub(super) fn reuse(
        disk: &dyn Disk,
        released: &str,
        number: u64,
        length: u64,
        salt: u64,
        pace: &Pace<'_>,
    ) -> io::Result<Self> {
        // Were the old name to come back after a crash, it would be a segment with a hole.
        disk.sync_directory()?;
        let file = disk.open(released)?;
        let length = length.max(file.length()?);
        if let Err(error) = fill_with_zeros(&*file, 0, length, pace) {
            disk.remove(released)?;
            return Err(error);
        }
        disk.rename(released, &name(number))?;
        disk.sync_directory()?;
        Ok(Self { file, number, length, salt })
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
        segment.write_head()?;
        segment.sync()?;
        Ok(segment)
    }

    pub(super) fn salt(&self) -> u64 {
        self.salt
    }
}

/// What a file turned out to be.
pub(super) enum Found {
    Segment(Segment),
    /// Never used.
    Spare,
    /// Its heads are broken although there is more in it than zeros.
    Headless,
}

impl Segment {
    pub(super) fn find(disk: &dyn Disk, number: u64) -> io::Result<Found> {
        let file = disk.open(&name(number))?;
        let length = file.length()?;
        let copy = |at: u64| {
            let mut head = [0; HEAD];
            (length >= HEAD_BYTES && file.read_at(&mut head, at).is_ok())
                .then(|| decode(&head, number))
                .flatten()
        };
        let newest = [0, COPY_AT].into_iter().filter_map(copy).max_by_key(|head| head.image);
        if let Some(head) = newest {
            return Ok(Found::Segment(Self { file, length, head }));
        }
        // Frames come only after a durable head: where there are none, a crash cut the making short.
        let frames = length.saturating_sub(HEAD_BYTES).min(HEAD_BYTES);
        let mut start = vec![0; usize::try_from(frames).unwrap_or(0)];
        file.read_at(&mut start, HEAD_BYTES.min(length))?;
        Ok(if start.iter().all(|byte| *byte == 0) { Found::Spare } else { Found::Headless })
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
        let (mut piece, zeros) = (zeros(PIECE), zeros(PIECE));
        let mut at = HEAD_BYTES;
        for place in bytes.chunks_mut(zeros.len()) {
            let (piece, _) = piece.split_at_mut(place.len());
            self.file.read_at(piece, at)?;
            if zeros.get(..place.len()) != Some(&*piece) {
                place.copy_from_slice(piece);
            }
            at += place.len() as u64;
        }
        Ok(bytes)
    }

    pub(super) fn write(&self, bytes: &[u8], address: u64) -> io::Result<()> {
        self.file.write_at(bytes, self.offset(address))
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
        self.write_head()?;
        self.sync()
    }

    /// Says that a start can begin there; durable when it returns. One copy of the head is good all the time.
    pub(super) fn anchor(&self, image: Anchor) -> io::Result<()> {
        let head = encode(&Head { image: Some(image), ..self.head });
        self.file.write_at(&head, 0)?;
        self.sync()?;
        self.file.write_at(&head, COPY_AT)?;
        self.sync()
    }

    fn write_head(&self) -> io::Result<()> {
        let head = encode(&self.head);
        self.file.write_at(&head, 0)?;
        self.file.write_at(&head, COPY_AT)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Is asked before each piece, with where it begins, how far zeros may be written by now; may wait.
pub(super) type Pace<'a> = dyn Fn(u64) -> io::Result<u64> + 'a;

pub(super) const AT_ONCE: fn(u64) -> io::Result<u64> = |_| Ok(u64::MAX);

/// Zeros, durable when it returns. Synced piece by piece: a whole segment at once would hold up the syncs of
/// the journal behind it.
fn fill_with_zeros(file: &dyn DiskFile, from: u64, end: u64, pace: &Pace<'_>) -> io::Result<()> {
    let zeros = zeros(PIECE_MAX.min(end.saturating_sub(from)));
    let mut at = from;
    while at < end {
        let allowed = pace(at)?.saturating_sub(at).clamp(PIECE, PIECE_MAX).min(end - at);
        let piece = usize::try_from(allowed).ok().and_then(|step| zeros.get(..step)).unwrap_or(&zeros);
        file.write_at(piece, at)?;
        file.sync()?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn zeros(bytes: u64) -> Vec<u8> {
    vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)]
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

fn encode(head: &Head) -> [u8; HEAD] {
    let image = head.image.unwrap_or(Anchor { address: 0, sequence: 0 });
    let numbers =
        [head.number, head.base, head.salt, head.identity, head.sequence, image.address, image.sequence];
    let fields = MAGIC.into_iter().chain(VERSION.to_le_bytes());
    let fields = fields.chain(numbers.into_iter().flat_map(u64::to_le_bytes));
    let mut bytes = [0; HEAD];
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    let (fields, crc) = bytes.split_at_mut(HEAD - 4);
    crc.copy_from_slice(&crc32c(fields).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; HEAD], number: u64) -> Option<Head> {
    let (fields, crc) = bytes.split_at(HEAD - 4);
    if !fields.starts_with(&MAGIC)
        || fields.get(4..8)? != VERSION.to_le_bytes()
        || crc32c(fields).to_le_bytes() != crc
    {
        return None;
    }
    let mut numbers = fields.get(8..)?.chunks_exact(8).map(|bytes| bytes.try_into().map(u64::from_le_bytes));
    let mut next = || numbers.next()?.ok();
    let head = Head {
        number: next()?,
        base: next()?,
        salt: next()?,
        identity: next()?,
        sequence: next()?,
        image: Some(Anchor { address: next()?, sequence: next()? }).filter(|image| image.sequence > 0),
    };
    (head.number == number).then_some(head)
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("a CRC-32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_its_own_file_only() {
        let image = Some(Anchor { address: 1 << 32, sequence: 9 });
        for image in [None, image] {
            let head = Head { number: 3, base: 1 << 33, salt: 77, identity: 5, sequence: 12, image };
            let bytes = encode(&head);
            assert_eq!(decode(&bytes, 3), Some(head));
            assert_eq!(decode(&bytes, 4), None);
            for at in 0..HEAD {
                let mut damaged = bytes;
                damaged[at] ^= 1;
                assert_eq!(decode(&damaged, 3), None, "byte {at} flipped");
            }
        }
        assert_eq!(number(&name(3)), Some(3));
        assert_eq!(number("high-water"), None);
        assert!(is_released("0000000003.old") && number("0000000003.old").is_none());
        assert!(!is_released(&name(3)) && !is_released("notes.old"));
    }
}
