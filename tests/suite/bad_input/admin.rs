//! Refused administration.

use halfmq_proto::v1::{
    ConfigureGroupRequest, CreateTopicRequest, DeleteTopicRequest, DescribeGroupRequest,
    DescribeTopicRequest, ListDeadLettersRequest, ResetGroupRequest, RetryPolicy, SelectDeadLetters,
    ShowDeadLetterRequest,
};
use halfmq_tests::{half, message, seconds};

use super::{
    Call, ILLEGAL_NAME, ILLEGAL_NAMES, INVALID, TOPIC_EXISTS, TOPIC_IN_USE, UNKNOWN_DEAD_LETTER,
    UNKNOWN_GROUP, UNKNOWN_TOPIC, case, refuse, start,
};

#[tokio::test]
async fn topics_are_checked() {
    let (_coordinator, driver) = start().await;
    let create = |topic: &str, queues| Call::CreateTopic(CreateTopicRequest { topic: topic.into(), queues });
    let delete = |topic: &str, force| Call::DeleteTopic(DeleteTopicRequest { topic: topic.into(), force });
    let describe = |topic: &str| Call::DescribeTopic(DescribeTopicRequest { topic: topic.into() });
    let mut cases = vec![
        case("same name, other queues", create("orders", 2), TOPIC_EXISTS),
        case("257 queues", create("wide", 257), INVALID),
        case("dead-letter topic", create("dlq.billing", 1), ILLEGAL_NAME),
        case("describe an unknown topic", describe("nowhere"), UNKNOWN_TOPIC),
    ];
    cases.extend(ILLEGAL_NAMES.map(|name| case(format!("topic {name:?}"), create(name, 1), ILLEGAL_NAME)));
    refuse(&driver, cases).await;

    driver.create_topic("orders", 1).await;
    let open = driver.prepare(half("shop", [message("orders", "o-1")])).await.transaction_id;
    let in_use = vec![
        case("with an open transaction", delete("orders", false), TOPIC_IN_USE),
        case("forced, with an open transaction", delete("orders", true), TOPIC_IN_USE),
    ];
    refuse(&driver, in_use).await;
    driver.commit(&open).await;
    refuse(&driver, vec![case("with undelivered messages", delete("orders", false), TOPIC_IN_USE)]).await;
    let forced = DeleteTopicRequest { topic: "orders".into(), force: true };
    driver.admin.clone().delete_topic(forced.clone()).await.expect("whoever forces it knows why");
    driver.admin.clone().delete_topic(forced).await.expect("what is gone already is fine");
    let gone = DescribeTopicRequest { topic: "orders".into() };
    driver.admin.clone().describe_topic(gone).await.expect_err("the topic is gone");
}

#[tokio::test]
async fn groups_are_checked() {
    let (_coordinator, driver) = start().await;
    driver.receive_now("orders", "billing").await;
    let configure = |group: &str, retry| {
        Call::ConfigureGroup(ConfigureGroupRequest { group: group.into(), retry: Some(retry) })
    };
    let policy = |delay, delay_max| RetryPolicy {
        delay: Some(seconds(delay)),
        delay_max: Some(seconds(delay_max)),
        ..RetryPolicy::default()
    };
    let reset = |group: &str, topic: &str| {
        Call::ResetGroup(ResetGroupRequest { group: group.into(), topic: topic.into(), start: None })
    };
    let list = |page_size, page_token: &str| {
        let group = "billing".into();
        Call::ListDeadLetters(ListDeadLettersRequest { group, page_size, page_token: page_token.into() })
    };
    let attempts = RetryPolicy { attempts_max: 1_001, ..RetryPolicy::default() };
    let unknown = || "nobody".to_owned();
    let select = |numbers| SelectDeadLetters { group: "billing".into(), numbers, all: false };
    let show = ShowDeadLetterRequest { group: "billing".into(), number: 7 };
    let mut cases = vec![
        case("1,001 attempts", configure("billing", attempts), INVALID),
        case("delay above its maximum", configure("billing", policy(10.0, 1.0)), INVALID),
        case("delay of 31 days", configure("billing", policy(1.0, 31.0 * 86_400.0)), INVALID),
        case("unknown group", Call::DescribeGroup(DescribeGroupRequest { group: unknown() }), UNKNOWN_GROUP),
        case("reset an unknown group", reset("nobody", "orders"), UNKNOWN_GROUP),
        case("reset in an unknown topic", reset("billing", "nowhere"), UNKNOWN_TOPIC),
        case("page of 1,001", list(1_001, ""), INVALID),
        case("page token of one's own", list(0, "no such page"), INVALID),
        case("unknown dead letter", Call::ShowDeadLetter(show), UNKNOWN_DEAD_LETTER),
        case(
            "replay of an unknown dead letter",
            Call::ReplayDeadLetters(select(vec![7])),
            UNKNOWN_DEAD_LETTER,
        ),
    ];
    cases.extend(
        ILLEGAL_NAMES.map(|name| {
            case(format!("group {name:?}"), configure(name, RetryPolicy::default()), ILLEGAL_NAME)
        }),
    );
    refuse(&driver, cases).await;
}
