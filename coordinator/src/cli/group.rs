//! `halfmq group`: who reads, and how far they are.

use super::{endpoint::Endpoint, failure::Failure, json, output::Output, table, table::Table, text};
use clap::Subcommand;
use halfmq_proto::v1::{
    ConfigureGroupRequest, DescribeGroupRequest, Edge, Group as Described, ListGroupsRequest,
    ResetGroupRequest, RetryPolicy, Start, start::Kind,
};
use prost_types::Timestamp;
use serde_json::json;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Group {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all consumer groups
    List,
    /// Show the retry policy, and for each topic and queue how far the group is
    Describe { group: String },
    /// Create a group or change its retry policy; what is left out gets its default
    Configure {
        group: String,
        /// Deliveries of one message, 1 to 1000; then it is a dead letter [default: 16]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        attempts_max: Option<u32>,
        /// Wait after the first failure; doubles with each further one [default: 1s]
        #[arg(long, value_parser = text::parse_duration)]
        delay: Option<Duration>,
        /// The longest wait [default: 1h]
        #[arg(long, value_parser = text::parse_duration)]
        delay_max: Option<Duration>,
    },
    /// Move the group in one topic; its open deliveries there are forgotten
    Reset {
        group: String,
        #[arg(long)]
        topic: String,
        /// beginning, end, or a time such as 2026-01-02T03:04:05Z
        #[arg(long, value_name = "START", value_parser = start)]
        to: Start,
    },
}

/// Reads a position in a topic from the command line.
pub(super) fn start(text: &str) -> Result<Start, String> {
    let kind = match text {
        "beginning" => Kind::Edge(Edge::Beginning.into()),
        "end" => Kind::Edge(Edge::End.into()),
        time => Kind::Time(time.parse::<Timestamp>().map_err(|_| {
            "expected beginning, end, or a time in RFC 3339 such as 2026-01-02T03:04:05Z".to_owned()
        })?),
    };
    Ok(Start { kind: Some(kind) })
}

impl Group {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let mut admin = self.endpoint.admin().await?;
        match self.action {
            Action::List => {
                let groups = admin.list_groups(ListGroupsRequest {}).await?.into_inner().groups;
                output.answer(
                    || listing(&groups),
                    || json!({ "groups": groups.iter().map(json::group).collect::<Vec<_>>() }),
                )
            }
            Action::Describe { group } => {
                let group = admin.describe_group(DescribeGroupRequest { group }).await?.into_inner();
                output.answer(|| description(&group), || json::group(&group))
            }
            Action::Configure { group, attempts_max, delay, delay_max } => {
                let retry = RetryPolicy {
                    attempts_max: attempts_max.unwrap_or(0),
                    delay: delay.map(text::to_wire).transpose()?,
                    delay_max: delay_max.map(text::to_wire).transpose()?,
                };
                let request = ConfigureGroupRequest { group, retry: Some(retry) };
                let group = admin.configure_group(request).await?.into_inner();
                output.answer(|| description(&group), || json::group(&group))
            }
            Action::Reset { group, topic, to } => {
                let request = ResetGroupRequest { group, topic, start: Some(to) };
                let group = admin.reset_group(request).await?.into_inner();
                output.answer(|| description(&group), || json::group(&group))
            }
        }
    }
}

fn listing(groups: &[Described]) -> String {
    let mut table = Table::new(["GROUP", "TOPICS", "UNDELIVERED", "IN FLIGHT", "DEAD LETTERS"]);
    for group in groups {
        table.row([
            group.group.clone(),
            group.topics.len().to_string(),
            group.topics.iter().map(|topic| topic.undelivered).sum::<u64>().to_string(),
            group.topics.iter().map(|topic| topic.in_flight).sum::<u64>().to_string(),
            group.dead_letters.to_string(),
        ]);
    }
    table.render("No groups. A group exists once it has received.")
}

fn description(group: &Described) -> String {
    let mut facts = vec![("group", group.group.clone()), ("dead letters", group.dead_letters.to_string())];
    if let Some(retry) = &group.retry {
        facts.push(("attempts", retry.attempts_max.to_string()));
        facts.push(("retry delay", text::duration(retry.delay.as_ref())));
        facts.push(("retry delay, longest", text::duration(retry.delay_max.as_ref())));
    }
    let mut table = Table::new(["TOPIC", "QUEUE", "SETTLED BELOW", "NEXT", "IN FLIGHT", "FILTER"]);
    for backlog in &group.topics {
        for queue in &backlog.queues {
            table.row([
                backlog.topic.clone(),
                queue.queue.to_string(),
                queue.floor.to_string(),
                queue.next.to_string(),
                queue.in_flight.to_string(),
                text::or_nothing(&backlog.tag_filter).to_owned(),
            ]);
        }
    }
    [table::facts(&facts), table.render("It reads no topic.")].join("\n\n")
}
