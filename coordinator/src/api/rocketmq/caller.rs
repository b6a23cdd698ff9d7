//! Who calls: what the headers of a request say.

use std::time::Duration;

use halfmq_core::{InstanceId, limits};
use halfmq_proto::rocketmq as v2;
use tonic::metadata::MetadataMap;
use v2::Code;

use super::Door;
use super::status::Refusal;

/// Whoever sent a request.
pub(super) struct Caller {
    /// The client's own name for itself; the same in all its calls and streams.
    pub(super) client: InstanceId,
    /// It speaks with the Python library.
    pub(super) is_python: bool,
}

impl Door {
    /// Reads the headers, and checks the signature if users are configured.
    pub(super) fn caller(&self, headers: &MetadataMap) -> Result<Caller, Refusal> {
        let header = |name| headers.get(name).map(tonic::metadata::MetadataValue::as_encoded_bytes);
        let admitted = self.settings.users.admit(header("authorization"), header("x-mq-date-time"));
        admitted.map_err(|why| Refusal::new(Code::Unauthorized, why.to_string()))?;
        let client = headers.get("x-mq-client-id").and_then(|id| id.to_str().ok()).unwrap_or_default().trim();
        if client.is_empty() {
            return Err(Refusal::new(Code::ClientIdRequired, "the header x-mq-client-id is missing"));
        }
        let client = client.parse().map_err(|_| {
            let why =
                format!("the header x-mq-client-id is longer than {} characters", limits::NAME_CHARS_MAX);
            Refusal::new(Code::BadRequest, why)
        })?;
        Ok(Caller { client, is_python: header("x-mq-language") == Some(b"PYTHON") })
    }
}

/// When the caller stops waiting, as gRPC says it: digits and a unit.
pub(super) fn patience(headers: &MetadataMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3_600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_in_every_unit() {
        for (text, expected) in [
            ("8760H", Some(Duration::from_secs(8_760 * 3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("23000m", Some(Duration::from_secs(23))),
            ("5u", Some(Duration::from_micros(5))),
            ("5n", Some(Duration::from_nanos(5))),
            ("5x", None),
            ("", None),
            ("H", None),
        ] {
            let mut headers = MetadataMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a legal header"));
            assert_eq!(patience(&headers), expected, "{text}");
        }
    }
}
