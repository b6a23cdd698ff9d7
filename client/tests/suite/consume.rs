//! Receive, handle, ack.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halfmq_client::{
    Client, Consumer, ConsumerInterceptor, ConsumerOptions, Delivery, Error, HandlerOutcome, PullConsumer,
    Reason, ReceiptHandle, RetryLater, RetrySchedule, StopHandle,
};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::fake::{Effect, Fake, State, away, refusal};

/// Does as the body says.
async fn obey(delivery: Arc<Delivery>) -> Result<(), RetryLater> {
    match &delivery.message.body[..] {
        b"fail" => return Err("no stock".into()),
        b"later" => return Err(RetryLater::after(Duration::from_secs(7), "busy")),
        b"panic" => panic!("on purpose"),
        b"slow" => tokio::time::sleep(Duration::from_secs(100)).await,
        b"hang" => std::future::pending().await,
        _ => {}
    }
    Ok(())
}

struct Running {
    stop: StopHandle,
    ended: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(client: &Client, options: ConsumerOptions) -> Self {
        let consumer = Consumer::with_options(client, ["orders"], "shipping", options);
        Self { stop: consumer.stop_handle(), ended: tokio::spawn(consumer.run(obey)) }
    }

    async fn stop(self) -> Result<(), Error> {
        self.stop.stop();
        self.ended.await.expect("the consumer does not panic")
    }
}

fn acked(state: &State) -> Vec<&str> {
    state.acks.iter().flatten().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn only_handled_deliveries_are_acked_the_others_come_back() {
    let (fake, client) = Fake::start();
    let consumer = Running::start(&client, ConsumerOptions::default());
    fake.release(&["fail", "a", "later", "panic", "b"]);
    fake.until("all are settled", |state| acked(state).len() == 2 && state.returned.len() == 3).await;
    consumer.stop().await.expect("stops in good order");
    let state = fake.state();
    let mut returned: Vec<_> = state
        .returned
        .iter()
        .map(|r| (r.receipt_handle.as_str(), r.reason.as_str(), r.delay.map(|delay| delay.seconds)))
        .collect();
    returned.sort_unstable();
    assert_eq!(
        returned,
        [
            ("receipt-fail", "no stock", None),
            ("receipt-later", "busy", Some(7)),
            ("receipt-panic", "the handler panicked", None),
        ]
    );
    assert_eq!(acked(&state), ["receipt-a", "receipt-b"]);
}

#[tokio::test(start_paused = true)]
async fn schedule_says_when_a_failed_delivery_comes_again_unless_its_handler_does() {
    let (fake, client) = Fake::start();
    let retry = Some(RetrySchedule::List(vec![Duration::from_secs(3)]));
    let consumer = Running::start(&client, ConsumerOptions { retry, ..ConsumerOptions::default() });
    fake.release(&["fail", "later", "panic"]);
    fake.until("all are given back", |state| state.returned.len() == 3).await;
    consumer.stop().await.expect("stops in good order");
    let state = fake.state();
    let mut delays: Vec<_> = state
        .returned
        .iter()
        .map(|request| (request.receipt_handle.as_str(), request.delay.map(|delay| delay.seconds)))
        .collect();
    delays.sort_unstable();
    assert_eq!(delays, [("receipt-fail", Some(3)), ("receipt-later", Some(7)), ("receipt-panic", Some(3))]);
}

#[tokio::test(start_paused = true)]
async fn slow_handler_keeps_its_lease() {
    let (fake, client) = Fake::start();
    let consumer = Running::start(&client, ConsumerOptions::default());
    fake.release(&["slow"]);
    fake.until("it is acked", |state| acked(state) == ["receipt-slow"]).await;
    // 100 s of work, 30 s invisible: extended at 15, 30, ... 90.
    assert_eq!(fake.state().extensions, 6);
    consumer.stop().await.expect("stops in good order");
}

#[tokio::test(start_paused = true)]
async fn endless_handler_is_cancelled_and_retried() {
    let (fake, client) = Fake::start();
    let options = ConsumerOptions { handler_time_max: Duration::from_secs(60), ..ConsumerOptions::default() };
    let consumer = Running::start(&client, options);
    fake.release(&["hang"]);
    fake.until("it is given back", |state| state.returned.len() == 1).await;
    assert_eq!(fake.state().returned[0].reason, "the handler took too long");
    consumer.stop().await.expect("stops in good order");
}

#[tokio::test(start_paused = true)]
async fn stop_gives_back_what_does_not_finish_in_time() {
    let (fake, client) = Fake::start();
    let consumer = Running::start(&client, ConsumerOptions::default());
    fake.release(&["hang", "slow"]);
    fake.until("both are received", |state| state.waiting.is_empty()).await;
    fake.until("both are handled", |state| state.extensions == 2).await;
    let start = tokio::time::Instant::now();
    consumer.stop().await.expect("stops in good order");
    assert_eq!(start.elapsed().as_secs(), 10);
    let state = fake.state();
    assert_eq!(state.returned.len(), 2);
    for request in &state.returned {
        assert_eq!(request.delay.map(|delay| (delay.seconds, delay.nanos)), Some((0, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn stop_lets_handlers_finish_and_acks_them() {
    let (fake, client) = Fake::start();
    let options = ConsumerOptions { stop_timeout: Duration::from_secs(200), ..ConsumerOptions::default() };
    let consumer = Running::start(&client, options);
    fake.release(&["slow"]);
    fake.until("it is handled", |state| state.extensions == 1).await;
    consumer.stop().await.expect("stops in good order");
    assert_eq!(acked(&fake.state()), ["receipt-slow"]);
}

#[tokio::test(start_paused = true)]
async fn idle_consumer_stops_at_once() {
    let (_fake, client) = Fake::start();
    let consumer = Running::start(&client, ConsumerOptions::default());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let start = tokio::time::Instant::now();
    consumer.stop().await.expect("stops in good order");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn handlers_run_in_bounded_numbers() {
    let (fake, client) = Fake::start();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let options = ConsumerOptions { in_flight_max: 3, ..ConsumerOptions::default() };
    let consumer = Consumer::with_options(&client, ["orders"], "shipping", options);
    let (count, peak) = (Arc::clone(&now), Arc::clone(&most));
    tokio::spawn(consumer.run(move |_| {
        let (now, most) = (Arc::clone(&count), Arc::clone(&peak));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    }));
    fake.release(&["a", "b", "c", "d", "e", "f", "g"]);
    fake.until("all are acked", |state| acked(state).len() == 7).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn consumer_outlives_a_long_outage() {
    let (fake, client) = Fake::start();
    fake.fail("receive", 100, Effect::None, away());
    let consumer = Running::start(&client, ConsumerOptions::default());
    fake.release(&["a"]);
    fake.until("it is acked", |state| acked(state) == ["receipt-a"]).await;
    consumer.stop().await.expect("stops in good order");
}

#[tokio::test(start_paused = true)]
async fn refused_topic_ends_the_run() {
    let (fake, client) = Fake::start();
    fake.fail("receive", 1, Effect::None, refusal(Code::NotFound, "REASON_UNKNOWN_TOPIC"));
    fake.release(&["a"]);
    let consumer = Running::start(&client, ConsumerOptions::default());
    let result = consumer.ended.await.expect("the consumer does not panic");
    assert_eq!(result.expect_err("refused").reason(), Some(Reason::UnknownTopic));
}

#[tokio::test(start_paused = true)]
async fn acks_that_wait_go_together_and_lost_answers_are_repeated() {
    let (fake, client) = Fake::start();
    fake.fail("ack", 2, Effect::None, away());
    let consumer = Running::start(&client, ConsumerOptions::default());
    fake.release(&["a", "b", "c", "d", "e", "f"]);
    fake.until("all are acked", |state| acked(state).len() == 6).await;
    assert!(fake.state().acks.len() <= 2, "{:?}", fake.state().acks);
    consumer.stop().await.expect("stops in good order");
}

#[derive(Default)]
struct Witness {
    seen: Mutex<Vec<String>>,
}

impl Witness {
    fn note(&self, what: String) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl ConsumerInterceptor for Witness {
    fn before_handler(&self, delivery: &mut Delivery) {
        self.note(format!("before {}", delivery.message_id));
    }

    fn after_handler(&self, _: &Delivery, outcome: &HandlerOutcome) {
        self.note(format!("after {outcome:?}"));
    }

    fn ack_failed(&self, receipt: &ReceiptHandle, error: &Error) {
        self.note(format!("{receipt} {:?}", error.reason()));
    }
}

#[tokio::test(start_paused = true)]
async fn expired_receipt_is_reported_and_not_fatal() {
    let (fake, client) = Fake::start();
    let witness = Arc::new(Witness::default());
    let options = ConsumerOptions { interceptors: vec![witness.clone()], ..ConsumerOptions::default() };
    fake.state().expired.push("receipt-a".into());
    let consumer = Running::start(&client, options);
    fake.release(&["a"]);
    fake.until("a is answered", |state| acked(state) == ["receipt-a"]).await;
    fake.release(&["b"]);
    fake.until("b is acked", |state| acked(state) == ["receipt-a", "receipt-b"]).await;
    consumer.stop().await.expect("stops in good order");
    let seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(
        seen,
        ["before id-a", "after Handled", "receipt-a Some(ReceiptExpired)", "before id-b", "after Handled",]
    );
}

#[tokio::test(start_paused = true)]
async fn pull_consumer_settles_one_by_one() {
    let (fake, client) = Fake::start();
    let pull = PullConsumer::new(&client, "orders", "shipping", ConsumerOptions::default());
    assert!(pull.receive(4).await.expect("an empty answer").is_empty());
    fake.release(&["a", "b"]);
    let deliveries = pull.receive(4).await.expect("two");
    assert_eq!(deliveries.len(), 2);
    pull.extend(&deliveries[0].receipt_handle, Duration::from_secs(60)).await.expect("extended");
    pull.ack(&deliveries[0].receipt_handle).await.expect("acked");
    pull.retry_later(&deliveries[1].receipt_handle, "not today").await.expect("given back");
    fake.state().expired.push("receipt-a".into());
    let again = pull.ack(&deliveries[0].receipt_handle).await.expect_err("expired");
    assert_eq!(again.reason(), Some(Reason::ReceiptExpired));
}
