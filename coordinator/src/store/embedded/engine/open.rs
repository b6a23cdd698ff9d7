//! Opening a store: the newest image, then what happened since, and the index brought up to date.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use halfmq_core::image::Image;
use halfmq_core::{Archivist, Event, Ledger, Run, Timestamp, TransactionId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::upkeep::Upkeep;
use super::{Engine, EngineOptions, Group, decides};
use crate::store::embedded::disk::Disk;
use crate::store::embedded::index::Index;
use crate::store::embedded::journal::{Beginning, Damage, Journal, OpenError, Reader, Recovered, Segments};
use crate::store::embedded::record;
use crate::store::embedded::shelf::JournalShelf;

/// Is told how far a long start is: bytes done, of how many.
#[derive(Clone)]
pub struct Progress(pub Arc<dyn Fn(u64, u64) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Progress")
    }
}

impl Engine {
    /// Opens the journal on this disk and replays it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: EngineOptions,
        index: Option<Arc<Index>>,
    ) -> Result<(Self, Recovered), OpenError> {
        let mut chance = match options.seed {
            Some(seed) => SmallRng::seed_from_u64(seed),
            None => SmallRng::from_rng(&mut rand::rng()),
        };
        let mut opening = Opening::new(&options, index.clone());
        let journal_options = options.journal.clone();
        let (mut journal, mut recovered) =
            Journal::open(Arc::clone(&disk), journal_options.clone(), chance.random(), &mut opening)?;
        if let Some(index) = index.as_ref().filter(|index| index.claimed() >= journal.next_sequence()) {
            // The journal was put back to an earlier state: an index that knows more would tell of a future
            // that did not happen.
            index.clear();
            opening = Opening::new(&options, Some(Arc::clone(index)));
            (journal, recovered) = Journal::open(disk, journal_options, chance.random(), &mut opening)?;
        }
        let Opening { mut ledger, shelf, decided, through, latest, .. } = opening;
        let latest = latest.max(options.clock.now());
        check_held(&ledger, latest, &journal)?;
        ledger.warm_up(latest, options.warm_up);
        let mut engine = Self {
            ledger,
            journal,
            group: Group::default(),
            on_their_way: 0,
            buffers: Vec::new(),
            index,
            durable: Vec::new(),
            unindexed: VecDeque::new(),
            shelf,
            upkeep: Upkeep::new(&options, latest),
            decided_kept: options.decided_kept,
            clock: options.clock,
            latest,
            chance,
            reserve: options.journal.segment_bytes / 4,
            spare_again_at: Timestamp::ZERO,
            failed: None,
        };
        engine.begin_group();
        engine.catch_up_index(decided, through);
        Ok((engine, recovered))
    }

    /// Hands to the index what it does not have yet; after a restart it may lag, or have been deleted.
    fn catch_up_index(&mut self, decided: VecDeque<(u64, TransactionId)>, through: u64) {
        if self.index.is_none() {
            return;
        }
        let (old, new): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(|(sequence, _)| *sequence <= through);
        old.into_iter().for_each(|(_, id)| self.ledger.forget(id));
        self.durable = new;
        self.index_decided();
    }
}

/// Everything that the ledger holds must be there: a segment that was let go of had nothing in it. Within a
/// run there may be such a one, since a run of a page passes over gaps; its ends and its bytes are there.
fn check_held(ledger: &Ledger, now: Timestamp, journal: &Journal) -> Result<(), OpenError> {
    let stretches = journal.stretches();
    let covered = |run: &Run| {
        let first = stretches.partition_point(|stretch| stretch.to <= run.from);
        let within = || stretches.iter().skip(first).take_while(|stretch| stretch.from < run.to);
        let bytes: u64 = within().map(|it| it.to.min(run.to) - it.from.max(run.from)).sum();
        let begins = within().next().is_some_and(|stretch| stretch.from <= run.from);
        begins && within().last().is_some_and(|stretch| stretch.to >= run.to) && bytes >= run.bytes
    };
    let mut missing = None;
    ledger.held(now, &mut |run| {
        if !covered(&run) {
            missing.get_or_insert(run);
        }
    });
    let Some(run) = missing else { return Ok(()) };
    Err(OpenError::Damaged(Damage {
        file: format!("the .seg file with journal addresses from {} to {}", run.from, run.to),
        offset: 0,
        sequence: 0,
        what: format!("it is missing, with {} bytes of messages", run.bytes),
    }))
}

struct Opening {
    ledger: Ledger,
    shelf: Arc<JournalShelf>,
    index: Option<Arc<Index>>,
    /// The index has everything up to this frame.
    through: u64,
    archivist: Archivist,
    /// Decided, with the sequence of their frame.
    decided: VecDeque<(u64, TransactionId)>,
    latest: Timestamp,
    /// The index is made anew, also from frames that the start does not need.
    rebuilds: bool,
    /// These go back to the very first one without a gap.
    whole: bool,
    /// Sequence of the last of them.
    older: u64,
    /// The image that the start begins with is not whole yet.
    restoring: bool,
    /// Address of the first frame that the start needs.
    needed_from: u64,
    progress: Option<Progress>,
}

impl Opening {
    fn new(options: &EngineOptions, index: Option<Arc<Index>>) -> Self {
        let shelf = Arc::new(JournalShelf::default());
        Self {
            ledger: Ledger::new(options.retention, Arc::clone(&shelf) as _),
            shelf,
            index,
            through: 0,
            archivist: Archivist::default(),
            decided: VecDeque::new(),
            latest: Timestamp::ZERO,
            rebuilds: false,
            whole: true,
            older: 0,
            restoring: false,
            needed_from: 0,
            progress: options.progress.clone(),
        }
    }
}

impl Opening {
    /// Segments may be gone, and receipts with them: then not all is known of what was made before the image.
    fn begin_index(&self, piece: &Image, sequence: u64) {
        if let (true, Image::Began { .. }, Some(Progress(report))) = (self.rebuilds, piece, &self.progress) {
            report(self.needed_from, self.needed_from);
        }
        let whole = self.whole && sequence == self.older + 1;
        if let (true, Image::Began { at }, Some(index)) = (self.rebuilds, piece, &self.index) {
            if !whole {
                index.raise_floor(*at);
            }
            index.complete(self.older);
        }
    }
}

impl Reader for Opening {
    fn begin(&mut self, segments: &Segments, beginning: &Beginning) -> bool {
        self.shelf.open(segments);
        self.restoring = beginning.image.is_some();
        self.needed_from = beginning.image.map_or(0, |image| image.address);
        // What the index did not have when the image was made is in the image.
        let known = self.index.as_ref().and_then(|index| index.begin(beginning.identity));
        self.through = known.unwrap_or(0);
        self.rebuilds = self.index.is_some() && known.is_none() && beginning.image.is_some();
        if let Some(index) = self.index.as_ref().filter(|_| known.is_none() && !self.rebuilds) {
            // There is nothing before what is replayed now.
            index.complete(0);
        }
        self.rebuilds
    }

    fn older(&mut self, records: &[u8], address: u64, sequence: u64) -> Result<(), String> {
        let Some(index) = &self.index else { return Ok(()) };
        self.whole &= sequence == self.older + 1;
        self.older = sequence;
        let mut records = record::Reader::events(records, address);
        while let Some((event, _)) = records.event().map_err(|malformed| malformed.to_string())? {
            if let Some((id, transaction)) = self.archivist.follow(event) {
                index.add(sequence, id, Arc::new(transaction));
            }
        }
        index.wait_for_room();
        if let Some(Progress(report)) = &self.progress {
            report(address, self.needed_from);
        }
        Ok(())
    }

    fn replay(&mut self, records: &[u8], address: u64, sequence: u64) -> Result<(), String> {
        let mut records = record::Reader::events(records, address);
        while let Some((event, extents)) = records.event().map_err(|malformed| malformed.to_string())? {
            if let Event::Image(piece) = &event {
                // Others were cut short by a crash, or say what has been replayed already.
                if !self.restoring {
                    continue;
                }
                self.restoring = !matches!(**piece, Image::Ended);
                self.begin_index(piece, sequence);
            }
            self.decided.extend(decides(&event).map(|id| (sequence, id)));
            self.latest = self.latest.max(time_of(&event).unwrap_or_default());
            self.ledger.apply(event, &extents).map_err(|inconsistency| inconsistency.to_string())?;
        }
        Ok(())
    }
}

/// The time of events that carry messages on: the clock must not be behind it after a restart.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others carry no message on")]
fn time_of(event: &Event) -> Option<Timestamp> {
    match event {
        Event::Released { at, .. } => Some(*at),
        Event::Prepared(prepared) => Some(prepared.at),
        Event::Sent(sent) => Some(sent.at),
        Event::Decided(decided) => Some(decided.verdict.at),
        Event::Image(piece) => match **piece {
            Image::Began { at } => Some(at),
            _ => None,
        },
        _ => None,
    }
}
