//! What a client is told in return for its settings: its own, with what the server decides.

use std::time::Duration;

use halfmq_core::{ConsumerGroup, RetryPolicy, TopicName, limits};
use halfmq_proto::rocketmq as v2;
use v2::retry_policy::Strategy;
use v2::settings::PubSub;
use v2::{ClientType, Language};

use super::clients::Client;
use super::{Door, from_wire, to_wire};
use crate::service::Refused;

/// Messages of one receive of a push consumer.
const BATCH: i32 = 128;
/// How long a push consumer's receive waits.
const POLL: Duration = Duration::from_secs(20);
/// Waits that are written out one by one; the last one stays in force.
const WAITS_MAX: u32 = 64;
/// How often a send is tried, and the waits between.
const SEND_ATTEMPTS: i32 = 3;
const SEND_WAIT: Duration = Duration::from_millis(10);
const SEND_WAIT_MAX: Duration = Duration::from_secs(1);

impl Door {
    /// Learns what the client says of itself, and answers.
    pub(super) async fn settle_settings(
        &self,
        client: &Client,
        mut settings: v2::Settings,
    ) -> Result<v2::TelemetryCommand, Refused> {
        let language = settings.user_agent.as_ref().map_or(Language::Unspecified, v2::Ua::language);
        client.learn(settings.client_type(), language, topics(&settings));
        let policy = match &mut settings.pub_sub {
            Some(PubSub::Subscription(subscription)) => {
                let group = subscription.group.as_ref().and_then(|group| from_wire::group(Some(group)).ok());
                subscription.fifo =
                    Some(group.as_ref().is_some_and(|group| self.settings.fifo_groups.contains(group)));
                subscription.receive_batch_size = Some(BATCH);
                if settings.client_type != Some(ClientType::SimpleConsumer.into()) {
                    subscription.long_polling_timeout = Some(to_wire::duration(POLL));
                }
                backoff(&self.retry_policy(group).await?, language)
            }
            Some(PubSub::Publishing(publishing)) => {
                publishing.max_body_size = i32::try_from(limits::BODY_BYTES_MAX).unwrap_or(i32::MAX);
                publishing.validate_message_type = true;
                sending()
            }
            None => sending(),
        };
        settings.backoff_policy = Some(policy);
        settings.metric = Some(v2::Metric { on: false, endpoints: None });
        Ok(to_wire::command(v2::telemetry_command::Command::Settings(settings)))
    }

    async fn retry_policy(&self, group: Option<ConsumerGroup>) -> Result<RetryPolicy, Refused> {
        let Some(group) = group else { return Ok(RetryPolicy::default()) };
        match self.service.describe_group(group).await {
            Ok(view) => Ok(view.retry),
            // It begins with its first receive, with the policy of all new groups.
            Err(Refused::Rejected(_)) => Ok(RetryPolicy::default()),
            Err(unavailable @ Refused::Unavailable(_)) => Err(unavailable),
        }
    }
}

/// Topics it sends to.
fn topics(settings: &v2::Settings) -> std::collections::BTreeSet<TopicName> {
    match &settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.topics.iter().filter_map(|topic| from_wire::topic(Some(topic)).ok()).collect()
        }
        Some(PubSub::Subscription(_)) | None => std::collections::BTreeSet::new(),
    }
}

fn sending() -> v2::RetryPolicy {
    v2::RetryPolicy { max_attempts: SEND_ATTEMPTS, strategy: Some(exponential(SEND_WAIT, SEND_WAIT_MAX)) }
}

/// The group's retry policy, in the one form that the library understands: Python's knows lists only, the
/// one for Node.js takes a list for a reason to give up at once.
fn backoff(policy: &RetryPolicy, language: Language) -> v2::RetryPolicy {
    let strategy = if language == Language::Python {
        let waits = (1..policy.attempts_max.clamp(2, WAITS_MAX)).map(|attempt| policy.wait(attempt));
        Strategy::CustomizedBackoff(v2::CustomizedBackoff { next: waits.map(to_wire::duration).collect() })
    } else {
        exponential(policy.delay, policy.delay_max)
    };
    v2::RetryPolicy {
        max_attempts: i32::try_from(policy.attempts_max).unwrap_or(i32::MAX),
        strategy: Some(strategy),
    }
}

fn exponential(initial: Duration, max: Duration) -> Strategy {
    Strategy::ExponentialBackoff(v2::ExponentialBackoff {
        initial: Some(to_wire::duration(initial)),
        max: Some(to_wire::duration(max)),
        multiplier: 2.0,
    })
}
