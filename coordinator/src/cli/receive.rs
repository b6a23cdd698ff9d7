//! `halfmq receive`: print first, acknowledge then. What was not printed comes again.

use super::{endpoint::Endpoint, failure::Failure, group, json, output::Output, text};
use halfmq_proto::v1::{AckRequest, Delivery, ReceiveRequest, Start, queues_client::QueuesClient};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// What one call may ask for.
const BATCH_MAX: u32 = 256;
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Receive {
    topic: String,
    /// Consumer group; made when it receives for the first time
    #[arg(long, value_name = "G")]
    group: String,
    /// Stop after this many messages
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// How long to wait for the first message, such as 5s [default: not at all]
    #[arg(long, value_name = "D", value_parser = text::parse_duration)]
    wait: Option<Duration>,
    /// Leave the messages to come again once they are visible
    #[arg(long)]
    no_ack: bool,
    /// Tags joined by "||"; messages with other tags are settled unseen
    #[arg(long, value_name = "TAGS")]
    filter: Option<String>,
    /// How long the messages stay hidden from the rest of the group [default: the server's, 30s]
    #[arg(long, value_name = "D", value_parser = text::parse_duration)]
    invisible: Option<Duration>,
    /// Where a group that is new to the topic begins: beginning, end, or a time [default: beginning]
    #[arg(long, value_name = "START", value_parser = group::start)]
    start: Option<Start>,
    #[command(flatten)]
    endpoint: Endpoint,
}

impl Receive {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let mut queues = self.endpoint.queues().await?;
        let mut wait = Wait::new(self.wait.unwrap_or_default());
        let mut left = self.max;
        while left > 0 {
            let asked = wait.next();
            let deliveries = self.receive(&mut queues, left, asked).await?;
            if deliveries.is_empty() {
                if wait.goes_on() {
                    continue;
                }
                break;
            }
            // The wait is for the first message; the rest is what is there.
            wait.end();
            left = left.saturating_sub(u32::try_from(deliveries.len()).unwrap_or(u32::MAX));
            for delivery in &deliveries {
                output.answer(|| readable(delivery), || json::delivery(delivery))?;
            }
            if !self.no_ack {
                self.ack(&mut queues, deliveries).await?;
            }
        }
        if left == self.max {
            output.note("No message.")?;
        }
        Ok(())
    }

    async fn receive(
        &self,
        queues: &mut QueuesClient<Channel>,
        left: u32,
        wait: Duration,
    ) -> Result<Vec<Delivery>, Failure> {
        let request = ReceiveRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            max_messages: left.min(BATCH_MAX),
            wait: (!wait.is_zero()).then(|| text::to_wire(wait)).transpose()?,
            invisible: self.invisible.map(text::to_wire).transpose()?,
            tag_filter: self.filter.clone().unwrap_or_default(),
            start: self.start,
        };
        Ok(queues.receive(request).await?.into_inner().deliveries)
    }

    async fn ack(
        &self,
        queues: &mut QueuesClient<Channel>,
        deliveries: Vec<Delivery>,
    ) -> Result<(), Failure> {
        let request = AckRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            receipt_handles: deliveries.iter().map(|delivery| delivery.receipt_handle.clone()).collect(),
        };
        let results = queues.ack(request).await?.into_inner().results;
        let refused: Vec<String> = deliveries
            .iter()
            .zip(&results)
            .filter(|(_, result)| !result.ok)
            .map(|(delivery, result)| {
                format!(
                    "{}: {} ({})",
                    delivery.message_id,
                    text::safe(&result.message),
                    text::safe(&result.reason)
                )
            })
            .collect();
        if refused.is_empty() && results.len() == deliveries.len() {
            return Ok(());
        }
        Err(Failure::Partly(format!(
            "{} printed above not acknowledged, so they come again:\n{}",
            text::count((refused.len() + deliveries.len().saturating_sub(results.len())) as u64, "message"),
            refused.join("\n")
        )))
    }
}

/// A wait of any length, in pieces that one call may ask for.
struct Wait {
    until: Option<Instant>,
}

impl Wait {
    fn new(whole: Duration) -> Self {
        Self { until: (!whole.is_zero()).then(|| Instant::now() + whole) }
    }

    /// How long the next call waits. A piece that reaches the end is the last.
    fn next(&mut self) -> Duration {
        let Some(until) = self.until else { return Duration::ZERO };
        let left = until.saturating_duration_since(Instant::now());
        if left <= WAIT_MAX {
            self.until = None;
        }
        left.min(WAIT_MAX)
    }

    fn goes_on(&self) -> bool {
        self.until.is_some()
    }

    fn end(&mut self) {
        self.until = None;
    }
}

fn readable(delivery: &Delivery) -> String {
    let mut facts = vec![
        text::place(delivery.place.as_ref()),
        delivery.message_id.clone(),
        format!("released {}", text::time(delivery.released_at.as_ref())),
    ];
    if delivery.attempt > 1 {
        facts.push(format!("attempt {}", delivery.attempt));
    }
    if let Some(origin) = &delivery.dead_letter {
        facts.push(format!("dead letter of {}: {}", text::safe(&origin.group), text::safe(&origin.reason)));
    }
    let message = delivery.message.clone().unwrap_or_default();
    if !message.tag.is_empty() {
        facts.push(format!("tag {}", text::safe(&message.tag)));
    }
    if !message.keys.is_empty() {
        facts.push(format!("keys {}", text::safe(&message.keys.join(" "))));
    }
    format!("{}\n{}\n", facts.join("  "), text::body(&message.body))
}
