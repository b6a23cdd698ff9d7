//! Plain sends, and how calls fail.

use halfmq_client::{Client, Error, Message, Producer, Reason, Released};
use tonic::{Code, Status};

use crate::fake::{Effect, Fake, away, refusal};

#[tokio::test(start_paused = true)]
async fn lost_answer_does_not_double_a_send() {
    let (fake, client) = Fake::start();
    fake.fail("send", 3, Effect::Lost, away());
    let receipt = Producer::new(&client, "shop").send(Message::new("orders", "42")).await.expect("sent");
    assert!(matches!(receipt.released, Released::At(place) if place.offset == 7));
    assert_eq!(fake.state().sent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_sorted_into_their_kinds() {
    // status, retryable, reason, how often it may be sent
    let stories: [(Status, bool, Option<Reason>); 6] = [
        (refusal(Code::NotFound, "REASON_UNKNOWN_TOPIC"), false, Some(Reason::UnknownTopic)),
        (refusal(Code::AlreadyExists, "REASON_REQUEST_ID_REUSED"), false, Some(Reason::RequestIdReused)),
        (refusal(Code::ResourceExhausted, "REASON_DISK_FULL"), true, Some(Reason::DiskFull)),
        (refusal(Code::Unavailable, "REASON_STORE_FAILED"), true, None),
        (refusal(Code::Unknown, "REASON_OF_THE_FUTURE"), false, None),
        (Status::unimplemented("old server"), false, None),
    ];
    for (status, retryable, reason) in stories {
        let (fake, client) = Fake::start();
        let story = format!("{status:?}");
        fake.fail("send", usize::MAX, Effect::None, status);
        let error = Producer::new(&client, "shop").send(Message::new("orders", "")).await.expect_err("fails");
        assert_eq!((error.is_retryable(), error.reason()), (retryable, reason), "{story}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_end_at_the_deadline_and_say_how_many_there_were() {
    let (fake, client) = Fake::start();
    fake.fail("send", usize::MAX, Effect::None, away());
    let start = tokio::time::Instant::now();
    let error = Producer::new(&client, "shop").send(Message::new("orders", "")).await.expect_err("fails");
    assert!(start.elapsed().as_secs() <= 30);
    assert!(matches!(error, Error::Unavailable(gone) if (8..=40).contains(&gone.attempts)));
}

#[tokio::test]
async fn endpoint_is_checked_without_connecting() {
    assert!(matches!(Client::connect("not an address"), Err(Error::IllegalEndpoint { .. })));
    assert!(Client::connect("http://127.0.0.1:1").is_ok());
}
