//! Opening a journal: read everything, cut a torn tail, report damage.
//!
//! A sealed segment ends exactly where the next one begins, so anything missing in it is damage. In the
//! last one the frames end where no frame is. That is the end if nothing valid follows and the high-water
//! mark does not stand behind it; a half-written frame there was never acknowledged, and is cut.
//!
//! A whole frame at the end counts, although its sync may have failed or never run: a process may have died
//! in between. Answers after the start rest on it, so it is written once more, with the head of its segment,
//! and synced before anybody asks. (After a failed sync the system may believe that what it holds is on
//! disk; only a new write makes it write again.)

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, RwLock};

use super::frame::{Frame, HEAD_BYTES};
use super::high_water::{HighWater, Mark};
use super::segment::{self, Blank, Found, Segment};
use super::{Journal, JournalOptions, Replay, Spare};
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

pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    salt: u64,
    replay: &mut Replay<'_>,
) -> Result<(Journal, Recovered), OpenError> {
    let mut scan = Scan::new(replay);
    let (mut segments, torn) = scan_all(&*disk, &mut scan)?;
    if segments.is_empty() {
        segments.push(Blank::make(&*disk, 1, options.segment_bytes, salt)?.activate(0)?);
    }
    let Scan { tail, sequence, last, mut recovered, .. } = scan;
    let current = segments.pop().map(Arc::new).ok_or_else(|| io::Error::other("no segment"))?;
    if torn > 0 {
        // Half a frame: the crash came before its sync, so nobody was told. Zeros again, for the next one.
        current.clear(current.offset(tail), torn)?;
        recovered.torn_bytes = torn;
    }
    current.write_again(last.max(current.base()), tail)?;
    let high_water = HighWater::open(&*disk)?;
    let mut by_base: BTreeMap<u64, Arc<Segment>> =
        segments.into_iter().map(|segment| (segment.base(), Arc::new(segment))).collect();
    by_base.insert(current.base(), Arc::clone(&current));
    let segments = Arc::new(RwLock::new(by_base));
    let spare = Spare::Missing;
    Ok((Journal { disk, options, segments, current, tail, sequence, spare, high_water }, recovered))
}

/// Replays every segment and changes nothing. Returns the segments and the bytes of a torn tail.
pub(super) fn scan_all(disk: &dyn Disk, scan: &mut Scan<'_, '_>) -> Result<(Vec<Segment>, u64), OpenError> {
    let mark = HighWater::read(disk)?;
    let segments = find(disk)?;
    if segments.is_empty()
        && let Some(mark) = mark
    {
        let what = format!("its segment is missing; frames up to {} were acknowledged", mark.sequence);
        return Err(damaged(&segment::name(1), 0, mark.sequence, what));
    }
    let mut torn = 0;
    let bases: Vec<u64> = segments.iter().skip(1).map(Segment::base).collect();
    for (segment, end) in segments.iter().zip(bases.iter().map(Some).chain([None])) {
        match end {
            Some(end) => scan.sealed(segment, *end)?,
            None => torn = scan.last(segment, mark)?,
        }
    }
    Ok((segments, torn))
}

/// The segments in their order. Spares that were never used do not count; they are made anew when needed.
fn find(disk: &dyn Disk) -> Result<Vec<Segment>, OpenError> {
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    let mut segments: Vec<Segment> = Vec::new();
    for number in numbers {
        match Segment::find(disk, number)? {
            Found::Spare => {}
            Found::Headless => {
                let what = "the head of the segment is broken".to_owned();
                return Err(damaged(&segment::name(number), 0, 0, what));
            }
            Found::Segment(segment) => {
                let before = segments.last().map_or(0, Segment::number);
                if before + 1 != number {
                    let what = format!("segments {} to {} are missing", before + 1, number - 1);
                    return Err(damaged(&segment::name(before + 1), 0, 0, what));
                }
                segments.push(segment);
            }
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
    replay: &'a mut Replay<'b>,
    pub(super) recovered: Recovered,
}

impl<'a, 'b> Scan<'a, 'b> {
    pub(super) fn new(replay: &'a mut Replay<'b>) -> Self {
        Self { tail: 0, sequence: 1, last: 0, replay, recovered: Recovered::default() }
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
        let Some(dirty) = rest.iter().rposition(|byte| *byte != 0).map(|last| last + 1) else {
            return match mark {
                Some(mark) if mark.sequence >= self.sequence => Err(self.damage(
                    segment,
                    format!("nothing is here, but frame {} was acknowledged", mark.sequence),
                )),
                Some(_) | None => Ok(0),
            };
        };
        let rest = rest.get(..dirty).unwrap_or(rest);
        for at in Frame::candidates(rest).filter(|at| *at > 0) {
            let found = rest.get(at..).and_then(|bytes| Frame::decode(segment.salt(), bytes));
            if let Some((frame, _)) = found.filter(|(frame, _)| frame.address == self.tail + at as u64) {
                return Err(self.damage(segment, format!("frame {} behind it is intact", frame.sequence)));
            }
        }
        if let Some(mark) = mark.filter(|mark| mark.sequence >= self.sequence) {
            return Err(self.damage(segment, format!("frames up to {} were acknowledged", mark.sequence)));
        }
        Ok(dirty as u64)
    }

    /// Replays frames until there is none.
    fn frames(&mut self, segment: &Segment, bytes: &[u8]) -> Result<(), OpenError> {
        if segment.base() != self.tail {
            let what = format!("the segment begins {} bytes off", segment.base().abs_diff(self.tail));
            return Err(self.damage(segment, what));
        }
        let mut at = 0;
        while let Some((frame, records)) =
            bytes.get(at..).and_then(|rest| Frame::decode(segment.salt(), rest))
        {
            if (frame.sequence, frame.address) != (self.sequence, self.tail) {
                return Err(self.damage(segment, format!("frame {} stands in its place", frame.sequence)));
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

fn damaged(file: &str, offset: u64, sequence: u64, what: String) -> OpenError {
    OpenError::Damaged(Damage { file: file.to_owned(), offset, sequence, what })
}
