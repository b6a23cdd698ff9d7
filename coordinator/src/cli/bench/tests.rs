//! The arithmetic, and one short run against a real server.

use super::append_log::AppendLog;
use super::load::offset;
use super::local::Door;
use super::tally::{Latencies, Tally};
use super::*;
use crate::clock::Clock;
use crate::config::Settings;
use crate::server;
use crate::store::embedded::checksum::crc32c;
use bytes::Bytes;
use halfmq_core::{MessageId, TransactionId};
use std::path::Path;
use std::time::Duration;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Of a message with this short name.
fn id(name: &str) -> MessageId {
    let number = name.bytes().fold(0, |number, byte| number << 8 | u128::from(byte));
    MessageId { transaction: TransactionId::from_u128(number), index: 0 }
}

#[test]
fn quantiles_are_those_of_what_was_recorded() {
    let mut latencies = Latencies::new();
    (1..=1_000).for_each(|count| latencies.record(millis(count)));
    latencies.record(Duration::from_secs(100_000));
    let quantiles = latencies.quantiles();
    for (shown, expected) in [
        (quantiles.p50, 501.0),
        (quantiles.p99, 991.0),
        (quantiles.p999, 1_000.0),
        (quantiles.max, 3_600_000.0),
    ] {
        assert!((shown / expected - 1.0).abs() < 0.002, "{shown} is not about {expected}");
    }
}

#[test]
fn starts_of_an_open_loop_keep_their_pace_whatever_the_rate() {
    for (number, rate, micros) in [
        (0, 7, 0),
        (1, 1_000, 1_000),
        (3, 3, 1_000_000),
        (4, 3, 1_333_333),
        (10_000_000, 3_000, 3_333_333_333),
    ] {
        assert_eq!(offset(number, rate).as_micros(), micros, "start {number} at {rate}/s");
    }
}

#[test]
fn a_late_start_counts_from_when_it_was_meant() {
    let began = Clock::stopwatch();
    let mut tally = Tally::new(1, began);
    let (meant, acked) = (began + millis(10), began + millis(110));
    tally.prepared(id("a"), meant, millis(90));
    tally.delivered([id("a")].into_iter());
    assert_eq!(tally.acked(&[id("a")], acked), 1);
    let outcome = tally.outcome();
    assert!((outcome.prepare.p50 - 90.0).abs() < 0.1, "{outcome:?}");
    assert!((outcome.end_to_end.p50 - 100.0).abs() < 0.1, "{outcome:?}");
    assert!((outcome.per_second() - 1.0 / 0.11).abs() < 0.01, "{outcome:?}");
}

#[test]
fn each_id_counts_once_and_only_if_it_was_prepared() {
    let cases = [
        ("all well", "a b", "a b", 0, 0),
        ("one never came", "a b", "a", 1, 0),
        ("one came twice", "a b", "a b a", 0, 1),
        ("one came from nowhere", "a b", "a b x", 0, 1),
        ("one id for two", "a a", "a", 1, 1),
        ("nothing came", "a b", "", 2, 0),
    ];
    for (story, prepared, came, missing, double) in cases {
        let began = Clock::stopwatch();
        let mut tally = Tally::new(2, began);
        prepared.split(' ').for_each(|name| tally.prepared(id(name), began, millis(1)));
        for name in came.split_whitespace() {
            tally.delivered([id(name)].into_iter());
            tally.acked(&[id(name)], began + millis(2));
        }
        let outcome = tally.outcome();
        assert_eq!((outcome.missing, outcome.double), (missing, double), "{story}");
    }
}

#[test]
fn ratios_survive_a_log_that_took_no_time() {
    for (of, to, expected) in [(300, 200, 1.5), (100, 200, 0.5)] {
        assert!((engine::ratio(millis(of), millis(to)) - expected).abs() < 1e-9, "{of} to {to}");
    }
    assert!(engine::ratio(millis(1), Duration::ZERO).is_finite());
}

#[test]
fn what_others_print_is_understood() {
    let page = "HTTP/1.0 200 OK\r\n\r\n# TYPE halfmq_journal_syncs_total counter\n\
                halfmq_journal_syncs_total 12\nhalfmq_journal_written_bytes_total 4096\n";
    assert_eq!(Journal::parse(page), Some(Journal { bytes: 4_096.0, syncs: 12.0 }));
    assert_eq!(Journal::parse("halfmq_journal_syncs_total 12"), None);

    let stat = "71 (a ) b) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9";
    assert_eq!(process::cpu(stat), Some(Duration::from_secs(3)));
    assert_eq!(process::kibibytes("VmHWM:\t  90 kB\nVmRSS:\t  80 kB\n", "VmRSS:"), Some(80));

    let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/disk xfs rw 0 0\n";
    for (path, kind) in [("/home", "ext4"), ("/tmp/x", "tmpfs"), ("/tmp/disk/x", "xfs"), ("/tmpx", "ext4")] {
        assert_eq!(home::file_system(mounts, Path::new(path)), Some(kind), "{path}");
    }

    let line = r#"{"grpc":"127.0.0.1:1","http":"127.0.0.1:2"}"#;
    assert_eq!(own_server::addresses(line).map(|(grpc, http)| (grpc.port(), http.port())), Some((1, 2)));
    assert_eq!(own_server::addresses(""), None);
}

fn short(rate: Option<u32>) -> Load {
    Load {
        transactions: 200,
        warm_up: 0,
        request_ids: true,
        in_flight: 16,
        body_bytes: vec![100, 0, 300],
        producers: 2,
        consumers: 2,
        batch: 8,
        rate,
    }
}

#[tokio::test]
async fn everything_prepared_by_a_short_run_is_consumed_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { grpc: any, http: any, data: folder.path().to_owned(), ..Settings::default() };
    let (ready, bound) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(server::run(
        settings,
        move |bound| ready.send(bound).expect("the test waits for it"),
        async move { drop(stopped.await) },
    ));
    let bound = bound.await.expect("the server starts");
    let endpoint = || Endpoint::at(format!("http://{}", bound.grpc));
    for (driver, rate) in [
        (Driver::Streams(endpoint()), None),
        (Driver::Streams(endpoint()), Some(5_000)),
        (Driver::Unary(endpoint()), None),
        (Driver::Unary(endpoint()), Some(5_000)),
    ] {
        let before = Reading::take(None, Some(bound.http)).await;
        let outcome = load::run(&short(rate), &driver, &ProgressBar::hidden()).await.expect("the run ends");
        let after = Reading::take(None, Some(bound.http)).await;
        assert_eq!((outcome.missing, outcome.double), (0, 0), "{} at rate {rate:?}", driver.name());
        let report = Report::new(driver.name(), short(rate), outcome, &before, &after);
        report.verdict().expect("nothing is missing or double");
        let per_transaction = report.json()["journal_bytes_per_transaction"].as_f64();
        assert!(per_transaction.is_some_and(|bytes| bytes > 100.0), "{per_transaction:?}");
    }
    drop(stop);
    server.await.expect("no panic").expect("the server stops well");
}

#[tokio::test]
async fn the_engine_alone_is_measured_beside_a_bare_log() {
    for warm_up in [0, 50] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = Home::new(Some(folder.path().to_owned())).expect("it is there");
        let load = Load { warm_up, ..short(None) };
        let report = engine::measure(home, &load, &ProgressBar::hidden()).await.expect("the run ends");
        report.verdict().expect("nothing is missing or double");
        let per_transaction = report.json()["journal_bytes_per_transaction"].as_f64();
        assert!(per_transaction.is_some_and(|bytes| bytes > 100.0), "{per_transaction:?}");
        for figure in ["engine_to_bare_log", "engine_to_bare_log_same_load", "bare_log_same_load_seconds"] {
            assert!(report.json()[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}");
        }
        let bare = report.bare.expect("it was measured");
        assert!(bare.ratio > 0.0 && bare.groups > 0);
        assert_eq!((bare.same_load.missing, bare.same_load.double), (0, 0));
    }
}

#[tokio::test]
async fn a_bare_log_writes_as_many_bytes_as_the_engine_did_and_a_checksum() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Two transactions with forty bytes each besides the body, in equal shares for the four steps.
    let (log, thread) = AppendLog::start(folder.path(), 2, 86, 6).expect("room");
    let bodies = ["one", "two"].map(|body| (Bytes::from(body), String::new()));
    let prepared = log.prepare(bodies.to_vec()).await.expect("they are durable");
    let (transactions, messages): (Vec<_>, Vec<_>) =
        prepared.into_iter().map(|it| (it.transaction, it.message)).unzip();
    assert!(log.receive().await.expect("nothing waits").is_empty(), "not committed");
    log.commit(transactions).await.expect("it is durable");
    let received = log.receive().await.expect("it is durable");
    assert_eq!(received.iter().map(|it| it.message).collect::<Vec<_>>(), messages);
    log.ack(received.into_iter().map(|it| it.handle).collect()).await.expect("it is durable");
    let file = std::fs::read(folder.path().join("bare/bare-log")).expect("it is there");
    let groups = ["onetwo", "", "", ""].map(|bodies| format!("{bodies}{}", "x".repeat(20)).into_bytes());
    let expected = groups.map(|group| [&crc32c(&group).to_le_bytes()[..], &group].concat()).concat();
    assert!(file.starts_with(&expected), "{:?}", file.get(..expected.len()));
    drop(log);
    thread.join().expect("it ends with the last who can append");
    assert!(!folder.path().join("bare/bare-log").exists(), "it takes its file away");
}

#[test]
fn a_store_warms_up_until_its_first_image_has_let_go_of_files() {
    let until_reuse = engine::until_reuse(&[1_024]);
    assert!((450_000..650_000).contains(&until_reuse), "{until_reuse}");
    assert!(engine::until_reuse(&[1_024, 65_536]) < until_reuse / 10, "larger bodies fill files sooner");
}
