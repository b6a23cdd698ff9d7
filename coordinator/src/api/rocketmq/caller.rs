//! Who calls: what the headers of a request say.

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
