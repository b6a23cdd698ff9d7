//! A disk that forgets: a power cut keeps what was synced, and of the rest a random part of each sector.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halfmq_coordinator::store::embedded::disk::{Disk, DiskFile};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECTOR: usize = 512;

/// Shared by all handles; survives the engine that uses it.
#[derive(Clone)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Content>,
    /// Names that are durable; others vanish with a power cut, removed ones come back.
    durable_names: BTreeMap<String, Content>,
    /// New names that are not durable yet: old and new. After a power cut a file has one of them.
    renamed: Vec<(String, String)>,
    chance: SmallRng,
    /// Operations until the power fails; `None`: it does not.
    cut_after: Option<u64>,
    /// Everything fails from the cut until the next start.
    off: bool,
    /// Bytes that fit.
    capacity: usize,
    /// The next sync fails without a power cut.
    fail_sync: bool,
    /// Operations so far.
    operations: u64,
}

type Content = Arc<Mutex<Bytes>>;

#[derive(Clone, Default)]
struct Bytes {
    synced: Vec<u8>,
    now: Vec<u8>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            files: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            chance: SmallRng::seed_from_u64(seed),
            cut_after: None,
            off: false,
            capacity: usize::MAX,
            fail_sync: false,
            operations: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The power fails in the n-th operation from now: before it, within it, or behind it.
    pub(crate) fn cut_after(&self, operations: u64) {
        self.state().cut_after = Some(operations);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.state().off
    }

    pub(crate) fn fail_next_sync(&self) {
        self.state().fail_sync = true;
    }

    pub(crate) fn limit(&self, capacity: usize) {
        self.state().capacity = capacity;
    }

    /// Operations so far.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.state().used()
    }

    /// Names and lengths, sorted by name.
    pub(crate) fn files(&self) -> Vec<(String, usize)> {
        let state = self.state();
        state.files.iter().map(|(name, content)| (name.clone(), lock(content).now.len())).collect()
    }

    /// Changes bytes behind everybody's back.
    pub(crate) fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let content = Arc::clone(self.state().files.get(name).expect("the file exists"));
        let mut content = lock(&content);
        change(&mut content.now);
        content.synced = content.now.clone();
    }

    /// What is in it now.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let content = Arc::clone(self.state().files.get(name).expect("the file exists"));
        lock(&content).now.clone()
    }

    /// Whether a segment's file was never used under this name: blank, or being made.
    pub(crate) fn is_spare(&self, name: &str) -> bool {
        let content = self.content(name);
        content.starts_with(b"HMQb") || content.iter().all(|byte| *byte == 0)
    }

    /// An independent copy of what is durable and what is not.
    pub(crate) fn copy(&self, seed: u64) -> Self {
        let state = self.state();
        let copy = Self::new(seed);
        for (name, content) in &state.files {
            let content = Arc::new(Mutex::new(lock(content).clone()));
            copy.state().files.insert(name.clone(), Arc::clone(&content));
            copy.state().durable_names.insert(name.clone(), content);
        }
        copy
    }

    /// Only the process dies: what it wrote is still in memory, and still not synced.
    pub(crate) fn process_restarts(&self) {
        let mut state = self.state();
        state.off = false;
        state.cut_after = None;
    }

    /// The power comes back: what was synced is there, and of the rest whatever happened to be written.
    pub(crate) fn power_on(&self) {
        let state = &mut *self.state();
        let mut survivors = state.durable_names.clone();
        for (name, content) in &state.files {
            if state.chance.random_bool(0.5) {
                survivors.insert(name.clone(), Arc::clone(content));
            }
        }
        for (name, content) in &state.durable_names {
            if !state.files.contains_key(name) && state.chance.random_bool(0.5) {
                survivors.remove(name);
            }
            lock(content).survive(&mut state.chance);
        }
        for (name, content) in &survivors {
            if !state.durable_names.contains_key(name) {
                lock(content).survive(&mut state.chance);
            }
        }
        for (old, new) in std::mem::take(&mut state.renamed) {
            let (content, kept) = (state.files.get(&new).map(Arc::clone), state.chance.random_bool(0.5));
            survivors.remove(&old);
            survivors.remove(&new);
            survivors.extend(content.map(|content| (if kept { new } else { old }, content)));
        }
        state.files = survivors.clone();
        state.durable_names = survivors;
        state.off = false;
        state.cut_after = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Bytes {
    /// Keeps each unsynced sector whole, not at all, or torn.
    fn survive(&mut self, chance: &mut SmallRng) {
        let mut kept = self.synced.clone();
        if self.now.len() > kept.len() && chance.random_bool(0.5) {
            kept.resize(self.now.len(), 0);
        }
        for start in (0..kept.len().min(self.now.len())).step_by(SECTOR) {
            let end = (start + SECTOR).min(kept.len()).min(self.now.len());
            let torn = match chance.random_range(0..4) {
                0 => chance.random_range(start..=end),
                1 => start,
                _ => end,
            };
            kept[start..torn].copy_from_slice(&self.now[start..torn]);
        }
        self.synced.clone_from(&kept);
        self.now = kept;
    }
}

impl State {
    fn used(&self) -> usize {
        self.files.values().map(|content| lock(content).now.len()).sum()
    }

    /// Counts an operation. `Some(true)`: it still happens, but nobody hears of it.
    fn step(&mut self) -> io::Result<Fate> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        let Some(left) = &mut self.cut_after else { return Ok(Fate::Done) };
        if *left > 0 {
            *left -= 1;
            return Ok(Fate::Done);
        }
        self.off = true;
        Ok(match self.chance.random_range(0..3) {
            0 => Fate::NotDone,
            1 => Fate::HalfDone,
            _ => Fate::DoneUnheard,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    NotDone,
    HalfDone,
    DoneUnheard,
}

impl Fate {
    fn heard(self) -> io::Result<()> {
        if self == Self::Done { Ok(()) } else { Err(io::Error::other("the power failed")) }
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let fate = state.step()?;
        if fate == Fate::NotDone {
            return Err(io::Error::other("the power failed"));
        }
        let content = Arc::clone(state.files.entry(name.to_owned()).or_default());
        fate.heard()?;
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), content }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.state().step()?.heard()?;
        Ok(self.state().files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let fate = state.step()?;
        if fate != Fate::NotDone {
            state.files.remove(name);
        }
        fate.heard()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let fate = state.step()?;
        if fate != Fate::NotDone {
            let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.files.insert(to.to_owned(), content);
            state.renamed.push((from.to_owned(), to.to_owned()));
        }
        fate.heard()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        let fate = state.step()?;
        if matches!(fate, Fate::Done | Fate::DoneUnheard) {
            state.renamed.clear();
            state.durable_names = state.files.clone();
        }
        fate.heard()
    }
}

struct SimFile {
    disk: SimDisk,
    content: Content,
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        self.disk.state().step()?.heard()?;
        Ok(lock(&self.content).now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.disk.is_off() {
            return Err(io::Error::other("the power is off"));
        }
        let content = lock(&self.content);
        let start = usize::try_from(offset).expect("files are small");
        let bytes = content.now.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let fate = state.step()?;
        let start = usize::try_from(offset).expect("files are small");
        let grows = (start + bytes.len()).saturating_sub(lock(&self.content).now.len());
        if state.used() + grows > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = match fate {
            Fate::Done | Fate::DoneUnheard => bytes.len(),
            Fate::NotDone => 0,
            Fate::HalfDone => state.chance.random_range(0..=bytes.len()),
        };
        let mut content = lock(&self.content);
        if content.now.len() < start + written {
            content.now.resize(start + written, 0);
        }
        content.now[start..start + written].copy_from_slice(&bytes[..written]);
        fate.heard()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let fate = state.step()?;
        let there = lock(&self.content).now.len();
        let length = usize::try_from(bytes).expect("files are small").max(there);
        if state.used() + (length - there) > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut content = lock(&self.content);
        if fate != Fate::NotDone {
            content.now.resize(length, 0);
        }
        fate.heard()
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let fate = state.step()?;
        if std::mem::take(&mut state.fail_sync) {
            return Err(io::Error::other("the disk failed"));
        }
        let mut content = lock(&self.content);
        match fate {
            Fate::Done | Fate::DoneUnheard => content.synced = content.now.clone(),
            Fate::NotDone => {}
            Fate::HalfDone => {
                let mut part = content.clone();
                part.survive(&mut state.chance);
                content.synced = part.synced;
            }
        }
        fate.heard()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
