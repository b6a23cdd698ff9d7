//! How far the journal is known to be durable: two slots of 32 bytes, written in turn, never synced.
//!
//! ```text
//! 0  sequence u64 LE of the last synced frame    8  address u64 LE behind it    16  zero
//! 28 crc32c u32 LE of the bytes before
//! ```
//!
//! A frame at the tail that is broken may be torn (never acknowledged) or damaged (acknowledged). When the
//! mark stands behind it, it is damage. The mark is written only after the sync it speaks of, so it never
//! claims too much; without a sync of its own it may claim too little. Absence: nothing is known.

use std::io;
use std::sync::Arc;

use crate::store::embedded::checksum::crc32c;
use crate::store::embedded::disk::{Disk, DiskFile};

pub(super) const NAME: &str = "high-water";
const SLOT_BYTES: usize = 32;

pub(super) struct HighWater {
    file: Arc<dyn DiskFile>,
    turn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Mark {
    /// Frames up to and with this one are durable.
    pub(super) sequence: u64,
    /// Bytes below this address are durable.
    pub(super) address: u64,
}

impl HighWater {
    /// For writing.
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Self> {
        Ok(Self { file: disk.open(NAME)?, turn: 0 })
    }

    /// The last mark; `None` if there is none.
    pub(super) fn read(disk: &dyn Disk) -> io::Result<Option<Mark>> {
        if !disk.list()?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let file = disk.open(NAME)?;
        let length = file.length()?;
        let slot = |at: u64| {
            let mut slot = [0; SLOT_BYTES];
            (length >= at + SLOT_BYTES as u64 && file.read_at(&mut slot, at).is_ok())
                .then(|| decode(&slot))
                .flatten()
        };
        Ok(slot(0).max(slot(SLOT_BYTES as u64)))
    }

    /// A mark that could not be written only makes a later recovery less sharp, so that is no error.
    pub(super) fn raise(&mut self, sequence: u64, address: u64) {
        self.turn ^= 1;
        let written = self.file.write_at(&encode(Mark { sequence, address }), self.turn * SLOT_BYTES as u64);
        if let Err(error) = written {
            tracing::debug!(%error, "the high-water mark was not written");
        }
    }
}

fn encode(mark: Mark) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let (fields, crc) = slot.split_at_mut(SLOT_BYTES - 4);
    for (field, byte) in
        fields.iter_mut().zip(mark.sequence.to_le_bytes().into_iter().chain(mark.address.to_le_bytes()))
    {
        *field = byte;
    }
    crc.copy_from_slice(&crc32c(fields).to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<Mark> {
    let (fields, crc) = slot.split_at(SLOT_BYTES - 4);
    if crc32c(fields).to_le_bytes() != crc || fields.iter().all(|byte| *byte == 0) {
        return None;
    }
    let number =
        |range: std::ops::Range<usize>| Some(u64::from_le_bytes(fields.get(range)?.try_into().ok()?));
    Some(Mark { sequence: number(0..8)?, address: number(8..16)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_slot_and_damage_hides_it() {
        let mark = Mark { sequence: 42, address: 1 << 40 };
        let slot = encode(mark);
        assert_eq!(decode(&slot), Some(mark));
        let mut damaged = slot;
        damaged[3] ^= 1;
        assert_eq!(decode(&damaged), None);
        assert_eq!(decode(&[0; SLOT_BYTES]), None);
    }
}
