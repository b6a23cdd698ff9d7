//! A coordinator that is killed and comes back at the same address: real TCP, real time.

use std::net::TcpListener;
use std::time::Duration;

use halfmq_client::{
    BackoffOptions, Check, Client, ClientOptions, ConsumerOptions, Message, PullConsumer, Resolution,
    TransactionProducer,
};

use crate::fake::Fake;

#[tokio::test]
async fn client_goes_on_after_the_coordinator_was_killed() {
    tokio::time::timeout(Duration::from_secs(30), kill_and_go_on()).await.expect("it goes on in time");
}

async fn kill_and_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let fake = Fake::default();
    let (kill, dead) = fake.serve(listener);
    let backoff = BackoffOptions { first: Duration::from_millis(1), pause_max: Duration::from_millis(50) };
    let options = ClientOptions { backoff, ..ClientOptions::default() };
    let client = Client::connect_with(format!("http://{address}"), options).expect("an address");
    let checker = |_: Check| async { Resolution::Commit };
    let producer = TransactionProducer::new(&client, "shop", checker);
    producer.registered().await;
    let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
    let pull = PullConsumer::new(&client, "orders", "shipping", ConsumerOptions::default());
    let poll = tokio::spawn(async move { pull.receive(1).await });
    let commit = tokio::spawn(transaction.commit());

    drop(kill);
    tokio::task::spawn_blocking(|| dead.join()).await.expect("joins").expect("no panic");
    assert!(poll.await.expect("no panic").is_err_and(|error| error.is_retryable()));
    let listener = TcpListener::bind(address).expect("the same port");
    let (_kill, _alive) = fake.serve(listener);

    commit.await.expect("no panic").expect("committed before or after");
    fake.until("registered again", |state| state.registrations.len() >= 2).await;
    producer.registered().await;
    fake.ask("tx-1").await;
    fake.until("an answer", |state| !state.answers.is_empty()).await;
}
