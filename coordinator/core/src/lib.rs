//! The rules of HalfMQ as synchronous functions of values.
//!
//! ```text
//!   command + now ──► Ledger verb ──► Rejection                (nothing changed)
//!                        │
//!                        └──► Event ──► Log::append ──► apply  (the engine makes it durable,
//!                                                               and only then passes on the answer)
//!   after a restart:    Event, Event, Event … ──► Ledger::apply  = the same ledger
//! ```
//!
//! The single rules (who wins a decision, when to ask again, which queue, whose turn) stand in their own
//! modules and serve every storage engine. The [`Ledger`] puts them together for an engine that keeps
//! its hot state in memory: a verb decides, writes events, and applies them by the very function that
//! replays them.
//!
//! Deliberately absent: async, IO, clocks, randomness, the wire. Time and fresh ids come in as
//! arguments; contents stay with the engine, rules only pass their [`Extent`] around.

mod archive;
mod check;
mod cursor;
mod dead_letters;
mod delayed;
mod event;
mod ids;
pub mod image;
mod ledger;
pub mod limits;
mod message;
mod names;
mod queue;
mod ranges;
mod rejection;
mod retry;
mod shelf;
mod time;
mod transaction;

pub use archive::Archivist;
pub use check::{CheckPolicy, InDoubtPolicy, NextCheck};
pub use cursor::Open;
pub use delayed::{Delayed, DelayedPage, DelayedPageRef, Due};
pub use event::{Decided, Event, Log, Prepared, Release, Sent};
pub use ids::{MessageId, ReceiptHandle, TransactionId};
pub use ledger::admin::{Backlog, DeadLetter, GroupView, QueueBacklog, QueueView, TopicView};
pub use ledger::checks::{Answer, Question};
pub use ledger::consume::{Delivery, Receive, Received, Retry};
pub use ledger::produce::{Accepted, Prepare, Receipt, Send};
pub use ledger::timers::Tick;
pub use ledger::transactions::{Decide, DecidedTransaction, TransactionView, TxMessage};
pub use ledger::{Inconsistency, Ledger};
pub use message::{Extent, Message, MessageGroup, Tag, TagFilter, Visibility};
pub use names::{ConsumerGroup, InstanceId, ProducerGroup, RequestId, TopicName};
pub use queue::{Entry, Origin, Place, Start};
pub use rejection::Rejection;
pub use retry::RetryPolicy;
pub use shelf::{EmptyShelf, Page, PageRef, Run, Shelf};
pub use time::Timestamp;
pub use transaction::{DecidedBy, Decision, State, Verdict};
