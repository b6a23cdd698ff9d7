//! `halfmq dlq`: messages a consumer group failed on.

mod replay;

use super::{consent, endpoint::Endpoint, failure::Failure, json, output::Output, table, table::Table, text};
use clap::Subcommand;
use halfmq_proto::v1::{DeadLetter, ListDeadLettersRequest, SelectDeadLetters, ShowDeadLetterRequest};
use serde_json::json;

/// What one page holds at most.
const PAGE_MAX: u32 = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Dlq {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the dead letters of a consumer group, oldest first
    List {
        group: String,
        /// List at most this many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one dead letter with its body
    Show { group: String, number: u64 },
    /// Give dead letters back to their group, with attempts counted anew
    Replay(replay::Replay),
    /// Forget dead letters
    Purge {
        #[command(flatten)]
        selection: Selection,
        /// Do not ask before all are forgotten
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
struct Selection {
    group: String,
    /// Numbers as `dlq list` shows them
    #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
    numbers: Vec<u64>,
    /// All of this group
    #[arg(long)]
    all: bool,
}

impl From<Selection> for SelectDeadLetters {
    fn from(Selection { group, numbers, all }: Selection) -> Self {
        Self { group, numbers, all }
    }
}

impl Dlq {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let endpoint = &self.endpoint;
        match self.action {
            Action::List { group, limit } => list(endpoint, output, group, limit).await,
            Action::Show { group, number } => {
                let request = ShowDeadLetterRequest { group, number };
                let letter = endpoint.admin().await?.show_dead_letter(request).await?.into_inner();
                output.answer(|| description(&letter), || json::dead_letter(&letter))
            }
            Action::Replay(replay) => replay.run(endpoint, output).await,
            Action::Purge { selection, yes } => {
                if selection.all && !yes {
                    consent::obtain(&format!("Forget every dead letter of group {}?", selection.group))?;
                }
                let request = SelectDeadLetters::from(selection);
                let changed = endpoint.admin().await?.purge_dead_letters(request).await?.into_inner();
                report(output, changed.count, "forgotten")
            }
        }
    }
}

async fn list(endpoint: &Endpoint, output: Output, group: String, limit: u32) -> Result<(), Failure> {
    let mut admin = endpoint.admin().await?;
    let mut request = ListDeadLettersRequest { group, ..ListDeadLettersRequest::default() };
    let mut letters = Vec::new();
    let mut left = limit;
    while left > 0 {
        request.page_size = left.min(PAGE_MAX);
        let page = admin.list_dead_letters(request.clone()).await?.into_inner();
        left = left.saturating_sub(u32::try_from(page.dead_letters.len()).unwrap_or(u32::MAX));
        letters.extend(page.dead_letters);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let more = !request.page_token.is_empty();
    output.answer(
        || listing(&letters),
        || json!({ "dead_letters": letters.iter().map(json::dead_letter).collect::<Vec<_>>(), "more": more }),
    )?;
    if more {
        output.note(&format!("There are more; these are the first {limit}. See further with --limit."))?;
    }
    Ok(())
}

fn listing(letters: &[DeadLetter]) -> String {
    let mut table = Table::new(["NUMBER", "MESSAGE", "FROM", "ATTEMPTS", "SINCE", "REASON"]);
    for letter in letters {
        let origin = letter.origin.clone().unwrap_or_default();
        table.row([
            letter.number.to_string(),
            letter.message_id.clone(),
            text::place(origin.place.as_ref()),
            origin.attempts.to_string(),
            text::time(origin.at.as_ref()),
            text::or_nothing(&origin.reason).to_owned(),
        ]);
    }
    table.render("No dead letters.")
}

fn description(letter: &DeadLetter) -> String {
    let origin = letter.origin.clone().unwrap_or_default();
    let message = letter.message.clone().unwrap_or_default();
    let mut facts = vec![
        ("number", letter.number.to_string()),
        ("message", letter.message_id.clone()),
        ("group", origin.group),
        ("from", text::place(origin.place.as_ref())),
        ("attempts", origin.attempts.to_string()),
        ("since", text::time(origin.at.as_ref())),
        ("reason", text::or_nothing(&origin.reason).to_owned()),
        ("tag", text::or_nothing(&message.tag).to_owned()),
        ("keys", text::or_nothing(&message.keys.join(" ")).to_owned()),
    ];
    let mut headers: Vec<_> = message.headers.iter().collect();
    headers.sort();
    facts.extend(headers.into_iter().map(|(name, value)| ("header", format!("{name}={value}"))));
    format!("{}\n\n{}", table::facts(&facts), text::body(&message.body))
}

fn report(output: Output, count: u64, what: &str) -> Result<(), Failure> {
    output.answer(|| format!("{} {what}.", text::count(count, "dead letter")), || json!({ "count": count }))
}
