//! Where topics are: here. Every queue of every topic is at the address the client came by.

use halfmq_core::{TopicName, limits};
use halfmq_proto::rocketmq as v2;
use tonic::Request;
use v2::{ClientType, Code, MessageType, Permission};

use super::status::Refusal;
use super::{Door, from_wire, to_wire};
use crate::service::Refused;

const BROKER: &str = "halfmq";
/// Any topic takes messages of all these kinds, in any mix.
const KINDS: [MessageType; 4] =
    [MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction];
/// The queue of a push consumer that reads all queues of its topic.
const ANY_QUEUE: i32 = -1;

impl Door {
    pub(super) async fn query_route(
        &self,
        request: Request<v2::QueryRouteRequest>,
    ) -> Result<v2::QueryRouteResponse, Refusal> {
        let caller = self.caller(request.metadata())?;
        let client = self.clients.enter(&caller)?;
        let v2::QueryRouteRequest { topic, endpoints } = request.into_inner();
        let name = from_wire::topic(topic.as_ref())?;
        let count = self.queues(&name).await?;
        client.looks_for(&name);
        let mut endpoints = here(endpoints)?;
        let scheme = client.scheme(endpoints.scheme());
        endpoints.set_scheme(scheme);
        let queue = |id| queue(&name, id, endpoints.clone(), KINDS.map(i32::from).to_vec());
        Ok(v2::QueryRouteResponse { status: None, message_queues: (0..count).map(queue).collect() })
    }

    /// Queues only in name: order is kept by message group, and any receive serves all queues. A consumer
    /// whose library works off one queue message by message gets as many as the topic has.
    pub(super) async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Result<v2::QueryAssignmentResponse, Refusal> {
        let caller = self.caller(request.metadata())?;
        let client = self.clients.enter(&caller)?;
        let v2::QueryAssignmentRequest { topic, group, endpoints } = request.into_inner();
        let name = from_wire::topic(topic.as_ref())?;
        let group = from_wire::group(group.as_ref())?;
        let count = self.queues(&name).await?;
        client.beat(ClientType::Unspecified);
        let endpoints = here(endpoints)?;
        let ids = if self.settings.fifo_groups.contains(&group) { 0..count } else { ANY_QUEUE..0 };
        let queue = |id| queue(&name, id, endpoints.clone(), Vec::new());
        let assignment = |id| v2::Assignment { message_queue: Some(queue(id)) };
        Ok(v2::QueryAssignmentResponse { status: None, assignments: ids.map(assignment).collect() })
    }

    async fn queues(&self, topic: &TopicName) -> Result<i32, Refusal> {
        let described = match self.service.describe_topic(topic.clone()).await {
            Err(Refused::Rejected(_)) if self.service.creates_topics() && !topic.is_dead_letter() => {
                self.service.create_topic(topic.clone(), 0).await
            }
            described => described,
        };
        Ok(i32::try_from(described?.queues.len()).unwrap_or(i32::from(u16::MAX)))
    }
}

const _: () = assert!(limits::QUEUES_MAX < 0xffff, "the number of queues fits");

fn here(endpoints: Option<v2::Endpoints>) -> Result<v2::Endpoints, Refusal> {
    let given = endpoints.filter(|endpoints| !endpoints.addresses.is_empty());
    given.ok_or_else(|| Refusal::new(Code::IllegalAccessPoint, "the endpoints are missing"))
}

fn queue(topic: &TopicName, id: i32, endpoints: v2::Endpoints, kinds: Vec<i32>) -> v2::MessageQueue {
    v2::MessageQueue {
        topic: Some(to_wire::topic(topic)),
        id,
        permission: Permission::ReadWrite.into(),
        broker: Some(v2::Broker { name: BROKER.to_owned(), id: 0, endpoints: Some(endpoints) }),
        accept_message_types: kinds,
    }
}
