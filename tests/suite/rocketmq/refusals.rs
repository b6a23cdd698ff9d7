//! What may not be sent, and who may not come in.

use std::collections::HashMap;

use halfmq_proto::rocketmq as v2;
use halfmq_tests::Coordinator;
use v2::{Code, MessageType};

use super::{Peer, code, message, resource};

fn changed(change: impl FnOnce(&mut v2::Message, &mut v2::SystemProperties)) -> v2::Message {
    let mut message = message("orders", "M1", "body", MessageType::Normal);
    let mut system = message.system_properties.take().expect("it was made with them");
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    message
}

#[tokio::test]
async fn illegal_messages_are_refused_by_the_right_code() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    let long = "x".repeat(300);
    let ancient = prost_types::Timestamp { seconds: -1, nanos: 0 };
    let property = |name: &str| HashMap::from([(name.to_owned(), "value".to_owned())]);
    let cases = [
        (changed(|message, _| message.topic = Some(resource("a topic"))), Code::IllegalTopic),
        (changed(|message, _| message.topic = Some(resource("%DLQ%cart"))), Code::IllegalTopic),
        (changed(|message, _| message.topic = Some(resource(&long[..120]))), Code::IllegalTopic),
        (changed(|_, system| system.message_id.clear()), Code::IllegalMessageId),
        (changed(|_, system| system.message_id = long.clone()), Code::IllegalMessageId),
        (changed(|_, system| system.tag = Some("a|b".into())), Code::IllegalMessageTag),
        (changed(|_, system| system.tag = Some(" ".into())), Code::IllegalMessageTag),
        (changed(|_, system| system.message_group = Some(long.clone())), Code::IllegalMessageGroup),
        (changed(|_, system| system.delivery_timestamp = Some(ancient)), Code::IllegalDeliveryTime),
        (
            changed(|_, system| system.set_message_type(MessageType::Fifo)),
            Code::MessagePropertyConflictWithType,
        ),
        (
            changed(|_, system| system.set_message_type(MessageType::Delay)),
            Code::MessagePropertyConflictWithType,
        ),
        (changed(|_, system| system.set_message_type(MessageType::Priority)), Code::Unsupported),
        (
            changed(|message, _| message.user_properties = property("rocketmq.id")),
            Code::IllegalMessagePropertyKey,
        ),
        (changed(|_, system| system.keys = vec!["k".repeat(65 * 1024)]), Code::MessagePropertiesTooLarge),
        (changed(|message, _| message.user_properties = property("tenant")), Code::Ok),
    ];
    for (message, expected) in cases {
        let answer = peer.send([message.clone()]).await;
        assert_eq!(code(&answer.status), expected, "{message:?}");
    }
    let elsewhere = message("elsewhere", "M2", "body", MessageType::Normal);
    let mixed = peer.send([changed(|_, _| {}), elsewhere]).await;
    assert_eq!(code(&mixed.status), Code::MessageCorrupted, "topics are mixed");
    assert_eq!(code(&peer.send([]).await.status), Code::MessageCorrupted, "no message");
}

#[tokio::test]
async fn callers_without_a_name_or_with_a_malformed_signature_are_refused() {
    let coordinator = Coordinator::start().await;
    let id = |id: &str| ("x-mq-client-id", id.to_owned());
    let authorization = |value: &str| ("authorization", value.to_owned());
    let nobody = "MQv2-HMAC-SHA1 Credential=, SignedHeaders=x-mq-date-time, Signature=00ff";
    for (headers, expected) in [
        (vec![], Code::ClientIdRequired),
        (vec![id(" ")], Code::ClientIdRequired),
        (vec![id(&"x".repeat(128))], Code::BadRequest),
        (vec![id("one"), authorization("Basic YTpi")], Code::Unauthorized),
        (vec![id("one"), authorization("MQv2-HMAC-SHA1")], Code::Unauthorized),
        (vec![id("one"), authorization("MQv2-HMAC-SHA1 Credential=a, Signature=xyz")], Code::Unauthorized),
        (vec![id("one"), authorization(nobody)], Code::Ok),
        (vec![id("one")], Code::Ok),
    ] {
        let peer = Peer::with_headers(&coordinator, headers.clone()).await;
        assert_eq!(peer.heartbeat(v2::ClientType::Producer).await, expected, "{headers:?}");
    }
}
