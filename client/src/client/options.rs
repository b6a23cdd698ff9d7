//! What a client may be told; the defaults suit a coordinator in the same data centre.

use std::time::Duration;

/// How a [`Client`](crate::Client) connects and how long it tries.
///
/// ```
/// use halfmq_client::ClientOptions;
/// use std::time::Duration;
///
/// let hasty = ClientOptions { call_timeout: Duration::from_secs(3), ..ClientOptions::default() };
/// assert!(hasty.attempt_timeout > hasty.call_timeout);
/// ```
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Longest wait for a connection: 5 s.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to one attempt: 10 s. Long polls have their wait on top.
    pub attempt_timeout: Duration,
    /// Longest time for a call with all its repetitions: 30 s.
    pub call_timeout: Duration,
    /// Pauses between repetitions.
    pub backoff: BackoffOptions,
    /// A ping at least this often finds out that the other side is gone: 20 s.
    pub keep_alive_interval: Duration,
    /// Longest wait for the answer to a ping: 10 s.
    pub keep_alive_timeout: Duration,
    /// Largest answer that is accepted: 64 MiB.
    pub decoded_bytes_max: usize,
    /// How operations travel: over streams.
    pub transport: Transport,
    /// Operations that wait for the stream at most: 1,024. More wait in their callers.
    pub queue_max: usize,
    /// Operations on the stream that are not answered yet, at most: 4,096.
    pub in_flight_max: usize,
}

/// How prepares, decisions, sends and deliveries travel. Everything else is a unary call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Over streams that pipeline and batch. Unary calls where the coordinator does not know them, and for
    /// single operations of more than 1 MiB.
    Streams,
    /// One unary call each: slower, and understood by every proxy.
    Unary,
}

/// Pauses that double from the first to the longest; each is cut by a random part of up to a half.
#[derive(Debug, Clone, Copy)]
pub struct BackoffOptions {
    /// The first pause: 50 ms.
    pub first: Duration,
    /// The longest pause: 5 s.
    pub pause_max: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            backoff: BackoffOptions::default(),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
            decoded_bytes_max: 64 << 20,
            transport: Transport::Streams,
            queue_max: 1_024,
            in_flight_max: 4_096,
        }
    }
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), pause_max: Duration::from_secs(5) }
    }
}
