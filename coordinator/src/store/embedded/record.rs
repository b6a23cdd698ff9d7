//! How events are written: tag, then fields. A tag never changes its meaning; a changed layout is a new tag.
//!
//! ```text
//! number    LEB128, 1 to 10 bytes              text      length, UTF-8
//! time      number of microseconds             option    0, or 1 and the value
//! id        16 bytes, big-endian               list      length, items
//!
//! message   crc32c u32 LE of what follows the length │ length u32 LE │ topic · visibility · tag ·
//!           message group · keys · headers · body
//! ```
//!
//! An [`Extent`] covers one whole message, checksum included, so that it can be read back by itself.
//! Lifetime: as long as the journal keeps the frame. Absence of a record: the event did not happen.

mod field;
mod image;

use bytes::Bytes;
use halfmq_core::{
    CheckPolicy, Decided, DecidedBy, DecidedTransaction, Decision, DelayedPage, Event, Extent, InDoubtPolicy,
    Message, Page, Prepared, RetryPolicy, Sent, TxMessage, Verdict,
};

use field::Field;

/// Bytes that are no record, although their checksum is right: they were written by a newer version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the record cannot be read ({0}); it may have been written by a newer version")]
pub struct Malformed(pub(super) &'static str);

/// Collects records, and remembers where messages are.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Position of the first byte.
    origin: u64,
    extents: Vec<Extent>,
}

impl Writer {
    /// Begins anew with the first byte at `origin`.
    pub fn reset(&mut self, origin: u64) {
        self.bytes.clear();
        self.extents.clear();
        self.origin = origin;
    }

    /// What was written since.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes what was written since; `buffer` is used from now on.
    pub fn replace(&mut self, buffer: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.bytes, buffer)
    }

    /// Adds an event; the extents of its messages, in their order.
    pub fn event(&mut self, event: &Event) -> Vec<Extent> {
        put_event(event, self);
        std::mem::take(&mut self.extents)
    }
}

/// Reads records back.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: u64,
    extents: Vec<Extent>,
    /// What the bytes are of, when bodies and checksums matter. Rules never look into bodies: a replay
    /// leaves them where they are, and has checked the whole frame already.
    whole: Option<&'a Bytes>,
}

impl<'a> Reader<'a> {
    /// Reads events whose first byte is at `position`; bodies come out empty.
    #[must_use]
    pub fn events(bytes: &'a [u8], position: u64) -> Self {
        Self { bytes, position, extents: Vec::new(), whole: None }
    }

    /// The next event and the extents of its messages; `None` at the end.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn event(&mut self) -> Result<Option<(Event, Vec<Extent>)>, Malformed> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let event = take_event(self)?;
        Ok(Some((event, std::mem::take(&mut self.extents))))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.bytes = rest;
        self.position += length as u64;
        Ok(head)
    }
}

/// Reads one message back from the bytes of its extent. Its body is a part of them, not a copy.
///
/// # Errors
/// [`Malformed`], also when the checksum does not match.
pub fn message(bytes: &Bytes) -> Result<Message, Malformed> {
    let mut reader = Reader { bytes, position: 0, extents: Vec::new(), whole: Some(bytes) };
    Message::take(&mut reader)
}

/// Reads one page back from the bytes of its extent.
///
/// # Errors
/// [`Malformed`], also when the checksum does not match.
pub fn page(bytes: &Bytes) -> Result<Page, Malformed> {
    let mut reader = Reader { bytes, position: 0, extents: Vec::new(), whole: Some(bytes) };
    Page::take(&mut reader)
}

/// Reads one page of delayed messages back from the bytes of its extent.
///
/// # Errors
/// [`Malformed`], also when the checksum does not match.
pub fn delayed_page(bytes: &Bytes) -> Result<DelayedPage, Malformed> {
    let mut reader = Reader { bytes, position: 0, extents: Vec::new(), whole: Some(bytes) };
    DelayedPage::take(&mut reader)
}

/// Writes a decided transaction as the index keeps it, behind what is there.
pub fn put_decided(decided: &DecidedTransaction, out: &mut Vec<u8>) {
    let mut writer = Writer { bytes: std::mem::take(out), ..Writer::default() };
    decided.put(&mut writer);
    *out = writer.bytes;
}

/// Reads what [`put_decided`] wrote.
///
/// # Errors
/// [`Malformed`].
pub fn take_decided(bytes: &[u8]) -> Result<DecidedTransaction, Malformed> {
    DecidedTransaction::take(&mut Reader::events(bytes, 0))
}

macro_rules! events {
    (
        $($tag:literal $variant:ident { $($field:ident),* })*
        $(; $struct_tag:literal $struct_variant:ident)*
    ) => {
        fn put_event(event: &Event, out: &mut Writer) {
            match event {
                $(Event::$variant { $($field),* } => {
                    out.bytes.push($tag);
                    $($field.put(out);)*
                })*
                $(Event::$struct_variant(inner) => {
                    out.bytes.push($struct_tag);
                    inner.put(out);
                })*
            }
        }

        fn take_event(input: &mut Reader<'_>) -> Result<Event, Malformed> {
            Ok(match u8::take(input)? {
                $($tag => Event::$variant { $($field: Field::take(input)?),* },)*
                $($struct_tag => Event::$struct_variant(Field::take(input)?),)*
                _ => return Err(Malformed("its tag is not known")),
            })
        }
    };
}

events! {
    1 TopicCreated { topic, queues }
    2 TopicDeleted { topic }
    3 GroupConfigured { group, retry }
    4 Subscribed { group, topic, filter, floors }
    5 FilterChanged { group, topic, filter }
    6 GroupReset { group, topic, floors }
    7 CallbackChanged { producer_group, callback }
    11 Checked { transaction, answered, next_check, in_doubt }
    12 Released { transaction, index, queue, offset, previous, at }
    13 Delivered { group, topic, queue, deliveries, until }
    14 Settled { group, topic, queue, offsets }
    15 Extended { group, topic, queue, offset, until }
    16 Retried { group, topic, queue, offset, visible_at }
    17 DeadLettered { group, topic, queue, offset, attempts, reason, number, at }
    18 DeadLettersReplayed { group, numbers, at }
    19 DeadLettersPurged { group, numbers }
    20 Trimmed { topic, queue, base }
    22 Moved { holder, message }
    23 Paged { topic, queue, first, page }
    24 LetGo { topic, queue, offsets }
    25 Recalled { transaction, index, due }
    26 RecalledOnShelf { topic, page, position }
    27 DelayedPaged { old, page }
    28 DelayedLoaded { first }
    ; 8 Prepared ; 9 Sent ; 10 Decided ; 21 Image
}

macro_rules! fields {
    ($($name:ident { $($field:ident),* })*) => {
        $(impl Field for $name {
            fn put(&self, out: &mut Writer) {
                $(self.$field.put(out);)*
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(Self { $($field: Field::take(input)?),* })
            }
        })*
    };
}
use fields;

fields! {
    Prepared {
        transaction, producer_group, instance, request_id, fingerprint, policy, at, first_sequence, messages
    }
    Sent { transaction, producer_group, request_id, fingerprint, at, first_sequence, messages, releases }
    Decided { transaction, verdict, releases, replacements }
    CheckPolicy { first_after, interval, interval_max, checks_max, in_doubt }
    RetryPolicy { attempts_max, delay, delay_max }
    Verdict { decision, by, at, reason }
    TxMessage { topic, sequence, release }
    DecidedTransaction {
        verdict, producer_group, instance, request_id, fingerprint, prepared_at, answered, messages
    }
}

macro_rules! choices {
    ($($name:ident { $($number:literal $variant:ident),* })*) => {
        $(impl Field for $name {
            fn put(&self, out: &mut Writer) {
                out.bytes.push(match self {
                    $($name::$variant => $number),*
                });
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                match u8::take(input)? {
                    $($number => Ok($name::$variant),)*
                    _ => Err(Malformed("a choice is not known")),
                }
            }
        })*
    };
}

choices! {
    Decision { 1 Commit, 2 Rollback }
    DecidedBy { 1 Call, 2 Check, 3 Policy }
    InDoubtPolicy { 1 Keep, 2 Rollback, 3 Commit }
}
