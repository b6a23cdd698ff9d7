//! Keys of the tree besides those of chunks and request ids.

pub(super) const MARK: &[u8] = b"o";
pub(super) const DAMAGED: &[u8] = b"d";
pub(super) const DAMAGED_END: &[u8] = b"e";
pub(super) const FILES: &[u8] = b"s";
pub(super) const FILES_END: &[u8] = b"t";
pub(super) const FLOOR: &[u8] = b"f";

pub(super) fn damaged_key(chunk: &[u8]) -> Vec<u8> {
    [DAMAGED, chunk].concat()
}

pub(super) fn file_key(number: u32) -> Vec<u8> {
    [FILES, &number.to_be_bytes()].concat()
}

pub(super) fn file_number(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.strip_prefix(FILES)?.try_into().ok()?))
}

pub(super) fn put_mark(identity: u64, through: u64) -> [u8; 16] {
    ((u128::from(identity) << 64) | u128::from(through)).to_be_bytes()
}

pub(super) fn take_mark(bytes: &[u8]) -> Option<(u64, u64)> {
    let mark = u128::from_be_bytes(bytes.try_into().ok()?);
    Some(((mark >> 64) as u64, (mark & u128::from(u64::MAX)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_bytes() {
        assert_eq!(take_mark(&put_mark(u64::MAX, 7)), Some((u64::MAX, 7)));
        assert_eq!(take_mark(b"short"), None);
    }
}
