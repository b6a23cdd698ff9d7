//! Where clients are sent: back where they came from.

use halfmq_proto::rocketmq as v2;
use halfmq_tests::Coordinator;
use v2::{AddressScheme, ClientType, Code, MessageType, Permission};

use super::{Peer, code, endpoints, resource};

#[tokio::test]
async fn route_leads_to_the_address_the_client_came_by() {
    let coordinator = Coordinator::start().await;
    let peer = Peer::new(&coordinator, "one").await;
    let route = peer.route("orders").await;
    assert_eq!(route.message_queues.len(), 4);
    for queue in &route.message_queues {
        let broker = queue.broker.as_ref().expect("a broker");
        assert_eq!((broker.id, &broker.endpoints), (0, &Some(endpoints("127.0.0.1", 5))));
        assert_eq!(queue.permission(), Permission::ReadWrite);
        let kinds: Vec<_> = queue.accept_message_types().collect();
        let all = [MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction];
        assert_eq!(kinds, all, "one library crashes on kinds it does not know");
    }
    assert_eq!(peer.route("orders").await, route, "clients take another route for new queues");
}

#[tokio::test]
async fn unknown_topic_is_said_to_be_unknown() {
    let coordinator = Coordinator::start_with(&[("HALFMQ_AUTO_CREATE_TOPICS", "false")]).await;
    let peer = Peer::new(&coordinator, "one").await;
    assert_eq!(code(&peer.route("orders").await.status), Code::TopicNotFound);
    assert_eq!(code(&peer.route("white space").await.status), Code::IllegalTopic);
}

#[tokio::test]
async fn assignment_is_one_queue_or_as_many_as_keep_an_order() {
    let coordinator = Coordinator::start_with(&[("HALFMQ_ROCKETMQ__FIFO_GROUPS", "line")]).await;
    let peer = Peer::new(&coordinator, "one").await;
    for (group, expected) in [("cart", vec![-1]), ("line", vec![0, 1, 2, 3])] {
        let request = peer.request(v2::QueryAssignmentRequest {
            topic: Some(resource("orders")),
            group: Some(resource(group)),
            endpoints: Some(endpoints("127.0.0.1", 5)),
        });
        let answer = peer.client.clone().query_assignment(request).await.expect("gRPC is OK").into_inner();
        let queues = answer.assignments.iter().filter_map(|assignment| assignment.message_queue.as_ref());
        assert_eq!(queues.map(|queue| queue.id).collect::<Vec<_>>(), expected, "{group}");
    }
}

/// The Python library opens a stream only to an address it has not seen.
#[tokio::test]
async fn deaf_python_client_is_given_a_reason_to_listen() {
    let coordinator = Coordinator::start().await;
    let headers = vec![("x-mq-client-id", "one".to_owned()), ("x-mq-language", "PYTHON".to_owned())];
    let peer = Peer::with_headers(&coordinator, headers).await;
    let scheme = async || peer.route("orders").await.message_queues[0].broker.clone().expect("a broker");
    let scheme = async || scheme().await.endpoints.expect("endpoints").scheme();
    assert_eq!(scheme().await, AddressScheme::IPv4, "at first as it asked");
    assert_eq!(peer.heartbeat(ClientType::Producer).await, Code::Ok);
    assert_eq!(scheme().await, AddressScheme::DomainName, "it lives and has no stream");
    let line = peer.line().await;
    assert_eq!(scheme().await, AddressScheme::DomainName, "and stays");
    drop(line);
}
