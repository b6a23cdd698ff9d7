//! Loss detection: every message names the one before it, so a receiver can prove that none is missing.
//!
//! ```text
//!   queue:       … (shop, 7, before it 5) (shop, 8, before it 7) (shop, 12, before it 8) …
//!   seen:            5 ─► 7 ─► 8           ?  ─► 12              a hole: 8 ─► … ─► the one before 12
//! ```
//! Sequences of a producer group rise by preparation. What was rolled back leaves a number out, but never a
//! hole: the message behind it names the one that really came before. A hole is a message that is late, or
//! lost: it is a *gap* once the coordinator says that the group has settled everything up to the message
//! behind it.
//!
//! One [`Continuity`] must see all that its group receives: give the same one to every consumer of a process,
//! and where a group has several processes, run one more group for it (its handler does nothing). It cannot
//! work with a tag filter, because what is filtered out is settled unseen.

mod chain;
mod prometheus;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::Client;
use crate::delivery::Delivery;
use crate::error::Error;
use crate::interceptor::ConsumerInterceptor;
use crate::receipt::Place;
use chain::{Chain, Step};

/// Verifies continuity for each producer group and queue, as an interceptor of consumers.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
/// use halfmq_client::{Client, Consumer, ConsumerOptions, Continuity};
///
/// # async fn example(client: Client) {
/// let continuity = Arc::new(Continuity::new(|finding| eprintln!("{finding}")));
/// let watching = Arc::clone(&continuity);
/// let watcher = client.clone();
/// tokio::spawn(async move { watching.watch(&watcher, "shipping", Duration::from_secs(10)).await });
/// let options = ConsumerOptions { interceptors: vec![continuity], ..ConsumerOptions::default() };
/// let consumer = Consumer::with_options(&client, ["orders"], "shipping", options);
/// # drop(consumer);
/// # }
/// ```
pub struct Continuity {
    state: Mutex<State>,
    report: Box<dyn Fn(&Finding) + Send + Sync>,
}

#[derive(Default)]
struct State {
    chains: BTreeMap<Source, Chain>,
    statistics: ContinuityStatistics,
}

/// One row of sequences: a producer group in one queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The topic.
    pub topic: String,
    /// The queue in it.
    pub queue: u32,
    /// Who produced.
    pub producer_group: String,
}

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// At least the message with the sequence `missing` was settled, and nobody here saw it.
    Gap {
        /// Where.
        source: Source,
        /// The last one before the gap.
        after: u64,
        /// The last one that is missing; there may be more between it and `after`.
        missing: u64,
        /// The place of the message behind the gap.
        before: Place,
    },
    /// The same sequence stands in two places.
    Duplicate {
        /// Where.
        source: Source,
        /// The sequence.
        sequence: u64,
        /// The second place.
        place: Place,
    },
    /// A message came for the first time after one that stands behind it.
    Reordering {
        /// Where.
        source: Source,
        /// The sequence that came late.
        sequence: u64,
        /// Its place.
        place: Place,
    },
    /// There are too many holes to watch; what is before this sequence is not verified any more.
    Unverified {
        /// Where.
        source: Source,
        /// The first sequence that is verified again.
        from: u64,
    },
}

/// Numbers to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct ContinuityStatistics {
    pub messages: u64,
    pub redeliveries: u64,
    pub gaps: u64,
    pub duplicates: u64,
    pub reorderings: u64,
    /// Holes that were given up because there were too many.
    pub unverified: u64,
    /// Holes that may still be filled.
    pub holes: u64,
}

/// How far a source was seen without a hole: what a service may keep over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub source: Source,
    /// Everything up to this sequence was seen.
    pub sequence: u64,
}

impl Continuity {
    /// Calls `report` for every finding, which is logged and counted as well. It must not block.
    pub fn new(report: impl Fn(&Finding) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), report: Box::new(report) }
    }

    /// Goes on from what was [`seen`](Self::seen) before a restart, so that a loss in between shows too.
    #[must_use]
    pub fn resume(self, seen: impl IntoIterator<Item = Seen>) -> Self {
        let chains = seen.into_iter().map(|seen| (seen.source, Chain::seen_up_to(seen.sequence)));
        self.state().chains.extend(chains);
        self
    }

    /// How far each source was seen without a hole.
    pub fn seen(&self) -> Vec<Seen> {
        let state = self.state();
        let seen = state.chains.iter().filter_map(|(source, chain)| {
            Some(Seen { source: source.clone(), sequence: chain.seen_up_to_now()? })
        });
        seen.collect()
    }

    /// Numbers to watch.
    pub fn statistics(&self) -> ContinuityStatistics {
        let state = self.state();
        let holes = state.chains.values().map(Chain::holes).sum();
        ContinuityStatistics { holes, ..state.statistics }
    }

    /// The same in Prometheus' text format (content type `text/plain; version=0.0.4`), for the service to append to
    /// its own metrics: `halfmq_client_continuity_gaps_total{consumer_group="shipping"} 0`, and so on. For several
    /// consumer groups see [`prometheus_of`](Self::prometheus_of).
    ///
    /// ```
    /// let continuity = halfmq_client::Continuity::new(|_finding| {});
    /// let metrics = continuity.prometheus("shipping");
    /// assert!(metrics.contains("halfmq_client_continuity_gaps_total{consumer_group=\"shipping\"} 0\n"));
    /// ```
    pub fn prometheus(&self, consumer_group: &str) -> String {
        Self::prometheus_of([(consumer_group, self)])
    }

    /// The numbers of several, each with its consumer group: Prometheus wants those of one name side by side.
    pub fn prometheus_of<'a>(groups: impl IntoIterator<Item = (&'a str, &'a Self)>) -> String {
        let groups: Vec<_> = groups.into_iter().map(|(group, it)| (group, it.statistics())).collect();
        prometheus::render(&groups)
    }

    /// Looks at a delivery. Consumers do it through [`ConsumerInterceptor`].
    pub fn observe(&self, delivery: &Delivery) {
        // A dead letter is read in another place than it was produced for.
        if delivery.dead_letter.is_some() || delivery.sequence == 0 {
            return;
        }
        let source = Source {
            topic: delivery.place.topic.clone(),
            queue: delivery.place.queue,
            producer_group: delivery.producer_group.clone(),
        };
        let mut state = self.state();
        let chain = state.chains.entry(source.clone()).or_default();
        let step = chain.add(delivery.sequence, delivery.previous_sequence, delivery.place.offset);
        let (sequence, place) = (delivery.sequence, delivery.place.clone());
        let statistics = &mut state.statistics;
        let finding = match step {
            Step::Next => None,
            Step::Known => {
                statistics.redeliveries += 1;
                return;
            }
            Step::Elsewhere => {
                statistics.duplicates += 1;
                Some(Finding::Duplicate { source, sequence, place })
            }
            // A retry, or what a dead consumer held, comes late by right.
            Step::Late if delivery.attempt > 1 => None,
            Step::Late => {
                statistics.reorderings += 1;
                Some(Finding::Reordering { source, sequence, place })
            }
            Step::Overflow { from } => {
                statistics.unverified += 1;
                Some(Finding::Unverified { source, from })
            }
        };
        statistics.messages += 1;
        drop(state);
        if let Some(finding) = finding {
            self.tell(&finding);
        }
    }

    /// Asks the coordinator how far this group is, and reports each hole below that as a gap. How many.
    pub async fn verify(&self, client: &Client, group: &str) -> Result<u64, Error> {
        let group = client.admin().describe_group(group).await?;
        let mut gaps = 0;
        for backlog in group.topics {
            for queue in backlog.queues {
                let floor = Place { topic: backlog.topic.clone(), queue: queue.queue, offset: queue.floor };
                gaps += self.settled(&floor);
            }
        }
        Ok(gaps)
    }

    /// Verifies for ever, with this pause in between. A coordinator that is away is waited for.
    pub async fn watch(&self, client: &Client, group: &str, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.verify(client, group).await {
                tracing::warn!(group, %error, "continuity is not verified, trying again");
            }
        }
    }

    /// Takes note that the group has settled everything of a queue below this place. How many gaps that shows.
    pub fn settled(&self, floor: &Place) -> u64 {
        let mut findings = Vec::new();
        let mut state = self.state();
        for (source, chain) in &mut state.chains {
            if source.topic != floor.topic || source.queue != floor.queue {
                continue;
            }
            for hole in chain.close_below(floor.offset) {
                findings.push(Finding::Gap {
                    source: source.clone(),
                    after: hole.after,
                    missing: hole.missing,
                    before: Place { offset: hole.offset_behind, ..floor.clone() },
                });
            }
        }
        let gaps = findings.len() as u64;
        state.statistics.gaps += gaps;
        drop(state);
        for finding in &findings {
            self.tell(finding);
        }
        gaps
    }

    fn tell(&self, finding: &Finding) {
        match finding {
            Finding::Gap { .. } | Finding::Duplicate { .. } => tracing::error!("{finding}"),
            Finding::Reordering { .. } | Finding::Unverified { .. } => tracing::warn!("{finding}"),
        }
        (self.report)(finding);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerInterceptor for Continuity {
    fn received(&self, delivery: &Delivery) {
        self.observe(delivery);
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in queue {} of {}", self.producer_group, self.queue, self.topic)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gap { source, after, missing, before } => write!(
                f,
                "lost: of {source}, sequence {missing} and what else lies behind {after}, before offset {}",
                before.offset
            ),
            Self::Duplicate { source, sequence, place } => {
                write!(f, "doubled: of {source}, sequence {sequence} stands at offset {} too", place.offset)
            }
            Self::Reordering { source, sequence, place } => {
                write!(f, "out of order: of {source}, sequence {sequence} at offset {}", place.offset)
            }
            Self::Unverified { source, from } => {
                write!(f, "too many holes: of {source}, nothing before sequence {from} is verified")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;

    use super::*;
    use crate::message::Message;

    #[test]
    fn what_is_given_up_is_counted_as_it_is_reported() {
        const HOLES: u64 = 5_000;
        let reported = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&reported);
        let continuity = Continuity::new(move |finding| {
            counter.fetch_add(u64::from(matches!(finding, Finding::Unverified { .. })), Ordering::Relaxed);
        });
        for hole in 0..HOLES {
            continuity.observe(&Delivery {
                message_id: "m".into(),
                message: Message::new("orders", ""),
                place: Place { topic: "orders".to_owned(), queue: 0, offset: hole },
                receipt_handle: "r".into(),
                attempt: 1,
                invisible_until: SystemTime::UNIX_EPOCH,
                released_at: SystemTime::UNIX_EPOCH,
                producer_group: "shop".to_owned(),
                sequence: 3 * hole + 3,
                previous_sequence: 3 * hole + 2,
                dead_letter: None,
            });
        }
        let ContinuityStatistics { messages, unverified, holes, .. } = continuity.statistics();
        assert_eq!(unverified, reported.load(Ordering::Relaxed));
        assert_eq!((messages, unverified + holes + 1), (HOLES, HOLES), "each is watched or given up");
        assert!(unverified > 0);
    }
}
