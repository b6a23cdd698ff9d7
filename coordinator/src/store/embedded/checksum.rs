//! The checksum of everything on disk: CRC-32C, which finds every change of a few neighbouring bits.

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// Of these bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    in_32_bits(checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// Of these parts, one behind the other.
pub(super) fn crc32c_of(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    in_32_bits(digest.finalize())
}

fn in_32_bits(sum: u64) -> u32 {
    u32::try_from(sum).expect("a CRC-32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_that_others_compute() {
        // The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_of(&[b"1234", b"", b"56789"]), 0xE306_9283);
    }
}
