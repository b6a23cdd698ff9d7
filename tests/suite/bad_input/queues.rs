//! Refused sends and consumption.

use halfmq_proto::v1::{AckRequest, ExtendRequest, ReceiveRequest, RetryLaterRequest, SendRequest};
use halfmq_tests::{bodies, message, seconds};

use super::{
    Call, Case, Expected, ILLEGAL_NAME, ILLEGAL_NAMES, INVALID, RECEIPT_EXPIRED, REQUEST_ID_REUSED,
    UNKNOWN_GROUP, UNKNOWN_TOPIC, case, refuse, start,
};

fn billing() -> ReceiveRequest {
    ReceiveRequest { topic: "orders".into(), group: "billing".into(), ..ReceiveRequest::default() }
}

fn receive(name: &str, request: ReceiveRequest, expected: Expected) -> Case {
    case(name, Call::Receive(request), expected)
}

#[tokio::test]
async fn sends_are_checked_before_they_are_kept() {
    let (_coordinator, driver) = start().await;
    let send = |messages| SendRequest { messages, ..SendRequest::default() };
    let with_key = |body| SendRequest { request_id: "s-1".into(), ..send(vec![message("orders", body)]) };
    driver.queues.clone().send(with_key("first")).await.expect("the first send");
    let cases = vec![
        case("no message", Call::Send(send(vec![])), INVALID),
        case("257 messages", Call::Send(send(vec![message("orders", "o"); 257])), INVALID),
        case("unknown topic", Call::Send(send(vec![message("nowhere", "o")])), UNKNOWN_TOPIC),
        case("dead-letter topic", Call::Send(send(vec![message("dlq.billing", "o")])), ILLEGAL_NAME),
        case("request id of another send", Call::Send(with_key("second")), REQUEST_ID_REUSED),
    ];
    refuse(&driver, cases).await;
}

#[tokio::test]
async fn receives_are_checked() {
    let (_coordinator, driver) = start().await;
    let mut cases = vec![
        receive("unknown topic", ReceiveRequest { topic: "nowhere".into(), ..billing() }, UNKNOWN_TOPIC),
        receive("257 messages", ReceiveRequest { max_messages: 257, ..billing() }, INVALID),
        receive("half a second", ReceiveRequest { invisible: Some(seconds(0.5)), ..billing() }, INVALID),
        receive("13 hours", ReceiveRequest { invisible: Some(seconds(46_800.0)), ..billing() }, INVALID),
        receive("wait of 61 s", ReceiveRequest { wait: Some(seconds(61.0)), ..billing() }, INVALID),
        receive("empty tag", ReceiveRequest { tag_filter: "a || ".into(), ..billing() }, ILLEGAL_NAME),
    ];
    for name in ILLEGAL_NAMES {
        let group = ReceiveRequest { group: name.into(), ..billing() };
        cases.push(receive(&format!("group {name:?}"), group, ILLEGAL_NAME));
        let topic = ReceiveRequest { topic: name.into(), ..billing() };
        cases.push(receive(&format!("topic {name:?}"), topic, ILLEGAL_NAME));
    }
    refuse(&driver, cases).await;
}

#[tokio::test]
async fn expired_receipt_handles_settle_nothing() {
    let (_coordinator, driver) = start().await;
    driver.send([message("orders", "o-1")]).await;
    let first = driver.receive("orders", "billing", 1).await;
    driver.retry_now("billing", &first[0], "again").await;
    let second = driver.receive("orders", "billing", 1).await;
    let expired = first[0].receipt_handle.clone();

    let ack =
        |receipt_handles| AckRequest { topic: "orders".into(), group: "billing".into(), receipt_handles };
    let extend = |receipt_handle: &str, invisible| ExtendRequest {
        topic: "orders".into(),
        group: "billing".into(),
        receipt_handle: receipt_handle.into(),
        invisible: Some(seconds(invisible)),
    };
    let retry = |receipt_handle: &str, delay| RetryLaterRequest {
        topic: "orders".into(),
        group: "billing".into(),
        receipt_handle: receipt_handle.into(),
        delay: Some(seconds(delay)),
        reason: String::new(),
    };
    let held = second[0].receipt_handle.as_str();
    let cases = vec![
        case("ack of nothing", Call::Ack(ack(vec![])), INVALID),
        case("1,025 acks", Call::Ack(ack(vec![expired.clone(); 1_025])), INVALID),
        case(
            "ack in an unknown group",
            Call::Ack(AckRequest { group: "nobody".into(), ..ack(vec![expired.clone()]) }),
            UNKNOWN_GROUP,
        ),
        case(
            "ack in an unknown topic",
            Call::Ack(AckRequest { topic: "nowhere".into(), ..ack(vec![expired.clone()]) }),
            UNKNOWN_TOPIC,
        ),
        case("extend the expired", Call::Extend(extend(&expired, 10.0)), RECEIPT_EXPIRED),
        case("extend by 13 hours", Call::Extend(extend(held, 46_800.0)), INVALID),
        case("extend a malformed handle", Call::Extend(extend("1-2", 10.0)), INVALID),
        case("retry the expired", Call::RetryLater(retry(&expired, 0.0)), RECEIPT_EXPIRED),
        case("retry in 13 hours", Call::RetryLater(retry(held, 46_800.0)), INVALID),
        case("retry a malformed handle", Call::RetryLater(retry("", 0.0)), INVALID),
    ];
    refuse(&driver, cases).await;

    let mixed = ack(vec![expired, "malformed".into(), held.into()]);
    let results = driver.queues.clone().ack(mixed).await.expect("each is answered by itself").into_inner();
    let answers: Vec<_> = results.results.iter().map(|result| (result.ok, result.reason.as_str())).collect();
    assert_eq!(answers, [(false, "REASON_RECEIPT_EXPIRED"), (false, "REASON_INVALID_ARGUMENT"), (true, "")]);
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["still serving"], "o-1 is settled");
}
