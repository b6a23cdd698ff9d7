//! A set of offsets that lie close together, kept as ranges: one stuck message with millions of settled
//! ones behind it costs one range.

use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ranges {
    /// First offset and the one behind the last. They neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl Ranges {
    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.around(offset).is_some()
    }

    /// How many offsets.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many offsets from `first` up to, and without, `end`.
    pub(crate) fn count_within(&self, first: u64, end: u64) -> u64 {
        if first >= end {
            return 0;
        }
        let before = self.around(first).map(|(_, behind)| (first, behind));
        let within = self.ranges.range(first + 1..end).map(|(start, behind)| (*start, *behind));
        before.into_iter().chain(within).map(|(start, behind)| behind.min(end).saturating_sub(start)).sum()
    }

    pub(crate) fn insert(&mut self, offset: u64) {
        if self.contains(offset) {
            return;
        }
        self.count += 1;
        let end = self.ranges.remove(&(offset + 1)).unwrap_or(offset + 1);
        match self.ranges.range_mut(..offset).next_back() {
            Some((_, before)) if *before == offset => *before = end,
            Some(_) | None => drop(self.ranges.insert(offset, end)),
        }
    }

    pub(crate) fn remove(&mut self, offset: u64) {
        let Some((start, end)) = self.around(offset) else { return };
        self.count -= 1;
        self.ranges.remove(&start);
        if start < offset {
            self.ranges.insert(start, offset);
        }
        if offset + 1 < end {
            self.ranges.insert(offset + 1, end);
        }
    }

    /// Takes the range that begins at `offset`, and returns the offset behind it.
    pub(crate) fn take_from(&mut self, offset: u64) -> u64 {
        let end = self.ranges.remove(&offset).unwrap_or(offset);
        self.count -= end - offset;
        end
    }

    /// First offset and the one behind the last, of each range.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }

    fn around(&self, offset: u64) -> Option<(u64, u64)> {
        let (start, end) = self.ranges.range(..=offset).next_back()?;
        (offset < *end).then_some((*start, *end))
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let ranges: BTreeMap<u64, u64> = ranges.into_iter().collect();
        let count = ranges.iter().map(|(start, end)| end - start).sum();
        Self { ranges, count }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in proptest::collection::vec((0..3_u8, 0..24_u64), 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (step, offset) in steps {
                match step {
                    0 | 1 => {
                        ranges.insert(offset);
                        set.insert(offset);
                    }
                    _ => {
                        ranges.remove(offset);
                        set.remove(&offset);
                    }
                }
                let all: Vec<u64> = ranges.iter().flat_map(|(start, end)| start..end).collect();
                prop_assert_eq!(&all, &set.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ranges.count(), set.len() as u64);
                prop_assert_eq!(ranges.count_within(5, 12), set.range(5..12).count() as u64);
                prop_assert_eq!(&ranges.iter().collect::<Ranges>(), &ranges);
                let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|((_, end), (start, _))| end < start);
                prop_assert!(apart, "ranges touch: {:?}", ranges);
            }
        }
    }

    #[test]
    fn a_floor_takes_the_range_that_begins_at_it() {
        let mut ranges: Ranges = [(3, 7), (9, 10)].into_iter().collect();
        assert_eq!((ranges.take_from(2), ranges.count()), (2, 5));
        assert_eq!((ranges.take_from(3), ranges.count()), (7, 1));
    }
}
