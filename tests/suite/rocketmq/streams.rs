//! What clients are told in return for their settings.

use halfmq_proto::rocketmq as v2;
use halfmq_tests::Coordinator;
use v2::retry_policy::Strategy;
use v2::settings::PubSub;
use v2::{ClientType, Code, Language};

use super::{Peer, code, resource};

fn settings(language: Language, kind: ClientType) -> v2::Settings {
    let pub_sub = if kind == ClientType::Producer {
        PubSub::Publishing(v2::Publishing { topics: vec![resource("orders")], ..v2::Publishing::default() })
    } else {
        PubSub::Subscription(v2::Subscription {
            group: Some(resource("cart")),
            ..v2::Subscription::default()
        })
    };
    v2::Settings {
        client_type: Some(kind.into()),
        user_agent: Some(v2::Ua { language: language.into(), ..v2::Ua::default() }),
        pub_sub: Some(pub_sub),
        ..v2::Settings::default()
    }
}

#[tokio::test]
async fn settings_come_back_complete() {
    let coordinator = Coordinator::start_with(&[("HALFMQ_ROCKETMQ__FIFO_GROUPS", "other, cart")]).await;
    for (language, kind, is_list) in [
        (Language::Java, ClientType::Producer, false),
        (Language::Golang, ClientType::PushConsumer, false),
        (Language::Python, ClientType::PushConsumer, true),
        (Language::NodeJs, ClientType::PushConsumer, false),
        (Language::Rust, ClientType::SimpleConsumer, false),
    ] {
        let mut line = Peer::new(&coordinator, "one").await.line().await;
        line.settings(settings(language, kind)).await;
        let echo = line.echo().await;
        let policy = echo.backoff_policy.expect("one library crashes without it");
        assert!(policy.max_attempts > 0);
        assert_eq!(matches!(policy.strategy, Some(Strategy::CustomizedBackoff(_))), is_list, "{language:?}");
        assert_eq!(echo.metric.map(|metric| metric.on), Some(false));
        match echo.pub_sub.expect("as it came") {
            PubSub::Publishing(publishing) => {
                assert_eq!(publishing.max_body_size, 4 << 20);
                assert!(publishing.validate_message_type);
                assert_eq!(publishing.topics, [resource("orders")]);
            }
            PubSub::Subscription(subscription) => {
                assert_eq!(subscription.fifo, Some(true), "it is on the list");
                assert_eq!(subscription.receive_batch_size, Some(128));
            }
        }
    }
}

/// It listens only after it knows the routes of all its topics.
#[tokio::test]
async fn node_js_hears_its_settings_three_times() {
    let coordinator = Coordinator::start().await;
    let mut line = Peer::new(&coordinator, "one").await.line().await;
    line.settings(settings(Language::NodeJs, ClientType::Producer)).await;
    let first = line.echo().await;
    assert_eq!(line.echo().await, first);
    assert_eq!(line.echo().await, first);
}

#[tokio::test]
async fn stream_of_nobody_is_refused_with_a_status() {
    let coordinator = Coordinator::start().await;
    let mut line = Peer::with_headers(&coordinator, Vec::new()).await.line().await;
    assert_eq!(code(&line.next().await.status), Code::ClientIdRequired);
}
