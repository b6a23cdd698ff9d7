//! P1: what was acknowledged is there after a stop, and after a kill.

use halfmq_proto::v1::{
    ConfigureGroupRequest, ListDeadLettersRequest, Message, PrepareRequest, Resolution, RetryPolicy,
    TransactionState, message,
};
use halfmq_tests::{CHECKS_SOON, CheckStream, Coordinator, bodies, half, message, seconds};
use tonic::Code;

#[tokio::test]
async fn stop_keeps_everything() {
    keeps_everything(End::Stop).await;
}

#[tokio::test]
async fn kill_keeps_everything() {
    keeps_everything(End::Kill).await;
}

#[derive(Clone, Copy)]
enum End {
    Stop,
    Kill,
}

async fn end_and_restart(coordinator: &mut Coordinator, end: End) {
    match end {
        End::Stop => coordinator.stop().await,
        End::Kill => coordinator.kill9().await,
    }
    coordinator.restart().await;
}

async fn keeps_everything(end: End) {
    let mut coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let driver = coordinator.driver();
    for topic in ["orders", "acked", "dead", "delayed"] {
        driver.create_topic(topic, 1).await;
    }
    let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let configure = ConfigureGroupRequest { group: "fails".into(), retry: Some(retry) };
    driver.admin.clone().configure_group(configure).await.expect("a group");

    let with_key =
        |body| PrepareRequest { request_id: "cart-7".into(), ..half("shop", [message("orders", body)]) };
    let open = driver.prepare(with_key("open")).await;
    let committed = driver.prepare(half("shop", [message("orders", "committed")])).await.transaction_id;
    let commit_receipt = driver.commit(&committed).await;
    let rolled_back = driver.prepare(half("shop", [message("orders", "rolled back")])).await.transaction_id;
    let rollback_receipt = driver.rollback(&rolled_back).await;
    driver.send([message("acked", "acked"), message("acked", "not acked"), message("dead", "dead")]).await;
    let leased = driver.receive("acked", "billing", 2).await;
    driver.ack("acked", "billing", &leased[..1]).await;
    driver.retry_now("billing", &leased[1], "later").await;
    let dead = driver.receive("dead", "fails", 1).await;
    driver.retry_now("fails", &dead[0], "broken").await;
    let delay = Some(message::Visibility::Delay(seconds(0.5)));
    driver.send([Message { visibility: delay, ..message("delayed", "delayed") }]).await;

    end_and_restart(&mut coordinator, end).await;
    assert_eq!(driver.prepare(with_key("open")).await.transaction_id, open.transaction_id);
    assert_eq!(driver.commit(&committed).await, commit_receipt);
    assert_eq!(driver.rollback(&rolled_back).await, rollback_receipt);
    let refused = driver.refused_rollback(&committed).await;
    assert_eq!(refused.kind(), (Code::FailedPrecondition, "REASON_DECISION_CONFLICT"));
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["committed"]);
    let again = driver.receive("acked", "billing", 1).await;
    assert_eq!((bodies(&again), again[0].attempt), (vec!["not acked".to_owned()], 2), "attempts are kept");
    let list = ListDeadLettersRequest { group: "fails".into(), ..Default::default() };
    let letters = driver.admin.clone().list_dead_letters(list).await.expect("a list").into_inner();
    let reasons: Vec<_> = letters
        .dead_letters
        .iter()
        .filter_map(|letter| Some(letter.origin.as_ref()?.reason.as_str()))
        .collect();
    assert_eq!(reasons, ["broken"]);
    assert_eq!(bodies(&driver.receive("delayed", "billing", 1).await), ["delayed"]);

    let mut checker = CheckStream::open(&driver, "shop", "p1").await;
    assert_eq!(checker.question().await.transaction_id, open.transaction_id, "checks go on");
    checker.answer(&open.transaction_id, Resolution::Commit).await;
    driver.becomes(&open.transaction_id, TransactionState::Committed).await;
    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["open"]);

    end_and_restart(&mut coordinator, end).await;
    for (topic, count) in [("orders", 2), ("acked", 2), ("dead", 1), ("delayed", 1)] {
        assert_eq!(driver.receive_now(topic, "newcomer").await.len(), count, "{topic}: each message once");
    }
}

#[tokio::test]
async fn lease_survives_a_restart() {
    let mut coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    driver.send([message("orders", "o-1")]).await;
    let leased = driver.receive("orders", "billing", 1).await;
    coordinator.kill9().await;
    coordinator.restart().await;
    assert!(driver.receive_now("orders", "billing").await.is_empty(), "it is still leased");
    driver.ack("orders", "billing", &leased).await;
}

#[tokio::test]
async fn stop_does_not_wait_for_idle_streams() {
    let mut coordinator = Coordinator::start().await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let _checker = CheckStream::open(&driver, "shop", "p1").await;
    let waiting = tokio::spawn({
        let driver = driver.clone();
        async move {
            let request = halfmq_proto::v1::ReceiveRequest {
                topic: "orders".into(),
                group: "billing".into(),
                wait: Some(seconds(60.0)),
                ..Default::default()
            };
            driver.queues.clone().receive(request).await.map(tonic::Response::into_inner)
        }
    });
    // The group exists from the moment its first receive is being served.
    halfmq_tests::eventually("the receive to be waiting", async || {
        let request = halfmq_proto::v1::DescribeGroupRequest { group: "billing".into() };
        driver.admin.clone().describe_group(request).await.ok()
    })
    .await;
    coordinator.stop().await;
    let answer = waiting.await.expect("the task does not panic");
    if let Ok(response) = answer {
        assert_eq!(response.deliveries, [], "a receive cut short by the stop has nothing to deliver");
    }
}
