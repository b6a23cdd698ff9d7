//! The rules, told as stories, driven at random, and pushed to their bounds.

#![expect(clippy::indexing_slicing, reason = "a test may panic, and says where")]

mod bounds;
mod call;
mod journal;
mod random;
mod refusal;
mod stories;
mod teller;
