//! Every bound in one place. A bound that is hit ends in a clear error or a visible state, never in a
//! deletion (P11).

use std::time::Duration;

/// Characters of a topic, group, instance or message group name, and of a tag.
pub const NAME_CHARS_MAX: usize = 127;
/// Bytes of a request id.
pub const REQUEST_ID_BYTES_MAX: usize = 255;
/// Bytes of one body.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of all keys and headers of one message.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Messages of one transaction or one send.
pub const MESSAGES_MAX: usize = 256;
/// Bytes of all contents of one transaction or one send.
pub const TRANSACTION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a reason given with a decision or a retry.
pub const REASON_BYTES_MAX: usize = 1024;
/// Queues of one topic.
pub const QUEUES_MAX: u32 = 256;
/// Topics, and consumer groups, and producer groups, each.
pub const NAMES_MAX: usize = 10_000;
/// Open transactions of one coordinator.
pub const OPEN_TRANSACTIONS_MAX: usize = 4_000_000;
/// Deliveries of one receive.
pub const RECEIVE_MAX: usize = 256;
/// Bytes of contents in one receive; a single larger message is still delivered. Below the 4 MiB that a
/// gRPC client decodes by default.
pub const RECEIVE_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Receipt handles of one ack.
pub const ACKS_MAX: usize = 1_024;
/// Messages of one group and queue that are leased or wait for a retry.
pub const IN_FLIGHT_MAX: usize = 100_000;
/// Messages of one group and queue set aside because an earlier one of their message group is in flight.
/// Past that the queue waits for them.
pub const HELD_MAX: usize = 100_000;
/// Queue entries one receive looks at, so that a long filtered stretch cannot stall everyone else.
pub const SCAN_MAX: usize = 4_096;
/// Longest delay of a message.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Shortest and longest time a delivery stays invisible.
pub const INVISIBLE_MIN: Duration = Duration::from_secs(1);
/// See [`INVISIBLE_MIN`].
pub const INVISIBLE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Longest wait of a receive.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Attempts a retry policy may allow.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Checks a check policy may ask for before a transaction is in doubt.
pub const CHECKS_MAX: u32 = 1_000_000;
/// Entries of one page of a listing.
pub const PAGE_MAX: usize = 1_000;
/// Timers worked off in one tick, so that a burst does not hold up the calls behind it.
pub const TICK_MAX: usize = 1_000;
/// Pages of delayed messages that come back from the shelf in one tick; with the next one it goes on.
pub const PAGES_LOADED_MAX: usize = 16;
/// Messages of one queue that one tick lets go of after their retention.
pub const TRIM_MAX: u64 = 65_536;
/// Entries of one page on the shelf.
pub const PAGE_ENTRIES: usize = 1_024;
