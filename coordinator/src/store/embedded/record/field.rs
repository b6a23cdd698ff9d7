//! How single values are written.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use halfmq_core::{Extent, Message, Release, TagFilter, Timestamp, TransactionId, Visibility};

use super::{Malformed, Reader, Writer};
use crate::store::embedded::checksum::crc32c;

/// A value that is written and read back.
pub(super) trait Field: Sized {
    fn put(&self, out: &mut Writer);
    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed>;
}

macro_rules! texts {
    ($($name:ty),*) => {
        $(impl Field for $name {
            fn put(&self, out: &mut Writer) {
                put_bytes(self.as_str().as_bytes(), out);
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                let length = usize::take(input)?;
                let text = std::str::from_utf8(input.bytes(length)?).map_err(|_| Malformed("a text is not UTF-8"))?;
                <$name>::from_str(text).map_err(|_| Malformed("a name is not legal"))
            }
        })*
    };
}

texts!(
    String,
    halfmq_core::ConsumerGroup,
    halfmq_core::InstanceId,
    halfmq_core::MessageGroup,
    halfmq_core::ProducerGroup,
    halfmq_core::RequestId,
    halfmq_core::Tag,
    halfmq_core::TopicName
);

macro_rules! numbers {
    ($($name:ty),*) => {
        $(impl Field for $name {
            fn put(&self, out: &mut Writer) {
                put_number(*self as u64, out);
            }

            fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
                take_number(input)?.try_into().map_err(|_| Malformed("a number is too large"))
            }
        })*
    };
}

numbers!(u16, u32, u64, usize);

impl Field for u8 {
    fn put(&self, out: &mut Writer) {
        out.bytes.push(*self);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        input.bytes(1)?.first().copied().ok_or(Malformed("it ends too early"))
    }
}

impl Field for bool {
    fn put(&self, out: &mut Writer) {
        u8::from(*self).put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(u8::take(input)? != 0)
    }
}

impl Field for Timestamp {
    fn put(&self, out: &mut Writer) {
        self.as_micros().put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self::from_micros(u64::take(input)?))
    }
}

impl Field for Duration {
    fn put(&self, out: &mut Writer) {
        u64::try_from(self.as_micros()).unwrap_or(u64::MAX).put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self::from_micros(u64::take(input)?))
    }
}

impl Field for TransactionId {
    fn put(&self, out: &mut Writer) {
        out.bytes.extend_from_slice(&self.as_u128().to_be_bytes());
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = input.bytes(16)?.try_into().map_err(|_| Malformed("an id is too short"))?;
        Ok(Self::from_u128(u128::from_be_bytes(bytes)))
    }
}

impl Field for TagFilter {
    fn put(&self, out: &mut Writer) {
        self.to_string().put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Self::parse(&String::take(input)?).map_err(|_| Malformed("a filter is not legal"))
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Writer) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Writer) {
        self.len().put(out);
        self.iter().for_each(|item| item.put(out));
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        let length = usize::take(input)?;
        if length > input.bytes.len() {
            return Err(Malformed("a list is longer than its record"));
        }
        (0..length).map(|_| T::take(input)).collect()
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

impl Field for Release {
    fn put(&self, out: &mut Writer) {
        match *self {
            Self::Placed { queue, offset, previous } => {
                out.bytes.push(1);
                queue.put(out);
                offset.put(out);
                previous.put(out);
            }
            Self::Scheduled { at } => {
                out.bytes.push(2);
                at.put(out);
            }
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            1 => Self::Placed {
                queue: Field::take(input)?,
                offset: Field::take(input)?,
                previous: Field::take(input)?,
            },
            2 => Self::Scheduled { at: Field::take(input)? },
            _ => return Err(Malformed("a release is not known")),
        })
    }
}

impl Field for Visibility {
    fn put(&self, out: &mut Writer) {
        match self {
            Self::AtOnce => out.bytes.push(0),
            Self::At(time) => {
                out.bytes.push(1);
                time.put(out);
            }
            Self::After(delay) => {
                out.bytes.push(2);
                delay.put(out);
            }
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            0 => Self::AtOnce,
            1 => Self::At(Field::take(input)?),
            2 => Self::After(Field::take(input)?),
            _ => return Err(Malformed("a visibility is not known")),
        })
    }
}

/// Checksum and length.
const SUM_HEAD: usize = 8;

impl Field for Message {
    fn put(&self, out: &mut Writer) {
        put_summed(out, |out| {
            self.topic.put(out);
            self.visibility.put(out);
            self.tag.put(out);
            self.message_group.put(out);
            self.keys.put(out);
            self.headers.put(out);
            put_bytes(&self.body, out);
        });
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, Malformed> {
        take_summed(input, "the checksum of a message does not match", |inner| {
            Ok(Self {
                topic: Field::take(inner)?,
                visibility: Field::take(inner)?,
                tag: Field::take(inner)?,
                message_group: Field::take(inner)?,
                keys: Field::take(inner)?,
                headers: Field::take(inner)?,
                body: take_body(inner)?,
            })
        })
    }
}

/// Something that can be read back by itself: its checksum and its length first, and an extent.
pub(super) fn put_summed(out: &mut Writer, put: impl FnOnce(&mut Writer)) {
    let start = out.bytes.len();
    out.bytes.extend_from_slice(&[0; SUM_HEAD]);
    put(out);
    let (_, written) = out.bytes.split_at_mut(start);
    let (head, rest) = written.split_at_mut(SUM_HEAD);
    let length = u32::try_from(rest.len()).expect("messages and pages are far below 4 GiB");
    let (crc, size) = head.split_at_mut(4);
    crc.copy_from_slice(&crc32c(rest).to_le_bytes());
    size.copy_from_slice(&length.to_le_bytes());
    let position = out.origin + start as u64;
    out.extents.push(Extent { position, length: length + SUM_HEAD as u32 });
}

/// Reads what [`put_summed`] wrote.
pub(super) fn take_summed<T>(
    input: &mut Reader<'_>,
    mismatch: &'static str,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let position = input.position;
    let crc = take_u32(input)?;
    let length = take_u32(input)?;
    let bytes = input.bytes(length as usize)?;
    input.extents.push(Extent { position, length: length + SUM_HEAD as u32 });
    // A replay has checked the whole frame already.
    if input.whole.is_some() && crc32c(bytes) != crc {
        return Err(Malformed(mismatch));
    }
    take(&mut Reader { bytes, position: 0, extents: Vec::new(), whole: input.whole })
}

fn take_body(input: &mut Reader<'_>) -> Result<Bytes, Malformed> {
    let length = usize::take(input)?;
    let body = input.bytes(length)?;
    Ok(input.whole.map_or_else(Bytes::new, |whole| whole.slice_ref(body)))
}

fn put_bytes(bytes: &[u8], out: &mut Writer) {
    bytes.len().put(out);
    out.bytes.extend_from_slice(bytes);
}

fn put_number(mut number: u64, out: &mut Writer) {
    while number >= 0x80 {
        out.bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.bytes.push(number as u8);
}

fn take_number(input: &mut Reader<'_>) -> Result<u64, Malformed> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = u8::take(input)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed("a number is too long"))
}

fn take_u32(input: &mut Reader<'_>) -> Result<u32, Malformed> {
    let bytes = input.bytes(4)?.try_into().map_err(|_| Malformed("it ends too early"))?;
    Ok(u32::from_le_bytes(bytes))
}
