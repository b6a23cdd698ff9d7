//! Reading back what was written. What stands side by side is read in one go: messages that are delivered
//! together were mostly released together, and a call to the system for each would cost more than the bytes.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use halfmq_core::Extent;

use super::segment::Segment;
use super::{Segments, Stretch};

/// Bytes between two extents that are read along.
const GAP_MAX: u64 = 4 * 1024;
/// Bytes of one read, unless a single extent is larger.
const READ_MAX: u64 = 256 * 1024;

/// Reads the bytes of an extent.
///
/// # Errors
/// Of the operating system, and `NotFound` for an address that no segment has.
pub fn read(segments: &Segments, position: u64, length: u32) -> io::Result<Bytes> {
    let segment = find(segments, position).ok_or(io::ErrorKind::NotFound)?.0;
    read_from(&segment, position, u64::from(length))
}

/// Reads the bytes of many extents; each is answered by itself, in its place.
pub fn read_all(segments: &Segments, extents: &[Extent]) -> Vec<io::Result<Bytes>> {
    let mut order: Vec<usize> = (0..extents.len()).collect();
    let at = |index: &usize| extents.get(*index).copied().unwrap_or_default();
    order.sort_unstable_by_key(|index| at(index).position);
    let mut found: Vec<io::Result<Bytes>> =
        extents.iter().map(|_| Err(io::ErrorKind::NotFound.into())).collect();
    let mut rest = order.as_slice();
    while let Some(first) = rest.first().map(at) {
        let Some((segment, stretch)) = find(segments, first.position) else {
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        let mut end = end_of(first);
        let near = |extent: Extent, end: u64| {
            extent.position < stretch.to
                && extent.position <= end + GAP_MAX
                && end_of(extent).max(end) <= first.position + READ_MAX
        };
        let count = 1 + rest
            .iter()
            .skip(1)
            .map(at)
            .take_while(|extent| {
                let near = near(*extent, end);
                end = end.max(if near { end_of(*extent) } else { end });
                near
            })
            .count();
        let (together, others) = rest.split_at(count);
        let bytes = read_from(&segment, first.position, end - first.position);
        for index in together {
            let extent = at(index);
            let start = (extent.position - first.position) as usize;
            let bytes = bytes.as_ref().map(|bytes| bytes.slice(start..start + extent.length as usize));
            if let Some(place) = found.get_mut(*index) {
                *place = bytes.map_err(|error| io::Error::new(error.kind(), error.to_string()));
            }
        }
        rest = others;
    }
    found
}

fn end_of(extent: Extent) -> u64 {
    extent.position + u64::from(extent.length)
}

/// The segment with this address, and where it ends.
fn find(segments: &Segments, position: u64) -> Option<(Arc<Segment>, Stretch)> {
    let segments = segments.read().unwrap_or_else(PoisonError::into_inner);
    let (_, segment) = segments.range(..=position).next_back()?;
    let next = segments.range((Bound::Excluded(position), Bound::Unbounded)).next();
    Some((Arc::clone(segment), segment.stretch(next.map(|(_, next)| &**next))))
}

fn read_from(segment: &Segment, position: u64, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = vec![0; length];
    segment.read(&mut bytes, position)?;
    Ok(bytes.into())
}
