//! How images of the ledger are written, and pages of queue entries and of delayed messages.
//!
//! ```text
//! page     crc32c u32 LE of what follows the length │ length u32 LE │ list of entries, or of delayed
//!          messages with due time and id
//! piece    its own tag, then fields
//! ```
//!
//! An extent covers one whole page, checksum included. Lifetime of a page: until its queue is trimmed, its
//! messages come back or it is written anew; of an image: until the next whole one.

use std::sync::Arc;

use halfmq_core::image::{CursorImage, Half, Holder, Image, OpenTransaction, QueueImage};
use halfmq_core::{
    Delayed, DelayedPage, DelayedPageRef, Entry, Extent, MessageId, Open, Origin, Page, PageRef, Place, Run,
};

use super::field::{Field, put_summed, take_summed};
use super::{Malformed, Reader, Writer, fields};

macro_rules! pieces {
    ($($tag:literal $variant:ident { $($field:ident),* })*) => {
        impl Field for Image {
            fn put(&self, out: &mut Writer) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        out.bytes.push($tag);
                        $($field.put(out);)*
                    })*
                }
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(match u8::take(input)? {
                    $($tag => Self::$variant { $($field: Field::take(input)?),* },)*
                    _ => return Err(Malformed("a piece of an image is not known")),
                })
            }
        }
    };
}

pieces! {
    1 Began { at }
    2 Topic { topic, released, queues }
    3 Entries { topic, queue, entries }
    4 Producer { producer_group, sequence, callback }
    5 Open { transaction, open }
    6 Delayed { due, id, producer_group, half }
    7 Decided { transaction, decided }
    8 Group { group, retry }
    9 DeadLetters { group, letters }
    10 Subscription { group, topic, filter, cursors }
    11 Ended {}
    12 DelayedPage { page }
}

fields! {
    OpenTransaction {
        producer_group, instance, request_id, fingerprint, policy, prepared_at, answered, in_doubt, next_check,
        halves
    }
    Half { topic, content, tag, message_group, visibility, sequence }
    QueueImage { base, hot_base, last, pages }
    DelayedPageRef { first, last, ids, count, live, recalled, extent, contents }
    Delayed { producer_group, half }
    PageRef { first, count, extent, released, contents }
    Run { from, to, bytes }
    CursorImage { floor, settled, open }
    Open { attempt, visible_at, leased, message_group }
    Entry { id, content, tag, message_group, producer_group, sequence, previous, released_at, origin }
    Origin { group, place, attempts, reason, at }
    Place { topic, queue, offset }
    MessageId { transaction, index }
    Extent { position, length }
}

impl Field for Page {
    fn put(&self, out: &mut Writer) {
        put_summed(out, |out| self.0.put(out));
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        take_summed(input, "the checksum of a page does not match", |inner| Vec::take(inner).map(Self))
    }
}

impl Field for DelayedPage {
    fn put(&self, out: &mut Writer) {
        put_summed(out, |out| self.0.put(out));
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        take_summed(input, "the checksum of a page does not match", |inner| Vec::take(inner).map(Self))
    }
}

impl Field for Holder {
    fn put(&self, out: &mut Writer) {
        match self {
            Self::Half(id) => {
                out.bytes.push(1);
                id.put(out);
            }
            Self::Delayed(due, id) => {
                out.bytes.push(2);
                due.put(out);
                id.put(out);
            }
            Self::Entry(place) => {
                out.bytes.push(3);
                place.put(out);
            }
            Self::Page => out.bytes.push(4),
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            1 => Self::Half(Field::take(input)?),
            2 => Self::Delayed(Field::take(input)?, Field::take(input)?),
            3 => Self::Entry(Field::take(input)?),
            4 => Self::Page,
            _ => return Err(Malformed("a holder is not known")),
        })
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        T::take(input).map(Self::new)
    }
}

impl<T: Field> Field for Arc<T> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        T::take(input).map(Self::new)
    }
}

impl<T: Field> Field for Box<[T]> {
    fn put(&self, out: &mut Writer) {
        self.len().put(out);
        self.iter().for_each(|item| item.put(out));
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Vec::take(input).map(Into::into)
    }
}
