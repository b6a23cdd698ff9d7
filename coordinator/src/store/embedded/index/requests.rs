//! Which transaction a request id brought. Most ids are made in the order of time (UUID version 7), so those
//! of one moment are neighbours, and stand side by side in one entry of the tree: an entry of its own for
//! each costs several times as much. Those without enough neighbours have one.
//!
//! ```text
//! whole request id  producer group · 0 · request id
//! q <the first>     ► leaf: shared u8 │ length u16 LE of the rest │ rest │ transaction id, 16 bytes │ …
//!                     in their order; each shares so many bytes with the one before
//! r <one>           ► transaction id, 16 bytes
//! ```
//!
//! A leaf has all of its kind from its key up to the key of the next leaf. The same request id may stand in
//! both kinds, when it was used again after the receipt of its first transaction was pruned: the younger
//! transaction counts. Lifetime: until the receipts are pruned; a leaf stays until all in it are.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halfmq_core::{ProducerGroup, RequestId, TransactionId};

use super::super::record::Malformed;

const LEAF: &[u8] = b"q";
const SINGLE: &[u8] = b"r";
const ID_BYTES: usize = 16;
/// Request ids of one leaf.
const LEAF_MAX: usize = 128;
/// So many neighbours are worth the writing of a leaf.
const NEIGHBOURS_MIN: usize = 8;

/// A whole request id, and the transaction that it brought.
type Entry = (Vec<u8>, TransactionId);

/// The request ids in the index.
#[derive(Clone)]
pub(super) struct Requests {
    tree: sled::Db,
    /// The last one of each producer group in the order of bytes: what comes behind it is not looked for.
    newest: Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>,
}

/// The request id together with its producer group.
pub(super) fn whole(group: &ProducerGroup, request_id: &RequestId) -> Vec<u8> {
    [group.as_str().as_bytes(), &[0], request_id.as_str().as_bytes()].concat()
}

impl Requests {
    pub(super) fn new(tree: sled::Db) -> Self {
        Self { tree, newest: Arc::default() }
    }

    /// The tree was emptied.
    pub(super) fn clear(&self) {
        self.newest().clear();
    }

    /// The transactions that this request id has brought, youngest first. They may be pruned.
    ///
    /// # Errors
    /// Of the tree.
    pub(super) fn find(
        &self,
        group: &ProducerGroup,
        request_id: &RequestId,
    ) -> io::Result<Vec<TransactionId>> {
        let whole = whole(group, request_id);
        if self.newest_of(&mut self.newest(), &whole)?.as_slice() < whole.as_slice() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        found.extend(self.tree.get([SINGLE, &whole].concat())?.and_then(|id| transaction(&id)));
        if let Some((_, leaf)) = self.leaf_of(&whole)? {
            for entry in Leaf::of(&leaf) {
                let (request, id) = entry.map_err(io::Error::other)?;
                found.extend((request == whole).then_some(id));
            }
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        Ok(found)
    }

    /// Adds request ids, in any order; of the same one the last counts.
    ///
    /// # Errors
    /// Of the tree.
    pub(super) fn add(&self, mut requests: Vec<Entry>) -> io::Result<()> {
        put_in_order(&mut requests);
        self.raise_newest(&requests)?;
        let mut rest = requests.into_iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let leaf = self.leaf_of(first)?;
            let next = self.leaf_behind(first)?;
            let mut neighbours = Vec::new();
            while let Some(entry) =
                rest.next_if(|(request, _)| next.as_ref().is_none_or(|next| request < next))
            {
                neighbours.push(entry);
            }
            if neighbours.len() < NEIGHBOURS_MIN {
                for (request, id) in neighbours {
                    self.tree.insert([SINGLE, &request].concat(), &id.as_u128().to_be_bytes())?;
                }
                continue;
            }
            self.add_to_leaf(leaf, neighbours)?;
        }
        Ok(())
    }

    /// Removes the request ids of these transactions, as far as they stand alone or with none that is younger.
    ///
    /// # Errors
    /// Of the tree.
    pub(super) fn prune(
        &self,
        mut requests: Vec<Entry>,
        gone: impl Fn(TransactionId) -> bool,
    ) -> io::Result<()> {
        put_in_order(&mut requests);
        let mut seen = None;
        for (request, id) in requests {
            let single = [SINGLE, &request].concat();
            // By now it may have brought another one.
            if self.tree.get(&single)?.is_some_and(|there| transaction(&there) == Some(id)) {
                self.tree.remove(single)?;
            }
            let Some((key, leaf)) = self.leaf_of(&request)?.filter(|(key, _)| seen.as_ref() != Some(key))
            else {
                continue;
            };
            let entries = Leaf::of(&leaf).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
            if entries.into_iter().all(|(_, id)| gone(id)) {
                self.tree.remove(&key)?;
            }
            seen = Some(key);
        }
        Ok(())
    }

    /// From the last to the first: whoever looks meanwhile finds a whole leaf that has what was there before.
    fn add_to_leaf(&self, leaf: Option<(sled::IVec, sled::IVec)>, added: Vec<Entry>) -> io::Result<()> {
        let mut entries = Vec::new();
        if let Some((_, leaf)) = &leaf {
            entries = Leaf::of(leaf).collect::<Result<_, _>>().map_err(io::Error::other)?;
        }
        entries.extend(added);
        put_in_order(&mut entries);
        for (number, few) in entries.chunks(LEAF_MAX).enumerate().rev() {
            let key = match (&leaf, few.first()) {
                (Some((key, _)), _) if number == 0 => key.clone(),
                (_, Some((first, _))) => [LEAF, first].concat().into(),
                (_, None) => continue,
            };
            self.tree.insert(key, put_leaf(few))?;
        }
        Ok(())
    }

    /// The leaf in which this one is, if it is in one.
    fn leaf_of(&self, whole: &[u8]) -> io::Result<Option<(sled::IVec, sled::IVec)>> {
        Ok(self.tree.range(LEAF.to_vec()..=[LEAF, whole].concat()).next_back().transpose()?)
    }

    /// The first of the next leaf.
    fn leaf_behind(&self, whole: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let behind = [LEAF, whole, &[0]].concat();
        let next = self.tree.range(behind..SINGLE.to_vec()).next().transpose()?;
        Ok(next.and_then(|(key, _)| key.strip_prefix(LEAF).map(<[u8]>::to_vec)))
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Vec<u8>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes before the writing, so that nobody takes for new what is being written.
    fn raise_newest(&self, requests: &[Entry]) -> io::Result<()> {
        let mut newest = self.newest();
        let mut group = None;
        for (request, _) in requests.iter().rev() {
            if group.replace(group_of(request)) == Some(group_of(request)) {
                continue;
            }
            let of_group = self.newest_of(&mut newest, request)?;
            if *of_group < *request {
                of_group.clone_from(request);
            }
        }
        Ok(())
    }

    /// Of the same group as this one. Reads the tree when the group comes up for the first time.
    fn newest_of<'a>(
        &self,
        newest: &'a mut HashMap<Vec<u8>, Vec<u8>>,
        whole: &[u8],
    ) -> io::Result<&'a mut Vec<u8>> {
        let group = group_of(whole);
        if !newest.contains_key(group) {
            newest.insert(group.to_vec(), self.last_of(group)?);
        }
        Ok(newest.get_mut(group).expect("it was put there if it was not"))
    }

    /// The last one of a group; empty if there is none.
    fn last_of(&self, group: &[u8]) -> io::Result<Vec<u8>> {
        let behind = [group, &[1]].concat();
        let singles = [SINGLE, group, &[0]].concat()..[SINGLE, &behind].concat();
        let single = self.tree.range(singles).next_back().transpose()?;
        let single = single.and_then(|(key, _)| key.strip_prefix(SINGLE).map(<[u8]>::to_vec));
        let mut last = single.unwrap_or_default();
        if let Some((_, leaf)) = self.leaf_of(&behind)? {
            for entry in Leaf::of(&leaf) {
                let (request, _) = entry.map_err(io::Error::other)?;
                if group_of(&request) == group {
                    last = last.max(request);
                }
            }
        }
        Ok(last)
    }
}

/// By request id; of the same one the last stays.
fn put_in_order(entries: &mut Vec<Entry>) {
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    entries.dedup_by(|(later, id), (request, stays)| {
        let same = later == request;
        if same {
            *stays = *id;
        }
        same
    });
}

/// Its producer group.
fn group_of(whole: &[u8]) -> &[u8] {
    whole.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn transaction(id: &[u8]) -> Option<TransactionId> {
    Some(TransactionId::from_u128(u128::from_be_bytes(id.try_into().ok()?)))
}

fn put_leaf(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut before: &[u8] = &[];
    for (request, id) in entries {
        let same = before.iter().zip(request).take_while(|(one, other)| one == other).count();
        let shared = u8::try_from(same).unwrap_or(u8::MAX);
        let rest = request.get(usize::from(shared)..).unwrap_or_default();
        let length = u16::try_from(rest.len()).expect("names have at most 255 bytes");
        bytes.push(shared);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(&id.as_u128().to_be_bytes());
        before = request;
    }
    bytes
}

/// What is in a leaf, in its order.
struct Leaf<'a> {
    rest: &'a [u8],
    before: Vec<u8>,
}

impl<'a> Leaf<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, before: Vec::new() }
    }

    fn entry(&mut self) -> Option<(Vec<u8>, TransactionId)> {
        let (shared, rest) = self.rest.split_first()?;
        let (length, rest) = rest.split_at_checked(2)?;
        let length = u16::from_le_bytes(length.try_into().ok()?);
        let (request, rest) = rest.split_at_checked(usize::from(length))?;
        let (id, rest) = rest.split_at_checked(ID_BYTES)?;
        self.rest = rest;
        let request = [self.before.get(..usize::from(*shared))?, request].concat();
        self.before.clone_from(&request);
        Some((request, transaction(id)?))
    }
}

impl Iterator for Leaf<'_> {
    type Item = Result<(Vec<u8>, TransactionId), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.entry().ok_or(Malformed("a leaf ends too early"));
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const GROUPS: [&str; 3] = ["shop", "shop2", "s"];

    fn tree(directory: &std::path::Path) -> sled::Db {
        sled::Config::new().path(directory).open().expect("a tree")
    }

    /// An id as producers make it: in the order of time, about, or by chance.
    fn request(chance: &mut SmallRng, now: u64) -> (ProducerGroup, RequestId) {
        let group = GROUPS[chance.random_range(0..GROUPS.len())];
        let id = match chance.random_range(0..10) {
            0 => format!("{:08x}", chance.random::<u32>()),
            1 => format!("{}", chance.random_range(0..50)),
            _ => format!("{:012x}-{:04x}", now + chance.random_range(0..300), chance.random::<u16>()),
        };
        (group.parse().expect("a legal name"), id.parse().expect("a legal name"))
    }

    fn all_are_found(
        requests: &Requests,
        model: &HashMap<(ProducerGroup, RequestId), u128>,
        end: u128,
        seed: u64,
    ) {
        for ((group, request_id), id) in model {
            let found = requests.find(group, request_id).expect("the tree is fine");
            assert!(found.is_sorted_by(|one, other| one >= other), "seed {seed}: youngest first");
            let kept = found.into_iter().map(TransactionId::as_u128).find(|id| *id >= end);
            assert_eq!(kept, Some(*id).filter(|id| *id >= end), "seed {seed}: {group} {request_id}");
        }
    }

    #[test]
    fn request_ids_are_found_until_they_are_pruned() {
        for seed in 0..4 {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let mut chance = SmallRng::seed_from_u64(seed);
            let mut requests = Requests::new(tree(directory.path()));
            let mut model = HashMap::new();
            let (mut last, mut end) = (0_u128, 0_u128);
            for step in 0..60 {
                let batch: Vec<_> = (0..chance.random_range(1..400))
                    .map(|_| {
                        last += 1;
                        (request(&mut chance, step * 200), last)
                    })
                    // Of one that is kept no second transaction is made.
                    .filter(|(request, _)| model.get(request).is_none_or(|id| *id < end))
                    .collect();
                let added = batch.iter().map(|((group, request_id), id)| {
                    (whole(group, request_id), TransactionId::from_u128(*id))
                });
                requests.add(added.collect()).expect("the tree is fine");
                model.extend(batch);
                if chance.random_bool(0.2) {
                    let before = end;
                    end += (last - end) / 3;
                    let gone = model.iter().filter(|(_, id)| (before..end).contains(*id));
                    let gone = gone.map(|((group, request_id), id)| {
                        (whole(group, request_id), TransactionId::from_u128(*id))
                    });
                    requests.prune(gone.collect(), |id| id.as_u128() < end).expect("the tree is fine");
                }
                if chance.random_bool(0.1) {
                    // As after a restart.
                    requests = Requests::new(requests.tree);
                }
                if step % 10 == 9 {
                    all_are_found(&requests, &model, end, seed);
                }
                let (group, unknown) = request(&mut chance, step * 200);
                if !model.contains_key(&(group.clone(), unknown.clone())) {
                    let found = requests.find(&group, &unknown).expect("the tree is fine");
                    assert_eq!(found, [], "seed {seed}: {group} {unknown}");
                }
            }
            let all = model
                .iter()
                .map(|((group, request_id), id)| (whole(group, request_id), TransactionId::from_u128(*id)));
            requests.prune(all.collect(), |_| true).expect("the tree is fine");
            assert!(requests.tree.is_empty(), "seed {seed}: nothing stays behind");
        }
    }

    #[test]
    fn neighbours_share_an_entry() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let requests = Requests::new(tree(directory.path()));
        let ids = (0..1_000_u128)
            .map(|number| (format!("shop\0{number:032x}").into_bytes(), TransactionId::from_u128(number)));
        requests.add(ids.collect()).expect("the tree is fine");
        assert_eq!(requests.tree.len(), 1_000_usize.div_ceil(LEAF_MAX));
        let bytes: usize = requests.tree.iter().map(|entry| entry.expect("the tree is fine").1.len()).sum();
        assert!(bytes < 1_000 * 25, "{bytes} bytes for ids of 16");
    }

    #[test]
    fn a_cut_leaf_is_an_error() {
        let one = [(b"shop\0one".to_vec(), TransactionId::from_u128(1))];
        let leaf = put_leaf(&one);
        assert_eq!(Leaf::of(&leaf).collect::<Vec<_>>(), one.map(Ok));
        for cut in 1..leaf.len() {
            let entries: Vec<_> = Leaf::of(&leaf[..cut]).collect();
            assert!(matches!(entries[..], [Err(_)]), "cut at {cut}: {entries:?}");
        }
    }
}
