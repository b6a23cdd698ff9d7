//! The fast path, Produce and Consume, over TCP against a whole coordinator in this process.

#![expect(clippy::indexing_slicing, reason = "a test may panic, and says where")]

mod bounds;
mod consume;
mod produce;
mod server;
