//! Names, checked once where they come in.

use crate::limits::{NAME_CHARS_MAX, REQUEST_ID_BYTES_MAX};

/// Dead-letter topics are named after their consumer group: `dlq.<group>`.
const DEAD_LETTER_PREFIX: &str = "dlq.";

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Rejection;

            fn from_str(text: &str) -> Result<Self, $crate::Rejection> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(why) => Err($crate::Rejection::IllegalName { what: $what, name: text.chars().take($crate::limits::NAME_CHARS_MAX).collect(), why }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}
pub(crate) use name;

name!(
    /// Where messages are released to.
    TopicName, "topic", topic
);
name!(
    /// Consumers that share the work of reading a topic: each message goes to one of them.
    ConsumerGroup, "consumer group", plain
);
name!(
    /// Producers that can answer each other's checks; owner of a row of sequence numbers.
    ProducerGroup, "producer group", plain
);
name!(
    /// One running producer.
    InstanceId, "producer instance", printable
);
name!(
    /// A caller's own key for a call, so that the same call again is recognised.
    RequestId, "request id", request_id
);

impl ConsumerGroup {
    /// The topic that collects what this group failed on.
    #[must_use]
    pub fn dead_letter_topic(&self) -> TopicName {
        TopicName(format!("{DEAD_LETTER_PREFIX}{self}").into())
    }
}

impl TopicName {
    /// Whether only dead-lettering writes to it.
    #[must_use]
    pub fn is_dead_letter(&self) -> bool {
        self.0.starts_with(DEAD_LETTER_PREFIX)
    }

    /// The group whose dead letters this topic collects.
    pub(crate) fn dead_letters_of(&self) -> Option<ConsumerGroup> {
        Some(ConsumerGroup(self.0.strip_prefix(DEAD_LETTER_PREFIX)?.into()))
    }
}

/// Characters that are safe in every file name, URL, metric label and shell: `A-Z a-z 0-9 _ - .`
fn plain(text: &str) -> Result<(), &'static str> {
    short(text)?;
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')) {
        return Err("only A-Z a-z 0-9 _ - . are allowed");
    }
    if text.starts_with('.') { Err("it must not start with a dot") } else { Ok(()) }
}

/// The topic of dead letters is longer than its group by the prefix.
fn topic(text: &str) -> Result<(), &'static str> {
    plain(text.strip_prefix(DEAD_LETTER_PREFIX).unwrap_or(text))
}

pub(crate) fn printable(text: &str) -> Result<(), &'static str> {
    short(text)?;
    if text.chars().any(char::is_control) { Err("control characters are not allowed") } else { Ok(()) }
}

fn short(text: &str) -> Result<(), &'static str> {
    match text.chars().take(NAME_CHARS_MAX + 1).count() {
        0 => Err("it is empty"),
        chars if chars > NAME_CHARS_MAX => Err("it is longer than 127 characters"),
        _ => Ok(()),
    }
}

fn request_id(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => Err("it is empty"),
        bytes if bytes > REQUEST_ID_BYTES_MAX => Err("it is longer than 255 bytes"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letter_topics_have_legal_names() -> Result<(), crate::Rejection> {
        let group: ConsumerGroup = "x".repeat(127).parse()?;
        let topic = group.dead_letter_topic();
        assert_eq!(topic.as_str().parse::<TopicName>()?, topic);
        Ok(())
    }

    #[test]
    fn names_are_checked_at_the_edge() {
        let long = "x".repeat(128);
        let longest = "x".repeat(127);
        for (name, legal) in [
            ("orders", true),
            ("orders-v2.eu_west", true),
            (longest.as_str(), true),
            ("", false),
            (long.as_str(), false),
            ("with space", false),
            ("päyments", false),
            ("a/b", false),
            (".hidden", false),
            ("dlq.", false),
            ("dlq.with space", false),
        ] {
            assert_eq!(name.parse::<TopicName>().is_ok(), legal, "{name:?}");
        }
    }
}
