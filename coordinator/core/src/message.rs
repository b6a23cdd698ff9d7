//! A message: what it says, who may see it, and when.

use std::time::Duration;

use bytes::Bytes;

use crate::limits::{BODY_BYTES_MAX, DELAY_MAX, HEAD_BYTES_MAX};
use crate::names::{TopicName, name, printable};
use crate::rejection::Rejection;
use crate::time::Timestamp;

name!(
    /// One word of a message that receivers can filter on.
    Tag, "tag", tag
);
name!(
    /// Messages of one message group are delivered in order, one at a time.
    MessageGroup, "message group", printable
);

/// A message as it was handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub body: Bytes,
    /// For filters.
    pub tag: Option<Tag>,
    /// For people who look for it.
    pub keys: Vec<String>,
    /// Name and value, in the order of names.
    pub headers: Vec<(String, String)>,
    /// Whose order it keeps.
    pub message_group: Option<MessageGroup>,
    /// When it may be seen, once it is committed.
    pub visibility: Visibility,
}

impl Message {
    /// Checks what a producer may hand over.
    ///
    /// # Errors
    /// [`Rejection::TooLarge`], [`Rejection::Invalid`] and [`Rejection::IllegalName`] for a dead-letter topic.
    pub fn check(&self) -> Result<(), Rejection> {
        if self.topic.is_dead_letter() {
            return Err(Rejection::IllegalName {
                what: "topic",
                name: self.topic.to_string(),
                why: "topics starting with \"dlq.\" are written by dead-lettering only",
            });
        }
        Rejection::if_larger("body", self.body.len(), BODY_BYTES_MAX)?;
        Rejection::if_larger("keys and headers", self.head_bytes(), HEAD_BYTES_MAX)?;
        match self.visibility {
            Visibility::After(delay) if delay > DELAY_MAX => {
                Err(Rejection::Invalid { what: "delay", why: "it is longer than 366 days".into() })
            }
            Visibility::AtOnce | Visibility::After(_) | Visibility::At(_) => Ok(()),
        }
    }

    /// Bytes of keys, headers and body.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.head_bytes() + self.body.len()
    }

    fn head_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.keys.iter().map(String::len).chain(headers).sum()
    }

    /// Recognises the same message again; changes with anything that the producer chose.
    pub(crate) fn fingerprint(&self, before: u64) -> u64 {
        let (kind, micros) = match self.visibility {
            Visibility::AtOnce => (0, 0),
            Visibility::At(time) => (1, time.as_micros()),
            Visibility::After(delay) => (2, u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)),
        };
        let text = |text: Option<&str>| wide(text.unwrap_or_default().as_bytes());
        let texts = |texts: &mut dyn Iterator<Item = &str>| {
            texts.fold(0, |sum, text| mix(sum, wide(text.as_bytes())))
        };
        let parts = [
            kind,
            micros,
            text(Some(self.topic.as_str())),
            text(self.tag.as_ref().map(Tag::as_str)),
            text(self.message_group.as_ref().map(MessageGroup::as_str)),
            texts(&mut self.keys.iter().map(String::as_str)),
            texts(&mut self.headers.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()])),
            wide(&self.body),
        ];
        parts.into_iter().fold(before, mix)
    }
}

/// When a message may be seen, once it is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// With the commit.
    AtOnce,
    /// Not before this time.
    At(Timestamp),
    /// This long after the commit.
    After(Duration),
}

impl Visibility {
    /// Bounds what [`Message::check`] cannot: that a time is not too far from `now`.
    pub(crate) fn check(self, now: Timestamp) -> Result<(), Rejection> {
        match self {
            Self::At(time) if time > now.after(DELAY_MAX) => Err(Rejection::Invalid {
                what: "deliver_at",
                why: "it is more than 366 days from now".into(),
            }),
            Self::AtOnce | Self::At(_) | Self::After(_) => Ok(()),
        }
    }

    /// The time a message committed at `now` has to wait for, if any.
    pub(crate) fn due(self, now: Timestamp) -> Option<Timestamp> {
        let due = match self {
            Self::AtOnce => now,
            Self::At(time) => time,
            Self::After(delay) => now.after(delay),
        };
        (due > now).then_some(due)
    }
}

/// Where the engine keeps the content of a message. Rules pass it around and never look inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// Of the engine's choosing.
    pub position: u64,
    /// Bytes.
    pub length: u32,
}

impl Extent {
    /// Of a content that is no longer kept.
    pub const NONE: Self = Self { position: u64::MAX, length: 0 };
}

/// Which tags a group wants: `*`, or tags joined by `||`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TagFilter(Vec<Tag>);

impl TagFilter {
    /// Reads `*`, the empty text (all), or `TagA || TagB`.
    ///
    /// # Errors
    /// [`Rejection::IllegalName`] for a tag that cannot exist.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if matches!(text.trim(), "" | "*") {
            return Ok(Self::default());
        }
        let mut tags = text.split("||").map(|tag| tag.trim().parse()).collect::<Result<Vec<Tag>, _>>()?;
        tags.sort();
        tags.dedup();
        Ok(Self(tags))
    }

    /// Whether the group wants a message with this tag.
    #[must_use]
    pub fn admits(&self, tag: Option<&Tag>) -> bool {
        self.0.is_empty() || tag.is_some_and(|tag| self.0.contains(tag))
    }
}

impl std::fmt::Display for TagFilter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return out.write_str("*");
        }
        out.write_str(&self.0.iter().map(Tag::as_str).collect::<Vec<_>>().join(" || "))
    }
}

fn tag(text: &str) -> Result<(), &'static str> {
    if text.contains("||") || text.trim() != text || text == "*" {
        return Err("it must not contain \"||\", be \"*\", or start or end with a space");
    }
    printable(text)
}

/// FNV-1a over all parts: small, stable over versions, good enough to spread and to recognise.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let sum = parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(OFFSET, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(PRIME));
    // FNV leaves the high bits of short inputs poor; one multiply-xor round (as in SplitMix64) mixes them.
    let mixed = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

/// As [`hash`], for what may be long, while a producer waits: eight bytes at a step, and steps that do not wait for
/// each other.
fn wide(bytes: &[u8]) -> u64 {
    const WORD: usize = size_of::<u64>();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut lanes = [0, 1, 2, 3];
    let mut blocks = bytes.chunks_exact(lanes.len() * WORD);
    for block in blocks.by_ref() {
        for (lane, bytes) in lanes.iter_mut().zip(block.chunks_exact(WORD)) {
            *lane = mix(*lane, word(bytes));
        }
    }
    let mut words = blocks.remainder().chunks_exact(WORD);
    let sum = lanes.into_iter().chain(words.by_ref().map(word)).fold(bytes.len() as u64, mix);
    words.remainder().iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

/// One step of a sum: another word makes another sum, and so does another order.
fn mix(sum: u64, word: u64) -> u64 {
    let mixed = (sum ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_admit_what_they_name() -> Result<(), Rejection> {
        for (filter, tag, admitted) in [
            ("*", Some("a"), true),
            ("", None, true),
            ("a", Some("a"), true),
            ("a", None, false),
            ("a || b", Some("b"), true),
            ("a||b", Some("c"), false),
        ] {
            let tag: Option<Tag> = tag.map(str::parse).transpose()?;
            assert_eq!(TagFilter::parse(filter)?.admits(tag.as_ref()), admitted, "{filter} {tag:?}");
        }
        assert_eq!(TagFilter::parse("b || a")?.to_string(), "a || b");
        assert!(TagFilter::parse("a || ").is_err());
        Ok(())
    }

    #[test]
    fn bodies_are_told_apart_by_any_byte_by_their_order_and_by_their_length() {
        let body: Vec<u8> = (0..100).collect();
        let mut seen: std::collections::HashSet<u64> =
            (0..=100).map(|length| wide(&body[..length])).collect();
        for at in 0..body.len() {
            for bit in 0..8 {
                let mut other = body.clone();
                other[at] ^= 1 << bit;
                seen.insert(wide(&other));
            }
        }
        for (one, other) in (0..12).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let mut swapped = body.clone();
            (0..8).for_each(|byte| swapped.swap(8 * one + byte, 8 * other + byte));
            seen.insert(wide(&swapped));
        }
        seen.insert(wide(&[0; 8]));
        seen.insert(wide(&[0; 9]));
        assert_eq!(seen.len(), 101 + 800 + 12 * 11 / 2 + 2);
    }

    #[test]
    fn names_have_a_bound() {
        assert!("x".repeat(crate::limits::NAME_CHARS_MAX + 1).parse::<Tag>().is_err());
    }
}
