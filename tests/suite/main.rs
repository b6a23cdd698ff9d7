//! The suites: the style of the tree, and the real binary from outside. One test binary, so that the
//! harness is linked once.

#![expect(clippy::indexing_slicing, reason = "a test that looks past an end fails, and says where")]

mod bad_input;
mod crash;
mod flow;
mod rocketmq;
mod storage;
mod tidy;
