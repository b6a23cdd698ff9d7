//! The sequences of one producer group in one queue, as links that have been seen.
//!
//! ```text
//!   links:    [3 ─► 5 ─► 7 ─► 8]          [11 ─► 12 ─► 13]
//!   a run:     before 5 comes 3, last 8     before 12 comes 11: 11 itself has not been seen
//! ```
//! Runs grow and join as messages come in; between two runs there is a hole.

use std::collections::{BTreeMap, VecDeque};

/// Holes that one chain watches.
const HOLES_MAX: usize = 4_096;
/// Messages whose places are remembered, to tell a redelivery from a duplicate.
const PLACES_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Chain {
    /// By the sequence before the first message of the run.
    runs: BTreeMap<u64, Run>,
    places: BTreeMap<u64, u64>,
    places_in_order: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// Sequence of the first message of it that was seen.
    first: u64,
    last: u64,
    /// Offset of its first message.
    offset: u64,
}

/// What a message is to those that were seen before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The newest so far, whatever may be missing before it.
    Next,
    /// It fills a hole, or comes before everything else.
    Late,
    /// It was seen, in this place.
    Known,
    /// It was seen, in another place.
    Elsewhere,
    /// There were too many holes: the oldest run was given up.
    Overflow { from: u64 },
}

/// Where messages are missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) after: u64,
    pub(super) missing: u64,
    pub(super) offset_behind: u64,
}

impl Chain {
    /// A chain of which everything up to here was seen.
    pub(super) fn seen_up_to(sequence: u64) -> Self {
        let seen = Run { first: sequence, last: sequence, offset: 0 };
        Self { runs: BTreeMap::from([(0, seen)]), ..Self::default() }
    }

    /// The end of the first run.
    pub(super) fn seen_up_to_now(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(_, run)| run.last)
    }

    pub(super) fn holes(&self) -> u64 {
        self.runs.len().saturating_sub(1) as u64
    }

    pub(super) fn add(&mut self, sequence: u64, previous: u64, offset: u64) -> Step {
        match self.places.get(&sequence) {
            Some(place) if *place == offset => return Step::Known,
            Some(_) => return Step::Elsewhere,
            None => {}
        }
        // Older than what places are remembered of: seen, if a run covers it.
        if self.covers(sequence) {
            return Step::Known;
        }
        self.remember(sequence, offset);
        let newest = self.runs.last_key_value().is_none_or(|(_, run)| run.last < sequence);
        self.link(sequence, previous, offset);
        if self.runs.len() > HOLES_MAX {
            self.runs.pop_first();
            let from = self.runs.first_key_value().map_or(sequence, |(_, run)| run.first);
            return Step::Overflow { from };
        }
        if newest { Step::Next } else { Step::Late }
    }

    /// Whether a run says that this sequence was seen. Inside a run every link was, so what lies between two
    /// of its messages was never released in this queue.
    fn covers(&self, sequence: u64) -> bool {
        let run = self.runs.range(..sequence).next_back();
        run.is_some_and(|(_, run)| (run.first..=run.last).contains(&sequence))
    }

    fn link(&mut self, sequence: u64, previous: u64, offset: u64) {
        let mut run = Run { first: sequence, last: sequence, offset };
        let mut before = previous;
        // Behind the run that ends with the one before it.
        let left = self.runs.range(..=previous).next_back().map(|(key, run)| (*key, *run));
        if let Some((key, left)) = left.filter(|(_, left)| left.last == previous) {
            self.runs.remove(&key);
            run = Run { last: sequence, ..left };
            before = key;
        }
        // In front of the run that begins behind it.
        if let Some(right) = self.runs.remove(&sequence) {
            run.last = right.last;
        }
        self.runs.insert(before, run);
    }

    fn remember(&mut self, sequence: u64, offset: u64) {
        self.places.insert(sequence, offset);
        self.places_in_order.push_back(sequence);
        if self.places_in_order.len() > PLACES_MAX
            && let Some(oldest) = self.places_in_order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }

    /// Holes in front of messages below this offset: nobody will fill them. They are not told again.
    pub(super) fn close_below(&mut self, floor: u64) -> Vec<Hole> {
        let mut holes = Vec::new();
        while let Some((&first_key, &first)) = self.runs.first_key_value() {
            let Some((&key, &next)) = self.runs.range(first_key + 1..).next() else { break };
            if next.offset >= floor {
                break;
            }
            holes.push(Hole { after: first.last, missing: key, offset_behind: next.offset });
            self.runs.remove(&key);
            self.runs.insert(first_key, Run { last: next.last, ..first });
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages as (sequence, the one before it, offset), what each of them is, and what is missing in the end.
    type Story = (&'static str, &'static [(u64, u64, u64)], &'static [Step], &'static [(u64, u64)]);

    #[test]
    fn holes_are_told_from_numbers_that_were_left_out() {
        use Step::{Elsewhere, Known, Late, Next};
        let stories: [Story; 9] = [
            ("one after the other", &[(1, 0, 0), (2, 1, 1), (3, 2, 2)], &[Next, Next, Next], &[]),
            ("rolled back in between", &[(1, 0, 0), (4, 1, 1), (9, 4, 2)], &[Next, Next, Next], &[]),
            ("begins in the middle", &[(7, 5, 100), (8, 7, 101)], &[Next, Next], &[]),
            ("one is missing", &[(1, 0, 0), (3, 2, 2)], &[Next, Next], &[(1, 2)]),
            (
                "two places are empty",
                &[(1, 0, 0), (3, 2, 2), (6, 5, 5)],
                &[Next, Next, Next],
                &[(1, 2), (3, 5)],
            ),
            ("comes late", &[(1, 0, 0), (3, 2, 2), (2, 1, 1)], &[Next, Next, Late], &[]),
            (
                "the last before a hole comes late",
                &[(1, 0, 0), (4, 3, 3), (3, 2, 2)],
                &[Next, Next, Late],
                &[(1, 2)],
            ),
            ("comes again", &[(1, 0, 0), (2, 1, 1), (1, 0, 0), (2, 1, 1)], &[Next, Next, Known, Known], &[]),
            ("stands twice", &[(1, 0, 0), (2, 1, 1), (2, 1, 7)], &[Next, Next, Elsewhere], &[]),
        ];
        for (name, messages, steps, missing) in stories {
            let mut chain = Chain::default();
            for ((sequence, previous, offset), step) in messages.iter().zip(steps) {
                assert_eq!(chain.add(*sequence, *previous, *offset), *step, "{name}: {sequence}");
            }
            assert_eq!(chain.holes(), missing.len() as u64, "{name}");
            assert_eq!(chain.close_below(0), [], "{name}: nothing is settled yet");
            let holes = chain.close_below(1_000);
            let found: Vec<_> = holes.iter().map(|hole| (hole.after, hole.missing)).collect();
            assert_eq!(found, missing, "{name}");
            assert_eq!(chain.close_below(1_000), [], "{name}: told once");
        }
    }

    #[test]
    fn hole_is_a_gap_only_when_everything_before_it_is_settled() {
        let mut chain = Chain::default();
        for (sequence, previous, offset) in [(1, 0, 0), (3, 2, 2), (6, 5, 5)] {
            chain.add(sequence, previous, offset);
        }
        assert_eq!(chain.close_below(2), []);
        let first = Hole { after: 1, missing: 2, offset_behind: 2 };
        assert_eq!(chain.close_below(3), [first]);
        assert_eq!(chain.holes(), 1);
    }

    #[test]
    fn memory_has_a_bound_and_says_so() {
        let mut chain = Chain::default();
        let mut given_up = 0;
        for hole in 0..2 * HOLES_MAX as u64 {
            let step = chain.add(3 * hole + 3, 3 * hole + 2, hole);
            given_up += u64::from(matches!(step, Step::Overflow { .. }));
        }
        assert_eq!((chain.holes(), given_up), (HOLES_MAX as u64 - 1, HOLES_MAX as u64));
        assert!(chain.places.len() <= PLACES_MAX);
    }

    #[test]
    fn restart_does_not_hide_a_loss() {
        let mut chain = Chain::seen_up_to(8);
        chain.add(12, 11, 40);
        assert_eq!(chain.close_below(41), [Hole { after: 8, missing: 11, offset_behind: 40 }]);
        let mut chain = Chain::seen_up_to(8);
        chain.add(12, 8, 40);
        assert_eq!((chain.close_below(41), chain.seen_up_to_now()), (vec![], Some(12)));
    }
}
