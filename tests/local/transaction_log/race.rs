//! Local transactions, checks and pruning at full speed on the same ids; then the answers are compared with
//! what the database holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use halfmq_client::Resolution;
use halfmq_client::sql::TransactionLog;
use sqlx::Pool;

use super::id;
use crate::database::TestDatabase;

const TRANSACTIONS: u64 = 240;
/// Transactions at the same time.
const AT_ONCE: u64 = 12;

pub(super) async fn run<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let log = TransactionLog::<DB>::default();
    log.migrate(pool).await.expect("it migrates");
    DB::setup(pool, &["CREATE TABLE business (number BIGINT NOT NULL)"]).await;
    let answers = Arc::new(Mutex::new(HashMap::<u64, Vec<Resolution>>::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..AT_ONCE {
        let (log, pool) = (log.clone(), pool.clone());
        tasks.spawn(async move {
            for number in (lane..TRANSACTIONS).step_by(AT_ONCE as usize) {
                work::<DB>(&log, &pool, number).await;
            }
        });
    }
    for lane in 0..3 {
        let (checker, answers) = (log.checker(pool), Arc::clone(&answers));
        tasks.spawn(async move {
            for number in 0..TRANSACTIONS {
                // Some before, some after, some in the middle of the local transaction.
                let number = (number + lane * 5) % TRANSACTIONS;
                let answer = checker.resolve(&[id(number)]).await.expect("answered");
                let answer = answer.into_iter().map(|(_, answer)| answer);
                answers.lock().expect("no panic").entry(number).or_default().extend(answer);
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task panics");
    }

    let answers = Arc::into_inner(answers).expect("all ended").into_inner().expect("no panic");
    let final_answers = log.checker(pool).resolve(&(0..TRANSACTIONS).map(id).collect::<Vec<_>>()).await;
    let mut committed = 0;
    for ((_, last), number) in final_answers.expect("answered").into_iter().zip(0..) {
        let rows = DB::number(pool, &format!("SELECT COUNT(*) FROM business WHERE number = {number}")).await;
        committed += rows;
        for answer in answers.get(&number).into_iter().flatten().chain([&last]) {
            match answer {
                Resolution::Commit => assert_eq!(rows, 1, "{number}: COMMIT was a lie"),
                Resolution::Rollback => assert_eq!(rows, 0, "{number}: ROLLBACK was a lie"),
                Resolution::Unknown => {}
                Resolution::CommitWith(_) | Resolution::NoAnswer => panic!("{number}: {answer:?}"),
            }
        }
        assert_ne!(last, Resolution::Unknown, "{number}: nothing is in flight any more");
    }
    assert!(committed > 0, "some came in time");
}

/// A local transaction that takes its time; every seventh thinks better of it.
async fn work<DB: TestDatabase>(log: &TransactionLog<DB>, pool: &Pool<DB>, number: u64) {
    let Ok(mut sql) = pool.begin().await else { return };
    if number.is_multiple_of(2) && DB::run(&mut sql, "SELECT COUNT(*) FROM business").await.is_err() {
        return;
    }
    if log.record(&mut sql, &id(number)).await.is_err() {
        return;
    }
    tokio::task::yield_now().await;
    if DB::run(&mut sql, &format!("INSERT INTO business VALUES ({number})")).await.is_ok()
        && !number.is_multiple_of(7)
    {
        // Refused or lost, it may have committed or not; the comparison at the end does not ask.
        let _unheard = sql.commit().await;
    }
}
