//! Who can be asked: the connected producers of each group, and its callback URL.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use halfmq_core::{InstanceId, ProducerGroup, TransactionId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Asked;

/// Streams asked about one transaction before its URL is.
pub(super) const STREAMS_MAX: usize = 3;
/// The first and the longest rest of a group of which nobody answers.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);
/// Put-off transactions of one group remembered, to be asked about at once when somebody connects.
const PARKED_MAX: usize = 1_000;

/// One stream of questions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ConnectionId(u64);

/// All groups that can be asked, or were.
#[derive(Default)]
pub(super) struct Roster {
    groups: HashMap<ProducerGroup, Members>,
    connections: usize,
    connections_ever: u64,
}

/// One producer group.
#[derive(Default)]
struct Members {
    streams: Vec<Stream>,
    /// For taking turns.
    turn: usize,
    /// Admitted when it was registered.
    callback: Option<String>,
    /// Questions nobody has answered yet.
    asked: usize,
    answered_at: Option<Instant>,
    rest: Option<Rest>,
    parked: HashSet<TransactionId>,
}

struct Stream {
    id: ConnectionId,
    instance: Option<InstanceId>,
    has_checker: bool,
    questions: mpsc::Sender<Asked>,
    /// It let a question time out while others waited in its queue.
    stuck: bool,
    /// It let a question time out: perhaps it has no checker, and cannot say so. Others are asked before it.
    silent: bool,
}

impl Stream {
    fn may_be_asked(&self) -> bool {
        let drained = self.questions.capacity() == self.questions.max_capacity();
        self.has_checker && (!self.stuck || drained)
    }
}

/// A group of which nobody answered is left alone for a while; each time longer.
#[derive(Clone, Copy)]
struct Rest {
    wait: Duration,
    until: Instant,
}

impl Members {
    fn reachable(&self) -> bool {
        self.callback.is_some() || self.streams.iter().any(|stream| stream.has_checker)
    }

    fn forgettable(&self) -> bool {
        self.streams.is_empty() && self.callback.is_none() && self.asked == 0 && self.parked.is_empty()
    }

    /// The sender itself, else whose turn it is.
    fn next_stream(&mut self, sender: Option<&InstanceId>, tried: &[ConnectionId]) -> Option<&mut Stream> {
        let may = |stream: &Stream| stream.may_be_asked() && !tried.contains(&stream.id);
        // The latest stream of an instance: an older one may only not have been noticed to be gone.
        let own = |stream: &Stream| may(stream) && sender.is_some() && stream.instance.as_ref() == sender;
        if let Some(own) = self.streams.iter().rposition(own) {
            return self.streams.get_mut(own);
        }
        let count = self.streams.len();
        let mut turn = (0..count).map(|step| (self.turn + step) % count);
        let answers =
            |index: &usize| self.streams.get(*index).is_some_and(|stream| may(stream) && !stream.silent);
        let any = |index: &usize| self.streams.get(*index).is_some_and(may);
        let other = turn.clone().find(answers).or_else(|| turn.find(any))?;
        self.turn = other + 1;
        self.streams.get_mut(other)
    }
}

impl Roster {
    /// Returns the transactions to ask about now that somebody is there.
    pub(super) fn connect(
        &mut self,
        group: ProducerGroup,
        instance: Option<InstanceId>,
        has_checker: bool,
        questions: mpsc::Sender<Asked>,
    ) -> (ConnectionId, Vec<TransactionId>) {
        let id = ConnectionId(self.connections_ever);
        self.connections_ever += 1;
        self.connections += 1;
        let members = self.groups.entry(group).or_default();
        members.streams.push(Stream { id, instance, has_checker, questions, stuck: false, silent: false });
        if !has_checker {
            return (id, Vec::new());
        }
        members.rest = None;
        (id, members.parked.drain().collect())
    }

    pub(super) fn disconnect(&mut self, group: &ProducerGroup, id: ConnectionId) {
        self.connections = self.connections.saturating_sub(1);
        self.change(group, |members| members.streams.retain(|stream| stream.id != id));
    }

    pub(super) fn connected(&self) -> usize {
        self.connections
    }

    pub(super) fn reachable(&self, group: &ProducerGroup) -> bool {
        self.groups.get(group).is_some_and(Members::reachable)
    }

    pub(super) fn callback(&self, group: &ProducerGroup) -> Option<&str> {
        self.groups.get(group)?.callback.as_deref()
    }

    /// `None`: it has none, or one that is not admitted.
    pub(super) fn set_callback(&mut self, group: &ProducerGroup, url: Option<String>) {
        if url.is_none() && !self.groups.contains_key(group) {
            return;
        }
        self.groups.entry(group.clone()).or_default();
        self.change(group, |members| {
            members.callback = url;
            members.rest = None;
        });
    }

    /// Groups to claim checks of, and whether one was left out because it has its share of questions.
    pub(super) fn askable(&self, now: Instant, share: usize) -> (Vec<ProducerGroup>, bool) {
        let mut left_out = false;
        let askable = |(group, members): (&ProducerGroup, &Members)| {
            let rests = members.rest.is_some_and(|rest| rest.until > now);
            if rests || !members.reachable() {
                return None;
            }
            left_out |= members.asked >= share;
            (members.asked < share).then(|| group.clone())
        };
        let groups = self.groups.iter().filter_map(askable).collect();
        (groups, left_out)
    }

    /// Hands the question to a stream that was not tried, the sender's first.
    pub(super) fn ask_stream(
        &mut self,
        asked: &Asked,
        tried: &mut Vec<ConnectionId>,
    ) -> Option<ConnectionId> {
        let members = self.groups.get_mut(&asked.question.producer_group)?;
        while tried.len() < STREAMS_MAX {
            let stream = members.next_stream(asked.question.instance.as_ref(), tried)?;
            tried.push(stream.id);
            stream.stuck = false;
            // One whose queue is full does not keep up; the next one may.
            if stream.questions.try_send(asked.clone()).is_ok() {
                return Some(stream.id);
            }
        }
        None
    }

    /// This stream did not answer in time. If it does not even take its questions, it gets no more of them
    /// until it has, so that they do not pile up.
    pub(super) fn timed_out(&mut self, group: &ProducerGroup, id: ConnectionId) {
        let streams = self.groups.get_mut(group).map(|members| members.streams.iter_mut());
        if let Some(stream) = streams.into_iter().flatten().find(|stream| stream.id == id) {
            stream.stuck = stream.questions.capacity() < stream.questions.max_capacity();
            stream.silent = true;
        }
    }

    pub(super) fn began(&mut self, group: &ProducerGroup, transaction: TransactionId) {
        let members = self.groups.entry(group.clone()).or_default();
        members.asked += 1;
        members.parked.remove(&transaction);
    }

    pub(super) fn answered(&mut self, group: &ProducerGroup, now: Instant) {
        self.change(group, |members| {
            members.asked = members.asked.saturating_sub(1);
            members.answered_at = Some(now);
            members.rest = None;
        });
    }

    /// Nobody answered a question asked since `begun`. Returns how long to put it off.
    pub(super) fn failed(
        &mut self,
        group: &ProducerGroup,
        transaction: TransactionId,
        begun: Instant,
        now: Instant,
    ) -> Duration {
        let Some(members) = self.groups.get_mut(group) else { return REST_MIN };
        members.asked = members.asked.saturating_sub(1);
        if members.parked.len() < PARKED_MAX {
            members.parked.insert(transaction);
        }
        if members.answered_at.is_some_and(|answered| answered >= begun) {
            // Others were answered meanwhile, so it is this one question; the group need not rest.
            return REST_MIN;
        }
        let rest = match members.rest {
            // Questions of one round fail one after the other; that is one failure.
            Some(rest) if begun < rest.until => rest,
            before => {
                let wait = before.map_or(REST_MIN, |before| (before.wait * 2).min(REST_MAX));
                Rest { wait, until: now + wait }
            }
        };
        members.rest = Some(rest);
        rest.wait
    }

    fn change(&mut self, group: &ProducerGroup, change: impl FnOnce(&mut Members)) {
        let Some(members) = self.groups.get_mut(group) else { return };
        change(members);
        if members.forgettable() {
            self.groups.remove(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use halfmq_core::{Question, Timestamp};

    use super::*;

    fn orders() -> ProducerGroup {
        "orders".parse().expect("a legal name")
    }

    #[test]
    fn a_group_that_never_answers_is_left_alone_longer_each_time() {
        let mut roster = Roster::default();
        roster.set_callback(&orders(), Some("http://localhost".into()));
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let begun = now;
            // A round of three questions is one failure.
            for id in 0..3 {
                now += Duration::from_millis(10);
                let wait = roster.failed(&orders(), TransactionId::from_u128(id), begun, now);
                assert_eq!(wait, Duration::from_secs(seconds));
            }
            assert!(roster.askable(now, 1).0.is_empty());
            now += Duration::from_secs(seconds);
            assert_eq!(roster.askable(now, 1).0, [orders()]);
        }
        roster.answered(&orders(), now);
        let late = roster.failed(&orders(), TransactionId::from_u128(9), now, now);
        assert_eq!(late, REST_MIN);
        assert_eq!(roster.askable(now, 1).0, [orders()], "others were answered meanwhile");
    }

    fn asked() -> Asked {
        Asked {
            question: Question {
                transaction: TransactionId::from_u128(1),
                producer_group: orders(),
                instance: None,
                request_id: None,
                prepared_at: Timestamp::ZERO,
                answered: 0,
                contents: Vec::new(),
            },
            messages: Vec::new(),
        }
    }

    #[test]
    fn those_who_were_silent_are_asked_after_the_others() {
        let mut roster = Roster::default();
        let mut queues = Vec::new();
        let mut join = |roster: &mut Roster| {
            let (sender, questions) = mpsc::channel(8);
            queues.push(questions);
            roster.connect(orders(), None, true, sender).0
        };
        let (mute, deaf) = (join(&mut roster), join(&mut roster));
        roster.timed_out(&orders(), mute);
        roster.timed_out(&orders(), deaf);
        let talks = join(&mut roster);
        for _ in 0..3 {
            assert_eq!(roster.ask_stream(&asked(), &mut Vec::new()), Some(talks));
        }
        let mut tried = vec![talks];
        assert!(roster.ask_stream(&asked(), &mut tried).is_some(), "one of them is better than nobody");
    }

    #[test]
    fn a_stream_that_takes_nothing_gets_nothing_more() {
        let asked = asked();
        let mut roster = Roster::default();
        let (sender, mut questions) = mpsc::channel(2);
        let (id, _) = roster.connect(orders(), None, true, sender);
        assert_eq!(roster.ask_stream(&asked, &mut Vec::new()), Some(id));
        roster.timed_out(&orders(), id);
        assert_eq!(roster.ask_stream(&asked, &mut Vec::new()), None);
        assert!(questions.try_recv().is_ok());
        assert_eq!(roster.ask_stream(&asked, &mut Vec::new()), Some(id));
        assert_eq!(roster.ask_stream(&asked, &mut Vec::new()), Some(id));
        assert_eq!(roster.ask_stream(&asked, &mut Vec::new()), None, "its queue is full");
    }
}
