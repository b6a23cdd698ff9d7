//! Finding the server.

use super::failure::Failure;
use halfmq_proto::v1::{
    admin_client::AdminClient, queues_client::QueuesClient, streams_client::StreamsClient,
    transactions_client::TransactionsClient,
};
use std::time::Duration;
use tonic::transport::Channel;

/// Long enough for a distant server, short enough for a person.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than any wait a call may ask for, so that it ends only calls that nobody will answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// The largest answer that is read: 256 deliveries of 4 MiB, and what surrounds them.
const ANSWER_BYTES_MAX: usize = 256 * (4 * 1024 * 1024 + 64 * 1024);

/// Where the server is.
#[derive(Debug, clap::Args)]
pub(super) struct Endpoint {
    /// Where the server's gRPC API is
    #[arg(
        long = "endpoint",
        value_name = "URL",
        env = "HALFMQ_ENDPOINT",
        default_value = "http://127.0.0.1:8081",
        global = true
    )]
    url: String,
}

impl Endpoint {
    /// A server that was found by other means.
    pub(super) fn at(url: String) -> Self {
        Self { url }
    }

    pub(super) async fn transactions(&self) -> Result<TransactionsClient<Channel>, Failure> {
        Ok(TransactionsClient::new(self.connect().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) async fn queues(&self) -> Result<QueuesClient<Channel>, Failure> {
        Ok(QueuesClient::new(self.connect().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) async fn admin(&self) -> Result<AdminClient<Channel>, Failure> {
        Ok(AdminClient::new(self.connect().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    pub(super) async fn streams(&self) -> Result<StreamsClient<Channel>, Failure> {
        Ok(StreamsClient::new(self.connect().await?).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    async fn connect(&self) -> Result<Channel, Failure> {
        if !self.url.starts_with("http://") {
            return Err(Failure::Usage(format!(
                "the endpoint '{}' is not a URL such as http://127.0.0.1:8081 (https is not spoken yet)",
                self.url
            )));
        }
        let endpoint = Channel::from_shared(self.url.clone())
            .map_err(|error| Failure::Usage(format!("the endpoint '{}' is no URL: {error}", self.url)))?;
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| Failure::unreachable(&self.url, &error))
    }
}
