//! The native gRPC API, `halfmq.v1`: unary calls that a stranger can use from any language, the
//! stream of checks, and streams that pipeline and batch, the fast path of the SDK.

mod admin;
mod checks;
mod consume;
pub mod from_wire;
mod produce;
mod queues;
mod status;
mod streams;
pub mod to_wire;
mod transactions;

use std::sync::Arc;

use halfmq_proto::v1::admin_server::AdminServer;
use halfmq_proto::v1::queues_server::QueuesServer;
use halfmq_proto::v1::streams_server::StreamsServer;
use halfmq_proto::v1::transactions_server::TransactionsServer;
use tonic::service::Routes;

use crate::service::Service;

/// A request at the most: the largest transaction, with room for its frame.
const REQUEST_BYTES_MAX: usize = halfmq_core::limits::TRANSACTION_BYTES_MAX + 1024 * 1024;

/// One door to the service, shared by all calls.
#[derive(Clone)]
struct Door {
    service: Arc<Service>,
}

/// All services of `halfmq.v1`.
#[must_use]
pub fn routes(service: Arc<Service>) -> Routes {
    let door = Door { service };
    Routes::new(TransactionsServer::new(door.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(QueuesServer::new(door.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(StreamsServer::new(door.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(AdminServer::new(door))
}
