//! The head of a segment, and of a file that waits to become one.
//!
//! ```text
//! 0   magic "HMQs", blank "HMQb" · version u32 LE · number u64 LE · base u64 LE · salt u64 LE ·
//!     identity u64 LE of the journal · first sequence u64 LE ·
//!     newest whole image: address u64 LE, sequence u64 LE (0: none)
//! 64  crc32c u32 LE of the bytes before
//! ```
//!
//! It stands in the file twice, and is written one copy after the other, so that one is good all the time. A
//! segment counts before a blank, and of two segments the one with the newer image.

use std::io;

use crate::store::embedded::checksum::crc32c;
use crate::store::embedded::disk::DiskFile;

const COPY_AT: u64 = 2_048;
const HEAD: usize = 68;
const MAGIC: [u8; 4] = *b"HMQs";
const BLANK_MAGIC: [u8; 4] = *b"HMQb";
const VERSION: u32 = 3;

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Head {
    pub(in super::super) number: u64,
    /// Journal address of the first frame.
    pub(in super::super) base: u64,
    pub(in super::super) salt: u64,
    /// The same in all segments of a journal.
    pub(in super::super) identity: u64,
    /// Of the first frame.
    pub(in super::super) sequence: u64,
    /// The newest whole image: a start begins there.
    pub(in super::super) image: Option<Anchor>,
}

/// Where a frame stands from which a start can begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Anchor {
    /// Journal address of the frame.
    pub address: u64,
    /// Its sequence.
    pub sequence: u64,
}

impl Head {
    /// Both copies, durable when it returns.
    pub(super) fn write(&self, file: &dyn DiskFile, stage: Stage) -> io::Result<()> {
        let head = encode(stage, self);
        for at in [0, COPY_AT] {
            file.write_at(&head, at)?;
            file.sync()?;
        }
        Ok(())
    }
}

/// The head of a file with this many bytes and this number; `None` if both copies are broken.
pub(super) fn read(file: &dyn DiskFile, length: u64, number: u64) -> Option<(Stage, Head)> {
    let heads = copies(file, length).filter_map(|copy| decode(&copy, number));
    heads.max_by_key(|(stage, head)| (*stage, head.image))
}

/// The version of a head that is whole and that this one cannot read.
pub(super) fn other_version(file: &dyn DiskFile, length: u64) -> Option<u32> {
    let mut versions = copies(file, length).filter_map(|copy| {
        let (fields, crc) = copy.split_at(HEAD - 4);
        let whole = fields.starts_with(&MAGIC) && crc32c(fields).to_le_bytes() == crc;
        whole.then(|| fields.get(4..8)?.try_into().ok().map(u32::from_le_bytes)).flatten()
    });
    versions.find(|version| *version != VERSION)
}

fn copies(file: &dyn DiskFile, length: u64) -> impl Iterator<Item = [u8; HEAD]> {
    [0, COPY_AT].into_iter().filter_map(move |at| {
        let mut copy = [0; HEAD];
        let read = length >= super::HEAD_BYTES && file.read_at(&mut copy, at).is_ok();
        read.then_some(copy)
    })
}

/// What a head says of its file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    Blank,
    Begun,
}

impl Stage {
    fn magic(self) -> [u8; 4] {
        match self {
            Self::Blank => BLANK_MAGIC,
            Self::Begun => MAGIC,
        }
    }
}

fn encode(stage: Stage, head: &Head) -> [u8; HEAD] {
    let image = head.image.unwrap_or(Anchor { address: 0, sequence: 0 });
    let numbers =
        [head.number, head.base, head.salt, head.identity, head.sequence, image.address, image.sequence];
    let fields = stage.magic().into_iter().chain(VERSION.to_le_bytes());
    let fields = fields.chain(numbers.into_iter().flat_map(u64::to_le_bytes));
    let mut bytes = [0; HEAD];
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    let (fields, crc) = bytes.split_at_mut(HEAD - 4);
    crc.copy_from_slice(&crc32c(fields).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; HEAD], number: u64) -> Option<(Stage, Head)> {
    let (fields, crc) = bytes.split_at(HEAD - 4);
    let stage = [Stage::Blank, Stage::Begun].into_iter().find(|stage| fields.starts_with(&stage.magic()))?;
    if fields.get(4..8)? != VERSION.to_le_bytes() || crc32c(fields).to_le_bytes() != crc {
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
    (head.number == number).then_some((stage, head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_its_own_file_only() {
        let image = Some(Anchor { address: 1 << 32, sequence: 9 });
        for (stage, image) in [(Stage::Blank, None), (Stage::Begun, None), (Stage::Begun, image)] {
            let head = Head { number: 3, base: 1 << 33, salt: 77, identity: 5, sequence: 12, image };
            let bytes = encode(stage, &head);
            assert_eq!(decode(&bytes, 3), Some((stage, head)));
            assert_eq!(decode(&bytes, 4), None);
            for at in 0..HEAD {
                let mut damaged = bytes;
                damaged[at] ^= 1;
                assert_eq!(decode(&damaged, 3), None, "byte {at} flipped");
            }
        }
    }
}
