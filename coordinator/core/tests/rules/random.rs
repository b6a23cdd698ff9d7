//! No sequence of commands yields two decisions, a delivery of something uncommitted, or a lost message.
//!
//! Random commands run against the ledger and against a model of a dozen lines; at random places the
//! ledger is thrown away and made again from its events.

mod command;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use halfmq_core::{
    Answer, CheckPolicy, ConsumerGroup, Decide, DecidedBy, Decision, Delivery, Event, Ledger, Message,
    MessageId, Place, Prepare, Receipt, Receive, Rejection, RetryPolicy, Send, Start, State, TagFilter,
    Timestamp, TopicName, TransactionId, Visibility,
};
use proptest::prelude::*;

use crate::journal::{Journal, observe};
use command::{Command, Kind, command};

const ATTEMPTS_MAX: u32 = 3;

struct Run {
    ledger: Ledger,
    log: Journal,
    now: u64,
    ids: u128,
    decided: BTreeMap<TransactionId, Option<Decision>>,
    places: HashMap<MessageId, Place>,
    kinds: HashMap<MessageId, Kind>,
    /// Committed, and not yet due.
    waiting: BTreeSet<(Timestamp, MessageId)>,
    recalled: BTreeSet<MessageId>,
    leased: Vec<(usize, Delivery)>,
    /// Per consumer group: acked.
    acked: [BTreeSet<MessageId>; 2],
    /// Last sequence seen in each queue, of the one producer group.
    links: HashMap<(TopicName, u32), BTreeMap<u64, (u64, u64)>>,
}

impl Run {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + self.now * 1_000_000)
    }

    fn start() -> Self {
        let log = Journal::default();
        let mut run = Self {
            ledger: log.ledger(Duration::ZERO),
            log,
            now: 0,
            ids: 0,
            decided: BTreeMap::new(),
            places: HashMap::new(),
            kinds: HashMap::new(),
            waiting: BTreeSet::new(),
            recalled: BTreeSet::new(),
            leased: Vec::new(),
            acked: Default::default(),
            links: HashMap::new(),
        };
        for topic in 0..2 {
            run.ledger.create_topic(&topic_name(topic), 2, &mut run.log).expect("a legal topic");
        }
        for group in 0..2 {
            let retry = RetryPolicy { attempts_max: ATTEMPTS_MAX, ..RetryPolicy::default() };
            run.ledger.configure_group(&group_name(group), retry, &mut run.log).expect("a legal policy");
            for topic in 0..2 {
                run.receive_from(group, topic, 1);
            }
        }
        run
    }

    fn step(&mut self, command: &Command) {
        match command {
            Command::Prepare { messages } => self.prepare(messages),
            Command::Send { messages } => self.send(messages),
            Command::Decide { which, commit } => self.decide(*which, decision(*commit)),
            Command::Check { commit } => self.check(commit.map(decision)),
            Command::Receive { group, max } => {
                (0..2).for_each(|topic| self.receive_from(*group, topic, *max))
            }
            Command::Ack { which } => self.ack(*which),
            Command::Retry { which } => self.give_back(*which),
            Command::Extend { which } => {
                if let Some((group, delivery)) = self.leased.get(*which).cloned() {
                    let (now, topic) = (self.now(), delivery.place.topic);
                    let span = Duration::from_secs(20);
                    let log = &mut self.log;
                    // A lease that is over cannot be extended; either is fine.
                    let _either =
                        self.ledger.extend(now, &group_name(group), &topic, delivery.handle, span, log);
                }
            }
            Command::Wait { seconds } => {
                self.now += seconds;
                self.tick();
            }
            Command::Replay { group } => {
                let now = self.now();
                self.ledger
                    .replay_dead_letters(now, &group_name(*group), None, &mut self.log)
                    .expect("the group exists");
            }
            Command::Crash => self.crash(),
            Command::Image => {
                self.log.condense(&self.ledger, self.now());
                self.crash();
            }
            Command::Shelve { entries } => {
                self.ledger.shelve(*entries, &mut self.log);
            }
            Command::ShelveDelayed { messages, pages } => {
                let more = |_: &u32| self.ledger.shelve_delayed(*messages, &mut self.log);
                let _pages = (0..*pages).take_while(more).count();
            }
            Command::Recall { which } => self.recall(*which),
            Command::Carry { from: 0, .. } => {
                let now = self.now();
                self.log.carry_all(&mut self.ledger, now);
            }
            Command::Carry { from, bytes } => {
                let read = self.log.reader();
                let stretch = (*from, from + bytes);
                let written = self.ledger.carry_forward(self.now(), stretch, *bytes, &read, &mut self.log);
                assert!(written == 0 || written < bytes + 10, "{written} bytes were written");
            }
        }
    }

    /// All that is due comes out, in the order of its times, and nothing else.
    fn tick(&mut self) {
        let (now, before) = (self.now(), self.log.history.len());
        while self.ledger.tick(now, &mut self.log).next.is_some_and(|next| next <= now) {}
        let due: Vec<MessageId> =
            self.waiting.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| *id).collect();
        #[expect(clippy::wildcard_enum_match_arm, reason = "only this one is about delayed messages")]
        let released = self.log.history[before..].iter().filter_map(|event| match event {
            Event::Released { transaction, index, .. } => {
                Some(MessageId { transaction: *transaction, index: *index })
            }
            _ => None,
        });
        assert_eq!(released.collect::<Vec<_>>(), due, "what came out is what was due");
        self.waiting.retain(|(due, _)| *due > now);
    }

    /// A message that waits is taken back; any other is not.
    fn recall(&mut self, which: usize) {
        let waits = self.waiting.iter().nth(which).copied();
        let over = || self.kinds.keys().min().map(|id| (self.now(), *id));
        let Some((due, id)) = waits.or_else(over) else { return };
        let topic = topic_name(self.kinds[&id].topic);
        for again in [false, true] {
            let recalled = self.ledger.recall(&topic, id, due, &mut self.log);
            assert_eq!(recalled.is_ok(), waits.is_some() && !again, "{id} was recalled: {recalled:?}");
        }
        if self.waiting.remove(&(due, id)) {
            self.recalled.insert(id);
        }
    }

    fn fresh(&mut self) -> TransactionId {
        self.ids += 1;
        TransactionId::from_u128(self.ids)
    }

    fn prepare(&mut self, messages: &[Kind]) {
        let (now, id) = (self.now(), self.fresh());
        let prepare = Prepare {
            producer_group: "shop".parse().expect("a legal name"),
            instance: None,
            callback: None,
            policy: CheckPolicy { checks_max: 2, ..CheckPolicy::default() },
            send: content(messages),
        };
        let accepted = self.ledger.prepare(now, id, prepare, None, &mut self.log).expect("a legal prepare");
        self.decided.insert(id, None);
        self.kinds.extend(accepted.message_ids.into_iter().zip(messages.iter().cloned()));
    }

    fn send(&mut self, messages: &[Kind]) {
        let (now, id) = (self.now(), self.fresh());
        let group = "shop".parse().expect("a legal name");
        let receipt =
            self.ledger.send(now, id, group, content(messages), None, &mut self.log).expect("a legal send");
        self.decided.insert(id, Some(Decision::Commit));
        self.kinds.extend(receipt.messages.iter().map(|(id, _)| *id).zip(messages.iter().cloned()));
        self.take(&receipt);
    }

    fn decide(&mut self, which: usize, asked: Decision) {
        let Some((id, before)) = self.decided.iter().rev().nth(which).map(|(id, before)| (*id, *before))
        else {
            return;
        };
        let decide = Decide {
            transaction: id,
            decision: asked,
            by: DecidedBy::Call,
            reason: String::new(),
            replacements: Vec::new(),
        };
        let answer = self.ledger.decide(self.now(), decide, &mut self.log);
        match (before, answer) {
            (None, Ok(receipt)) => {
                self.decided.insert(id, Some(asked));
                self.take(&receipt);
            }
            (Some(before), Ok(receipt)) => {
                assert_eq!(before, asked, "two decisions for {id}");
                self.take(&receipt);
            }
            (Some(before), Err(Rejection::DecisionConflict { stands, .. })) => {
                assert_eq!((before, before), (stands.decision, opposite(asked)), "of {id}");
            }
            // A plain send without a request id is not remembered: nobody can ask about it.
            (Some(Decision::Commit), Err(Rejection::UnknownTransaction(_))) => {}
            (before, answer) => panic!("{id} was {before:?}: {answer:?}"),
        }
    }

    fn check(&mut self, decided: Option<Decision>) {
        let reachable = ["shop".parse().expect("a legal name")];
        let questions = self.ledger.claim_checks(self.now(), &reachable, 2, Duration::from_secs(5));
        for question in questions {
            assert_eq!(self.decided[&question.transaction], None, "a decided transaction is asked about");
            let answer = decided.map_or(Answer::Unknown, Answer::Decided);
            let (now, id) = (self.now(), question.transaction);
            let receipt = self.ledger.answer(now, id, answer, String::new(), Vec::new(), &mut self.log);
            if let Some(receipt) = receipt.expect("it is open") {
                self.decided.insert(id, decided);
                self.take(&receipt);
            }
        }
    }

    fn receive_from(&mut self, group: usize, topic: usize, max: usize) {
        let receive = Receive {
            group: group_name(group),
            topic: topic_name(topic),
            max,
            invisible: Duration::from_secs(30),
            filter: TagFilter::default(),
            start: Start::Beginning,
        };
        let received = self.ledger.receive(self.now(), &receive, &mut self.log).expect("a legal receive");
        for delivery in received.deliveries {
            let id = delivery.id;
            assert_eq!(self.decided[&id.transaction], Some(Decision::Commit), "{id} was delivered");
            assert!(!self.acked[group].contains(&id), "{id} was acked, and came again");
            assert!(delivery.handle.attempt <= ATTEMPTS_MAX, "{id} was delivered too often");
            self.check_order(group, &delivery);
            self.place(id, &delivery.place);
            let link = (delivery.place.offset, delivery.previous_sequence);
            let place = (delivery.place.topic.clone(), delivery.place.queue);
            self.links.entry(place).or_default().insert(delivery.sequence, link);
            self.leased.retain(|(holder, other)| *holder != group || other.id != id);
            self.leased.insert(0, (group, delivery));
        }
    }

    /// No other message of its message group is leased, and none released before it is still to come.
    fn check_order(&self, group: usize, delivery: &Delivery) {
        let Some(order) = self.kinds[&delivery.id].message_group else { return };
        let same = |id: &MessageId, place: &Place| {
            self.kinds[id].message_group == Some(order)
                && place.topic == delivery.place.topic
                && *id != delivery.id
        };
        for (id, place) in &self.places {
            if same(id, place) && place.offset < delivery.place.offset && !self.acked[group].contains(id) {
                let dead = self.ledger.dead_letters(&group_name(group), 0, 1_000).expect("the group exists");
                let replayed = self.replayed(group).contains(id);
                assert!(
                    dead.iter().any(|letter| letter.id == *id) || replayed,
                    "{} overtook {id}",
                    delivery.id
                );
            }
        }
    }

    /// Dead letters that were given back have lost their place in the order.
    fn replayed(&self, group: usize) -> BTreeSet<MessageId> {
        let mut letters = BTreeMap::new();
        let mut replayed = BTreeSet::new();
        for event in &self.log.history {
            #[expect(clippy::wildcard_enum_match_arm, reason = "only these are about dead letters")]
            match event {
                Event::DeadLettered { group: of, topic, queue, offset, number, .. }
                    if *of == group_name(group) =>
                {
                    letters.insert(*number, Place { topic: topic.clone(), queue: *queue, offset: *offset });
                }
                Event::DeadLettersReplayed { group: of, numbers, .. } if *of == group_name(group) => {
                    for number in numbers {
                        let place = &letters[number];
                        replayed.extend(self.places.iter().filter(|(_, at)| *at == place).map(|(id, _)| *id));
                    }
                }
                _ => {}
            }
        }
        replayed
    }

    fn ack(&mut self, which: usize) {
        let Some((group, delivery)) = self.leased.get(which).cloned() else { return };
        let name = group_name(group);
        let acked = self.ledger.ack(&name, &delivery.place.topic, &[delivery.handle], &mut self.log);
        if acked.expect("group and topic exist").0 == [Ok(())] {
            self.acked[group].insert(delivery.id);
            self.leased.remove(which);
        }
    }

    fn give_back(&mut self, which: usize) {
        let Some((group, delivery)) = self.leased.get(which).cloned() else { return };
        let (now, topic) = (self.now(), delivery.place.topic);
        let given_back = self.ledger.retry_later(
            now,
            &group_name(group),
            &topic,
            delivery.handle,
            None,
            "",
            &mut self.log,
        );
        if given_back.is_ok() {
            self.leased.remove(which);
        }
    }

    /// Only what was written down survives.
    fn crash(&mut self) {
        let ledger = self.log.replayed(Duration::ZERO);
        assert_eq!(observe(&ledger), observe(&self.ledger));
        let archived = self.log.archived();
        let known = [State::Committed, State::RolledBack]
            .into_iter()
            .flat_map(|state| ledger.list(Some(state), None, None, usize::MAX));
        for view in known {
            let archived = archived.get(&view.transaction).map(|decided| decided.view(view.transaction));
            assert_eq!(archived, Some(view), "an index made anew would not have it");
        }
        self.ledger = ledger;
    }

    fn take(&mut self, receipt: &Receipt) {
        for (id, at) in &receipt.messages {
            match at {
                Ok(place) => self.place(*id, place),
                // A receipt stays as it was, whatever came of the message since.
                Err(due) if *due <= self.now() || self.recalled.contains(id) => {}
                Err(due) => drop(self.waiting.insert((*due, *id))),
            }
        }
    }

    fn place(&mut self, id: MessageId, place: &Place) {
        let before = self.places.entry(id).or_insert_with(|| place.clone());
        assert_eq!(before, place, "{id} has two places");
    }

    /// Consumes everything, and compares it with what was committed.
    fn end(&mut self) {
        for id in self
            .decided
            .iter()
            .filter(|(_, decision)| decision.is_none())
            .map(|(id, _)| *id)
            .collect::<Vec<_>>()
        {
            assert!(self.ledger.describe(id).is_some(), "{id} was prepared and is gone");
        }
        // Whoever holds a lease now never comes back.
        self.leased.clear();
        for group in 0..2 {
            let mut idle = 0;
            while idle < 2 {
                self.now += 4_000;
                self.tick();
                let now = self.now();
                self.ledger
                    .replay_dead_letters(now, &group_name(group), None, &mut self.log)
                    .expect("the group exists");
                let before = self.acked[group].len();
                (0..2).for_each(|topic| self.receive_from(group, topic, 200));
                while self.leased.first().is_some_and(|(holder, _)| *holder == group) {
                    let left = self.leased.len();
                    self.ack(0);
                    assert!(self.leased.len() < left, "a fresh lease can be acked");
                }
                idle = if self.acked[group].len() == before { idle + 1 } else { 0 };
            }
        }
        let committed: BTreeSet<_> = self
            .kinds
            .keys()
            .filter(|id| self.decided[&id.transaction] == Some(Decision::Commit))
            .filter(|id| !self.recalled.contains(id))
            .copied()
            .collect();
        for group in &self.acked {
            assert_eq!(*group, committed, "what was consumed is what was committed");
        }
        // Every message names the one of its producer group before it: nothing is missing in between.
        for (place, links) in &self.links {
            let mut by_offset: Vec<_> =
                links.iter().map(|(sequence, (offset, previous))| (offset, sequence, previous)).collect();
            by_offset.sort_unstable();
            let offsets: Vec<_> = by_offset.iter().map(|(offset, _, _)| **offset).collect();
            assert_eq!(
                offsets,
                (0..offsets.len() as u64).collect::<Vec<_>>(),
                "offsets of {place:?} are dense"
            );
            let mut last = 0;
            for (_, sequence, previous) in by_offset {
                assert_eq!(*previous, last, "the link of {sequence} in {place:?}");
                last = *sequence;
            }
        }
    }
}

fn content(messages: &[Kind]) -> Send {
    let message = |kind: &Kind| Message {
        topic: topic_name(kind.topic),
        body: "body".into(),
        tag: None,
        keys: Vec::new(),
        headers: Vec::new(),
        message_group: kind.message_group.map(|group| group.to_string().parse().expect("a legal name")),
        visibility: match kind.delay {
            Some(seconds) => Visibility::After(Duration::from_secs(seconds)),
            None => Visibility::AtOnce,
        },
    };
    Send::new(None, messages.iter().map(message).collect()).expect("legal messages")
}

fn decision(commit: bool) -> Decision {
    if commit { Decision::Commit } else { Decision::Rollback }
}

fn opposite(decision: Decision) -> Decision {
    match decision {
        Decision::Commit => Decision::Rollback,
        Decision::Rollback => Decision::Commit,
    }
}

fn topic_name(topic: usize) -> TopicName {
    ["orders", "points"][topic].parse().expect("a legal name")
}

fn group_name(group: usize) -> ConsumerGroup {
    ["cart", "audit"][group].parse().expect("a legal name")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_a_promise(commands in proptest::collection::vec(command(), 1..120)) {
        let mut run = Run::start();
        for command in &commands {
            run.step(command);
        }
        run.crash();
        run.end();
    }
}
