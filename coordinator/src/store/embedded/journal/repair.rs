//! Looking at a damaged journal, and going on without what cannot be read.
//!
//! Looking changes nothing. Cutting ends the journal in front of the damage: what was acknowledged behind
//! it is given up, so it is never done unasked. Whoever calls it keeps copies of the files first.

use std::sync::Arc;

use super::frame::Frame;
use super::recovery::{self, Damage, OpenError, Scan};
use super::segment::{self, Found, Segment};
use crate::store::embedded::disk::Disk;

/// What a look found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// Frames that are intact and in their place.
    pub frames: u64,
    /// The first thing that is not.
    pub damage: Option<Damage>,
    /// The damage is before the newest image: nothing has to be cut. A start reads nothing there but pages of
    /// delayed messages that have come back since, and refuses if one of them is damaged. Contents of messages
    /// are refused when they are read, each by its own checksum.
    pub contents_only: bool,
    /// Intact frames behind the damage: acknowledged, and out of reach.
    pub frames_behind: u64,
    /// Files that a cut changes or removes; keep copies of them.
    pub files: Vec<String>,
}

/// Reads the whole journal and changes nothing.
///
/// # Errors
/// [`OpenError::Disk`].
pub fn inspect(disk: &Arc<dyn Disk>) -> Result<Inspection, OpenError> {
    let mut ignore = |_: &[u8], _, _| Ok(());
    let mut scan = Scan::new(&mut ignore);
    let (damage, contents_only) = match recovery::inspect(&**disk, &mut scan) {
        Ok(older) => (older, true),
        Err(OpenError::Damaged(damage)) => (Some(damage), false),
        Err(error @ (OpenError::Disk(_) | OpenError::Unreadable(_))) => return Err(error),
    };
    let frames = scan.recovered.frames;
    let Some(damage) = damage else {
        return Ok(Inspection {
            frames,
            damage: None,
            contents_only: false,
            frames_behind: 0,
            files: Vec::new(),
        });
    };
    if contents_only {
        let files = vec![damage.file.clone()];
        return Ok(Inspection { frames, damage: Some(damage), contents_only, frames_behind: 0, files });
    }
    let from = segment::number(&damage.file).unwrap_or(0);
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::number(name)).collect();
    numbers.retain(|number| *number >= from);
    numbers.sort_unstable();
    let mut frames_behind = 0;
    for number in &numbers {
        if let Found::Segment(segment) = Segment::find(&**disk, *number)? {
            frames_behind += intact(&segment, damage.sequence)?;
        }
    }
    let files = numbers.into_iter().map(segment::name).collect();
    Ok(Inspection { frames, damage: Some(damage), contents_only, frames_behind, files })
}

/// Ends the journal in front of the damage that [`inspect`] found.
///
/// # Errors
/// [`OpenError::Disk`]; the same call can be made again.
pub fn cut(disk: &Arc<dyn Disk>, damage: &Damage) -> Result<(), OpenError> {
    let first = segment::number(&damage.file).unwrap_or(0);
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::number(name)).collect();
    numbers.retain(|number| *number >= first);
    numbers.sort_unstable();
    let mut found = Vec::with_capacity(numbers.len());
    for number in numbers {
        let file = Segment::find(&**disk, number)?;
        if let Found::Foreign(version) = file {
            return Err(recovery::foreign(number, version));
        }
        found.push((number, file));
    }
    // From the end, so that a second attempt finds the same damage.
    for (number, file) in found.into_iter().rev() {
        if let Found::Segment(segment) = file
            && number == first
            && damage.offset > 0
        {
            segment.clear(damage.offset, u64::MAX)?;
        } else {
            disk.remove(&segment::name(number))?;
        }
    }
    if disk.list()?.iter().any(|name| name == super::high_water::NAME) {
        disk.remove(super::high_water::NAME)?;
    }
    Ok(disk.sync_directory()?)
}

/// Intact frames of the segment from this sequence on.
fn intact(segment: &Segment, from: u64) -> Result<u64, OpenError> {
    let bytes = segment.read_all()?;
    let frame = |at: usize| bytes.get(at..).and_then(|bytes| Frame::decode(segment.salt(), bytes));
    let found = Frame::candidates(&bytes).filter_map(frame);
    Ok(found.filter(|(frame, records)| frame.sequence >= from && !records.is_empty()).count() as u64)
}
