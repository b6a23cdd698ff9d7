//! Questions that wait for an answer, and where each of them is.
//!
//! ```text
//!   begin ─► stream of the sender ─► streams of others ─► URL ─► failed: put off, not counted
//!                     └──────────────────┴────────────────┴────► answered
//! ```
//!
//! A question moves on when its time is up or its stream goes away. No clock, no waiting in here.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use halfmq_core::{Message, ProducerGroup, TransactionId};
use tokio::time::Instant;

use super::roster::{ConnectionId, Roster};
use super::{Asked, CallbackSettings};

/// Bytes of bodies in one callback; a single larger transaction is still asked about.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// All open questions.
pub(super) struct Rounds {
    pub(super) roster: Roster,
    /// Somebody waits for room.
    pub(super) starved: bool,
    open: HashMap<TransactionId, Round>,
    deadlines: BTreeSet<(Instant, TransactionId)>,
    bytes: usize,
    /// Questions for each URL, and the URLs in turn.
    queues: HashMap<String, VecDeque<TransactionId>>,
    turns: VecDeque<String>,
    /// URLs that are being called.
    busy: HashSet<String>,
    failed: HashMap<Duration, Vec<TransactionId>>,
    answer_timeout: Duration,
}

struct Round {
    asked: Asked,
    begun: Instant,
    deadline: Instant,
    route: Route,
    tried: Vec<ConnectionId>,
}

#[derive(PartialEq, Eq)]
enum Route {
    /// Not asked yet.
    Start,
    Stream(ConnectionId),
    Url(String),
}

impl Rounds {
    pub(super) fn new(answer_timeout: Duration) -> Self {
        Self {
            roster: Roster::default(),
            starved: false,
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            queues: HashMap::new(),
            turns: VecDeque::new(),
            busy: HashSet::new(),
            failed: HashMap::new(),
            answer_timeout,
        }
    }

    /// Asks, unless it is being asked already.
    pub(super) fn begin(&mut self, asked: Asked, now: Instant) {
        let id = asked.question.transaction;
        if self.open.contains_key(&id) {
            return;
        }
        self.roster.began(&asked.question.producer_group, id);
        self.bytes += body_bytes(&asked.messages);
        let round = Round { asked, begun: now, deadline: now, route: Route::Start, tried: Vec::new() };
        self.ask(round, now);
    }

    /// An answer came. Returns whether it was waited for.
    pub(super) fn answered(&mut self, id: TransactionId, now: Instant) -> bool {
        let Some(round) = self.take(id) else { return false };
        self.bytes -= body_bytes(&round.asked.messages);
        self.roster.answered(&round.asked.question.producer_group, now);
        true
    }

    /// Asks elsewhere what nobody answered in time. Returns how many questions that were.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            expired += 1;
            let Some(round) = self.take(id) else { continue };
            if let Route::Stream(connection) = round.route {
                self.roster.timed_out(&round.asked.question.producer_group, connection);
            }
            self.ask(round, now);
        }
        expired
    }

    pub(super) fn disconnect(&mut self, group: &ProducerGroup, connection: ConnectionId, now: Instant) {
        self.roster.disconnect(group, connection);
        let lost = self.open.iter().filter(|(_, round)| round.route == Route::Stream(connection));
        let lost: Vec<_> = lost.map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.ask_next(id, now));
    }

    /// Questions for a URL that is not being called, as many as go into one call.
    pub(super) fn take_batch(
        &mut self,
        limits: &CallbackSettings,
        now: Instant,
    ) -> Option<(String, Vec<Asked>)> {
        let turn = self.turns.iter().position(|url| !self.busy.contains(url))?;
        let url = self.turns.remove(turn)?;
        let mut queue = self.queues.remove(&url)?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(id) = queue.front().copied() {
            if let Some(round) = self.open.get_mut(&id) {
                bytes += body_bytes(&round.asked.messages);
                if batch.len() >= limits.batch_max.max(1) || (bytes > BATCH_BYTES_MAX && !batch.is_empty()) {
                    break;
                }
                batch.push(round.asked.clone());
                // The call ends by its own time-out; this one is for a call that never came back.
                self.deadlines.remove(&(round.deadline, id));
                round.deadline = now + limits.timeout + self.answer_timeout;
                self.deadlines.insert((round.deadline, id));
            }
            queue.pop_front();
        }
        if !queue.is_empty() {
            self.queues.insert(url.clone(), queue);
            self.turns.push_back(url.clone());
        }
        if batch.is_empty() {
            return self.take_batch(limits, now);
        }
        self.busy.insert(url.clone());
        Some((url, batch))
    }

    /// A call came back; what it did not answer is asked elsewhere.
    pub(super) fn called(&mut self, url: &str, asked: &[TransactionId], now: Instant) {
        self.busy.remove(url);
        for id in asked {
            if self.open.get(id).is_some_and(|round| round.route == Route::Url(url.to_owned())) {
                self.ask_next(*id, now);
            }
        }
    }

    /// Transactions nobody answered for, by how long to leave them alone.
    pub(super) fn take_failed(&mut self) -> HashMap<Duration, Vec<TransactionId>> {
        std::mem::take(&mut self.failed)
    }

    pub(super) fn have_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn waits_for(&self, transaction: TransactionId) -> bool {
        self.open.contains_key(&transaction)
    }

    /// How many questions are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Bytes of bodies that wait with them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All open questions; for the end.
    pub(super) fn ids(&self) -> Vec<TransactionId> {
        self.open.keys().copied().collect()
    }

    fn ask_next(&mut self, id: TransactionId, now: Instant) {
        if let Some(round) = self.take(id) {
            self.ask(round, now);
        }
    }

    fn ask(&mut self, mut round: Round, now: Instant) {
        let question = &round.asked.question;
        let (id, group) = (question.transaction, question.producer_group.clone());
        let called = matches!(round.route, Route::Url(_));
        let stream = if called { None } else { self.roster.ask_stream(&round.asked, &mut round.tried) };
        round.route = match (stream, self.roster.callback(&group)) {
            (Some(stream), _) => Route::Stream(stream),
            (None, Some(url)) if !called => Route::Url(url.to_owned()),
            (None, _) => {
                self.bytes -= body_bytes(&round.asked.messages);
                let wait = self.roster.failed(&group, id, round.begun, now);
                self.failed.entry(wait).or_default().push(id);
                return;
            }
        };
        if let Route::Url(url) = &round.route {
            let queue = self.queues.entry(url.clone()).or_default();
            if queue.is_empty() {
                self.turns.push_back(url.clone());
            }
            queue.push_back(id);
        }
        round.deadline = now + self.answer_timeout;
        self.deadlines.insert((round.deadline, id));
        self.open.insert(id, round);
    }

    fn take(&mut self, id: TransactionId) -> Option<Round> {
        let round = self.open.remove(&id)?;
        self.deadlines.remove(&(round.deadline, id));
        if let Route::Url(url) = &round.route
            && let Some(queue) = self.queues.get_mut(url)
        {
            queue.retain(|waiting| *waiting != id);
            if queue.is_empty() {
                self.queues.remove(url);
                self.turns.retain(|waiting| waiting != url);
            }
        }
        Some(round)
    }
}

pub(super) fn body_bytes(messages: &[Message]) -> usize {
    messages.iter().map(Message::content_bytes).sum()
}
