//! The transaction log: no interleaving of local transactions, checks and pruning makes an answer a lie.

mod race;
mod story;

use halfmq_client::TransactionId;
use halfmq_client::sql::{TableName, TransactionLog};

use crate::database::{TestDatabase, on_every_database};

on_every_database!(
    every_interleaving_ends_as_told,
    answers_never_contradict_the_database,
    batch_answers_each_by_itself,
    migration_may_run_again_and_at_the_same_time,
    names_of_tables_are_the_owners,
);

/// An id of this number, in the order of numbers.
fn id(number: u64) -> TransactionId {
    TransactionId::from(format!("01990000-0000-7000-8000-{number:012x}"))
}

async fn every_interleaving_ends_as_told<DB: TestDatabase>() {
    story::tell_all::<DB>(include_str!("transaction_log/stories.txt")).await;
}

async fn answers_never_contradict_the_database<DB: TestDatabase>() {
    race::run::<DB>().await;
}

async fn batch_answers_each_by_itself<DB: TestDatabase>() {
    use halfmq_client::Resolution::{Commit, Rollback, Unknown};
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let log = TransactionLog::<DB>::default();
    log.migrate(pool).await.expect("it migrates");
    for number in (0..600).step_by(3) {
        let mut sql = pool.begin().await.expect("it begins");
        log.record(&mut sql, &id(number)).await.expect("recorded");
        sql.commit().await.expect("committed");
    }
    let ids: Vec<_> = (0..600).map(id).collect();
    let checker = log.checker(pool);
    // One is in flight while all are asked about.
    let mut in_flight = pool.begin().await.expect("it begins");
    log.record(&mut in_flight, &id(100)).await.expect("recorded");
    let answers = checker.resolve(&ids).await.expect("answered");
    // Whoever writes to SQLite holds up all other writers, so there nothing else could be found out.
    let absent = if DB::TITLE == "sqlite" { Unknown } else { Rollback };
    for ((answered, answer), number) in answers.iter().zip(0..600) {
        let wanted = match number {
            100 => &Unknown,
            number if number % 3 == 0 => &Commit,
            _ => &absent,
        };
        assert_eq!((answered, answer), (&id(number), wanted), "{}", DB::TITLE);
    }
    in_flight.commit().await.expect("committed");
    let answers = checker.resolve(&ids).await.expect("answered");
    let unknown = answers.iter().filter(|(_, answer)| *answer == Unknown).count();
    let committed = answers.iter().filter(|(_, answer)| *answer == Commit).count();
    assert_eq!((answers.len(), unknown, committed), (600, 0, 201));
}

async fn migration_may_run_again_and_at_the_same_time<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let log = TransactionLog::<DB>::default();
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let (log, pool) = (log.clone(), database.pool.clone());
            tokio::spawn(async move { log.migrate(&pool).await })
        })
        .collect();
    for run in runs {
        run.await.expect("no panic").expect("migrated");
    }
    log.migrate(&database.pool).await.expect("migrated again");
    let answers = log.checker(&database.pool).resolve(&[id(1)]).await.expect("answered");
    assert_eq!(answers, [(id(1), halfmq_client::Resolution::Rollback)]);
}

async fn names_of_tables_are_the_owners<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let table = TableName::new("shop_Log").expect("legal");
    let options = halfmq_client::sql::LogOptions { table, ..Default::default() };
    let log = TransactionLog::<DB>::new(options);
    log.migrate(&database.pool).await.expect("migrated");
    let mut sql = database.pool.begin().await.expect("it begins");
    log.record(&mut sql, &id(1)).await.expect("recorded");
    sql.commit().await.expect("committed");
    let quote = DB::QUOTE;
    let rows = DB::number(&database.pool, &format!("SELECT COUNT(*) FROM {quote}shop_Log{quote}")).await;
    assert_eq!(rows, 1);
}
