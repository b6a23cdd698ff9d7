//! `halfmq topic`: what messages are sent to.

use super::{consent, endpoint::Endpoint, failure::Failure, json, output::Output, table, table::Table, text};
use clap::Subcommand;
use halfmq_proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest, ListTopicsRequest, Reason,
    Topic as Described,
};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(super) struct Topic {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a topic; the same again is fine
    Create {
        topic: String,
        /// Queues, 1 to 256 [default: the server's topic_queues]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
        queues: Option<u32>,
    },
    /// List all topics
    List,
    /// Show queues, open transactions and the groups that read it
    Describe { topic: String },
    /// Delete a topic; fine if it is gone already
    Delete {
        topic: String,
        /// Delete undelivered messages with it
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Topic {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let endpoint = &self.endpoint;
        match self.action {
            Action::Create { topic, queues } => create(endpoint, output, topic, queues).await,
            Action::List => list(endpoint, output).await,
            Action::Describe { topic } => describe(endpoint, output, topic).await,
            Action::Delete { topic, force, yes } => {
                if force && !yes {
                    consent::obtain(&format!("Delete topic {topic} and every undelivered message in it?"))?;
                }
                delete(endpoint, output, DeleteTopicRequest { topic, force }).await
            }
        }
    }
}

async fn create(
    endpoint: &Endpoint,
    output: Output,
    topic: String,
    queues: Option<u32>,
) -> Result<(), Failure> {
    let request = CreateTopicRequest { topic, queues: queues.unwrap_or(0) };
    let topic = endpoint.admin().await?.create_topic(request).await?.into_inner();
    let queues = text::count(topic.queues.len() as u64, "queue");
    output.answer(|| format!("Topic {} with {queues}.", topic.topic), || json::topic(&topic))
}

async fn list(endpoint: &Endpoint, output: Output) -> Result<(), Failure> {
    let topics = endpoint.admin().await?.list_topics(ListTopicsRequest {}).await?.into_inner().topics;
    output.answer(
        || {
            let mut table = Table::new(["TOPIC", "QUEUES", "MESSAGES KEPT", "OPEN TX", "DELAYED", "GROUPS"]);
            for topic in &topics {
                table.row([
                    topic.topic.clone(),
                    topic.queues.len().to_string(),
                    kept(topic).to_string(),
                    topic.open_transactions.to_string(),
                    topic.delayed.to_string(),
                    topic.groups.len().to_string(),
                ]);
            }
            table.render("No topics.")
        },
        || json!({ "topics": topics.iter().map(json::topic).collect::<Vec<_>>() }),
    )
}

fn kept(topic: &Described) -> u64 {
    topic.queues.iter().map(|queue| queue.next.saturating_sub(queue.oldest)).sum()
}

async fn describe(endpoint: &Endpoint, output: Output, topic: String) -> Result<(), Failure> {
    let topic = endpoint.admin().await?.describe_topic(DescribeTopicRequest { topic }).await?.into_inner();
    output.answer(|| description(&topic), || json::topic(&topic))
}

fn description(topic: &Described) -> String {
    let facts = table::facts(&[
        ("topic", topic.topic.clone()),
        ("messages kept", kept(topic).to_string()),
        ("open transactions", topic.open_transactions.to_string()),
        ("delayed messages", topic.delayed.to_string()),
    ]);
    let mut queues = Table::new(["QUEUE", "OLDEST", "NEXT"]);
    for queue in &topic.queues {
        queues.row([queue.queue.to_string(), queue.oldest.to_string(), queue.next.to_string()]);
    }
    let mut groups = Table::new(["GROUP", "UNDELIVERED", "IN FLIGHT", "FILTER"]);
    for backlog in &topic.groups {
        groups.row([
            backlog.group.clone(),
            backlog.undelivered.to_string(),
            backlog.in_flight.to_string(),
            text::or_nothing(&backlog.tag_filter).to_owned(),
        ]);
    }
    [facts, queues.render("No queues."), groups.render("No group reads it.")].join("\n\n")
}

async fn delete(endpoint: &Endpoint, output: Output, request: DeleteTopicRequest) -> Result<(), Failure> {
    let topic = request.topic.clone();
    let outcome = endpoint.admin().await?.delete_topic(request).await.map_err(Failure::from);
    let deleted = match outcome {
        Ok(_) => true,
        Err(failure) if failure.is(Reason::UnknownTopic) => false,
        Err(failure) => return Err(failure),
    };
    output.answer(
        || if deleted { format!("Topic {topic} deleted.") } else { format!("There is no topic {topic}.") },
        || json!({ "topic": topic, "deleted": deleted }),
    )
}
