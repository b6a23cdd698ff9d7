//! `halfmq dlq replay`: dead letters back to their group, all or some of them, not faster than it can bear.

use std::time::Duration;

use clap::Args;
use halfmq_proto::v1::{DeadLetter, ListDeadLettersRequest, SelectDeadLetters};

use super::super::{endpoint::Endpoint, failure::Failure, output::Output};
use super::{PAGE_MAX, Selection, report};

/// Letters of one call.
const BATCH_MAX: usize = 1_000;
/// Batches in a second, when there is a rate.
const BATCHES_PER_SECOND: u32 = 10;

/// Which, and how fast.
#[derive(Debug, Args)]
pub(super) struct Replay {
    #[command(flatten)]
    selection: Selection,
    /// Of them, only those that were released to this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Of them, only those whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// At most so many in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

impl Replay {
    pub(super) async fn run(self, endpoint: &Endpoint, output: Output) -> Result<(), Failure> {
        let mut admin = endpoint.admin().await?;
        let (batch, pause) = match self.rate {
            Some(rate) if rate < BATCHES_PER_SECOND => (1, Duration::from_secs(1) / rate),
            Some(rate) => ((rate / BATCHES_PER_SECOND) as usize, Duration::from_secs(1) / BATCHES_PER_SECOND),
            None => (BATCH_MAX, Duration::ZERO),
        };
        let numbers = self.numbers(endpoint).await?;
        let mut count = 0;
        let mut first = true;
        for numbers in numbers.chunks(batch.clamp(1, BATCH_MAX)) {
            if !first {
                tokio::time::sleep(pause).await;
            }
            first = false;
            let select = SelectDeadLetters {
                group: self.selection.group.clone(),
                numbers: numbers.to_vec(),
                all: false,
            };
            count += admin.replay_dead_letters(select).await?.into_inner().count;
        }
        report(output, count, "given back to the group")
    }

    /// The letters that are there now: what fails again meanwhile is not replayed a second time.
    async fn numbers(&self, endpoint: &Endpoint) -> Result<Vec<u64>, Failure> {
        if !self.selection.all && self.topic.is_none() && self.reason.is_none() {
            return Ok(self.selection.numbers.clone());
        }
        let mut admin = endpoint.admin().await?;
        let mut request = ListDeadLettersRequest {
            group: self.selection.group.clone(),
            page_size: PAGE_MAX,
            page_token: String::new(),
        };
        let mut numbers = Vec::new();
        loop {
            let page = admin.list_dead_letters(request.clone()).await?.into_inner();
            let wanted = page.dead_letters.iter().filter(|letter| self.wants(letter));
            numbers.extend(wanted.map(|letter| letter.number));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(numbers);
            }
        }
    }

    fn wants(&self, letter: &DeadLetter) -> bool {
        let origin = letter.origin.clone().unwrap_or_default();
        let place = origin.place.unwrap_or_default();
        (self.selection.all || self.selection.numbers.contains(&letter.number))
            && self.topic.as_ref().is_none_or(|topic| *topic == place.topic)
            && self.reason.as_ref().is_none_or(|reason| origin.reason.contains(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halfmq_proto::v1::{DeadLetterOrigin, Place};

    #[test]
    fn filters_must_all_agree() {
        let letter = |number, topic: &str, reason: &str| DeadLetter {
            number,
            origin: Some(DeadLetterOrigin {
                place: Some(Place { topic: topic.into(), ..Place::default() }),
                reason: reason.into(),
                ..DeadLetterOrigin::default()
            }),
            ..DeadLetter::default()
        };
        let letters =
            [letter(0, "orders", "no stock"), letter(1, "orders", "timeout"), letter(2, "cart", "timeout")];
        let (all, some) = (vec![], vec![0, 1]);
        for (numbers, topic, reason, expected) in [
            (&all, None, None, vec![0, 1, 2]),
            (&all, Some("orders"), None, vec![0, 1]),
            (&all, None, Some("time"), vec![1, 2]),
            (&all, Some("orders"), Some("time"), vec![1]),
            (&some, None, Some("time"), vec![1]),
        ] {
            let selection =
                Selection { group: "g".into(), numbers: numbers.clone(), all: numbers.is_empty() };
            let (topic, reason) = (topic.map(str::to_owned), reason.map(str::to_owned));
            let replay = Replay { selection, topic, reason, rate: None };
            let found: Vec<_> =
                letters.iter().filter(|letter| replay.wants(letter)).map(|letter| letter.number).collect();
            assert_eq!(found, expected, "{numbers:?} {:?} {:?}", replay.topic, replay.reason);
        }
    }
}
