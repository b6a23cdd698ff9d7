//! Which command lines are understood, line by line.

use super::*;
use clap::CommandFactory;

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn command_lines_are_understood_or_refused() {
    let cases = [
        ("serve", true),
        ("serve --json --grpc 127.0.0.1:0 --http 127.0.0.1:0 --data /x --store embedded", true),
        ("serve --config halfmq.toml --set checks.interval=1s --set log.format=json --insecure", true),
        ("serve --set checks.interval", false),
        ("topic create orders --queues 8", true),
        ("topic create orders --queues 0", false),
        ("topic create orders --queues 257", false),
        ("topic list --json --endpoint http://127.0.0.1:1", true),
        ("topic describe orders", true),
        ("topic delete orders --force --yes", true),
        ("group list", true),
        ("group describe billing", true),
        ("group reset billing --topic orders --to end", true),
        ("group reset billing --topic orders --to 2026-01-02T03:04:05Z", true),
        ("group reset billing --topic orders --to yesterday", false),
        ("group reset billing --topic orders", false),
        ("send orders --key 17 --key 18 --tag paid --delay 5s body", true),
        ("send orders --delay 5", false),
        ("send orders --header a=b", true),
        ("send orders --header a", false),
        ("receive orders --group billing --max 10 --wait 5s --no-ack --filter paid", true),
        ("receive orders", false),
        ("receive orders --group billing --max 0", false),
        ("tx list --state in-doubt", true),
        ("tx list --state lost", false),
        ("tx show 0192", true),
        ("tx commit 0192 --reason why", true),
        ("tx rollback 0192", true),
        ("dlq list billing", true),
        ("dlq show billing 3", true),
        ("dlq replay billing 3 4", true),
        ("dlq replay billing --all", true),
        ("dlq replay billing", false),
        ("dlq purge billing 3 --all", false),
        ("dlq purge billing --all --yes", true),
        ("bench", true),
        (
            "bench --transactions 100 --in-flight 8 --size 10 --producers 2 --consumers 2 --data /x --rate 5",
            true,
        ),
        ("bench --engine-only --json", true),
        ("bench --endpoint http://127.0.0.1:1 --metrics 127.0.0.1:2", true),
        ("bench --engine-only --endpoint http://127.0.0.1:1", false),
        ("bench --data /x --endpoint http://127.0.0.1:1", false),
        ("bench --transactions 0", false),
        ("", false),
    ];
    for (line, understood) in cases {
        let words = std::iter::once("halfmq").chain(line.split_whitespace());
        let parsed = Arguments::try_parse_from(words);
        assert_eq!(parsed.is_ok(), understood, "{line}: {parsed:?}");
        if let Err(error) = parsed {
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
