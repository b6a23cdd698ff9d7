//! What can be set, with every default and unit in one place.
//!
//! A value comes from the first of: command line, environment, file, default. [`layers`] does the
//! layering; this file only says what exists. Nothing here reads the process's environment or a clock.

mod human;
pub mod layers;

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::SocketAddr, ops::Deref, path::PathBuf, time::Duration};

/// Everything `halfmq serve` can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the gRPC API listens; port 0 picks a free one.
    pub grpc: SocketAddr,
    /// Where health, metrics and the JSON API listen; port 0 picks a free one.
    pub http: SocketAddr,
    /// Folder of the embedded store, made if it is missing.
    pub data: PathBuf,
    /// The storage engine; only `embedded` is known.
    pub store: String,
    /// Listen on addresses that other machines can reach, although nothing is encrypted or authenticated.
    pub insecure: bool,
    /// Make a topic when it is first used. Unset: only while both listeners are on loopback.
    pub auto_create_topics: Option<bool>,
    /// Queues of a topic that is made without saying how many: 1 to 256.
    pub topic_queues: u32,
    /// How long messages are kept once every registered group has settled them.
    #[serde(with = "human")]
    pub retention: Duration,
    /// They go earlier while the journal has more bytes than this.
    pub retention_bytes: u64,
    /// How long receipts of decided transactions are kept; later the answer is that they are pruned.
    #[serde(with = "human")]
    pub receipt_retention: Duration,
    /// When and how producers are asked about open transactions.
    pub checks: CheckSettings,
    /// How registered callback URLs are asked.
    pub callbacks: CallbackSettings,
    /// The door for RocketMQ 5 clients.
    pub rocketmq: RocketmqSettings,
    /// TLS on the gRPC port, beside plaintext.
    pub tls: TlsSettings,
    /// Business databases that are asked themselves.
    pub resolver: ResolverSettings,
    /// The journal of the embedded store.
    pub journal: JournalSettings,
    /// What is logged, to stderr.
    pub log: LogSettings,
}

/// The check schedule of transactions that do not bring their own, and the budget of all checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckSettings {
    /// From prepare to the first check.
    #[serde(with = "human")]
    pub first_after: Duration,
    /// Wait after the first UNKNOWN; it doubles with each further one.
    #[serde(with = "human")]
    pub interval: Duration,
    /// The longest wait between two checks.
    #[serde(with = "human")]
    pub interval_max: Duration,
    /// UNKNOWN answers until a transaction is flagged in doubt.
    pub checks_max: u32,
    /// What happens to a transaction in doubt.
    pub in_doubt: InDoubt,
    /// How long a question waits for its answer; after that it counts as unanswered, not as UNKNOWN.
    #[serde(with = "human")]
    pub answer_timeout: Duration,
    /// Questions that may wait for answers at once.
    pub in_flight_max: u32,
    /// Questions asked in one second.
    pub per_second_max: u32,
}

/// What happens to a transaction that is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InDoubt {
    /// Keep it, raise the alarm, go on asking slowly.
    Keep,
    /// Roll it back.
    Rollback,
    /// Commit it.
    Commit,
}

/// How producer groups without a live producer are asked: a POST of a JSON batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallbackSettings {
    /// URL prefixes that may be called; empty: none.
    pub allow: Vec<String>,
    /// Key that signs each request; unset: requests are not signed.
    pub secret: Option<Secret>,
    /// File that holds the secret; white space around it is dropped. Not together with `secret`.
    pub secret_file: Option<PathBuf>,
    /// How long one request may take.
    #[serde(with = "human")]
    pub timeout: Duration,
    /// Requests under way at once.
    pub in_flight_max: u32,
    /// Questions in one request.
    pub batch_max: u32,
}

/// The door for RocketMQ 5 clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RocketmqSettings {
    /// Groups whose push consumers work in order and try again by themselves before they give up.
    pub fifo_groups: Vec<String>,
    /// Lease of a push consumer's message, prolonged as long as the consumer lives: 1 s to 12 h.
    #[serde(with = "human")]
    pub push_invisible: Duration,
    /// `<access key>:<secret key>`, each; empty: everybody may come in.
    pub users: Vec<Secret>,
}

/// TLS on the gRPC port, beside plaintext.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// File with the certificate chain (PEM); unset: a self-signed certificate is made at the start.
    pub certificate: Option<PathBuf>,
    /// File with its private key (PEM).
    pub key: Option<PathBuf>,
}

/// Business databases whose transaction logs the coordinator asks itself, also while every producer is dead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResolverSettings {
    /// Which. In the file a table each, `[[resolver.databases]]`; elsewhere one JSON list.
    pub databases: Vec<DatabaseSettings>,
}

/// One business database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://`, `mysql://` (MariaDB too) or `sqlite:`. Shown nowhere, for it may hold a password.
    pub url: Secret,
    /// File that holds the password; white space around it is dropped. It goes before one in the URL.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Producer groups whose transactions its log knows.
    pub producer_groups: Vec<String>,
    /// The table of its transaction log.
    #[serde(default = "log_table")]
    pub table: String,
    /// Connections at most.
    #[serde(default = "connections_max")]
    pub connections_max: u32,
}

fn log_table() -> String {
    "halfmq_transaction_log".to_owned()
}

fn connections_max() -> u32 {
    2
}

/// The journal of the embedded store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSettings {
    /// Size of one segment file in bytes.
    pub segment_bytes: u64,
}

/// What is logged, to stderr.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Directives as in `info,halfmq_coordinator=debug`.
    pub filter: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// A value that no output shows. Reads as a `str`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// What stands in for a secret wherever settings are shown.
const MASK: &str = "********";

impl Settings {
    /// Whether a topic is made when it is first used.
    #[must_use]
    pub fn creates_topics(&self) -> bool {
        self.auto_create_topics
            .unwrap_or_else(|| self.grpc.ip().is_loopback() && self.http.ip().is_loopback())
    }

    /// Every setting by its dotted name, in alphabetical order, secrets masked.
    ///
    /// # Panics
    /// Never: settings hold nothing that JSON cannot say, which a test proves for the defaults.
    #[must_use]
    pub fn in_force(&self) -> BTreeMap<String, serde_json::Value> {
        let tree = serde_json::to_value(self).expect("settings are text, numbers and lists of text");
        let mut flat = BTreeMap::new();
        flatten("", tree, &mut flat);
        flat
    }
}

fn flatten(prefix: &str, tree: serde_json::Value, flat: &mut BTreeMap<String, serde_json::Value>) {
    if let serde_json::Value::Object(fields) = tree {
        for (name, value) in fields {
            let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            flatten(&path, value, flat);
        }
    } else {
        flat.insert(prefix.to_owned(), tree);
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grpc: SocketAddr::from(([127, 0, 0, 1], 8081)),
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: PathBuf::from("./halfmq-data"),
            store: layers::STORE_EMBEDDED.to_owned(),
            insecure: false,
            auto_create_topics: None,
            topic_queues: 4,
            retention: Duration::from_secs(60 * 60),
            retention_bytes: 1024 * 1024 * 1024,
            receipt_retention: Duration::from_secs(7 * 24 * 60 * 60),
            checks: CheckSettings::default(),
            callbacks: CallbackSettings::default(),
            rocketmq: RocketmqSettings::default(),
            tls: TlsSettings::default(),
            resolver: ResolverSettings::default(),
            journal: JournalSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self {
            first_after: Duration::from_secs(6),
            interval: Duration::from_secs(10),
            interval_max: Duration::from_secs(10 * 60),
            checks_max: 15,
            in_doubt: InDoubt::Keep,
            answer_timeout: Duration::from_secs(10),
            in_flight_max: 1_000,
            per_second_max: 1_000,
        }
    }
}

impl Default for CallbackSettings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            secret: None,
            secret_file: None,
            timeout: Duration::from_secs(5),
            in_flight_max: 16,
            batch_max: 100,
        }
    }
}

impl Default for RocketmqSettings {
    fn default() -> Self {
        Self { fifo_groups: Vec::new(), push_invisible: Duration::from_secs(60), users: Vec::new() }
    }
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024 }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Secret {
    /// Wraps a value, so that it is masked from here on.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_output_shows_the_secret() {
        let mut settings = Settings::default();
        settings.callbacks.secret = Some(Secret::new("hunter2"));
        let shown = format!("{settings:?} {:?}", settings.in_force());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(settings.in_force().get("callbacks.secret"), Some(&MASK.into()));
        assert_eq!(settings.callbacks.secret.as_deref(), Some("hunter2"));
    }

    #[test]
    fn durations_are_shown_as_people_write_them() {
        let shown = Settings::default().in_force();
        assert_eq!(shown.get("checks.first_after"), Some(&"6s".into()));
        assert_eq!(shown.get("retention"), Some(&"1h".into()));
    }

    #[test]
    fn topics_are_made_on_first_use_only_on_loopback_unless_told() {
        let cases = [
            ("127.0.0.1:1", "127.0.0.1:2", None, true),
            ("[::1]:1", "127.0.0.1:2", None, true),
            ("0.0.0.0:1", "127.0.0.1:2", None, false),
            ("127.0.0.1:1", "0.0.0.0:2", None, false),
            ("0.0.0.0:1", "0.0.0.0:2", Some(true), true),
            ("127.0.0.1:1", "127.0.0.1:2", Some(false), false),
        ];
        for (grpc, http, auto_create_topics, expected) in cases {
            let address = |text: &str| text.parse().expect("a valid address");
            let settings = Settings {
                grpc: address(grpc),
                http: address(http),
                auto_create_topics,
                ..Settings::default()
            };
            assert_eq!(settings.creates_topics(), expected, "{grpc} {http} {auto_create_topics:?}");
        }
    }
}
