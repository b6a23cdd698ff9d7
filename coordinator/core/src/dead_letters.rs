//! The dead letters of one consumer group, found by their number or by where they came from.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::TopicName;
use crate::queue::{Origin, Place};

#[derive(Debug, Default)]
pub(crate) struct DeadLetters {
    /// By number: their offset in the dead-letter topic.
    by_number: BTreeMap<u64, Origin>,
    /// The same place twice if a reset group failed on its message again.
    by_place: BTreeSet<(Place, u64)>,
}

impl DeadLetters {
    pub(crate) fn insert(&mut self, number: u64, origin: Origin) {
        self.by_place.insert((origin.place.clone(), number));
        self.by_number.insert(number, origin);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Origin> {
        let origin = self.by_number.remove(&number)?;
        self.by_place.remove(&(origin.place.clone(), number));
        Some(origin)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Origin> {
        self.by_number.get(&number)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Their numbers, oldest first.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.by_number.keys().copied()
    }

    /// From this number on, oldest first.
    pub(crate) fn from(&self, number: u64) -> impl Iterator<Item = (u64, &Origin)> {
        self.by_number.range(number..).map(|(number, origin)| (*number, origin))
    }

    /// Those that came from this topic: numbers.
    pub(crate) fn of_topic(&self, topic: &TopicName) -> impl Iterator<Item = u64> {
        self.since_place(topic, 0).map(|(_, number)| *number)
    }

    /// The oldest offset of this queue that one of them came from.
    pub(crate) fn oldest_of(&self, topic: &TopicName, queue: u32) -> Option<u64> {
        let (place, _) = self.since_place(topic, queue).next()?;
        (place.queue == queue).then_some(place.offset)
    }

    /// How many came from this queue, from one offset up to, and without, another.
    pub(crate) fn within(&self, topic: &TopicName, queue: u32, first: u64, end: u64) -> u64 {
        let place = |offset| (Place { topic: topic.clone(), queue, offset }, 0);
        self.by_place.range(place(first)..place(end)).count() as u64
    }

    /// How many there are from one number up to, and without, another.
    pub(crate) fn count_within(&self, first: u64, end: u64) -> u64 {
        self.by_number.range(first..end).count() as u64
    }

    /// Whether the message at this place is one of them.
    pub(crate) fn came_from(&self, place: &Place) -> bool {
        let mut from = self.by_place.range((place.clone(), 0)..);
        from.next().is_some_and(|(oldest, _)| oldest == place)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn since_place(&self, topic: &TopicName, queue: u32) -> impl Iterator<Item = &(Place, u64)> {
        let first = Place { topic: topic.clone(), queue, offset: 0 };
        self.by_place.range((first, 0)..).take_while(move |(place, _)| place.topic == *topic)
    }
}
