//! Values as people read and write them: times, durations, places, text from strangers.

use halfmq_proto::v1::{MessageReceipt, Place, message_receipt::Released};
use prost_types::Timestamp;
use std::time::Duration;

/// What stands where there is nothing.
const NOTHING: &str = "-";

/// `2026-11-21 04:09:00.123Z`, or `-`.
pub(super) fn time(at: Option<&Timestamp>) -> String {
    at.map_or_else(|| NOTHING.to_owned(), |at| in_millis(at).replace('T', " "))
}

/// RFC 3339, to the millisecond.
pub(super) fn in_millis(at: &Timestamp) -> String {
    let nanos = at.nanos - at.nanos.rem_euclid(1_000_000);
    Timestamp { seconds: at.seconds, nanos }.to_string()
}

/// Time from one moment to another, `+16s 20ms`; empty if either is unknown or they are out of order.
pub(super) fn after(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    let millis = |at: &Timestamp| i128::from(at.seconds) * 1_000 + i128::from(at.nanos / 1_000_000);
    let passed = from.zip(to).and_then(|(from, to)| u64::try_from(millis(to) - millis(from)).ok());
    passed.map_or_else(String::new, |millis| {
        format!("+{}", humantime::format_duration(Duration::from_millis(millis)))
    })
}

/// `1h 30m`, or `-`.
pub(super) fn duration(duration: Option<&prost_types::Duration>) -> String {
    duration
        .and_then(|duration| Duration::try_from(*duration).ok())
        .map_or_else(|| NOTHING.to_owned(), |duration| humantime::format_duration(duration).to_string())
}

/// `orders/2@17`: topic, queue, offset.
pub(super) fn place(place: Option<&Place>) -> String {
    place.map_or_else(
        || NOTHING.to_owned(),
        |place| format!("{}/{}@{}", safe(&place.topic), place.queue, place.offset),
    )
}

/// The place of a released message, or when it gets one.
pub(super) fn receipt(receipt: &MessageReceipt) -> String {
    match &receipt.released {
        Some(Released::Place(at)) => place(Some(at)),
        Some(Released::ScheduledFor(at)) => format!("due {}", time(Some(at))),
        None => NOTHING.to_owned(),
    }
}

/// The text itself, or `-` for none.
pub(super) fn or_nothing(text: &str) -> &str {
    if text.is_empty() { NOTHING } else { text }
}

/// `1 message`, `2 messages`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Text from strangers without what could steer a terminal; line breaks and tabs stay.
pub(super) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A body for a terminal; bytes that are no text are shown as such.
pub(super) fn body(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => safe(text),
        Err(_) => {
            format!("({} that are no text; --json gives them in base64)", count(bytes.len() as u64, "byte"))
        }
    }
}

/// Reads a duration from the command line.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected one such as 6s, 500ms or 1h 30m"))
}

/// A duration for the wire.
pub(super) fn to_wire(duration: Duration) -> Result<prost_types::Duration, super::Failure> {
    prost_types::Duration::try_from(duration)
        .map_err(|_| super::Failure::Usage("that duration is longer than the wire can say".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("RFC 3339")
    }

    #[test]
    fn times_are_shown_to_the_millisecond() {
        let cases = [
            ("2026-11-21T04:09:00.123456Z", "2026-11-21 04:09:00.123Z"),
            ("2026-11-21T04:09:00Z", "2026-11-21 04:09:00Z"),
            ("1969-12-31T23:59:59.9995Z", "1969-12-31 23:59:59.999Z"),
        ];
        for (moment, expected) in cases {
            assert_eq!(time(Some(&at(moment))), expected);
        }
        assert_eq!(time(None), "-");
    }

    #[test]
    fn time_passed_is_told_only_forwards() {
        let cases = [
            ("2026-11-21T04:09:00Z", "2026-11-21T04:09:16.020Z", "+16s 20ms"),
            ("2026-11-21T04:09:00Z", "2026-11-21T04:09:00Z", "+0s"),
            ("2026-11-21T04:09:00Z", "2026-11-21T04:08:00Z", ""),
        ];
        for (from, to, expected) in cases {
            assert_eq!(after(Some(&at(from)), Some(&at(to))), expected, "{from} {to}");
        }
    }

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        let cases =
            [("plain\n\ttext", "plain\n\ttext"), ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"), ("a\rb", "a\\rb")];
        for (text, expected) in cases {
            assert_eq!(safe(text), expected);
        }
    }
}
