//! Decided transactions side by side in one entry of the tree, because an entry of its own for each costs
//! several times as much.
//!
//! ```text
//! key    c <id of the first, 16 bytes>
//! value  id, 16 bytes │ length u32 LE │ decided transaction (record.rs) │ id … in the order of ids
//! ```
//!
//! All in one chunk were made in the same span of time, so that one is found by its id alone: in one of the
//! chunks of its span that begin at or before it. Lifetime: until the receipts in it are pruned.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use halfmq_core::{DecidedTransaction, TransactionId};

use super::super::record::{Malformed, put_decided, take_decided};

pub(super) const FIRST: &[u8] = b"c";
pub(super) const END: &[u8] = b"d";
/// Bits of milliseconds in one span: 64 ms.
const SPAN_BITS: u32 = 6;
/// Bits of an id behind its milliseconds.
const REST_BITS: u32 = 80;
/// Decisions of one chunk.
const DECISIONS_MAX: usize = 64;
/// Bytes at which a chunk is closed.
const BYTES_MAX: usize = 16 * 1024;
const HEAD_BYTES: usize = 20;
/// Of a receipt with one message, about.
const RECORD_BYTES: usize = 192;

/// When it was made, in spans.
pub(super) fn span_of(id: TransactionId) -> u64 {
    u64::try_from(id.as_u128() >> (REST_BITS + SPAN_BITS)).unwrap_or(u64::MAX)
}

/// The smallest id of a span.
fn begin(span: u64) -> TransactionId {
    TransactionId::from_u128(u128::from(span) << (REST_BITS + SPAN_BITS))
}

/// The key of a chunk.
pub(super) fn key(first: TransactionId) -> Vec<u8> {
    [FIRST, &first.as_u128().to_be_bytes()].concat()
}

/// The id of the first transaction of the chunk with this key.
pub(super) fn first(key: &[u8]) -> Option<TransactionId> {
    let id = key.strip_prefix(FIRST)?.try_into().ok()?;
    Some(TransactionId::from_u128(u128::from_be_bytes(id)))
}

/// Keys of the chunks in which this one may be.
pub(super) fn may_hold(id: TransactionId) -> RangeInclusive<Vec<u8>> {
    key(begin(span_of(id)))..=key(id)
}

/// The first key of a chunk with ids behind this one.
pub(super) fn from(after: Option<TransactionId>) -> Vec<u8> {
    key(begin(after.map_or(0, span_of)))
}

/// The smallest id that can have been made in the same span.
pub(super) fn span_begin(id: TransactionId) -> TransactionId {
    begin(span_of(id))
}

/// Chunks of decided transactions that are written down already.
pub(super) fn make(decided: &mut [(TransactionId, impl AsRef<[u8]>)], mut put: impl FnMut(Vec<u8>, Vec<u8>)) {
    decided.sort_unstable_by_key(|(id, _)| *id);
    for span in decided.chunk_by(|(one, _), (next, _)| span_of(*one) == span_of(*next)) {
        for few in span.chunks(DECISIONS_MAX) {
            let mut chunk: Option<(TransactionId, Vec<u8>)> = None;
            for (id, record) in few {
                let (first, bytes) = chunk.get_or_insert_with(|| (*id, Vec::new()));
                put_entry(*id, record.as_ref(), bytes);
                if bytes.len() >= BYTES_MAX {
                    put(key(*first), std::mem::take(bytes));
                    chunk = None;
                }
            }
            if let Some((first, bytes)) = chunk {
                put(key(first), bytes);
            }
        }
    }
}

/// Writes one down for [`make`].
pub(super) fn record(decided: &DecidedTransaction) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES);
    put_decided(decided, &mut record);
    record
}

/// Both together. After a restart the last decisions are written again, perhaps under the same key, but not
/// those that stood beside them.
///
/// # Errors
/// [`Malformed`].
pub(super) fn union(one: &[u8], other: &[u8]) -> Result<Vec<u8>, Malformed> {
    let entries = Entries { rest: one }.raw().chain(Entries { rest: other }.raw());
    let entries: BTreeMap<_, _> = entries.collect::<Result<_, _>>()?;
    let mut bytes = Vec::with_capacity(one.len() + other.len());
    entries.into_iter().for_each(|(id, record)| put_entry(id, record, &mut bytes));
    Ok(bytes)
}

fn put_entry(id: TransactionId, record: &[u8], chunk: &mut Vec<u8>) {
    chunk.extend_from_slice(&id.as_u128().to_be_bytes());
    let length = u32::try_from(record.len()).expect("a receipt is far smaller than 4 GiB");
    chunk.extend_from_slice(&length.to_le_bytes());
    chunk.extend_from_slice(record);
}

/// The transaction with this id.
///
/// # Errors
/// [`Malformed`].
pub(super) fn find(chunk: &[u8], wanted: TransactionId) -> Result<Option<DecidedTransaction>, Malformed> {
    for entry in (Entries { rest: chunk }).raw() {
        let (id, record) = entry?;
        if id == wanted {
            return take_decided(record).map(Some);
        }
    }
    Ok(None)
}

/// What is in a chunk.
pub(super) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    pub(super) fn of(
        chunk: &'a [u8],
    ) -> impl Iterator<Item = Result<(TransactionId, DecidedTransaction), Malformed>> {
        let decided = |entry: Result<(TransactionId, &[u8]), Malformed>| {
            let (id, record) = entry?;
            Ok((id, take_decided(record)?))
        };
        Self { rest: chunk }.raw().map(decided)
    }

    fn raw(mut self) -> impl Iterator<Item = Result<(TransactionId, &'a [u8]), Malformed>> {
        std::iter::from_fn(move || {
            if self.rest.is_empty() {
                return None;
            }
            let entry = self.next_entry().ok_or(Malformed("a chunk ends too early"));
            if entry.is_err() {
                self.rest = &[];
            }
            Some(entry)
        })
    }

    fn next_entry(&mut self) -> Option<(TransactionId, &'a [u8])> {
        let (head, rest) = self.rest.split_at_checked(HEAD_BYTES)?;
        let (id, length) = head.split_at_checked(16)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let (record, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((TransactionId::from_u128(u128::from_be_bytes(id.try_into().ok()?)), record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64, rest: u128) -> TransactionId {
        TransactionId::from_u128((u128::from(millis) << REST_BITS) | rest)
    }

    #[test]
    fn keys_keep_the_order_of_ids() {
        let keys: Vec<_> = [0, 1, 255, 256, u128::MAX].map(|id| key(TransactionId::from_u128(id))).into();
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| &key[..] >= FIRST && &key[..] < END));
        assert_eq!(first(&key(id(7, 9))), Some(id(7, 9)));
    }

    #[test]
    fn chunks_hold_what_was_made_together_and_not_too_much() {
        let large = vec![b'x'; BYTES_MAX];
        let small = b"r".to_vec();
        // Spans are 64 ms: 0 and 63 are in one, 64 is in the next.
        let mut decided: Vec<(TransactionId, &[u8])> =
            vec![(id(64, 0), &small), (id(63, 5), &large), (id(0, 2), &small), (id(63, 9), &small)];
        let many: Vec<_> = (0..100).map(|rest| (id(200, rest), &small[..])).collect();
        decided.extend(many);
        let mut chunks = Vec::new();
        make(&mut decided, |key, value| chunks.push((key, value)));
        let ids = |value: &[u8]| -> Vec<TransactionId> {
            Entries { rest: value }.raw().map(|entry| entry.expect("it is whole").0).collect()
        };
        let firsts: Vec<_> = chunks.iter().map(|(key, value)| (first(key), ids(value).len())).collect();
        let expected = [(id(0, 2), 2), (id(63, 9), 1), (id(64, 0), 1), (id(200, 0), 64), (id(200, 64), 36)];
        assert_eq!(firsts, expected.map(|(id, count)| (Some(id), count)));
        for (key, value) in &chunks {
            for id in ids(value) {
                assert!(may_hold(id).contains(key), "{id} is looked for where it is");
            }
        }
    }

    #[test]
    fn a_union_has_the_entries_of_both() {
        let chunk = |entries: &mut [(TransactionId, &[u8])]| {
            let mut chunks = Vec::new();
            make(entries, |_, value| chunks.push(value));
            chunks.remove(0)
        };
        let before = chunk(&mut [(id(1, 1), b"a"), (id(1, 3), b"c")]);
        let again = chunk(&mut [(id(1, 1), b"a"), (id(1, 2), b"b")]);
        let both = chunk(&mut [(id(1, 1), b"a"), (id(1, 2), b"b"), (id(1, 3), b"c")]);
        assert_eq!(union(&before, &again), Ok(both));
        assert!(union(&before[1..], &again).is_err());
    }

    #[test]
    fn a_cut_chunk_is_an_error() {
        let mut chunks = Vec::new();
        make(&mut [(id(1, 1), b"receipt")], |_, value| chunks.push(value));
        for cut in 1..chunks[0].len() {
            let entries: Vec<_> = Entries { rest: &chunks[0][..cut] }.raw().collect();
            assert!(matches!(entries[..], [Err(_)]), "cut at {cut}: {entries:?}");
        }
    }
}
