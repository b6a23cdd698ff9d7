//! The fast path of the SDK: one stream, shared and pipelined; and how it gives way.

use std::sync::Arc;
use std::time::Duration;

use halfmq_client::{
    Client, ClientOptions, Consumer, ConsumerOptions, Delivery, Message, Producer, RetryLater,
    TransactionOptions, TransactionProducer, Transport,
};
use tokio::task::JoinSet;

use crate::fake::{Age, Break, Effect, Fake, away};

/// That many transactions at the same time, each prepared and committed.
async fn transact(client: &Client, count: usize) {
    let producer = TransactionProducer::without_checker(client, "shop", TransactionOptions::default());
    let mut running = JoinSet::new();
    for number in 0..count {
        let producer = producer.clone();
        running.spawn(async move {
            let order = Message::new("orders", number.to_string());
            let committed = producer.transaction([order], |_| async { Ok::<_, String>(()) }).await;
            assert!(committed.expect("it commits").confirmation.receipt().is_some());
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn operations_that_wait_go_together_on_one_stream() {
    let (fake, client) = Fake::start();
    let start = tokio::time::Instant::now();
    transact(&client, 300).await;
    assert_eq!(start.elapsed(), Duration::ZERO, "nothing waits for company");
    let state = fake.state();
    assert_eq!(state.decisions.len(), 300);
    let [stream] = &state.produced[..] else { panic!("one stream: {:?}", state.produced) };
    assert_eq!(stream.iter().sum::<usize>(), 600);
    assert!(stream.iter().all(|operations| *operations <= 64), "{stream:?}");
    assert!(stream.len() <= 30, "they go together: {stream:?}");
}

#[tokio::test(start_paused = true)]
async fn unanswered_operations_are_sent_again_on_the_next_stream() {
    for effect in [Effect::None, Effect::Lost] {
        let (fake, client) = Fake::start();
        fake.state().breaks.extend([1, 2, 1].map(|at| Break { at, effect }));
        transact(&client, 100).await;
        let state = fake.state();
        assert_eq!(state.prepared.len(), 100, "each was prepared once");
        assert_eq!(state.decisions.len(), 100);
        assert_eq!(state.produced.len(), 4, "{:?}", state.produced);
    }
}

#[tokio::test(start_paused = true)]
async fn full_queue_is_felt_as_waiting() {
    let options = ClientOptions { queue_max: 1, in_flight_max: 3, ..ClientOptions::default() };
    let (fake, client) = Fake::start_with(options);
    transact(&client, 50).await;
    let state = fake.state();
    assert_eq!(state.decisions.len(), 50);
    assert!(state.produced[0].iter().all(|operations| *operations <= 3), "{:?}", state.produced);
}

#[tokio::test(start_paused = true)]
async fn old_coordinator_is_spoken_to_by_unary_calls() {
    let (fake, client) = Fake::start_as(ClientOptions::default(), Age::Old);
    transact(&client, 10).await;
    consume(&fake, &client).await;
    let state = fake.state();
    assert_eq!((state.decisions.len(), state.produced.len(), state.credits.len()), (10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn unary_calls_can_be_chosen() {
    let options = ClientOptions { transport: Transport::Unary, ..ClientOptions::default() };
    let (fake, client) = Fake::start_with(options);
    transact(&client, 10).await;
    consume(&fake, &client).await;
    let state = fake.state();
    assert_eq!((state.decisions.len(), state.produced.len(), state.credits.len()), (10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn large_operation_is_a_call_of_its_own() {
    let (fake, client) = Fake::start();
    let producer = Producer::new(&client, "shop");
    producer.send(Message::new("orders", vec![0; 2 << 20])).await.expect("sent");
    assert!(fake.state().produced.is_empty());
    producer.send(Message::new("orders", vec![0; 100 << 10])).await.expect("sent");
    assert_eq!(fake.state().produced, [[1]]);
}

async fn consume(fake: &Fake, client: &Client) {
    let consumer = Consumer::new(client, ["orders"], "shipping");
    let stop = consumer.stop_handle();
    let running = tokio::spawn(consumer.run(|_: Arc<Delivery>| async { Ok::<_, RetryLater>(()) }));
    fake.release(&["a", "b", "c"]);
    fake.until("all are acked", |state| state.acks.iter().flatten().count() == 3).await;
    stop.stop();
    running.await.expect("no panic").expect("stops in good order");
}

#[tokio::test(start_paused = true)]
async fn credit_is_what_there_is_room_for() {
    let (fake, client) = Fake::start();
    let options = ConsumerOptions { in_flight_max: 4, ..ConsumerOptions::default() };
    let consumer = Consumer::with_options(&client, ["orders"], "shipping", options);
    let stop = consumer.stop_handle();
    let running = tokio::spawn(consumer.run(|_: Arc<Delivery>| async { Ok::<_, RetryLater>(()) }));
    let names: Vec<_> = (0..40).map(|number| number.to_string()).collect();
    fake.release(&names.iter().map(String::as_str).collect::<Vec<_>>());
    fake.until("all are acked", |state| state.acks.iter().flatten().count() == 40).await;
    stop.stop();
    running.await.expect("no panic").expect("stops in good order");
    let state = fake.state();
    let [stream] = &state.credits[..] else { panic!("one stream: {:?}", state.credits) };
    assert_eq!(stream[0], 4);
    assert!(stream.iter().all(|credits| *credits <= 4), "{stream:?}");
    assert!(stream.iter().sum::<u32>() <= 44, "{stream:?}");
}

#[tokio::test(start_paused = true)]
async fn acks_survive_the_stream_that_brought_their_deliveries() {
    let (fake, client) = Fake::start();
    let consumer = Consumer::new(&client, ["orders"], "shipping");
    let stop = consumer.stop_handle();
    let running = tokio::spawn(consumer.run(|_: Arc<Delivery>| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, RetryLater>(())
    }));
    fake.release(&["a"]);
    fake.until("a is delivered", |state| state.waiting.is_empty()).await;
    // The next look breaks the stream, while a is still handled.
    fake.fail("receive", 3, Effect::None, away());
    fake.release(&["b"]);
    fake.until("both are acked", |state| state.acks.iter().flatten().count() == 2).await;
    assert!(fake.state().credits.len() > 1, "the stream broke");
    stop.stop();
    running.await.expect("no panic").expect("stops in good order");
}
