//! The append log: what makes an acknowledgement durable, and the truth after a restart.
//!
//! ```text
//!   journal address ─►  0 ......... B1 ........... B2 .... tail
//!   segments            ▐ head │ frame frame … ▌▐ head │ frame … ▌▐ head │ frame frame │ … ▌  ▐ blank ▌
//! ```
//!
//! One frame is one group of calls: one write, one sync, and only then the answers. Addresses run on from
//! segment to segment without gaps, so that an address is known before it is known where the frame will
//! stand. Files are filled with zeros before their first use, and released ones used again: overwriting needs
//! no change of file metadata, which makes the sync cheaper, and the room for decisions is there before the
//! disk is full.
//!
//! A start begins with the newest whole image of the ledger. Segments before it are kept for the contents
//! in them, and go when nothing in them is needed; so the oldest ones may be missing, with gaps.
//!
//! What a crash may leave: one torn frame at the tail, which was never acknowledged. It is cut. Anything
//! else that does not fit is damage, and is reported (P10).

mod frame;
mod high_water;
mod read;
mod recovery;
mod remover;
pub mod repair;
mod segment;
mod spare;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, RwLock};

pub use read::{read, read_all};
pub use recovery::{Beginning, Damage, OpenError, Reader, Recovered};
pub use segment::Anchor;

use super::disk::Disk;
use frame::{Frame, HEAD_BYTES};
use high_water::HighWater;
use segment::Segment;
use spare::Spares;

/// Takes the records of a frame, the address of their first byte, and the frame's sequence.
pub type Replay<'a> = dyn FnMut(&[u8], u64, u64) -> Result<(), String> + 'a;

/// How the journal uses the disk.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Make the next segment and remove old ones on threads of their own, so that nobody waits for it.
    pub spare_in_background: bool,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, spare_in_background: true }
    }
}

/// The journal, open for writing.
pub struct Journal {
    options: JournalOptions,
    segments: Segments,
    current: Arc<Segment>,
    /// The same for the whole life of the journal.
    identity: u64,
    /// The newest whole image.
    image: Option<Anchor>,
    /// Journal address of the next frame.
    tail: u64,
    /// Sequence of the next frame.
    sequence: u64,
    spares: Spares,
    high_water: HighWater,
}

/// Segments by the address of their first frame; shared with readers.
pub type Segments = Arc<RwLock<BTreeMap<u64, Arc<Segment>>>>;

/// A stretch of the journal in a file of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Address of the first byte.
    pub from: u64,
    /// Address that none of its bytes reaches.
    pub to: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl Journal {
    /// Opens the journal, and hands its frames to the reader.
    ///
    /// # Errors
    /// [`OpenError`]; damage is reported, never skipped.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        salt: u64,
        reader: &mut dyn Reader,
    ) -> Result<(Self, Recovered), OpenError> {
        recovery::open(disk, options, salt, reader)
    }

    /// Where the next frame will stand.
    #[must_use]
    pub fn next_frame(&self) -> Anchor {
        Anchor { address: self.tail, sequence: self.sequence }
    }

    /// The newest whole image.
    #[must_use]
    pub fn image(&self) -> Option<Anchor> {
        self.image
    }

    /// A whole image stands there: from now on a start begins with it.
    ///
    /// # Errors
    /// Of the disk. After one the journal must not be used any further.
    pub fn anchor(&mut self, image: Anchor) -> io::Result<()> {
        self.current.anchor(image)?;
        self.image = Some(image);
        Ok(())
    }

    /// All segments, oldest first.
    #[must_use]
    pub fn stretches(&self) -> Vec<Stretch> {
        let segments = self.segments.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let next = segments.values().skip(1).map(Some).chain([None]);
        segments.values().zip(next).map(|(segment, next)| segment.stretch(next.map(|next| &**next))).collect()
    }

    /// All but the one that is being written.
    #[must_use]
    pub fn sealed(&self) -> Vec<Stretch> {
        let mut stretches = self.stretches();
        stretches.pop();
        stretches
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.stretches().iter().map(|stretch| stretch.file_bytes).sum()
    }

    /// Lets go of a segment before the newest image in which nothing is needed.
    ///
    /// # Errors
    /// Of the disk, unless a thread of its own has to do with it; the file then stays, and may be removed after the
    /// next start.
    pub fn release(&mut self, from: u64) -> io::Result<()> {
        let segment = self.segments.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&from);
        segment.map_or(Ok(()), |segment| self.spares.recycle(segment))
    }

    /// The address that the first record of the next frame will have.
    #[must_use]
    pub fn next_address(&self) -> u64 {
        self.tail + HEAD_BYTES as u64
    }

    /// Sequence of the next frame.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// For readers of messages.
    #[must_use]
    pub fn segments(&self) -> Segments {
        Arc::clone(&self.segments)
    }

    /// Bytes of records that are sure to find room without a new segment being made.
    #[must_use]
    pub fn room(&self) -> u64 {
        let rest = self.current.room_at(self.tail).saturating_sub(HEAD_BYTES as u64);
        let next = self.spares.ready().map_or(0, |blank| blank.capacity().saturating_sub(HEAD_BYTES as u64));
        rest.max(next)
    }

    /// Whether a second segment stands ready, so that filling the current one is no end.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        self.spares.ready().is_some()
    }

    /// Whether the next segment should be seen to.
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        let (used, of) = self.used();
        !self.has_spare() && used > of / 8
    }

    /// The same for the whole life of the journal.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Makes room for a frame with so many bytes of records, if there is not yet.
    ///
    /// # Errors
    /// When no segment can be made, such as on a full disk. Nothing is lost; try again later.
    pub fn ensure_room(&mut self, bytes: u64, salt: impl FnOnce() -> u64) -> io::Result<()> {
        let length = self.options.segment_bytes.max(bytes + HEAD_BYTES as u64 + segment::HEAD_BYTES);
        self.spares.ensure(self.current.number() + 1, length, salt)
    }

    /// Begins to make the next segment, or sees whether it is made. Call it between groups.
    ///
    /// # Errors
    /// When it cannot be made, such as on a full disk. Nothing is lost; try again later.
    pub fn prepare_spare(&mut self, salt: impl FnOnce() -> u64) -> io::Result<()> {
        self.spares.prepare(&self.current, salt)
    }

    /// How much of the current segment is used.
    fn used(&self) -> (u64, u64) {
        let of = self.current.capacity();
        (of.saturating_sub(self.current.room_at(self.tail)), of)
    }

    /// Writes one frame and syncs it; none if there are no records. When this returns, they are durable.
    ///
    /// # Errors
    /// `StorageFull` with nothing written when there is no room. After any other error the journal must not
    /// be used any further: what is on disk is unknown until it is opened again.
    pub fn append(&mut self, records: &[u8], salt: impl FnOnce() -> u64) -> Result<(), AppendError> {
        if records.is_empty() {
            return Ok(());
        }
        let reserved = self.reserve(records.len(), salt)?;
        reserved.write(records).map_err(AppendError::Failed)?;
        self.written(&reserved);
        Ok(())
    }

    /// Takes the place of the next frame. One that [fits](Journal::fits) may be reserved while another one is
    /// written, but must not be written before that one is durable: more than one torn frame at the tail would look
    /// like damage. It must have records: without any it would say that its segment ends.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn reserve(&mut self, bytes: usize, salt: impl FnOnce() -> u64) -> Result<Reserved, AppendError> {
        if !self.fits(bytes) {
            self.roll(bytes as u64, salt)?;
        }
        let frame = Frame { sequence: self.sequence, address: self.tail };
        self.tail += (HEAD_BYTES + bytes) as u64;
        self.sequence += 1;
        Ok(Reserved { segment: Arc::clone(&self.current), frame, end: self.tail })
    }

    /// Whether the next frame, with so many bytes of records, has room in the current segment.
    #[must_use]
    pub fn fits(&self, bytes: usize) -> bool {
        self.current.room_at(self.tail) >= (HEAD_BYTES + bytes) as u64
    }

    /// Takes back the place that was reserved last: nothing was written there.
    pub fn give_back(&mut self, reserved: Reserved) {
        let Frame { sequence, address } = reserved.frame;
        (self.sequence, self.tail) = (sequence, address);
    }

    /// Says that the reserved frame is durable.
    pub fn written(&mut self, reserved: &Reserved) {
        self.high_water.raise(reserved.frame.sequence, reserved.end);
        let (used, of) = self.used();
        self.spares.keep_up(used, of);
    }

    /// Goes on in the next segment. Its head is durable before its first frame is written.
    fn roll(&mut self, needed: u64, salt: impl FnOnce() -> u64) -> Result<(), AppendError> {
        self.ensure_room(needed, salt).map_err(AppendError::NoRoom)?;
        let Some(blank) = self.spares.take() else {
            return Err(AppendError::NoRoom(io::ErrorKind::StorageFull.into()));
        };
        let next = Frame { sequence: self.sequence, address: self.tail };
        self.current.end(next).map_err(AppendError::Failed)?;
        let segment = Arc::new(
            blank.activate(self.next_frame(), self.identity, self.image).map_err(AppendError::Failed)?,
        );
        self.segments
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(self.tail, Arc::clone(&segment));
        self.current = segment;
        Ok(())
    }
}

/// Where a frame will stand.
pub struct Reserved {
    segment: Arc<Segment>,
    frame: Frame,
    /// Address behind it.
    end: u64,
}

impl Reserved {
    /// Writes the frame and syncs it. When this returns, the records are durable.
    ///
    /// # Errors
    /// After any error the journal must not be used any further.
    pub fn write(&self, records: &[u8]) -> io::Result<()> {
        let Self { segment, frame, .. } = self;
        segment.write_frame(*frame, records)?;
        segment.sync()
    }

    /// Of the frame, its head included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end - self.frame.address
    }

    /// Of the frame.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.frame.sequence
    }
}

/// Why a frame was not written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was written.
    #[error("no room for a new segment: {0}")]
    NoRoom(io::Error),
    /// What is on disk is unknown.
    #[error("{0}")]
    Failed(io::Error),
}
