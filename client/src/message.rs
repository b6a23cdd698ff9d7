//! A message as its producer hands it over.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// What is sent. Everything but topic and body is optional.
///
/// ```
/// use halfmq_client::Message;
/// use std::time::Duration;
///
/// let message = Message::new("orders", r#"{"order":42}"#)
///     .tag("created")
///     .key("42")
///     .header("trace", "4bf92f")
///     .message_group("customer-7")
///     .delay(Duration::from_secs(60));
/// assert_eq!(message.topic, "orders");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// 1 to 127 characters of `A-Z a-z 0-9 _ - .`.
    pub topic: String,
    /// At most 4 MiB.
    pub body: Bytes,
    /// One word that receivers can filter on; empty for none.
    pub tag: String,
    /// Business keys, for people who look for this message.
    pub keys: Vec<String>,
    /// Anything for the receiver's program.
    pub headers: HashMap<String, String>,
    /// Messages of one group are delivered in order, one at a time per consumer group; empty for none.
    pub message_group: String,
    /// When consumers may see it.
    pub visibility: Visibility,
}

/// When a released message becomes visible. The coordinator's clock decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Visibility {
    /// As soon as it is released.
    #[default]
    AtRelease,
    /// This long after the commit or send.
    After(Duration),
    /// Not before this time.
    At(SystemTime),
}

impl Message {
    /// A message without tag, keys, headers, order or delay.
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), body: body.into(), ..Self::default() }
    }

    /// Sets the word that receivers can filter on.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = tag.into();
        self
    }

    /// Adds a business key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// Adds a header; the same name again replaces it.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Puts it in order behind the earlier messages of this group.
    #[must_use]
    pub fn message_group(mut self, group: impl Into<String>) -> Self {
        self.message_group = group.into();
        self
    }

    /// Makes it visible this long after commit or send.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.visibility = Visibility::After(delay);
        self
    }

    /// Makes it visible at this time of the coordinator's clock.
    #[must_use]
    pub fn deliver_at(mut self, at: SystemTime) -> Self {
        self.visibility = Visibility::At(at);
        self
    }
}

/// New content for one message of a transaction, for what was born in the local transaction.
///
/// Sent with the commit. If that is lost, a check follows: a checker that can make the content again answers
/// [`Resolution::CommitWith`](crate::Resolution::CommitWith). One that answers plain `Commit` releases the
/// content that was prepared, so prepare with content that a receiver can work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// Position of the message in the prepared list, from 0.
    pub index: u32,
    /// The new body, if it changes.
    pub body: Option<Bytes>,
    /// All headers anew, if they change.
    pub headers: Option<HashMap<String, String>>,
}

impl Replacement {
    /// Replaces the body of the message at this position.
    pub fn body(index: u32, body: impl Into<Bytes>) -> Self {
        Self { index, body: Some(body.into()), headers: None }
    }

    /// Replaces all headers of the message at this position.
    pub fn headers(index: u32, headers: HashMap<String, String>) -> Self {
        Self { index, body: None, headers: Some(headers) }
    }
}
