//! Command line over environment over file over defaults.
//!
//! Every setting has a dotted name, as in the file: `checks.first_after`. In the environment it is
//! `HALFMQ_` and the name in capitals with `__` for the dot: `HALFMQ_CHECKS__FIRST_AFTER`. The
//! environment comes in as an argument, so that no test has to change the process.

use super::{DatabaseSettings, InDoubt, LogFormat, Secret, Settings, human};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// The name of the one storage engine there is.
pub const STORE_EMBEDDED: &str = "embedded";

const PREFIX: &str = "HALFMQ_";
/// Variables with our prefix that are not settings of the server.
const NOT_SETTINGS: [&str; 2] = ["HALFMQ_ENDPOINT", "HALFMQ_CONFIG"];
const SECRET_BYTES_MAX: u64 = 4_096;
const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
const QUEUES_MAX: u32 = 256;
const PUSH_INVISIBLE: std::ops::RangeInclusive<Duration> =
    halfmq_core::limits::INVISIBLE_MIN..=halfmq_core::limits::INVISIBLE_MAX;

/// What the layers add up to.
#[derive(Debug, PartialEq)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// Variables that begin like ours but name no setting. Container platforms inject such ones for a
    /// service called `halfmq` (`HALFMQ_SERVICE_HOST`), so that they cannot be errors.
    pub ignored: Vec<String>,
}

/// Why there are no settings. The message names the place to mend.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file could not be read.
    #[error("{place}: cannot read {}: {error}", path.display())]
    File {
        /// Which setting named the file.
        place: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not TOML, or says something that is no setting.
    #[error("{}: {error}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        error: toml::de::Error,
    },
    /// A name that is no setting.
    #[error("{place}: there is no setting '{name}'; see `halfmq serve --help`")]
    Unknown {
        /// A variable or flag.
        place: String,
        /// What it names.
        name: String,
    },
    /// A value that its setting cannot take.
    #[error("{place}: {problem}")]
    Value {
        /// A variable, flag or setting.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Other machines could reach a server that neither encrypts nor authenticates.
    #[error(
        "{name} = {address} can be reached from other machines, and nothing is encrypted or authenticated; \
         nothing was started. Listen on 127.0.0.1, or accept it with --insecure"
    )]
    Exposed {
        /// Which listener.
        name: &'static str,
        /// Where it would listen.
        address: SocketAddr,
    },
}

/// One value from the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As it was typed, for messages: `--grpc`.
    pub place: String,
    /// The dotted name of the setting.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// Puts the layers together and checks the result.
///
/// # Errors
/// A file that cannot be read, a name that is no setting, a value that its setting cannot take, or a
/// listener that other machines could reach without `insecure`.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Loaded, SettingsError> {
    let mut settings = match file {
        Some(path) => from_file(path)?,
        None => Settings::default(),
    };
    let ignored = apply_environment(&mut settings, environment)?;
    for flag in flags {
        if !set(&mut settings, &flag.name, &flag.value).map_err(value_error(&flag.place))? {
            return Err(SettingsError::Unknown { place: flag.place.clone(), name: flag.name.clone() });
        }
    }
    read_secret(&mut settings)?;
    check(&settings)?;
    Ok(Loaded { settings, ignored })
}

fn from_file(path: &Path) -> Result<Settings, SettingsError> {
    let text = fs::read_to_string(path).map_err(|error| SettingsError::File {
        place: "--config",
        path: path.to_owned(),
        error,
    })?;
    toml::from_str(&text).map_err(|error| SettingsError::Toml { path: path.to_owned(), error })
}

fn apply_environment(
    settings: &mut Settings,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<String>, SettingsError> {
    let mut ignored = Vec::new();
    for (variable, value) in environment {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        if NOT_SETTINGS.contains(&variable.as_str()) {
            continue;
        }
        let name = rest.to_lowercase().replace("__", ".");
        if set(settings, &name, &value).map_err(value_error(&variable))? {
            continue;
        }
        // No platform writes two underscores: this one was meant for us and misspelt.
        if rest.contains("__") {
            return Err(SettingsError::Unknown { place: variable, name });
        }
        ignored.push(variable);
    }
    ignored.sort();
    Ok(ignored)
}

fn value_error(place: &str) -> impl FnOnce(String) -> SettingsError {
    let place = place.to_owned();
    move |problem| SettingsError::Value { place, problem }
}

/// Sets one setting from text; false if there is none of this name.
fn set(settings: &mut Settings, name: &str, value: &str) -> Result<bool, String> {
    let Settings { checks, callbacks, journal, log, rocketmq, tls, .. } = settings;
    match name {
        "grpc" => settings.grpc = address(value)?,
        "http" => settings.http = address(value)?,
        "data" => settings.data = PathBuf::from(value),
        "store" => value.clone_into(&mut settings.store),
        "insecure" => settings.insecure = number(value, "true or false")?,
        "auto_create_topics" => settings.auto_create_topics = Some(number(value, "true or false")?),
        "topic_queues" => settings.topic_queues = count(value)?,
        "retention" => settings.retention = duration(value)?,
        "retention_bytes" => settings.retention_bytes = number(value, "a number of bytes")?,
        "receipt_retention" => settings.receipt_retention = duration(value)?,
        "checks.first_after" => checks.first_after = duration(value)?,
        "checks.interval" => checks.interval = duration(value)?,
        "checks.interval_max" => checks.interval_max = duration(value)?,
        "checks.checks_max" => checks.checks_max = count(value)?,
        "checks.in_doubt" => checks.in_doubt = in_doubt(value)?,
        "checks.answer_timeout" => checks.answer_timeout = duration(value)?,
        "checks.in_flight_max" => checks.in_flight_max = count(value)?,
        "checks.per_second_max" => checks.per_second_max = count(value)?,
        "callbacks.allow" => callbacks.allow = list(value),
        "callbacks.secret" => callbacks.secret = Some(Secret::new(value)),
        "callbacks.secret_file" => callbacks.secret_file = Some(PathBuf::from(value)),
        "callbacks.timeout" => callbacks.timeout = duration(value)?,
        "callbacks.in_flight_max" => callbacks.in_flight_max = count(value)?,
        "callbacks.batch_max" => callbacks.batch_max = count(value)?,
        "rocketmq.fifo_groups" => rocketmq.fifo_groups = list(value),
        "rocketmq.push_invisible" => rocketmq.push_invisible = duration(value)?,
        "rocketmq.users" => rocketmq.users = list(value).into_iter().map(Secret::new).collect(),
        "tls.certificate" => tls.certificate = Some(PathBuf::from(value)),
        "tls.key" => tls.key = Some(PathBuf::from(value)),
        "resolver.databases" => settings.resolver.databases = databases(value)?,
        "journal.segment_bytes" => journal.segment_bytes = number(value, "a number of bytes")?,
        "log.filter" => value.clone_into(&mut log.filter),
        "log.format" => log.format = log_format(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn number<T: FromStr>(value: &str, expected: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("'{value}' is not {expected}"))
}

fn count(value: &str) -> Result<u32, String> {
    number(value, "a whole number from 0 to 4294967295")
}

fn address(value: &str) -> Result<SocketAddr, String> {
    number(value, "an address with a port such as 127.0.0.1:8081 or [::1]:8081")
}

fn duration(value: &str) -> Result<Duration, String> {
    human::parse(value)
}

/// Comma-separated; URLs hold commas only percent-encoded.
fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// What is wrong is said without the value, for it may hold passwords.
fn databases(value: &str) -> Result<Vec<DatabaseSettings>, String> {
    let problem = |error: serde_json::Error| {
        format!("not a JSON list of {{\"url\": …, \"producer_groups\": […]}}, at column {}", error.column())
    };
    serde_json::from_str(value).map_err(problem)
}

fn in_doubt(value: &str) -> Result<InDoubt, String> {
    match value {
        "keep" => Ok(InDoubt::Keep),
        "rollback" => Ok(InDoubt::Rollback),
        "commit" => Ok(InDoubt::Commit),
        _ => Err(format!("'{value}' is not one of keep, rollback, commit")),
    }
}

fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("'{value}' is not one of text, json")),
    }
}

fn read_secret(settings: &mut Settings) -> Result<(), SettingsError> {
    let callbacks = &mut settings.callbacks;
    let Some(path) = &callbacks.secret_file else { return Ok(()) };
    let place = "callbacks.secret_file";
    if callbacks.secret.is_some() {
        return Err(value_error(place)("callbacks.secret is set too; keep one of them".to_owned()));
    }
    let file_error = |error| SettingsError::File { place, path: path.clone(), error };
    let bytes = fs::metadata(path).map_err(file_error)?.len();
    if bytes > SECRET_BYTES_MAX {
        let problem =
            format!("{} has {bytes} bytes; a secret has at most {SECRET_BYTES_MAX}", path.display());
        return Err(value_error(place)(problem));
    }
    let text = fs::read_to_string(path).map_err(file_error)?;
    callbacks.secret = Some(Secret::new(text.trim()));
    Ok(())
}

fn check(settings: &Settings) -> Result<(), SettingsError> {
    let Settings { checks, callbacks, journal, rocketmq, tls, .. } = settings;
    for (name, address) in [("grpc", settings.grpc), ("http", settings.http)] {
        if !settings.insecure && !address.ip().is_loopback() {
            return Err(SettingsError::Exposed { name, address });
        }
    }
    let wrong = [
        (settings.store != STORE_EMBEDDED, "store", "only 'embedded' is known"),
        (
            settings.topic_queues == 0 || settings.topic_queues > QUEUES_MAX,
            "topic_queues",
            "must be 1 to 256",
        ),
        (checks.interval.is_zero(), "checks.interval", "must be more than 0s"),
        (checks.interval_max < checks.interval, "checks.interval_max", "must not be below checks.interval"),
        (checks.checks_max == 0, "checks.checks_max", "must be at least 1"),
        (checks.answer_timeout.is_zero(), "checks.answer_timeout", "must be more than 0s"),
        (checks.in_flight_max == 0, "checks.in_flight_max", "must be at least 1"),
        (checks.per_second_max == 0, "checks.per_second_max", "must be at least 1"),
        (
            callbacks.allow.iter().any(|url| !is_http(url)),
            "callbacks.allow",
            "holds http:// or https:// URLs",
        ),
        (
            callbacks.secret.as_deref() == Some(""),
            "callbacks.secret",
            "must not be empty; leave it out instead",
        ),
        (callbacks.timeout.is_zero(), "callbacks.timeout", "must be more than 0s"),
        (callbacks.in_flight_max == 0, "callbacks.in_flight_max", "must be at least 1"),
        (callbacks.batch_max == 0, "callbacks.batch_max", "must be at least 1"),
        (!PUSH_INVISIBLE.contains(&rocketmq.push_invisible), "rocketmq.push_invisible", "must be 1s to 12h"),
        (
            rocketmq.fifo_groups.iter().any(|group| group.parse::<halfmq_core::ConsumerGroup>().is_err()),
            "rocketmq.fifo_groups",
            "holds names of consumer groups",
        ),
        (
            rocketmq.users.iter().any(|user| !user.contains(':')),
            "rocketmq.users",
            "holds <access key>:<secret key>",
        ),
        (tls.certificate.is_some() != tls.key.is_some(), "tls", "takes certificate and key together"),
        (
            settings.resolver.databases.iter().any(|database| database.connections_max == 0),
            "resolver.databases",
            "connections_max must be at least 1",
        ),
        (
            settings.resolver.databases.iter().any(|database| database.producer_groups.is_empty()),
            "resolver.databases",
            "producer_groups must name at least one",
        ),
        (
            !settings.resolver.databases.is_empty() && cfg!(not(feature = "resolver")),
            "resolver.databases",
            "this halfmq was built without the feature `resolver`",
        ),
        (
            journal.segment_bytes < SEGMENT_BYTES_MIN,
            "journal.segment_bytes",
            "must be at least 1048576 (1 MiB)",
        ),
    ];
    match wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
        Some((_, name, problem)) => Err(value_error(name)(problem.to_owned())),
        None => Ok(()),
    }
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

#[cfg(test)]
mod tests;
