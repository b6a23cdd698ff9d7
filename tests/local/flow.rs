//! The whole way: a service with its database, and the real coordinator that asks it.

use halfmq_client::sql::TransactionLog;
use halfmq_client::{Check, Client, Message, TransactionChecker, TransactionError, TransactionProducer};
use halfmq_proto::v1::TransactionState;
use halfmq_tests::{CHECKS_SOON, Coordinator, within};
use tokio::sync::watch;

use crate::database::{TestDatabase, on_every_database};

on_every_database!(checks_answer_themselves, database_that_is_away_costs_nothing);

async fn checks_answer_themselves<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let pool = &database.pool;
    let coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let log = TransactionLog::<DB>::default();
    log.migrate(pool).await.expect("it migrates");
    let producer = TransactionProducer::new(&client, "shop", log.checker(pool));

    // The decision gets lost; what the local transaction did decides.
    let mut wanted = Vec::new();
    for commits in [true, false, true] {
        let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
        let mut sql = pool.begin().await.expect("it begins");
        log.record(&mut sql, transaction.id()).await.expect("recorded");
        if commits {
            sql.commit().await.expect("committed");
        } else {
            sql.rollback().await.expect("rolled back");
        }
        let state = if commits { TransactionState::Committed } else { TransactionState::RolledBack };
        wanted.push((transaction.id().clone(), state));
    }
    for (id, state) in &wanted {
        coordinator.driver().becomes(id.as_str(), *state).await;
    }

    // The coordinator's floor is far behind the clock: nothing of this is pruned yet.
    let floor = client.admin().transaction_floor().await.expect("a floor");
    assert!(wanted.iter().all(|(id, _)| id.as_str() > floor.as_str()), "{floor} is below {wanted:?}");
    let pruned = log.prune(pool, &floor).await.expect("pruned");
    assert_eq!(pruned.rows, 0);

    // Begin, record, work, commit and decision in one.
    let sold = producer
        .transaction([Message::new("orders", "43")], |tx| {
            let (log, pool) = (log.clone(), pool.clone());
            async move {
                log.run(&pool, &tx, async |sql| {
                    DB::run(sql, "CREATE TABLE sold (number BIGINT)").await?;
                    Ok::<_, halfmq_client::sql::LogError>(43)
                })
                .await
            }
        })
        .await
        .expect("it commits");
    assert_eq!(sold.value, 43);
    coordinator.driver().becomes(sold.transaction_id.as_str(), TransactionState::Committed).await;

    // A local transaction that a check overtook does not commit, whatever it wants.
    let late = producer.transaction([Message::new("orders", "44")], |tx| {
        let (log, pool) = (log.clone(), pool.clone());
        async move {
            let answers = log.checker(&pool).resolve(&[tx.id().clone()]).await.expect("answered");
            assert_eq!(answers.len(), 1);
            log.run(&pool, &tx, async |_sql| Ok::<_, halfmq_client::sql::LogError>(())).await
        }
    });
    let late = late.await.expect_err("too late");
    assert!(matches!(late, TransactionError::RolledBack { .. }), "{late}");
}

async fn database_that_is_away_costs_nothing<DB: TestDatabase>() {
    let Some(database) = DB::fresh().await else { return };
    let coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    // Without its tables the log can be asked as little as without its server.
    let log = TransactionLog::<DB>::default();
    let (asked, mut asking) = watch::channel(0);
    let checker = log.checker(&database.pool);
    let counting = move |check: Check| {
        asked.send_modify(|asked| *asked += 1);
        let checker = checker.clone();
        async move { checker.check(check).await }
    };
    let producer = TransactionProducer::new(&client, "shop", counting);
    let id = producer.begin([Message::new("orders", "42")]).await.expect("prepared").id().clone();
    within("the third check", asking.wait_for(|asked| *asked >= 3)).await.expect("the producer lives");
    let open = coordinator.driver().describe(id.as_str()).await;
    assert_eq!((open.state(), open.checks_answered), (TransactionState::Prepared, 0));
    log.migrate(&database.pool).await.expect("it migrates");
    coordinator.driver().becomes(id.as_str(), TransactionState::RolledBack).await;
}
