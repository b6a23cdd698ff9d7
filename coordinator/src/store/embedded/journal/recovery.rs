//! Opening a journal: read everything, cut a torn tail, report damage.
//!
//! A sealed segment ends exactly where the next one begins, and says itself where that is, so anything
//! missing in it is damage. In the last one the frames end where no frame is. That is the end if nothing
//! valid follows and the high-water mark does not stand behind it; a half-written frame there was never
//! acknowledged, and is cut.
//!
//! A whole frame at the end counts, although its sync may have failed or never run: a process may have died
//! in between. Answers after the start rest on it, so it is written once more, with the head of its segment,
//! and synced before anybody asks. (After a failed sync the system may believe that what it holds is on
//! disk; only a new write makes it write again.)

use std::fmt;
use std::io;
use std::sync::{Arc, RwLock};

use super::frame::{Frame, HEAD_BYTES};
use super::high_water::{HighWater, Mark};
use super::segment::{self, Anchor, Blank, Found, Segment};
use super::spare::Spares;
use super::{Journal, JournalOptions, Replay, Segments};
use crate::store::embedded::disk::Disk;

/// What opening a journal found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Frames that were replayed.
    pub frames: u64,
    /// Bytes of a torn, never acknowledged frame that were cut.
    pub torn_bytes: u64,
}

/// Acknowledged data that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// File of the segment.
    pub file: String,
    /// Offset in the file where frames stop making sense.
    pub offset: u64,
    /// Sequence of the frame that should stand there.
    pub sequence: u64,
    /// What was found instead.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, sequence, what } = self;
        write!(out, "{file} at byte {offset}: frame {sequence} is damaged ({what})")
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("the journal cannot be read: {0}")]
    Disk(#[from] io::Error),
    /// Acknowledged data is damaged.
    #[error(
        "the journal is damaged: {0}. Everything before it is intact, and nothing was changed. Restore the file \
         from a copy, or see what would be lost with `halfmq repair`"
    )]
    Damaged(Damage),
    /// Its records do not make sense together.
    #[error("the journal cannot be replayed: {0}. Nothing was changed")]
    Unreadable(String),
}

/// Who reads a journal while it is opened.
pub trait Reader {
    /// Called with all segments before the first frame is read, since frames may refer to earlier ones.
    /// Says whether frames before the newest image are wanted, too.
    fn begin(&mut self, segments: &Segments, beginning: &Beginning) -> bool;
    /// A frame before the newest image: its records, the address of their first byte, its sequence.
    ///
    /// # Errors
    /// What does not make sense in it.
    fn older(&mut self, records: &[u8], address: u64, sequence: u64) -> Result<(), String>;
    /// A frame of the newest image or since.
    ///
    /// # Errors
    /// What does not make sense in it.
    fn replay(&mut self, records: &[u8], address: u64, sequence: u64) -> Result<(), String>;
}

/// What is known of a journal before its frames are read.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// The same for the whole life of the journal.
    pub identity: u64,
    /// The newest whole image.
    pub image: Option<Anchor>,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    salt: u64,
    reader: &mut dyn Reader,
) -> Result<(Journal, Recovered), OpenError> {
    let mark = HighWater::read(&*disk)?;
    let mut found = find(&*disk)?;
    if found.is_empty() {
        missing_all(mark)?;
        let bytes = options.segment_bytes.min(FIRST_BYTES);
        let blank = Blank::make(&*disk, 1, bytes, salt, &segment::AT_ONCE)?;
        let identity = blank.salt();
        found.push(Arc::new(blank.activate(BEGINNING, identity, None)?));
    }
    let layout = Layout::of(&found)?;
    let by_base = found.iter().map(|segment| (segment.base(), Arc::clone(segment))).collect();
    let segments = Arc::new(RwLock::new(by_base));
    let current = found.last().map(Arc::clone).ok_or_else(|| io::Error::other("no segment"))?;
    let (identity, image) = (current.head().identity, current.head().image);
    if reader.begin(&segments, &Beginning { identity, image }) {
        Scan::new(&mut |records, address, sequence| reader.older(records, address, sequence))
            .older(&layout)?;
    }
    let mut replay = |records: &[u8], address, sequence| reader.replay(records, address, sequence);
    let mut scan = Scan::new(&mut replay);
    let torn = scan.needed(&layout, mark)?;
    let Scan { tail, sequence, last, mut recovered, .. } = scan;
    if torn > 0 {
        // Half a frame: the crash came before its sync, so nobody was told.
        current.clear(current.offset(tail), torn)?;
        recovered.torn_bytes = torn;
    }
    current.write_again(last.max(current.base()), tail)?;
    let high_water = HighWater::open(&*disk)?;
    let spares = Spares::open(disk, &options, current.number() + 1)?;
    let journal = Journal { options, segments, current, identity, image, tail, sequence, spares, high_water };
    Ok((journal, recovered))
}

/// Reads everything and changes nothing. Returns damage in the part that no start needs.
///
/// # Errors
/// [`OpenError::Damaged`] for damage in the part that a start needs.
pub(super) fn inspect(disk: &dyn Disk, scan: &mut Scan<'_, '_>) -> Result<Option<Damage>, OpenError> {
    let mark = HighWater::read(disk)?;
    let found = find(disk)?;
    if found.is_empty() {
        return missing_all(mark).map(|()| None);
    }
    let layout = Layout::of(&found)?;
    scan.needed(&layout, mark)?;
    match scan.older(&layout) {
        Ok(()) => Ok(None),
        Err(OpenError::Damaged(damage)) => Ok(Some(damage)),
        Err(error @ (OpenError::Disk(_) | OpenError::Unreadable(_))) => Err(error),
    }
}

/// Bytes of the very first segment: a new store is ready at once, larger ones are made in the background.
const FIRST_BYTES: u64 = 8 * 1024 * 1024;
const BEGINNING: Anchor = Anchor { address: 0, sequence: 1 };

/// Which segments a start needs, and which only hold contents and what an index is made of.
pub(super) struct Layout<'a> {
    pub(super) older: &'a [Arc<Segment>],
    pub(super) needed: &'a [Arc<Segment>],
    /// First frame that a start needs.
    pub(super) start: Anchor,
}

impl<'a> Layout<'a> {
    /// # Errors
    /// [`OpenError::Damaged`] if one is missing that a start needs.
    pub(super) fn of(segments: &'a [Arc<Segment>]) -> Result<Self, OpenError> {
        let start = segments.last().and_then(|newest| newest.head().image).unwrap_or(BEGINNING);
        let first = segments.iter().rposition(|segment| segment.base() <= start.address);
        let Some(first) = first else {
            let what = format!("the segment with frame {} is missing", start.sequence);
            let before = segments.first().map_or(1, |segment| segment.number().saturating_sub(1));
            return Err(damaged(&segment::name(before), 0, start.sequence, what));
        };
        let (older, needed) = segments.split_at(first);
        for (segment, next) in needed.iter().zip(needed.iter().skip(1)) {
            if segment.number() + 1 != next.number() {
                let (from, to) = (segment.number() + 1, next.number() - 1);
                let what = format!("segments {from} to {to} are missing");
                return Err(damaged(&segment::name(from), 0, 0, what));
            }
        }
        Ok(Self { older, needed, start })
    }
}

/// No segment at all is fine only if nothing was ever acknowledged.
pub(super) fn missing_all(mark: Option<Mark>) -> Result<(), OpenError> {
    let Some(mark) = mark else { return Ok(()) };
    let what = format!("its segment is missing; frames up to {} were acknowledged", mark.sequence);
    Err(damaged(&segment::name(1), 0, mark.sequence, what))
}

/// The segments in their order. Files that were never used do not count.
pub(super) fn find(disk: &dyn Disk) -> Result<Vec<Arc<Segment>>, OpenError> {
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for number in numbers {
        match Segment::find(disk, number)? {
            Found::Blank(_) | Found::Unfinished => {}
            Found::Foreign(version) => return Err(foreign(number, version)),
            Found::Headless => {
                let what = "the head of the segment is broken".to_owned();
                return Err(damaged(&segment::name(number), 0, 0, what));
            }
            Found::Segment(segment) => segments.push(Arc::new(segment)),
        }
    }
    Ok(segments)
}

pub(super) struct Scan<'a, 'b> {
    /// Where the next frame should stand.
    tail: u64,
    /// Which one it should be.
    sequence: u64,
    /// Address of the frame before it.
    last: u64,
    /// The segment says that no frame comes behind.
    ended: bool,
    replay: &'a mut Replay<'b>,
    pub(super) recovered: Recovered,
}

impl<'a, 'b> Scan<'a, 'b> {
    pub(super) fn new(replay: &'a mut Replay<'b>) -> Self {
        Self { tail: 0, sequence: 1, last: 0, ended: false, replay, recovered: Recovered::default() }
    }

    /// Everything before the newest image. Where segments have been let go of, it goes on behind them.
    pub(super) fn older(&mut self, layout: &Layout<'_>) -> Result<(), OpenError> {
        let mut before = None;
        for segment in layout.older {
            self.follow(segment, before);
            before = Some(segment.number());
            let bytes = segment.read_all()?;
            self.frames(segment, &bytes)?;
            if !self.ended && segment.room_at(self.tail) >= HEAD_BYTES as u64 {
                return Err(self.damage(segment, "frames end here, but not the segment".to_owned()));
            }
        }
        let Some(segment) = layout.needed.first() else { return Ok(()) };
        self.follow(segment, before);
        let mut bytes = segment.read_all()?;
        bytes.truncate(usize::try_from(layout.start.address - segment.base()).unwrap_or(usize::MAX));
        self.frames(segment, &bytes)?;
        match (self.tail, self.sequence) == (layout.start.address, layout.start.sequence) {
            true => Ok(()),
            false => Err(self.damage(segment, "frames end here, before the newest image".to_owned())),
        }
    }

    /// Goes on with this segment, which may be the first one after a gap.
    fn follow(&mut self, segment: &Segment, before: Option<u64>) {
        if before.is_none_or(|before| before + 1 != segment.number()) {
            self.begin(Anchor { address: segment.base(), sequence: segment.head().sequence });
        }
    }

    /// The newest image and everything since. Returns the bytes of a torn tail.
    pub(super) fn needed(&mut self, layout: &Layout<'_>, mark: Option<Mark>) -> Result<u64, OpenError> {
        self.begin(layout.start);
        let ends = layout.needed.iter().skip(1).map(|segment| Some(segment.base())).chain([None]);
        let mut torn = 0;
        for (segment, end) in layout.needed.iter().zip(ends) {
            match end {
                Some(end) => self.sealed(segment, end)?,
                None => torn = self.last(segment, mark)?,
            }
        }
        Ok(torn)
    }

    fn begin(&mut self, at: Anchor) {
        (self.tail, self.sequence, self.last) = (at.address, at.sequence, at.address);
    }

    fn sealed(&mut self, segment: &Segment, end: u64) -> Result<(), OpenError> {
        let bytes = segment.read_all()?;
        self.frames(segment, &bytes)?;
        if self.tail == end {
            return Ok(());
        }
        let what =
            format!("frames end here, but the next segment begins {} bytes later", end.abs_diff(self.tail));
        Err(self.damage(segment, what))
    }

    /// Returns how many bytes of a torn frame stand behind the end.
    fn last(&mut self, segment: &Segment, mark: Option<Mark>) -> Result<u64, OpenError> {
        let bytes = segment.read_all()?;
        self.frames(segment, &bytes)?;
        let start = usize::try_from(self.tail - segment.base()).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).unwrap_or_default();
        // Frames of a former life of the file are many, and stand at other addresses.
        let here = |at: &usize| {
            let claimed = rest.get(*at..).and_then(Frame::claimed);
            claimed.is_some_and(|(frame, _)| frame.address == self.tail + *at as u64)
        };
        for at in Frame::candidates(rest).filter(|at| *at > 0).filter(here) {
            let found = rest.get(at..).and_then(|bytes| Frame::decode(segment.salt(), bytes));
            if let Some((frame, _)) = found {
                return Err(self.damage(segment, format!("frame {} behind it is intact", frame.sequence)));
            }
        }
        if let Some(mark) = mark.filter(|mark| mark.sequence >= self.sequence) {
            return Err(self.damage(segment, format!("frames up to {} were acknowledged", mark.sequence)));
        }
        let next = Frame { sequence: self.sequence, address: self.tail };
        Ok(match Frame::claimed(rest) {
            Some((torn, records)) if torn == next && !self.ended => {
                (HEAD_BYTES + records).min(rest.len()) as u64
            }
            Some(_) | None => 0,
        })
    }

    /// Replays frames until there is none.
    fn frames(&mut self, segment: &Segment, bytes: &[u8]) -> Result<(), OpenError> {
        self.ended = false;
        let offset = self.tail.checked_sub(segment.base()).and_then(|at| usize::try_from(at).ok());
        let Some(mut at) = offset.filter(|at| *at <= bytes.len()) else {
            let what = format!("the segment begins {} bytes off", segment.base().abs_diff(self.tail));
            return Err(self.damage(segment, what));
        };
        while let Some((frame, records)) =
            bytes.get(at..).and_then(|rest| Frame::decode(segment.salt(), rest))
        {
            if (frame.sequence, frame.address) != (self.sequence, self.tail) {
                return Err(self.damage(segment, format!("frame {} stands in its place", frame.sequence)));
            }
            if records.is_empty() {
                self.ended = true;
                return Ok(());
            }
            (self.replay)(records, self.tail + HEAD_BYTES as u64, frame.sequence)
                .map_err(OpenError::Unreadable)?;
            at += HEAD_BYTES + records.len();
            self.last = self.tail;
            self.tail += (HEAD_BYTES + records.len()) as u64;
            self.sequence += 1;
            self.recovered.frames += 1;
        }
        Ok(())
    }

    fn damage(&self, segment: &Segment, what: String) -> OpenError {
        let offset = self.tail.checked_sub(segment.base()).map_or(0, |_| segment.offset(self.tail));
        damaged(&segment.name(), offset, self.sequence, what)
    }
}

/// Neither damaged nor readable: it is left alone.
pub(super) fn foreign(number: u64, version: u32) -> OpenError {
    let name = segment::name(number);
    OpenError::Unreadable(format!("{name} has format {version}, which another version of HalfMQ writes"))
}

fn damaged(file: &str, offset: u64, sequence: u64, what: String) -> OpenError {
    OpenError::Damaged(Damage { file: file.to_owned(), offset, sequence, what })
}
