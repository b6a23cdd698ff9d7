//! The connection to a coordinator that producers, consumers and the admin share.

mod backoff;
mod operations;
mod options;
mod produce;

use std::sync::Arc;
use std::time::Duration;

use halfmq_proto::v1::{
    admin_client::AdminClient, queues_client::QueuesClient, streams_client::StreamsClient,
    transactions_client::TransactionsClient,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

pub(crate) use backoff::Backoff;
pub use options::{BackoffOptions, ClientOptions, Transport};
use produce::Produce;

use crate::error::{Error, Unavailable};

/// `call!(client, stub.method, request)`: one unary call, repeated while nobody answers.
macro_rules! call {
    ($client:expr, $stub:ident . $method:ident, $request:expr) => {{
        let (client, request) = (&$client, $request);
        client
            .retry(|| {
                let (mut stub, request) = (client.$stub(), request.clone());
                async move { $crate::client::unary(stub.$method(request)).await }
            })
            .await
    }};
}
pub(crate) use call;

/// Calls that wait for the connection at most; more wait in their callers.
const QUEUED_CALLS_MAX: usize = 1_024;

/// A connection to a coordinator, cheap to clone: all clones share it.
///
/// It connects when it is first used and again whenever it broke. Every call of the SDK may be
/// repeated safely, so calls that got no answer are repeated until [`ClientOptions::call_timeout`].
///
/// ```no_run
/// # async fn example() -> Result<(), halfmq_client::Error> {
/// let client = halfmq_client::Client::connect("http://127.0.0.1:8081")?;
/// client.admin().create_topic("orders", 4).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    options: Arc<ClientOptions>,
    produce: Arc<Produce>,
}

impl Client {
    /// A client with default options. Nothing is sent yet; must be called in a Tokio runtime.
    pub fn connect(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::connect_with(endpoint, ClientOptions::default())
    }

    /// A client with these options. Nothing is sent yet; must be called in a Tokio runtime.
    pub fn connect_with(endpoint: impl Into<String>, options: ClientOptions) -> Result<Self, Error> {
        let endpoint = endpoint.into();
        let channel = Endpoint::from_shared(endpoint.clone())
            .map_err(|error| Error::IllegalEndpoint { endpoint, message: error.to_string() })?
            .tcp_nodelay(true)
            .buffer_size(QUEUED_CALLS_MAX)
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self::over(channel, options))
    }

    /// A client over a channel of the caller's own making: TLS, a Unix socket, a pipe in a test.
    pub fn over(channel: Channel, options: ClientOptions) -> Self {
        Self { channel, options: Arc::new(options), produce: Arc::default() }
    }

    /// Topics and groups.
    pub fn admin(&self) -> crate::Admin {
        crate::Admin::new(self.clone())
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub(crate) fn transactions(&self) -> TransactionsClient<Channel> {
        TransactionsClient::new(self.channel.clone())
            .max_decoding_message_size(self.options.decoded_bytes_max)
    }

    pub(crate) fn queues(&self) -> QueuesClient<Channel> {
        QueuesClient::new(self.channel.clone()).max_decoding_message_size(self.options.decoded_bytes_max)
    }

    pub(crate) fn administration(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(self.options.decoded_bytes_max)
    }

    pub(crate) fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::new(self.channel.clone()).max_decoding_message_size(self.options.decoded_bytes_max)
    }

    /// Repeats a call that got no answer, with growing pauses, until the call's time is over.
    pub(crate) async fn retry<T, F, Fut>(&self, mut call: F) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.options.call_timeout;
        let mut backoff = Backoff::new(self.options.backoff);
        let mut attempts = 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = match attempt(self.options.attempt_timeout.min(left), call()).await {
                Err(Error::Unavailable(Unavailable { message, .. })) => message,
                settled => return settled,
            };
            let pause = backoff.pause();
            if Instant::now() + pause >= deadline {
                return Err(Unavailable { attempts, message }.into());
            }
            tracing::debug!(attempts, ?pause, message, "no answer, trying again");
            tokio::time::sleep(pause).await;
            attempts += 1;
        }
    }
}

/// One try, without repetition.
pub(crate) async fn attempt<T>(
    time_max: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(time_max, call).await.unwrap_or_else(|_elapsed| Err(Error::timed_out(time_max)))
}

/// The answer to a unary call.
pub(crate) async fn unary<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    call.await.map(Response::into_inner).map_err(|status| Error::from_status(&status))
}
