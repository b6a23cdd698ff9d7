//! Durations as people write them, `6s` or `1h 30m`, in files and in what is shown.

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use std::time::Duration;

pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Reads a duration; the error says what one looks like.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("'{text}' is not a duration such as 6s, 500ms or 1h 30m: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let cases = [
            ("6s", Some(6_000)),
            ("500ms", Some(500)),
            ("1h 30m", Some(5_400_000)),
            ("10min", Some(600_000)),
            ("0s", Some(0)),
            ("6", None),
            ("", None),
            ("-1s", None),
            ("soon", None),
        ];
        for (text, expected_ms) in cases {
            let parsed = parse(text).ok().map(|duration| duration.as_millis());
            assert_eq!(parsed, expected_ms, "{text:?}");
        }
    }
}
