//! Keeping memory and disk near what is needed, a little between groups.
//!
//! ```text
//!   many hot entries      ► pages on the shelf
//!   many delayed messages ► half of them, those due last, on the shelf
//!   much journal since    ► an image of the ledger; a start begins there
//!   nothing needed in it  ► after an image, the segment goes
//!   little needed in it   ► what is needed is carried forward
//! ```

use halfmq_core::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
use halfmq_core::{Event, Ledger, Log, Run, Timestamp};

use super::{Engine, EngineOptions, Work};
use crate::store::Unavailable;
use crate::store::embedded::Embedded;
use crate::store::embedded::journal::{AppendError, Stretch};
use crate::telemetry;

/// Bytes of one frame of an image, at most, about.
const FRAME_BYTES_MAX: u64 = 512 * 1024;
/// Bytes carried forward by one group.
const CARRY_BYTES: u64 = 1024 * 1024;
/// Groups of one look that carry something forward.
const CARRIES_MAX: usize = 8;
/// Pages that one look puts onto the shelf.
const PAGES_MAX: usize = 512;
/// Looks between two that add up what is needed.
const RECKON_EVERY: u32 = 5;
/// Looks between two that let go of old receipts.
const PRUNE_EVERY: u32 = 60;
/// An image is made only when the journal has grown by so many times the last one.
const IMAGE_GROWTH: u64 = 4;

/// What the upkeep remembers from one look to the next.
#[derive(Debug)]
pub(super) struct Upkeep {
    hot_entries_max: usize,
    hot_delayed_max: usize,
    page_entries: usize,
    image_every: u64,
    retention_bytes: u64,
    receipt_retention: std::time::Duration,
    segment_bytes: u64,
    every: std::time::Duration,
    next: Timestamp,
    looks: u32,
    /// Bytes of the last image.
    image_bytes: u64,
    /// Nothing in them was needed when the newest image was made. Whoever still reads from one is done
    /// until the next look.
    unneeded: Vec<Stretch>,
    /// Journal address at the last reckoning.
    reckoned_at: u64,
}

impl Upkeep {
    pub(super) fn new(options: &EngineOptions, now: Timestamp) -> Self {
        Self {
            hot_entries_max: options.hot_entries_max,
            hot_delayed_max: options.hot_delayed_max,
            page_entries: options.page_entries,
            image_every: options.image_every,
            retention_bytes: options.retention_bytes,
            receipt_retention: options.receipt_retention,
            segment_bytes: options.journal.segment_bytes,
            every: options.upkeep_every,
            next: now.after(options.upkeep_every),
            looks: 0,
            image_bytes: 0,
            unneeded: Vec::new(),
            reckoned_at: 0,
        }
    }
}

impl Upkeep {
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        now >= self.next
    }

    /// Upper bound of a page: names, ids and numbers of its entries.
    fn page_bytes(&self) -> usize {
        self.page_entries * 1_024
    }
}

/// A sealed segment, and how much of it is needed.
struct Reckoned {
    stretch: Stretch,
    /// Bytes of it that are needed.
    needed: u64,
    /// Something in it is held, needed or not.
    held: bool,
}

impl Engine {
    /// Does what is due, durably, and with it what the verbs of this group have written so far; nothing while a
    /// group is on its way to the disk. It is cheap when nothing is due.
    pub fn upkeep(&mut self) {
        let now = self.now();
        if !self.upkeep.is_due(now) || self.on_their_way > 0 || self.usable().is_err() {
            return;
        }
        self.upkeep.next = now.after(self.upkeep.every);
        self.upkeep.looks = self.upkeep.looks.wrapping_add(1);
        match self.look() {
            Ok(()) | Err(Unavailable::Full) => {}
            Err(error) => tracing::error!(%error, "upkeep of the journal ended"),
        }
    }

    fn look(&mut self) -> Result<(), Unavailable> {
        self.release_unneeded();
        self.shelve()?;
        self.shelve_delayed()?;
        let file_bytes = self.journal.file_bytes();
        telemetry::journal_size(file_bytes);
        self.ledger.press(file_bytes > self.upkeep.retention_bytes);
        if self.upkeep.looks % PRUNE_EVERY == 1
            && let Some(index) = &self.index
        {
            index.prune(self.latest.before(self.upkeep.receipt_retention));
        }
        let grown = self.grown();
        if self.upkeep.looks.is_multiple_of(RECKON_EVERY) {
            return self.reckon(grown);
        }
        if grown >= self.upkeep.image_every.max(self.upkeep.image_bytes * IMAGE_GROWTH) {
            return self.make_image();
        }
        Ok(())
    }

    /// Bytes of journal since the newest image.
    fn grown(&self) -> u64 {
        let image = self.journal.image().map_or(0, |image| image.address);
        self.journal.next_frame().address.saturating_sub(image)
    }

    fn shelve(&mut self) -> Result<(), Unavailable> {
        let hot = self.ledger.hot_entries();
        self.put_away(hot.saturating_sub(self.upkeep.hot_entries_max), Ledger::shelve)
    }

    fn shelve_delayed(&mut self) -> Result<(), Unavailable> {
        let hot = self.ledger.hot_delayed();
        if hot <= self.upkeep.hot_delayed_max {
            return Ok(());
        }
        // So many at once, since pages that are written together do not overlap: fewer come back together.
        self.put_away(hot - self.upkeep.hot_delayed_max / 2, Ledger::shelve_delayed)
    }

    /// Pages of so many entries, durable when it returns.
    fn put_away(
        &mut self,
        excess: usize,
        shelve: fn(&mut Ledger, usize, &mut dyn Log) -> bool,
    ) -> Result<(), Unavailable> {
        for _ in 0..(excess / self.upkeep.page_entries.max(1)).min(PAGES_MAX) {
            self.admit(Work::New { bytes: self.upkeep.page_bytes() })?;
            if !shelve(&mut self.ledger, self.upkeep.page_entries, &mut self.group) {
                break;
            }
            if self.pending_bytes() >= FRAME_BYTES_MAX {
                self.commit()?;
            }
        }
        self.commit()
    }

    /// Finds out what the disk holds in vain, and does something about the worst of it.
    fn reckon(&mut self, grown: u64) -> Result<(), Unavailable> {
        let idle = std::mem::replace(&mut self.upkeep.reckoned_at, self.journal.next_frame().address)
            == self.journal.next_frame().address;
        let sealed = self.reckoned(self.latest);
        let dead: u64 = sealed.iter().filter(|it| !it.held).map(|it| it.stretch.file_bytes).sum();
        let enough = if idle { 1 } else { self.upkeep.image_every / 2 };
        if dead >= enough || grown >= self.upkeep.image_every.max(self.upkeep.image_bytes * IMAGE_GROWTH) {
            return self.make_image();
        }
        let needed: u64 = sealed.iter().map(|it| it.needed).sum();
        let held: u64 = sealed.iter().filter(|it| it.held).map(|it| it.stretch.file_bytes).sum();
        if held.saturating_sub(needed) > needed.max(2 * self.upkeep.segment_bytes) {
            self.carry_forward(sealed)?;
        }
        Ok(())
    }

    fn reckoned(&self, now: Timestamp) -> Vec<Reckoned> {
        let sealed = self.journal.sealed().into_iter();
        let mut sealed: Vec<_> = sealed.map(|stretch| Reckoned { stretch, needed: 0, held: false }).collect();
        self.ledger.held(now, &mut |run: Run| {
            let first = sealed.partition_point(|it| it.stretch.to <= run.from);
            for it in sealed.iter_mut().skip(first).take_while(|it| it.stretch.from < run.to) {
                // How a run that reaches over several is spread does not matter, only that it counts.
                let overlap = run.to.min(it.stretch.to) - run.from.max(it.stretch.from);
                it.needed += overlap.min(run.bytes);
                it.held = true;
            }
        });
        sealed
    }

    /// Writes anew what is needed of the segments that hold the least of it.
    fn carry_forward(&mut self, mut sealed: Vec<Reckoned>) -> Result<(), Unavailable> {
        sealed.retain(|it| it.held && it.needed < it.stretch.file_bytes / 2);
        sealed.sort_by_key(|it| it.needed);
        let segments = self.segments();
        let read = |extent| Embedded::message(&segments, extent).ok();
        let mut groups = 0;
        // One content more than the budget, and a page, may be written.
        let most = CARRY_BYTES + BODY_BYTES_MAX as u64 + HEAD_BYTES_MAX as u64;
        for Reckoned { stretch, needed, .. } in sealed {
            loop {
                if groups >= CARRIES_MAX {
                    return Ok(());
                }
                groups += 1;
                let bytes = needed.min(most) as usize + self.upkeep.page_bytes();
                self.admit(Work::New { bytes })?;
                let within = (stretch.from, stretch.to);
                let now = self.latest;
                let carried = self.ledger.carry_forward(now, within, CARRY_BYTES, &read, &mut self.group);
                self.commit()?;
                if carried == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes the ledger down whole. When it is durable, a start begins with it, and segments in which
    /// nothing is needed now can go.
    fn make_image(&mut self) -> Result<(), Unavailable> {
        // It begins with a frame of its own.
        self.commit()?;
        let now = self.now();
        let unneeded = self.reckoned(now).into_iter().filter(|it| !it.held).map(|it| it.stretch).collect();
        let start = self.journal.next_frame();
        let frame_bytes = FRAME_BYTES_MAX.min(self.upkeep.segment_bytes / 8);
        let Self { ledger, journal, group, chance, .. } = self;
        let mut append = |group: &mut super::Group| {
            journal.append(group.writer.bytes(), || rand::Rng::random(chance))?;
            group.writer.reset(journal.next_address());
            Ok(())
        };
        let mut pieces = ledger.image(now);
        let written = loop {
            let Some(piece) = pieces.next() else {
                break append(group);
            };
            group.writer.event(&Event::Image(Box::new(piece)));
            if group.writer.bytes().len() as u64 >= frame_bytes
                && let Err(error) = append(group)
            {
                break Err(error);
            }
        };
        drop(pieces);
        match written {
            Ok(()) => {}
            Err(AppendError::NoRoom(error)) => {
                // The pieces that were written are passed over by a start.
                tracing::warn!(%error, "no room for an image of the ledger: segments are kept meanwhile");
                self.begin_group();
                return Err(Unavailable::Full);
            }
            Err(AppendError::Failed(error)) => return self.fail(&error),
        }
        if let Err(error) = self.journal.anchor(start) {
            return self.fail(&error);
        }
        self.upkeep.image_bytes = self.journal.next_frame().address - start.address;
        self.upkeep.unneeded = unneeded;
        self.see_to_spare();
        Ok(())
    }

    fn release_unneeded(&mut self) {
        for stretch in std::mem::take(&mut self.upkeep.unneeded) {
            if let Err(error) = self.journal.release(stretch.from) {
                tracing::warn!(%error, "a segment could not be removed; it goes after the next start");
            }
        }
    }
}
