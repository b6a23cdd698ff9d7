//! Asking at a URL: one POST of a JSON batch, signed, never redirected, bounded.
//!
//! Whatever is not a clear answer to a question of this call is no answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use halfmq_core::{
    Answer, Decision, InstanceId, Message, MessageGroup, RequestId, Tag, Timestamp, TransactionId,
};
use hmac::{Hmac, Mac};
use reqwest::{Client, StatusCode, Url, redirect};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Asked, CallbackSettings};
use crate::store::{CheckAnswer, Replacement};

const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// Why a call brought no answers at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("it could not be called: {0}")]
    Failed(String),
    #[error("it replied {0}; only 200 is an answer, redirects are not followed")]
    Status(StatusCode),
    #[error("its reply is longer than {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
    #[error("its reply is not the JSON that was asked for: {0}")]
    Malformed(serde_json::Error),
}

impl From<reqwest::Error> for Unanswered {
    fn from(error: reqwest::Error) -> Self {
        // Without the URL, whose query may be a secret; with the causes, which say what went wrong.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Failed(text)
    }
}

/// Calls URLs.
pub(super) struct Caller {
    client: Client,
    secret: Option<String>,
}

impl Caller {
    pub(super) fn new(settings: &CallbackSettings) -> Self {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(settings.timeout)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("halfmq/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("nothing in it depends on files or the environment");
        Self { client, secret: settings.secret.clone() }
    }

    /// The answers to these questions, at most one for each.
    pub(super) async fn ask(
        &self,
        url: Url,
        now: Timestamp,
        asked: &[Asked],
    ) -> Result<Vec<CheckAnswer>, Unanswered> {
        let body = questions(asked);
        let seconds = now.as_micros() / 1_000_000;
        let mut request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("halfmq-timestamp", seconds.to_string());
        if let Some(secret) = &self.secret {
            request = request.header("halfmq-signature", signature(secret, seconds, &body));
        }
        let mut response = request.body(body).send().await?;
        if response.status() != StatusCode::OK {
            return Err(Unanswered::Status(response.status()));
        }
        let mut reply = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if reply.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(Unanswered::TooLong);
            }
            reply.extend_from_slice(&chunk);
        }
        answers(&reply, asked).map_err(Unanswered::Malformed)
    }
}

#[derive(Serialize)]
struct Questions<'a> {
    questions: Vec<QuestionLine<'a>>,
}

#[derive(Serialize)]
struct QuestionLine<'a> {
    transaction_id: String,
    producer_group: &'a str,
    producer_instance: Option<&'a str>,
    request_id: Option<&'a str>,
    prepared_at: String,
    checks_answered: u32,
    messages: Vec<MessageLine<'a>>,
}

#[derive(Serialize)]
struct MessageLine<'a> {
    topic: &'a str,
    tag: Option<&'a str>,
    keys: &'a [String],
    headers: BTreeMap<&'a str, &'a str>,
    message_group: Option<&'a str>,
    body_base64: String,
}

impl<'a> From<&'a Message> for MessageLine<'a> {
    fn from(message: &'a Message) -> Self {
        let Message { topic, body, tag, keys, headers, message_group, visibility: _ } = message;
        Self {
            topic: topic.as_str(),
            tag: tag.as_ref().map(Tag::as_str),
            keys,
            headers: headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            message_group: message_group.as_ref().map(MessageGroup::as_str),
            body_base64: STANDARD.encode(body),
        }
    }
}

impl<'a> From<&'a Asked> for QuestionLine<'a> {
    fn from(Asked { question, messages }: &'a Asked) -> Self {
        Self {
            transaction_id: question.transaction.to_string(),
            producer_group: question.producer_group.as_str(),
            producer_instance: question.instance.as_ref().map(InstanceId::as_str),
            request_id: question.request_id.as_ref().map(RequestId::as_str),
            prepared_at: rfc3339(question.prepared_at),
            checks_answered: question.answered,
            messages: messages.iter().map(MessageLine::from).collect(),
        }
    }
}

fn questions(asked: &[Asked]) -> Vec<u8> {
    let questions = Questions { questions: asked.iter().map(QuestionLine::from).collect() };
    serde_json::to_vec(&questions).expect("texts and numbers are always JSON")
}

#[derive(Deserialize)]
struct Answers {
    answers: Vec<AnswerLine>,
}

#[derive(Deserialize)]
struct AnswerLine {
    transaction_id: String,
    resolution: String,
    #[serde(default)]
    reason: Option<String>,
    /// With COMMIT: what the lost commit would have replaced.
    #[serde(default)]
    replacements: Vec<ReplacementLine>,
}

#[derive(Deserialize)]
struct ReplacementLine {
    index: u16,
    body_base64: Option<String>,
    headers: Option<BTreeMap<String, String>>,
}

impl TryFrom<ReplacementLine> for Replacement {
    type Error = base64::DecodeError;

    fn try_from(line: ReplacementLine) -> Result<Self, Self::Error> {
        let body = line.body_base64.map(|body| STANDARD.decode(body)).transpose()?.map(Into::into);
        Ok(Self {
            index: line.index,
            body,
            headers: line.headers.map(|headers| headers.into_iter().collect()),
        })
    }
}

/// What the reply says about what was asked. Lines about anything else, with no known resolution, or
/// against another line are no answers.
fn answers(reply: &[u8], asked: &[Asked]) -> Result<Vec<CheckAnswer>, serde_json::Error> {
    let wanted: HashSet<TransactionId> = asked.iter().map(|asked| asked.question.transaction).collect();
    let mut found: HashMap<TransactionId, CheckAnswer> = HashMap::new();
    let mut contradicted = HashSet::new();
    for line in serde_json::from_slice::<Answers>(reply)?.answers {
        let answer = match line.resolution.as_str() {
            "COMMIT" => Some(Answer::Decided(Decision::Commit)),
            "ROLLBACK" => Some(Answer::Decided(Decision::Rollback)),
            "UNKNOWN" => Some(Answer::Unknown),
            _ => None,
        };
        let id = line.transaction_id.parse::<TransactionId>().ok().filter(|id| wanted.contains(id));
        let (Some(transaction), Some(answer)) = (id, answer) else {
            tracing::warn!(
                transaction = %line.transaction_id.escape_debug(), resolution = %line.resolution.escape_debug(),
                "a callback said something that is no answer to what was asked"
            );
            continue;
        };
        let reason = line.reason.unwrap_or_default();
        let replacements = line.replacements.into_iter().map(Replacement::try_from).collect();
        let Ok(replacements) = replacements else {
            tracing::warn!(%transaction, "a callback's replacement is not base64; that is no answer");
            continue;
        };
        let earlier = found.insert(transaction, CheckAnswer { transaction, answer, reason, replacements });
        if earlier.is_some_and(|earlier| earlier.answer != answer) {
            tracing::warn!(%transaction, "a callback contradicts itself; that is no answer");
            contradicted.insert(transaction);
        }
    }
    Ok(found.into_values().filter(|answer| !contradicted.contains(&answer.transaction)).collect())
}

/// `sha256=<hex HMAC-SHA256(secret, "<timestamp>.<body>")>`.
pub(super) fn signature(secret: &str, seconds: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let mut text = String::from("sha256=");
    for byte in mac.finalize().into_bytes() {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

fn rfc3339(time: Timestamp) -> String {
    // The last second that RFC 3339 can write.
    const LAST: u64 = 253_402_300_799_000_000;
    let since_epoch = Duration::from_micros(time.as_micros().min(LAST));
    humantime::format_rfc3339_micros(UNIX_EPOCH + since_epoch).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use halfmq_core::Question;

    fn asked(id: u128) -> Asked {
        let question = Question {
            transaction: TransactionId::from_u128(id),
            producer_group: "orders".parse().expect("a legal name"),
            instance: None,
            request_id: None,
            prepared_at: Timestamp::from_micros(1_700_000_000_123_456),
            answered: 2,
            contents: Vec::new(),
        };
        let message = Message {
            topic: "paid".parse().expect("a legal name"),
            body: "hi!".into(),
            tag: None,
            keys: vec!["k".into()],
            headers: vec![("a".into(), "b".into())],
            message_group: None,
            visibility: halfmq_core::Visibility::AtOnce,
        };
        Asked { question, messages: vec![message] }
    }

    #[test]
    fn questions_are_written_as_documented() {
        let written = String::from_utf8(questions(&[asked(1)])).expect("JSON is UTF-8");
        let expected = concat!(
            r#"{"questions":[{"transaction_id":"00000000-0000-0000-0000-000000000001","#,
            r#""producer_group":"orders","producer_instance":null,"request_id":null,"#,
            r#""prepared_at":"2023-11-14T22:13:20.123456Z","checks_answered":2,"messages":[{"#,
            r#""topic":"paid","tag":null,"keys":["k"],"headers":{"a":"b"},"message_group":null,"#,
            r#""body_base64":"aGkh"}]}]}"#
        );
        assert_eq!(written, expected);
    }

    /// Computed with `printf '1700000000.{"questions":[]}' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn signature_covers_timestamp_and_body() {
        assert_eq!(
            signature("secret", 1_700_000_000, br#"{"questions":[]}"#),
            "sha256=54a650eef1ba13c453adc6d4334d170f63959a78124333d2b59935ef479fcffe"
        );
    }

    #[test]
    fn only_clear_answers_to_what_was_asked_count() {
        let line = |id: u32, resolution: &str| {
            format!(
                r#"{{"transaction_id":"00000000-0000-0000-0000-00000000000{id}","resolution":"{resolution}"}}"#
            )
        };
        let (commit, rollback, unknown) = (line(1, "COMMIT"), line(1, "ROLLBACK"), line(2, "UNKNOWN"));
        for (lines, expected) in [
            (vec![commit.clone(), unknown.clone()], Some("commit 1, unknown 2")),
            (vec![commit.clone(), commit.clone()], Some("commit 1")),
            (vec![commit.clone(), rollback.clone(), commit], Some("")),
            (vec![rollback, line(3, "COMMIT")], Some("rollback 1")),
            (vec![line(1, "commit"), line(1, "")], Some("")),
            (vec![r#"{"transaction_id":"x","resolution":"COMMIT"}"#.into()], Some("")),
            (vec![], Some("")),
            (vec!["1".into()], None),
        ] {
            let reply = format!(r#"{{"answers":[{}],"more":1}}"#, lines.join(","));
            let found = answers(reply.as_bytes(), &[asked(1), asked(2)]).ok().map(|mut found| {
                found.sort_by_key(|answer| answer.transaction);
                let texts = found.iter().map(|answer| {
                    let word = match answer.answer {
                        Answer::Decided(Decision::Commit) => "commit",
                        Answer::Decided(Decision::Rollback) => "rollback",
                        Answer::Unknown => "unknown",
                    };
                    format!("{word} {}", answer.transaction.as_u128())
                });
                texts.collect::<Vec<_>>().join(", ")
            });
            assert_eq!(found.as_deref(), expected, "{reply}");
        }
    }
}
