//! One group of records on disk.
//!
//! ```text
//! 0   magic "HMQf"        4   crc32c u32 LE: salt, then all bytes behind this field
//! 8   length u32 LE of the records        12  zero        16  sequence u64 LE
//! 24  address u64 LE      32  records …
//! ```
//!
//! Lifetime: as long as its segment. Sequences and addresses run without gaps. The salt differs for each
//! segment and is known to nobody else, so that neither a frame left over from another life of the file
//! nor a body that looks like a frame is ever taken for one.
//!
//! A frame without records has the place of the next one, and says that there is none in this segment.

use crate::store::embedded::checksum::crc32c_of;

pub(super) const HEAD_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"HMQf";

/// Where a frame stands in the order of frames and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) sequence: u64,
    pub(super) address: u64,
}

impl Frame {
    /// What stands before these records on disk. They are not copied behind it: a group may be large.
    pub(super) fn head(self, salt: u64, records: &[u8]) -> [u8; HEAD_BYTES] {
        let length = u32::try_from(records.len()).expect("a group is cut far below 4 GiB");
        let mut head = [0; HEAD_BYTES];
        let (start, summed) = head.split_at_mut(8);
        let fields = length.to_le_bytes().into_iter().chain([0; 4]);
        let fields = fields.chain(self.sequence.to_le_bytes()).chain(self.address.to_le_bytes());
        summed.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        let crc = sum(salt, summed, records);
        start
            .iter_mut()
            .zip(MAGIC.into_iter().chain(crc.to_le_bytes()))
            .for_each(|(byte, field)| *byte = field);
        head
    }

    /// The frame at the beginning of `bytes`, with its records; `None` if there is none.
    pub(super) fn decode(salt: u64, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (frame, length) = Self::claimed(bytes)?;
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let records = rest.get(..length)?;
        let crc = u32::from_le_bytes(head.get(4..8)?.try_into().ok()?);
        (sum(salt, head.get(8..)?, records) == crc).then_some((frame, records))
    }

    /// Which frame the bytes say they are, and how many bytes of records it has. It may be torn, damaged, or
    /// of another life of the file.
    pub(super) fn claimed(bytes: &[u8]) -> Option<(Self, usize)> {
        let field = |range: std::ops::Range<usize>| bytes.get(range);
        if field(0..4)? != MAGIC {
            return None;
        }
        let length = u32::from_le_bytes(field(8..12)?.try_into().ok()?) as usize;
        let sequence = u64::from_le_bytes(field(16..24)?.try_into().ok()?);
        let address = u64::from_le_bytes(field(24..32)?.try_into().ok()?);
        Some((Self { sequence, address }, length))
    }

    /// Places in `bytes` where a frame may begin.
    pub(super) fn candidates(bytes: &[u8]) -> impl Iterator<Item = usize> {
        bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC).map(|(at, _)| at)
    }
}

fn sum(salt: u64, fields: &[u8], records: &[u8]) -> u32 {
    crc32c_of(&[&salt.to_le_bytes(), fields, records])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_was_written_or_nothing() {
        let frame = Frame { sequence: 7, address: 4_096 };
        let bytes = [&frame.head(99, b"records")[..], b"records"].concat();
        assert_eq!(Frame::decode(99, &bytes), Some((frame, &b"records"[..])));
        assert_eq!(Frame::decode(98, &bytes), None, "another segment's salt");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Frame::decode(99, &damaged), None, "byte {at} flipped");
            assert_eq!(Frame::decode(99, &bytes[..at]), None, "cut at {at}");
        }
    }
}
