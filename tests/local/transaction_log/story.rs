//! Tells the stories of `stories.txt`: each step, then the rule that all of them share.

use std::collections::HashMap;

use halfmq_client::sql::{LogChecker, LogError, TransactionLog};
use halfmq_client::{Resolution, TransactionId};
use halfmq_tests::within;
use sqlx::{Pool, Transaction};
use tokio::task::JoinHandle;

use super::id;
use crate::database::TestDatabase;

type Recorded<DB> = (Transaction<'static, DB>, Result<(), LogError>);

struct Story<DB: TestDatabase> {
    pool: Pool<DB>,
    log: TransactionLog<DB>,
    checker: LogChecker<DB>,
    id: TransactionId,
    locals: HashMap<String, Transaction<'static, DB>>,
    waiting: HashMap<String, JoinHandle<Recorded<DB>>>,
    interrupted: Option<Transaction<'static, DB>>,
    answers: Vec<Resolution>,
}

pub(super) async fn tell_all<DB: TestDatabase>(stories: &str) {
    let Some(database) = DB::fresh().await else { return };
    let log = TransactionLog::<DB>::default();
    log.migrate(&database.pool).await.expect("it migrates");
    DB::setup(&database.pool, &["CREATE TABLE business (transaction_id VARCHAR(64) NOT NULL)"]).await;
    let mut told = 0;
    // Each story far above the one before, because a prune reaches everything below.
    for (number, line) in (1..).zip(stories.lines().filter(|line| !line.starts_with('#') && !line.is_empty()))
    {
        let mut parts = line.split('|').map(str::trim);
        let (name, databases, steps) = (parts.next(), parts.next(), parts.next());
        let (Some(name), Some(databases), Some(steps)) = (name, databases, steps) else {
            panic!("not a story: {line}");
        };
        if databases != "all" && !databases.split(' ').any(|database| database == DB::TITLE) {
            continue;
        }
        let story = Story {
            pool: database.pool.clone(),
            log: log.clone(),
            checker: log.checker(&database.pool),
            id: id(number * 1_000),
            locals: HashMap::new(),
            waiting: HashMap::new(),
            interrupted: None,
            answers: Vec::new(),
        };
        within(&format!("{}: {name}", DB::TITLE), story.tell(name, steps)).await;
        told += 1;
    }
    assert!(told >= 15, "stories are read right: only {told}");
}

impl<DB: TestDatabase> Story<DB> {
    async fn tell(mut self, name: &str, steps: &str) {
        for step in steps.split(';').map(str::trim) {
            let words: Vec<&str> = step.split(' ').collect();
            let found = match words.as_slice() {
                ["check", _] => format!("check {}", self.check().await),
                ["rows", ..] => format!("rows {}", self.rows().await),
                ["prune", ..] => self.prune(words.get(1).copied()).await,
                ["c", half] => self.interrupted(half).await,
                [who, "record", "waits"] => self.record_waits(who),
                [who, "record", "ended", _] => self.record_ended(who).await,
                [who, verb, ..] => self.local(who, verb, words.get(2).copied()).await,
                [] | [_] => panic!("no step: {step}"),
            };
            assert_eq!(found, step, "{}: {name}: {steps}", DB::TITLE);
        }
        let business = format!("SELECT COUNT(*) FROM business WHERE transaction_id = '{}'", self.id);
        let business = DB::number(&self.pool, &business).await;
        for answer in self.answers {
            match answer {
                Resolution::Commit => assert_eq!(business, 1, "{}: {name}: COMMIT was a lie", DB::TITLE),
                Resolution::Rollback => assert_eq!(business, 0, "{}: {name}: ROLLBACK was a lie", DB::TITLE),
                Resolution::Unknown => {}
                Resolution::CommitWith(_) | Resolution::NoAnswer => panic!("{name}: {answer:?}"),
            }
        }
    }

    async fn check(&mut self) -> &'static str {
        let mut answers = self.checker.resolve(std::slice::from_ref(&self.id)).await.expect("answered");
        let (_, answer) = answers.pop().expect("one answer");
        self.answers.push(answer.clone());
        match answer {
            Resolution::Commit => "COMMIT",
            Resolution::Rollback => "ROLLBACK",
            Resolution::Unknown => "UNKNOWN",
            Resolution::CommitWith(_) | Resolution::NoAnswer => panic!("{answer:?}"),
        }
    }

    async fn rows(&self) -> String {
        let mut connection = self.pool.acquire().await.expect("a connection");
        let query =
            format!("SELECT outcome FROM halfmq_transaction_log WHERE transaction_id = '{}'", self.id);
        let rows = DB::fetch(&mut connection, &query, Vec::new()).await.expect("rows");
        rows.first().map_or_else(|| "none".to_owned(), |row| DB::text(row, 0).expect("a text"))
    }

    async fn prune(&self, how: Option<&str>) -> String {
        // Everything up to this story, or only what lies below it.
        let floor = if how == Some("below") { self.id.clone() } else { id(above(&self.id)) };
        let pruned = self.log.prune(&self.pool, &floor).await.expect("pruned");
        match (how, pruned.gave_way) {
            (Some("below"), false) => "prune below".into(),
            (_, true) => "prune gives way".into(),
            (_, false) => "prune".into(),
        }
    }

    /// What a check does, by hand, so that it can be stopped in the middle.
    async fn interrupted(&mut self, half: &str) -> String {
        match (half, self.interrupted.take()) {
            ("tombstone", None) => {
                let mut sql = self.pool.begin().await.expect("it begins");
                let insert = format!(
                    "INSERT INTO halfmq_transaction_log (transaction_id, outcome) VALUES ('{}', 'rolled back')",
                    self.id
                );
                DB::run(&mut sql, &insert).await.expect("nothing stands there");
                self.interrupted = Some(sql);
            }
            ("commit", Some(sql)) => sql.commit().await.expect("it commits"),
            ("rollback", Some(sql)) => sql.rollback().await.expect("it rolls back"),
            (other, _) => panic!("a check does not {other} now"),
        }
        format!("c {half}")
    }

    async fn local(&mut self, who: &str, verb: &str, how: Option<&str>) -> String {
        if verb == "begin" {
            let mut sql = self.pool.begin().await.expect("it begins");
            if how == Some("snapshot") {
                for statement in DB::BEGIN_SNAPSHOT {
                    DB::run(&mut sql, statement).await.expect("it begins");
                }
                // Only a read makes the snapshot.
                DB::run(&mut sql, "SELECT COUNT(*) FROM business").await.expect("a read");
                DB::run(&mut sql, "SELECT * FROM halfmq_transaction_log_watermark").await.expect("a read");
            }
            self.locals.insert(who.to_owned(), sql);
            return how.map_or(format!("{who} begin"), |how| format!("{who} begin {how}"));
        }
        let mut sql = self.locals.remove(who).unwrap_or_else(|| panic!("{who} has not begun"));
        match verb {
            "record" => {
                let recorded = self.log.record(&mut sql, &self.id).await;
                self.locals.insert(who.to_owned(), sql);
                format!("{who} record {}", outcome(&recorded))
            }
            "work" => {
                let work = format!("INSERT INTO business VALUES ('{}')", self.id);
                DB::run(&mut sql, &work).await.expect("it works");
                self.locals.insert(who.to_owned(), sql);
                format!("{who} work")
            }
            "commit" => {
                let committed = sql.commit().await;
                format!("{who} commit {}", if committed.is_ok() { "ok" } else { "refused" })
            }
            "rollback" => {
                sql.rollback().await.expect("it rolls back");
                format!("{who} rollback")
            }
            other => panic!("a local transaction does not {other}"),
        }
    }

    fn record_waits(&mut self, who: &str) -> String {
        let mut sql = self.locals.remove(who).unwrap_or_else(|| panic!("{who} has not begun"));
        let (log, id) = (self.log.clone(), self.id.clone());
        let recording = tokio::spawn(async move {
            let recorded = log.record(&mut sql, &id).await;
            (sql, recorded)
        });
        self.waiting.insert(who.to_owned(), recording);
        format!("{who} record waits")
    }

    async fn record_ended(&mut self, who: &str) -> String {
        let recording = self.waiting.remove(who).unwrap_or_else(|| panic!("{who} does not wait"));
        let (sql, recorded) = recording.await.expect("recording does not panic");
        self.locals.insert(who.to_owned(), sql);
        format!("{who} record ended {}", outcome(&recorded))
    }
}

fn outcome(recorded: &Result<(), LogError>) -> &'static str {
    match recorded {
        Ok(()) => "ok",
        Err(LogError::TooLate { .. }) => "late",
        Err(_) => "refused",
    }
}

/// A number above that of this id, and below that of the next story.
fn above(id: &TransactionId) -> u64 {
    let digits = id.as_str().rsplit('-').next().unwrap_or_default();
    u64::from_str_radix(digits, 16).expect("made of a number") + 1
}
