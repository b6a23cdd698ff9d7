//! Stories of layering: file, environment and flags on one line each, with what comes of them.

use super::*;
use std::collections::BTreeMap;

/// Loads `file` (TOML text), `environment` and `flags` (`NAME=VALUE` each).
fn loaded(file: &str, environment: &[&str], flags: &[&str]) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("halfmq.toml");
    fs::write(&path, file).expect("the folder is writable");
    let pair = |text: &&str| {
        let (name, value) = text.split_once('=').expect("NAME=VALUE");
        (name.to_owned(), value.to_owned())
    };
    let flags: Vec<Flag> = flags
        .iter()
        .map(pair)
        .map(|(name, value)| Flag { place: format!("--set {name}"), name, value })
        .collect();
    load(Some(&path), environment.iter().map(pair), &flags).map_err(|error| error.to_string())
}

fn in_force(file: &str, environment: &[&str], flags: &[&str]) -> BTreeMap<String, serde_json::Value> {
    loaded(file, environment, flags).expect("the story loads").settings.in_force()
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[checks]\ninterval = '2s'\n";
    let environment = ["HALFMQ_CHECKS__INTERVAL=3s"];
    let flag = ["checks.interval=4s"];
    let cases: [(&str, &[&str], &[&str], &str); 5] = [
        ("", &[], &[], "10s"),
        (file, &[], &[], "2s"),
        (file, &environment, &[], "3s"),
        (file, &environment, &flag, "4s"),
        (file, &[], &flag, "4s"),
    ];
    for (file, environment, flags, expected) in cases {
        let shown = in_force(file, environment, flags);
        assert_eq!(
            shown.get("checks.interval"),
            Some(&expected.into()),
            "{file:?} {environment:?} {flags:?}"
        );
    }
}

/// Keeps the file and the names in `set` from drifting apart.
#[test]
fn every_setting_can_be_set_in_file_environment_and_flag() {
    let cases = [
        ("grpc", "'127.0.0.1:1'", "127.0.0.1:1"),
        ("http", "'[::1]:2'", "[::1]:2"),
        ("data", "'/srv/mq'", "/srv/mq"),
        ("store", "'embedded'", "embedded"),
        ("insecure", "true", "true"),
        ("auto_create_topics", "false", "false"),
        ("topic_queues", "9", "9"),
        ("retention", "'2h'", "2h"),
        ("retention_bytes", "1000000", "1000000"),
        ("receipt_retention", "'1d'", "1d"),
        ("checks.first_after", "'1s'", "1s"),
        ("checks.interval", "'1s'", "1s"),
        ("checks.interval_max", "'1m'", "1m"),
        ("checks.checks_max", "3", "3"),
        ("checks.in_doubt", "'rollback'", "rollback"),
        ("checks.answer_timeout", "'1s'", "1s"),
        ("checks.in_flight_max", "7", "7"),
        ("checks.per_second_max", "7", "7"),
        ("callbacks.allow", "['https://a/', 'http://b/']", "https://a/,http://b/"),
        ("callbacks.secret", "'s'", "s"),
        ("callbacks.timeout", "'1s'", "1s"),
        ("callbacks.in_flight_max", "7", "7"),
        ("callbacks.batch_max", "7", "7"),
        ("rocketmq.fifo_groups", "['line', 'queue']", "line, queue"),
        ("rocketmq.push_invisible", "'90s'", "90s"),
        ("rocketmq.users", "['ann:s3cret']", "ann:s3cret"),
        ("journal.segment_bytes", "1048576", "1048576"),
        ("log.filter", "'debug'", "debug"),
        ("log.format", "'json'", "json"),
    ];
    for (name, toml, text) in cases {
        let variable = format!("HALFMQ_{}={text}", name.to_uppercase().replace('.', "__"));
        let by_file = in_force(&format!("{name} = {toml}\n"), &[], &[]);
        let by_environment = in_force("", &[&variable], &[]);
        let by_flag = in_force("", &[], &[&format!("{name}={text}")]);
        assert_eq!(by_file, by_environment, "{name}");
        assert_eq!(by_file, by_flag, "{name}");
    }
    // A table in the file, JSON elsewhere.
    let json = r#"[{"url":"sqlite:a","producer_groups":["g"],"table":"t","connections_max":3}]"#;
    let toml = "[[resolver.databases]]\nurl = 'sqlite:a'\nproducer_groups = ['g']\ntable = 't'\nconnections_max = 3\n";
    let by_file = in_force(toml, &[], &[]);
    assert_eq!(by_file, in_force("", &[&format!("HALFMQ_RESOLVER__DATABASES={json}")], &[]));
    assert_eq!(by_file, in_force("", &[], &[&format!("resolver.databases={json}")]));
    assert_ne!(by_file, in_force("", &[], &[]));
    // These need a file, or each other, see below.
    let apart = ["callbacks.secret_file", "tls.certificate", "tls.key", "resolver.databases"];
    let missing: Vec<String> = Settings::default()
        .in_force()
        .into_keys()
        .filter(|known| !apart.contains(&known.as_str()) && !cases.iter().any(|(name, ..)| name == known))
        .collect();
    assert!(missing.is_empty(), "not covered here: {missing:?}");
}

#[test]
fn certificate_and_key_come_together() {
    let by_file = in_force("tls.certificate = 'chain.pem'\ntls.key = 'key.pem'\n", &[], &[]);
    assert_eq!(by_file.get("tls.key"), Some(&"key.pem".into()));
    let variables = ["HALFMQ_TLS__CERTIFICATE=chain.pem", "HALFMQ_TLS__KEY=key.pem"];
    assert_eq!(in_force("", &variables, &[]), by_file);
    assert_eq!(in_force("", &[], &["tls.certificate=chain.pem", "tls.key=key.pem"]), by_file);
}

#[test]
fn errors_name_the_place() {
    type Words<'a> = &'a [&'a str];
    let cases: [(&str, Words, Words, Words); 22] = [
        ("intervall = 1\n", &[], &[], &["halfmq.toml", "line 1", "intervall"]),
        ("[checks]\ninterval = 'soon'\n", &[], &[], &["halfmq.toml", "line 2", "soon", "6s"]),
        ("[checks]\nnope = 1\n", &[], &[], &["line 2", "nope"]),
        ("grpc = \n", &[], &[], &["halfmq.toml", "line 1"]),
        ("", &["HALFMQ_GRPC=8081"], &[], &["HALFMQ_GRPC", "8081", "127.0.0.1:8081"]),
        ("", &["HALFMQ_CHECKS__NOPE=1"], &[], &["HALFMQ_CHECKS__NOPE", "checks.nope"]),
        ("", &[], &["checks.nope=1"], &["--set checks.nope", "checks.nope"]),
        ("", &[], &["checks.in_doubt=drop"], &["--set checks.in_doubt", "keep, rollback, commit"]),
        ("rocketmq.push_invisible = '500ms'\n", &[], &[], &["rocketmq.push_invisible", "1s to 12h"]),
        ("rocketmq.fifo_groups = ['a b']\n", &[], &[], &["rocketmq.fifo_groups", "names"]),
        ("rocketmq.users = ['ann']\n", &[], &[], &["rocketmq.users", "<access key>:<secret key>"]),
        ("tls.certificate = 'chain.pem'\n", &[], &[], &["tls", "certificate and key together"]),
        ("tls.key = 'key.pem'\n", &[], &[], &["tls", "certificate and key together"]),
        ("store = 'postgres://x'\n", &[], &[], &["store", "embedded"]),
        ("topic_queues = 0\n", &[], &[], &["topic_queues", "1 to 256"]),
        ("topic_queues = 257\n", &[], &[], &["topic_queues", "1 to 256"]),
        ("checks.interval = '0s'\n", &[], &[], &["checks.interval"]),
        ("checks.interval_max = '1s'\n", &[], &[], &["checks.interval_max"]),
        ("callbacks.allow = ['ftp://a']\n", &[], &[], &["callbacks.allow", "https://"]),
        ("callbacks.secret = ''\n", &[], &[], &["callbacks.secret"]),
        ("callbacks.secret_file = '/no/such/file'\n", &[], &[], &["callbacks.secret_file", "/no/such/file"]),
        (
            "callbacks = { secret = 'a', secret_file = 'b' }\n",
            &[],
            &[],
            &["callbacks.secret_file", "keep one"],
        ),
    ];
    for (file, environment, flags, expected) in cases {
        let error = loaded(file, environment, flags).expect_err(file);
        for part in expected {
            assert!(error.contains(part), "{file:?} {environment:?} {flags:?}: no {part:?} in {error:?}");
        }
    }
}

#[test]
fn other_machines_are_let_in_only_when_told() {
    let cases: [(&[&str], bool); 9] = [
        (&["grpc=127.0.0.1:0"], true),
        (&["grpc=[::1]:0"], true),
        (&["grpc=0.0.0.0:0"], false),
        (&["http=0.0.0.0:0"], false),
        (&["grpc=[::]:0"], false),
        (&["grpc=192.168.1.5:0"], false),
        (&["http=[2001:db8::1]:0"], false),
        (&["grpc=0.0.0.0:0", "insecure=true"], true),
        (&["grpc=0.0.0.0:0", "insecure=false"], false),
    ];
    for (flags, admitted) in cases {
        let outcome = loaded("", &[], flags);
        assert_eq!(outcome.is_ok(), admitted, "{flags:?}: {outcome:?}");
        if let Err(error) = outcome {
            assert!(error.contains("--insecure"), "{error}");
        }
    }
}

#[test]
fn strangers_in_the_environment_are_reported_not_refused() {
    let environment =
        ["HALFMQ_SERVICE_HOST=10.0.0.1", "HALFMQ_PORT=tcp://x", "HALFMQ_ENDPOINT=x", "PATH=/bin"];
    let loaded = loaded("", &environment, &[]).expect("strangers are no errors");
    assert_eq!(loaded.ignored, ["HALFMQ_PORT", "HALFMQ_SERVICE_HOST"]);
    assert_eq!(loaded.settings, Settings::default());
}

#[test]
fn a_secret_is_read_from_its_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("secret");
    fs::write(&path, "hunter2\n").expect("the folder is writable");
    let flag = format!("callbacks.secret_file={}", path.display());
    let settings = loaded("", &[], &[&flag]).expect("the file is there").settings;
    assert_eq!(settings.callbacks.secret.as_deref(), Some("hunter2"));

    fs::write(&path, "x".repeat(5_000)).expect("the folder is writable");
    let error = loaded("", &[], &[&flag]).expect_err("too long for a secret");
    assert!(error.contains("5000 bytes"), "{error}");
}
