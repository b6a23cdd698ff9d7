//! How far one consumer group is in one queue, and whose turn it is.
//!
//! ```text
//!            floor                      scan            next
//!   settled ───┤ settled · open · held ───┤ never looked at ┤
//!
//!   not seen ──► leased ──ack──► settled
//!      ▲           │ ▲ │
//!      │    retry  ▼ │ └─lease ends, or retry──► leased again, attempt + 1
//!    reset       waiting                    └──► dead letter after the last attempt
//! ```
//!
//! Durable by events: floor, settled, open. Derived, and built again by scanning: everything else.
//! A message whose message group has an earlier one in flight is *held*, so that the queue flows on.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::ids::ReceiptHandle;
use crate::image::CursorImage;
use crate::limits::{HELD_MAX, IN_FLIGHT_MAX, SCAN_MAX};
use crate::message::TagFilter;
use crate::queue::Queue;
use crate::ranges::Ranges;
use crate::rejection::Rejection;
use crate::shelf::Shelf;
use crate::time::Timestamp;

#[derive(Debug, Default)]
pub(crate) struct Cursor {
    floor: u64,
    settled: Ranges,
    open: BTreeMap<u64, Open>,

    scan: u64,
    visible: BTreeSet<(Timestamp, u64)>,
    busy: HashMap<u64, u64>,
    held: HashMap<u64, VecDeque<u64>>,
    held_count: usize,
    freed: BTreeSet<u64>,
}

/// A message that was delivered at least once, or given back by an operator, and is not settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    /// Deliveries so far.
    pub attempt: u32,
    /// When it may be delivered again.
    pub visible_at: Timestamp,
    /// Somebody works on it; `false` after it was given back.
    pub leased: bool,
    /// Hash of the message group that it holds up.
    pub message_group: Option<u64>,
}

/// What to do with the next message.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Deliver {
        offset: u64,
        attempt: u32,
    },
    /// Its last lease ended without an ack.
    Exhausted {
        offset: u64,
        attempts: u32,
    },
    Unwanted {
        offset: u64,
    },
}

impl From<CursorImage> for Cursor {
    fn from(image: CursorImage) -> Self {
        let settled = image.settled.into_iter().collect();
        let mut cursor = Self { settled, ..Self::starting_at(image.floor) };
        for (offset, open) in image.open {
            cursor.busy.extend(open.message_group.map(|group| (group, offset)));
            cursor.put_open(offset, open);
        }
        cursor
    }
}

impl Cursor {
    pub(crate) fn starting_at(floor: u64) -> Self {
        Self { floor, scan: floor, ..Self::default() }
    }

    pub(crate) fn image(&self) -> CursorImage {
        CursorImage {
            floor: self.floor,
            settled: self.settled.iter().collect(),
            open: self.open.iter().map(|(offset, open)| (*offset, *open)).collect(),
        }
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.open.len() as u64
    }

    pub(crate) fn undelivered(&self, next: u64) -> u64 {
        let given_back = self.open.range(..self.floor).count() as u64;
        next.saturating_sub(self.floor).saturating_sub(self.settled.count()) + given_back
    }

    /// When the next open message becomes visible.
    pub(crate) fn next_visible(&self) -> Option<Timestamp> {
        self.visible.first().map(|(at, _)| *at)
    }

    /// The oldest offset that must be kept for this group.
    pub(crate) fn oldest_needed(&self) -> u64 {
        self.open.first_key_value().map_or(self.floor, |(offset, _)| (*offset).min(self.floor))
    }

    /// Whose turn it is now: retries first, then what a message group was waiting for, then the new.
    /// The caller applies the outcome before it asks again. `steps` bounds the search.
    pub(crate) fn turn(
        &mut self,
        (queue, shelf): (&Queue, &dyn Shelf),
        filter: &TagFilter,
        attempts_max: u32,
        now: Timestamp,
        steps: &mut usize,
    ) -> Option<Turn> {
        if let Some(turn) = self.turn_of_visible(attempts_max, now) {
            return Some(turn);
        }
        if let Some(offset) = self.freed.pop_first() {
            let entry = queue.entry(offset, shelf)?;
            if entry.is_kept() && filter.admits(entry.tag.as_ref()) {
                return Some(Turn::Deliver { offset, attempt: 1 });
            }
            // The filter changed while it was held: its message group goes on without it.
            entry.message_group.into_iter().for_each(|group| self.free(group));
            return Some(Turn::Unwanted { offset });
        }
        while *steps > 0 && self.open.len() < IN_FLIGHT_MAX && self.held_count < HELD_MAX {
            self.scan = self.scan.max(queue.base());
            let (offset, entry) = (self.scan, queue.entry(self.scan, shelf)?);
            self.scan += 1;
            *steps -= 1;
            if self.open.contains_key(&offset) || self.is_settled(offset) {
                continue;
            }
            if !entry.is_kept() || !filter.admits(entry.tag.as_ref()) {
                return Some(Turn::Unwanted { offset });
            }
            match entry.message_group {
                Some(group) if self.busy.contains_key(&group) => {
                    self.held.entry(group).or_default().push_back(offset);
                    self.held_count += 1;
                }
                Some(_) | None => return Some(Turn::Deliver { offset, attempt: 1 }),
            }
        }
        None
    }

    /// Leases that ended after the last attempt, found without anybody receiving: offset and attempts.
    pub(crate) fn exhausted(&self, attempts_max: u32, now: Timestamp) -> impl Iterator<Item = (u64, u32)> {
        let ended = self.visible.iter().take_while(move |(at, _)| *at <= now).take(SCAN_MAX);
        let attempts = ended.filter_map(|(_, offset)| Some((*offset, self.open.get(offset)?.attempt)));
        attempts.filter(move |(_, attempts)| *attempts >= attempts_max)
    }

    fn turn_of_visible(&self, attempts_max: u32, now: Timestamp) -> Option<Turn> {
        let (at, offset) = *self.visible.first()?;
        let open = self.open.get(&offset)?;
        if at > now {
            return None;
        }
        Some(if open.attempt >= attempts_max {
            Turn::Exhausted { offset, attempts: open.attempt }
        } else {
            Turn::Deliver { offset, attempt: open.attempt + 1 }
        })
    }

    fn is_settled(&self, offset: u64) -> bool {
        offset < self.floor || self.settled.contains(offset)
    }

    /// The open delivery that the handle names.
    ///
    /// # Errors
    /// [`Rejection::ReceiptExpired`] when it was given back, delivered again, or never delivered.
    pub(crate) fn leased(&self, handle: ReceiptHandle) -> Result<Open, Rejection> {
        match self.open.get(&handle.offset) {
            Some(open) if open.leased && open.attempt == handle.attempt => Ok(*open),
            Some(_) | None => Err(Rejection::ReceiptExpired),
        }
    }

    /// Whether there is nothing left to ack: an ack that comes twice is fine.
    pub(crate) fn is_done(&self, offset: u64) -> bool {
        self.is_settled(offset) && !self.open.contains_key(&offset)
    }

    /// How many offsets from `first` up to, and without, `end` are not done with.
    pub(crate) fn undone_within(&self, first: u64, end: u64) -> u64 {
        let given_back = self.open.range(first..self.floor.clamp(first, end)).count() as u64;
        let from = first.max(self.floor);
        end.saturating_sub(from) - self.settled.count_within(from, end.max(from)) + given_back
    }

    pub(crate) fn deliver(
        &mut self,
        offset: u64,
        attempt: u32,
        until: Timestamp,
        message_group: Option<u64>,
    ) {
        let message_group = match self.take_open(offset) {
            Some(open) => open.message_group,
            None => message_group,
        };
        if let Some(group) = message_group {
            self.busy.insert(group, offset);
        }
        self.put_open(offset, Open { attempt, visible_at: until, leased: true, message_group });
    }

    pub(crate) fn extend(&mut self, offset: u64, until: Timestamp) {
        if let Some(open) = self.take_open(offset) {
            self.put_open(offset, Open { visible_at: until, ..open });
        }
    }

    pub(crate) fn retry(&mut self, offset: u64, visible_at: Timestamp) {
        if let Some(open) = self.take_open(offset) {
            self.put_open(offset, Open { visible_at, leased: false, ..open });
        }
    }

    /// Done with it. The next message of its message group may go.
    pub(crate) fn settle(&mut self, offset: u64) {
        if let Some(group) = self.take_open(offset).and_then(|open| open.message_group) {
            self.free(group);
        }
        if offset >= self.floor {
            self.settled.insert(offset);
        }
        self.floor = self.settled.take_from(self.floor);
    }

    /// A dead letter comes back, with attempts counted anew. Its place in the order is lost. One that a
    /// reset of the group has brought back already comes by itself.
    pub(crate) fn revive(&mut self, offset: u64, now: Timestamp) {
        if !self.is_done(offset) {
            return;
        }
        self.settled.remove(offset);
        self.put_open(offset, Open { attempt: 0, visible_at: now, leased: false, message_group: None });
    }

    /// Whether messages wait that an ack has set free.
    pub(crate) fn has_freed(&self) -> bool {
        !self.freed.is_empty()
    }

    fn free(&mut self, group: u64) {
        self.busy.remove(&group);
        let Some(waiting) = self.held.get_mut(&group) else { return };
        if let Some(offset) = waiting.pop_front() {
            self.held_count -= 1;
            self.busy.insert(group, offset);
            self.freed.insert(offset);
        }
        if waiting.is_empty() {
            self.held.remove(&group);
        }
    }

    fn take_open(&mut self, offset: u64) -> Option<Open> {
        let open = self.open.remove(&offset)?;
        self.visible.remove(&(open.visible_at, offset));
        Some(open)
    }

    fn put_open(&mut self, offset: u64, open: Open) {
        self.visible.insert((open.visible_at, offset));
        self.open.insert(offset, open);
    }
}
