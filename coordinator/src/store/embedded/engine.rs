//! The synchronous heart: ledger and journal, one group of calls at a time. No threads, no waiting; a
//! test that brings its own clock, disk and seed sees the same run each time.
//!
//! ```text
//!   verb ─► Ledger ─► events ─► Writer (one frame)      many verbs, each seeing what the last one did
//!   seal ─► one frame, write + sync ─► settle           then, and only then, their answers may go out
//! ```
//!
//! While one group is written the verbs of the next may run; they see what it did, and their answers wait
//! for a later sync. Reads take the same way: whoever reads what a verb of this group wrote waits for the same
//! sync.

mod open;
mod turn;
mod upkeep;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use halfmq_core::image::Image;
use halfmq_core::limits::PAGE_ENTRIES;
use halfmq_core::{Event, Extent, Ledger, Log, Timestamp, TransactionId};
use rand::Rng;
use rand::rngs::SmallRng;

use super::index::Index;
use super::journal::{AppendError, Journal, JournalOptions, Reserved, Segments};
use super::record::Writer;
use super::shelf::JournalShelf;
use crate::clock::Clock;
use crate::store::Unavailable;
use crate::telemetry::Happened;

pub use open::Progress;
pub use turn::Turn;
use upkeep::Upkeep;

/// How long to wait before a segment is tried again that could not be made.
const SPARE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Of the journal.
    pub journal: JournalOptions,
    /// How long messages are kept that every group is done with.
    pub retention: Duration,
    /// They go earlier while the journal is larger than this.
    pub retention_bytes: u64,
    /// How long receipts of decided transactions are kept.
    pub receipt_retention: Duration,
    /// Decided transactions that stay in memory although the index has them.
    pub decided_kept: usize,
    /// Queue entries that stay in memory.
    pub hot_entries_max: usize,
    /// Delayed messages that stay in memory: while there are more, half as many stay.
    pub hot_delayed_max: usize,
    /// Entries of one page on the shelf.
    pub page_entries: usize,
    /// Bytes of journal from one image of the ledger to the next, at least.
    pub image_every: u64,
    /// Time between two looks at what memory and disk hold.
    pub upkeep_every: Duration,
    /// Overdue checks are spread over this time after a restart.
    pub warm_up: Duration,
    /// Where time comes from.
    pub clock: Clock,
    /// Where chance comes from; `None`: from the machine.
    pub seed: Option<u64>,
    /// Is told how far it is when the index has to be rebuilt.
    pub progress: Option<Progress>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            journal: JournalOptions::default(),
            retention: Duration::from_secs(3600),
            retention_bytes: 1024 * 1024 * 1024,
            receipt_retention: Duration::from_secs(7 * 24 * 3600),
            decided_kept: 1_000,
            hot_entries_max: 65_536,
            hot_delayed_max: 65_536,
            page_entries: PAGE_ENTRIES,
            image_every: 256 * 1024 * 1024,
            upkeep_every: Duration::from_secs(1),
            warm_up: Duration::from_secs(10),
            clock: Clock::System,
            seed: None,
            progress: None,
        }
    }
}

/// Ledger and journal together.
pub struct Engine {
    ledger: Ledger,
    journal: Journal,
    group: Group,
    /// Bytes of the groups that are sealed and not settled.
    on_their_way: u64,
    /// For the groups to come.
    buffers: Vec<Vec<u8>>,
    index: Option<Arc<Index>>,
    /// Decided, and of the index nobody has told, with the sequence of their frame.
    durable: Vec<(u64, TransactionId)>,
    /// Decided, and not known to be in the index, oldest first, with the sequence of their frame.
    unindexed: VecDeque<(u64, TransactionId)>,
    shelf: Arc<JournalShelf>,
    upkeep: Upkeep,
    decided_kept: usize,
    clock: Clock,
    latest: Timestamp,
    chance: SmallRng,
    reserve: u64,
    spare_again_at: Timestamp,
    failed: Option<Unavailable>,
}

/// What the verbs of one group wrote.
#[derive(Default)]
struct Group {
    writer: Writer,
    decided: Vec<TransactionId>,
    happened: Happened,
}

impl Log for Group {
    fn append(&mut self, event: &Event) -> Vec<Extent> {
        self.happened.add(event);
        self.decided.extend(decides(event));
        self.writer.event(event)
    }
}

/// A group on its way to the disk. What comes after it may be worked on meanwhile, but not be written.
pub struct Sealed {
    reserved: Reserved,
    records: Vec<u8>,
    decided: Vec<TransactionId>,
    happened: Happened,
}

impl Sealed {
    /// Writes it and syncs it: it is durable when this returns, and counted.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write(&self) -> io::Result<()> {
        self.reserved.write(&self.records)?;
        self.happened.tell();
        Ok(())
    }

    /// Bytes that it takes in the journal.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reserved.bytes()
    }
}

impl Engine {
    /// For readers of messages.
    #[must_use]
    pub fn segments(&self) -> Segments {
        self.journal.segments()
    }

    /// One verb as a group of its own: durable when it returns.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn run<T>(&mut self, work: Work, verb: impl FnOnce(&mut Turn<'_>) -> T) -> Result<T, Unavailable> {
        self.admit(work)?;
        let answer = verb(&mut self.turn());
        self.commit()?;
        Ok(answer)
    }

    /// Sees to it that the journal has room for this work. May commit the group to get it.
    ///
    /// # Errors
    /// [`Unavailable::Full`] with nothing changed, or that the engine has failed.
    pub fn admit(&mut self, work: Work) -> Result<(), Unavailable> {
        self.usable()?;
        if matches!(work, Work::Look) {
            return Ok(());
        }
        let needed = self.pending_bytes() + work.bytes();
        let reserve = match work {
            Work::New { .. } if !self.journal.has_spare() => self.reserve,
            Work::New { .. } | Work::Going { .. } | Work::Look => 0,
        };
        if self.journal.room() >= needed + reserve {
            return Ok(());
        }
        let now = self.now();
        if now >= self.spare_again_at {
            match self.journal.ensure_room(needed, || self.chance.random()) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "no room for a new journal segment: new work is refused");
                    self.spare_again_at = now.after(SPARE_AGAIN_AFTER);
                }
            }
        }
        if reserve == 0 && self.journal.room() >= needed { Ok(()) } else { Err(Unavailable::Full) }
    }

    /// The next verb of the group.
    pub fn turn(&mut self) -> Turn<'_> {
        let now = self.now();
        Turn {
            now,
            ledger: &mut self.ledger,
            log: &mut self.group,
            chance: &mut self.chance,
            index: self.index.as_deref(),
        }
    }

    /// Bytes that the group has written so far.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.group.writer.bytes().len() as u64
    }

    /// Bytes of the groups that are sealed and not settled.
    #[must_use]
    pub fn bytes_on_their_way(&self) -> u64 {
        self.on_their_way
    }

    /// Makes the group durable. Only now its answers may go out. No other group may be on its way.
    ///
    /// # Errors
    /// [`Unavailable::Failed`]; the engine then takes no more work until it is opened again, since what it
    /// has in memory may be more than what is on disk.
    pub fn commit(&mut self) -> Result<(), Unavailable> {
        let Some(sealed) = self.seal()? else { return Ok(()) };
        let written = sealed.write();
        self.settle(sealed, written)?;
        self.index_decided();
        Ok(())
    }

    /// Closes the group: it goes to the disk, and the next one begins. `None`: it wrote nothing. It may need a new
    /// segment, so no other group may be on its way; while one is, there is [`Engine::seal_ahead`].
    ///
    /// # Errors
    /// As [`Engine::commit`].
    pub fn seal(&mut self) -> Result<Option<Sealed>, Unavailable> {
        self.usable()?;
        let bytes = self.group.writer.bytes().len();
        if bytes == 0 {
            return Ok(None);
        }
        let reserved = match self.journal.reserve(bytes, || self.chance.random()) {
            Ok(reserved) => reserved,
            Err(AppendError::NoRoom(error) | AppendError::Failed(error)) => return self.fail(&error),
        };
        let records = self.group.writer.replace(self.buffers.pop().unwrap_or_default());
        let decided = std::mem::take(&mut self.group.decided);
        let happened = std::mem::take(&mut self.group.happened);
        self.begin_group();
        self.on_their_way += reserved.bytes();
        Ok(Some(Sealed { reserved, records, decided, happened }))
    }

    /// Closes the group while the one before it is on its way: to be written when that one is durable, or to be
    /// [reopened](Engine::reopen). `None`: it wrote nothing, or something is to be done while no group is on its
    /// way.
    pub fn seal_ahead(&mut self) -> Option<Sealed> {
        let bytes = self.group.writer.bytes().len();
        let waits = !self.journal.fits(bytes) || self.upkeep.is_due(self.latest);
        if waits { None } else { self.seal().ok().flatten() }
    }

    /// Takes a group that was sealed ahead back to be the one that is made; none may have been begun since.
    pub fn reopen(&mut self, sealed: Sealed) {
        let Sealed { reserved, records, decided, happened } = sealed;
        self.on_their_way -= reserved.bytes();
        self.journal.give_back(reserved);
        self.begin_group();
        self.buffers.push(self.group.writer.replace(records));
        (self.group.decided, self.group.happened) = (decided, happened);
    }

    /// Goes on from what became of a group. The index still has to be told: [`Engine::index_decided`].
    ///
    /// # Errors
    /// As [`Engine::commit`].
    pub fn settle(&mut self, sealed: Sealed, written: io::Result<()>) -> Result<(), Unavailable> {
        let Sealed { reserved, records, decided, happened: _ } = sealed;
        self.buffers.push(records);
        self.on_their_way -= reserved.bytes();
        if let Err(error) = written {
            return self.fail(&error);
        }
        self.journal.written(&reserved);
        let sequence = reserved.sequence();
        self.durable.extend(decided.into_iter().map(|id| (sequence, id)));
        self.see_to_spare();
        Ok(())
    }

    /// What is on disk is unknown until the journal is opened again.
    fn fail<T>(&mut self, error: &io::Error) -> Result<T, Unavailable> {
        let failed = Unavailable::Failed(error.to_string());
        tracing::error!(%error, "the journal could not be synced: the store stops");
        self.failed = Some(failed.clone());
        Err(failed)
    }

    fn see_to_spare(&mut self) {
        if !self.journal.wants_spare() || self.now() < self.spare_again_at {
            return;
        }
        if let Err(error) = self.journal.prepare_spare(|| self.chance.random()) {
            tracing::warn!(%error, "the next journal segment could not be made yet");
            self.spare_again_at = self.now().after(SPARE_AGAIN_AFTER);
        }
    }

    fn usable(&mut self) -> Result<(), Unavailable> {
        if let (None, Some(failure)) = (&self.failed, self.shelf.failure()) {
            self.failed = Some(Unavailable::Failed(failure.to_owned()));
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn now(&mut self) -> Timestamp {
        self.latest = self.latest.max(self.clock.now());
        self.latest
    }

    fn begin_group(&mut self) {
        self.group.writer.reset(self.journal.next_address());
    }

    /// Tells the index what is durable by now. That can wait until the next group is on its way: nobody asks
    /// the index for what is in memory.
    pub fn index_decided(&mut self) {
        let Some(index) = &self.index else { return self.durable.clear() };
        for (sequence, id) in self.durable.drain(..) {
            if let Some(transaction) = self.ledger.decided_transaction(id) {
                index.add(sequence, id, Arc::clone(transaction));
                self.unindexed.push_back((sequence, id));
            }
        }
        // Memory stays bounded: whoever decides faster than the index is written waits.
        index.wait_for_room();
        let through = index.through();
        while self.unindexed.len() > self.decided_kept {
            match self.unindexed.front() {
                Some((sequence, id)) if *sequence <= through => {
                    self.ledger.forget(*id);
                    self.unindexed.pop_front();
                }
                Some(_) | None => break,
            }
        }
    }
}

/// How much a verb may write, and whether it may be refused while the disk is full.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Brings new messages of so many bytes.
    New {
        /// Of contents.
        bytes: usize,
    },
    /// Writes nothing, and so needs no room.
    Look,
    /// Goes on with what is there: decisions, acks, receives.
    Going {
        /// Of replaced contents and long lists.
        bytes: usize,
    },
}

impl Work {
    /// Decisions, acks, receives.
    pub const SMALL: Self = Self::Going { bytes: 0 };

    /// An upper bound of what is written.
    fn bytes(self) -> u64 {
        const OVERHEAD: usize = 64 * 1024;
        match self {
            Self::Look => 0,
            Self::New { bytes } | Self::Going { bytes } => (bytes + OVERHEAD) as u64,
        }
    }
}

/// The transaction that is remembered as decided because of this event.
fn decides(event: &Event) -> Option<TransactionId> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others decide nothing")]
    match event {
        Event::Decided(decided) => Some(decided.transaction),
        Event::Sent(sent) => sent.request_id.as_ref().map(|_| sent.transaction),
        Event::Image(piece) => match **piece {
            Image::Decided { transaction, .. } => Some(transaction),
            _ => None,
        },
        _ => None,
    }
}
