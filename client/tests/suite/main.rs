//! The SDK against a fake coordinator in the same process, over pipes, in virtual time.

mod checks;
mod consume;
mod fake;
mod produce;
mod restart;
mod streams;
mod transact;
