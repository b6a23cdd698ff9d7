//! A service, its consumers and an outside ledger of everything that was acknowledged to them.

mod content;
mod groups;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::store::Unavailable;
use halfmq_coordinator::store::embedded::{
    Engine, EngineOptions, JournalOptions, OpenError, Recovered, Turn, Work,
};
use halfmq_core::{
    Answer, ConsumerGroup, Decide, DecidedBy, Decision, Delivery, Message, MessageId, Place, Receipt,
    Receive, Rejection, RetryPolicy, State, TagFilter, Timestamp, TransactionId,
};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::sim_disk::SimDisk;
use content::{content, prepare};

/// When the first engine starts.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
pub(crate) const SEGMENT_BYTES: u64 = 32 * 1024;
const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// What somebody outside knows about one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// Acknowledged as prepared.
    Prepared,
    /// A decision was asked for and not answered: it may stand or not.
    Asked(Decision),
    /// Acknowledged.
    Decided(Decision),
}

/// The world outside of one engine.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    pub(crate) chance: SmallRng,
    transactions: BTreeMap<TransactionId, Known>,
    /// Request ids whose prepare was not answered.
    unanswered: Vec<u32>,
    requests: u32,
    /// Groups that were written beside those somebody asks about.
    touches: u32,
    places: HashMap<MessageId, Place>,
    /// How many messages each transaction has.
    messages: HashMap<TransactionId, usize>,
    /// Acked, acknowledged as such.
    acked: HashSet<MessageId>,
    /// An ack was sent and not answered: it may have been taken or not.
    perhaps_acked: HashSet<MessageId>,
    /// Delayed messages, and when they are due.
    scheduled: BTreeMap<MessageId, Timestamp>,
    /// Recalled, acknowledged as such.
    recalled: HashSet<MessageId>,
    /// A recall was sent and not answered.
    perhaps_recalled: HashSet<MessageId>,
    leased: Vec<Delivery>,
    seed: u64,
    /// Memory and disk are so short that upkeep has much to do.
    frugal: bool,
    pub(crate) page_entries: usize,
    pub(crate) hot_delayed_max: usize,
    /// Each life of the engine makes ids of its own, as on a real machine.
    opened: Cell<u64>,
}

impl World {
    pub(crate) fn new(disk: SimDisk, chance: SmallRng, seed: u64) -> Self {
        Self {
            disk,
            clock: Clock::manual(START),
            chance,
            transactions: BTreeMap::new(),
            unanswered: Vec::new(),
            requests: 0,
            touches: 0,
            places: HashMap::new(),
            messages: HashMap::new(),
            acked: HashSet::new(),
            perhaps_acked: HashSet::new(),
            scheduled: BTreeMap::new(),
            recalled: HashSet::new(),
            perhaps_recalled: HashSet::new(),
            leased: Vec::new(),
            seed,
            frugal: false,
            page_entries: 4,
            hot_delayed_max: 10_000,
            opened: Cell::new(0),
        }
    }

    /// The same with hardly any memory and disk.
    pub(crate) fn frugal(self) -> Self {
        Self { frugal: true, hot_delayed_max: 4, ..self }
    }

    pub(crate) fn open(&self) -> Result<(Engine, Recovered), OpenError> {
        let options = EngineOptions {
            journal: JournalOptions { segment_bytes: SEGMENT_BYTES, spare_in_background: false },
            retention: Duration::from_secs(30),
            decided_kept: 10_000,
            warm_up: Duration::from_secs(1),
            hot_entries_max: if self.frugal { 8 } else { 10_000 },
            hot_delayed_max: self.hot_delayed_max,
            page_entries: self.page_entries,
            image_every: if self.frugal { 16 * 1024 } else { u64::MAX },
            retention_bytes: if self.frugal { 64 * 1024 } else { u64::MAX },
            receipt_retention: Duration::MAX,
            upkeep_every: Duration::from_millis(500),
            progress: None,
            clock: self.clock.clone(),
            seed: Some(
                self.seed.wrapping_mul(1_000).wrapping_add(self.opened.replace(self.opened.get() + 1)),
            ),
        };
        Engine::open(Arc::new(self.disk.clone()), options, None)
    }

    /// Time passes with nothing to do but upkeep.
    pub(crate) fn rest(&self, engine: &mut Engine, seconds: u64) -> Result<(), Unavailable> {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            engine.run(Work::SMALL, |turn| {
                let (now, ledger, log) = turn.parts();
                ledger.tick(now, log);
            })?;
            engine.upkeep();
        }
        Ok(())
    }

    pub(crate) fn create_topic(&self, engine: &mut Engine) -> Result<(), Unavailable> {
        engine.run(Work::SMALL, |turn| {
            let (_, ledger, log) = turn.parts();
            ledger
                .create_topic(&TOPIC.parse().expect("a legal name"), 2, log)
                .expect("the same topic each time");
            let retry = RetryPolicy { attempts_max: 1_000, ..RetryPolicy::default() };
            ledger.configure_group(&group(), retry, log).expect("a legal policy");
        })
    }

    /// One random step. An error ends the life of this engine.
    pub(crate) fn step(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        if self.frugal {
            engine.upkeep();
        }
        match self.chance.random_range(0..100) {
            0..30 => self.prepare(engine),
            30..55 => self.decide(engine),
            55..62 => self.answer_checks(engine),
            62..68 => self.send(engine),
            68 => self.recall(engine),
            69..85 => self.receive(engine),
            // Whoever wants to see room become free again has to consume.
            85..94 => (0..if self.frugal { 12 } else { 1 }).try_for_each(|_| self.finish(engine)),
            _ => {
                self.clock.advance(Duration::from_millis(self.chance.random_range(0..8_000)));
                engine.run(Work::SMALL, |turn| {
                    let (now, ledger, log) = turn.parts();
                    ledger.tick(now, log);
                })
            }
        }
    }

    pub(crate) fn prepare(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        // A caller that got no answer asks again with the same request id; the content is the same.
        let again = !self.unanswered.is_empty() && self.chance.random_bool(0.5);
        let request = if again {
            self.unanswered.pop().expect("there is one")
        } else {
            self.requests += 1;
            self.requests
        };
        self.unanswered.push(request);
        let prepare = prepare(request);
        let bytes = prepare.send.messages().iter().map(Message::content_bytes).sum::<usize>() + 4_096;
        let accepted = self.run(engine, Work::New { bytes }, |turn| turn.prepare(prepare))??;
        let accepted = accepted.expect("the request is legal");
        self.unanswered.pop();
        self.messages.insert(accepted.transaction, accepted.message_ids.len());
        let known = self.transactions.entry(accepted.transaction).or_insert(Known::Prepared);
        assert!(matches!(known, Known::Prepared | Known::Asked(_) | Known::Decided(_)));
        Ok(())
    }

    pub(crate) fn decide(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        let Some((id, known)) = self.random_transaction() else { return Ok(()) };
        let decision = match known {
            Known::Prepared if self.chance.random_bool(0.7) => Decision::Commit,
            Known::Prepared => Decision::Rollback,
            // Who got no answer asks for the same again; now and then somebody asks for the opposite.
            Known::Asked(decision) => decision,
            Known::Decided(decision) if self.chance.random_bool(0.8) => decision,
            Known::Decided(Decision::Commit) => Decision::Rollback,
            Known::Decided(Decision::Rollback) => Decision::Commit,
        };
        if known == Known::Prepared {
            self.transactions.insert(id, Known::Asked(decision));
        }
        let decide = Decide {
            transaction: id,
            decision,
            by: DecidedBy::Call,
            reason: String::new(),
            replacements: Vec::new(),
        };
        let answer = self.run(engine, Work::SMALL, |turn| turn.decide(decide))??;
        self.check_decision(id, decision, answer);
        Ok(())
    }

    fn answer_checks(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        let questions = engine.run(Work::SMALL, |turn| {
            turn.ledger.claim_checks(
                turn.now,
                &["shop".parse().expect("a legal name")],
                4,
                Duration::from_secs(1),
            )
        })?;
        for question in questions {
            let id = question.transaction;
            let known = self.transactions.get(&id).copied();
            let decision = match known {
                Some(Known::Asked(decision) | Known::Decided(decision)) => decision,
                // Prepared behind a lost answer: the producer has no such row.
                None => Decision::Rollback,
                Some(Known::Prepared) => {
                    engine
                        .run(Work::SMALL, |turn| answer(turn, id, Answer::Unknown))?
                        .expect("UNKNOWN is taken");
                    continue;
                }
            };
            self.transactions.insert(id, Known::Asked(decision));
            let receipt = engine.run(Work::SMALL, |turn| answer(turn, id, Answer::Decided(decision)))?;
            self.check_decision(
                id,
                decision,
                receipt.map(|receipt| receipt.expect("a decision has a receipt")),
            );
        }
        Ok(())
    }

    fn send(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        self.requests += 1;
        let send = content(self.requests, 1).expect("the send is legal");
        let receipt = self.run(engine, Work::New { bytes: 4_096 }, |turn| {
            turn.send("shop".parse().expect("a legal name"), send)
        })??;
        let receipt = receipt.expect("the send is legal");
        self.transactions.insert(receipt.transaction, Known::Decided(Decision::Commit));
        self.messages.insert(receipt.transaction, receipt.messages.len());
        self.check_places(&receipt);
        Ok(())
    }

    /// Takes back one of those sent last, whether its time has come or not.
    fn recall(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        let back = self.chance.random_range(0..20);
        let Some((id, due)) = self.scheduled.iter().rev().nth(back).map(|(id, due)| (*id, *due)) else {
            return Ok(());
        };
        let first = self.perhaps_recalled.insert(id);
        let recalled = engine.run(Work::SMALL, |turn| {
            let (_, ledger, log) = turn.parts();
            ledger.recall(&TOPIC.parse().expect("a legal name"), id, due, log).is_ok()
        })?;
        // Refused, it may have been taken back by an earlier call that got no answer.
        if first || recalled {
            self.perhaps_recalled.remove(&id);
        }
        self.scheduled.remove(&id);
        if recalled {
            assert!(!self.places.contains_key(&id), "{id} was delivered, and then recalled");
            self.recalled.insert(id);
        }
        Ok(())
    }

    fn receive(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        let max = self.chance.random_range(1..8);
        let deliveries = lease(engine, max)?;
        for delivery in deliveries {
            self.check_delivery(&delivery);
            self.leased.push(delivery);
        }
        Ok(())
    }

    /// Acks, gives back, extends or forgets what is leased.
    fn finish(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        let Some(delivery) = self.leased.pop() else { return Ok(()) };
        let (topic, handle) = (delivery.place.topic.clone(), delivery.handle);
        match self.chance.random_range(0..10) {
            0..6 => {
                self.perhaps_acked.insert(delivery.id);
                let acked = self.run(engine, Work::SMALL, |turn| {
                    let (_, ledger, log) = turn.parts();
                    ledger.ack(&group(), &topic, &[handle], log).expect("group and topic exist").0
                })?;
                self.perhaps_acked.remove(&delivery.id);
                if acked.first().is_some_and(Result::is_ok) {
                    self.acked.insert(delivery.id);
                }
            }
            6..8 => {
                let _given_back = engine.run(Work::SMALL, |turn| {
                    let (now, ledger, log) = turn.parts();
                    ledger.retry_later(now, &group(), &topic, handle, None, "later", log)
                })?;
            }
            8 => {
                let _extended = engine.run(Work::SMALL, |turn| {
                    let (now, ledger, log) = turn.parts();
                    ledger.extend(now, &group(), &topic, handle, Duration::from_secs(20), log)
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whoever is still open is asked until it is decided; then everything is consumed.
    pub(crate) fn settle(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        for (id, known) in self.transactions.clone() {
            let state = engine.run(Work::SMALL, |turn| turn.describe(id))??.map(|view| view.state);
            let state =
                state.unwrap_or_else(|| panic!("transaction {id} ({known:?}) was acknowledged and is lost"));
            match (known, state) {
                (Known::Decided(decision), state) => {
                    assert_eq!(state, decision.into(), "the decision of {id}")
                }
                (Known::Prepared, state) => assert_eq!(state, State::Prepared, "nobody decided {id}"),
                (Known::Asked(_), State::Prepared | State::InDoubt) => {}
                (Known::Asked(asked), state) => assert_eq!(state, asked.into(), "nobody asked {id} for this"),
            }
            let decision = match known {
                Known::Decided(decision) | Known::Asked(decision) => decision,
                Known::Prepared => Decision::Rollback,
            };
            let decide = Decide {
                transaction: id,
                decision,
                by: DecidedBy::Call,
                reason: String::new(),
                replacements: Vec::new(),
            };
            let answer = engine.run(Work::SMALL, |turn| turn.decide(decide))??;
            self.transactions.insert(id, Known::Asked(decision));
            self.check_decision(id, decision, answer);
        }
        self.drain(engine)
    }

    fn drain(&mut self, engine: &mut Engine) -> Result<(), Unavailable> {
        let mut idle = 0;
        while idle < 3 {
            // Past every lease, retry and delay.
            self.clock.advance(Duration::from_secs(4_000));
            engine.run(Work::SMALL, |turn| {
                let (now, ledger, log) = turn.parts();
                ledger.tick(now, log);
            })?;
            let deliveries = lease(engine, 64)?;
            idle = if deliveries.is_empty() { idle + 1 } else { 0 };
            for delivery in deliveries {
                self.check_delivery(&delivery);
                let topic = delivery.place.topic.clone();
                let acked = engine.run(Work::SMALL, |turn| {
                    let (_, ledger, log) = turn.parts();
                    ledger.ack(&group(), &topic, &[delivery.handle], log).expect("group and topic exist").0
                })?;
                assert_eq!(acked, [Ok(())], "a fresh lease can be acked");
                self.acked.insert(delivery.id);
            }
        }
        for (id, known) in &self.transactions {
            let committed = *known == Known::Decided(Decision::Commit);
            let consumed: HashSet<_> =
                [&self.acked, &self.perhaps_acked, &self.recalled, &self.perhaps_recalled]
                    .into_iter()
                    .flatten()
                    .filter(|message| message.transaction == *id)
                    .collect();
            let expected = if committed { self.messages.get(id).copied().unwrap_or(0) } else { 0 };
            assert_eq!(consumed.len(), expected, "messages of {id} ({known:?}) that were consumed");
        }
        Ok(())
    }

    fn random_transaction(&mut self) -> Option<(TransactionId, Known)> {
        // Mostly the newest: old ones are decided long ago.
        let back = self.chance.random_range(0..12);
        self.transactions
            .iter()
            .rev()
            .nth(back)
            .or(self.transactions.iter().next_back())
            .map(|(id, known)| (*id, *known))
    }

    fn check_decision(&mut self, id: TransactionId, asked: Decision, answer: Result<Receipt, Rejection>) {
        let known = self.transactions.get(&id).copied();
        match answer {
            Ok(receipt) => {
                assert_eq!(receipt.verdict.decision, asked);
                if let Some(Known::Decided(before)) = known {
                    assert_eq!(before, asked, "two decisions for {id}");
                }
                self.transactions.insert(id, Known::Decided(asked));
                self.check_places(&receipt);
            }
            Err(Rejection::DecisionConflict { stands, .. }) => {
                let before = match known {
                    Some(Known::Decided(before)) => before,
                    other => panic!("{id} is {other:?}, but {} stands", stands.decision),
                };
                assert_eq!(before, stands.decision, "the decision of {id} changed");
            }
            Err(other) => panic!("{id} ({known:?}): {other}"),
        }
    }

    /// One message, one place, for ever.
    fn check_places(&mut self, receipt: &Receipt) {
        for (id, place) in &receipt.messages {
            match place {
                Ok(place) => self.check_place(*id, place),
                Err(due) if !self.places.contains_key(id) && !self.recalled.contains(id) => {
                    self.scheduled.insert(*id, *due);
                }
                Err(_) => {}
            }
        }
    }

    fn check_place(&mut self, id: MessageId, place: &Place) {
        let before = self.places.entry(id).or_insert_with(|| place.clone());
        assert_eq!(before, place, "{id} was released twice");
    }

    fn check_delivery(&mut self, delivery: &Delivery) {
        let known = self.transactions.get(&delivery.id.transaction);
        assert!(
            !matches!(
                known,
                Some(Known::Prepared | Known::Asked(Decision::Rollback) | Known::Decided(Decision::Rollback))
            ),
            "{} was delivered, but it is {known:?}",
            delivery.id
        );
        assert!(!self.recalled.contains(&delivery.id), "{} was recalled", delivery.id);
        assert!(!self.acked.contains(&delivery.id), "{} was acked and came again", delivery.id);
        self.check_place(delivery.id, &delivery.place);
    }
}

fn answer(turn: &mut Turn<'_>, id: TransactionId, answer: Answer) -> Result<Option<Receipt>, Rejection> {
    let (now, ledger, log) = turn.parts();
    ledger.answer(now, id, answer, String::new(), Vec::new(), log)
}

pub(crate) fn lease(engine: &mut Engine, max: usize) -> Result<Vec<Delivery>, Unavailable> {
    let receive = Receive {
        group: group(),
        topic: TOPIC.parse().expect("a legal name"),
        max,
        invisible: Duration::from_secs(10),
        filter: TagFilter::default(),
        start: halfmq_core::Start::Beginning,
    };
    let received = engine.run(Work::SMALL, |turn| {
        let (now, ledger, log) = turn.parts();
        ledger.receive(now, &receive, log)
    })?;
    Ok(received.expect("the topic exists").deliveries)
}

pub(crate) fn group() -> ConsumerGroup {
    GROUP.parse().expect("a legal name")
}
