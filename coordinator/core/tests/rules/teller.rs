//! Tells a story to a ledger, and compares what it answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use halfmq_core::{
    Accepted, Answer, CheckPolicy, Decide, DecidedBy, DecidedTransaction, Decision, InDoubtPolicy, Ledger,
    Message, MessageId, Place, Prepare, ProducerGroup, Receipt, ReceiptHandle, Receive, Rejection, Retry,
    RetryPolicy, Send, Start, State, TagFilter, Timestamp, TransactionId, Visibility,
};

use crate::call::{Call, seconds};
use crate::journal::{Journal, observe};
use crate::refusal::refusal;

const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const RETENTION: Duration = Duration::from_secs(100);

type Answered = Result<String, Rejection>;

/// One ledger, and what the story calls things.
pub(crate) struct Teller {
    ledger: Ledger,
    journal: Journal,
    now: Timestamp,
    transactions: BTreeMap<String, TransactionId>,
    /// What an engine remembers of transactions that the ledger forgot.
    past: HashMap<TransactionId, Arc<DecidedTransaction>>,
    /// The handle of each group's latest delivery of a body.
    handles: HashMap<(String, String), ReceiptHandle>,
}

/// What happens after each line, and must change no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Between {
    Nothing,
    Restart,
    /// A restart with nothing but an image of the ledger.
    Image,
    /// All entries go onto the shelf, and all contents somewhere else.
    Shelf,
}

impl Teller {
    /// Tells a story, or returns it up to the line that went otherwise.
    pub(crate) fn tell(story: &str, between: Between) -> Result<(), String> {
        let journal = Journal::default();
        let mut teller = Self {
            ledger: journal.ledger(RETENTION),
            journal,
            now: START,
            transactions: BTreeMap::new(),
            past: HashMap::new(),
            handles: HashMap::new(),
        };
        let (title, lines) = story.split_once('\n').unwrap_or((story, ""));
        let mut so_far = format!("{title}, after each line: {between:?}\n");
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (call, expected) = line.split_once("->").unwrap_or_else(|| panic!("no answer in {line:?}"));
            let answer = teller.call(call.trim());
            so_far.push_str(line);
            so_far.push('\n');
            if answer != expected.trim() {
                return Err(format!("{so_far}>>> but it answered: {answer}"));
            }
            match between {
                Between::Nothing | Between::Restart => {}
                Between::Image => teller.journal.condense(&teller.ledger, teller.now),
                Between::Shelf => teller.put_away(),
            }
            let replayed = teller.replayed();
            let (before, after) = (observe(&teller.ledger), observe(&replayed));
            if before != after {
                let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
                let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
                return Err(format!("{so_far}>>> but a restart here makes {gone:#?} to {new:#?}"));
            }
            for (id, archived) in teller.journal.archived() {
                let known = teller.ledger.decided_transaction(id).or_else(|| teller.past.get(&id));
                assert_eq!(known.map(Arc::as_ref), Some(&archived), "{so_far}");
            }
            match between {
                Between::Nothing | Between::Shelf => {}
                Between::Restart | Between::Image => teller.ledger = replayed,
            }
        }
        Ok(())
    }

    /// Nothing stays in memory that can go onto the shelf, and nothing stays where it is.
    fn put_away(&mut self) {
        self.journal.carry_all(&mut self.ledger, self.now);
        while self.ledger.shelve(1, &mut self.journal) {}
        while self.ledger.shelve_delayed(2, &mut self.journal) {}
        while self.ledger.shelve_delayed(1, &mut self.journal) {}
        assert_eq!((self.ledger.hot_entries(), self.ledger.hot_delayed()), (0, 0));
        self.journal.carry_all(&mut self.ledger, self.now);
    }

    /// The ledger after a restart. An engine lets it forget again what had been forgotten.
    fn replayed(&self) -> Ledger {
        let mut ledger = self.journal.replayed(RETENTION);
        self.past.keys().for_each(|id| ledger.forget(*id));
        ledger
    }

    fn call(&mut self, line: &str) -> String {
        let call = Call::read(line);
        let answered = match call.word(0) {
            "prepare" => self.prepare(&call),
            "send" => self.send(&call),
            "commit" => self.decide(&call, Decision::Commit),
            "rollback" => self.decide(&call, Decision::Rollback),
            "state" => Ok(self.state(&call)),
            "list" => self.list(&call),
            "due" => self.due(&call),
            "answer" => self.answer(&call),
            "forget" => Ok(self.forget(&call)),
            "receive" => self.receive(&call),
            "ack" => self.ack(&call),
            "extend" => self.extend(&call),
            "retry" => self.retry(&call),
            "tick" => Ok(self.tick(&call)),
            "recall" => self.recall(&call),
            "shelve" => Ok(self.shelve(&call)),
            "next" => Ok(self.ledger.next_due().map_or_else(|| "nothing".into(), |due| self.at(due))),
            _ => self.administer(&call),
        };
        answered.unwrap_or_else(|rejection| refusal(&rejection))
    }

    fn prepare(&mut self, call: &Call<'_>) -> Answered {
        let in_doubt = match call.option("in_doubt") {
            None => InDoubtPolicy::Keep,
            Some("commit") => InDoubtPolicy::Commit,
            Some("rollback") => InDoubtPolicy::Rollback,
            Some(other) => panic!("in_doubt={other}"),
        };
        let prepare = Prepare {
            producer_group: producer_group(call)?,
            instance: Some("one".parse()?),
            callback: call.option("callback").map(str::to_owned),
            policy: CheckPolicy {
                first_after: call.seconds("first", 6),
                checks_max: call.number("checks_max", 15),
                in_doubt,
                ..CheckPolicy::default()
            },
            send: self.contents(call, &call.words[2..])?,
        };
        let (fresh, past) = (self.fresh(call.word(1)), self.remembered(call));
        let Accepted { transaction, message_ids, first_check_at } =
            self.ledger.prepare(self.now, fresh, prepare, past, &mut self.journal)?;
        assert!(
            message_ids.iter().zip(0..).all(|(id, index)| (id.transaction, id.index) == (transaction, index))
        );
        if transaction != fresh {
            return Ok(format!("{} again", self.name(transaction)));
        }
        Ok(format!("check at {}", self.at(first_check_at)))
    }

    fn send(&mut self, call: &Call<'_>) -> Answered {
        let send = self.contents(call, &call.words[1..])?;
        let (fresh, past) =
            (self.fresh(&format!("send{}", self.journal.events.len())), self.remembered(call));
        let group = producer_group(call)?;
        let receipt = self.ledger.send(self.now, fresh, group, send, past, &mut self.journal)?;
        Ok(self.show_receipt(&receipt))
    }

    fn decide(&mut self, call: &Call<'_>, decision: Decision) -> Answered {
        let replacements = self.replacements(call)?;
        let decide = Decide {
            transaction: self.transaction(call.word(1)),
            decision,
            by: DecidedBy::Call,
            reason: "x".repeat(call.number("reason_bytes", 0)),
            replacements,
        };
        let receipt = self.ledger.decide(self.now, decide, &mut self.journal)?;
        Ok(self.show_receipt(&receipt))
    }

    fn replacements(&self, call: &Call<'_>) -> Result<Vec<(u16, Message)>, Rejection> {
        let Some((index, body)) = call.option("replace").and_then(|new| new.split_once(':')) else {
            return Ok(Vec::new());
        };
        let contents = self.contents(&Call::read(""), &[&format!("anywhere:{body}")])?;
        let message = contents.messages().first().expect("a message").clone();
        Ok(vec![(index.parse().expect("an index"), message)])
    }

    fn state(&self, call: &Call<'_>) -> String {
        let Some(view) = self.ledger.describe(self.transaction(call.word(1))) else {
            return "nothing".into();
        };
        let verdict = view.receipt.as_ref().map(|receipt| &receipt.verdict);
        let by = verdict.map(|verdict| format!(" by {:?}", verdict.by).to_lowercase()).unwrap_or_default();
        let halves: Vec<_> = view.contents.iter().map(|extent| self.journal.body(*extent)).collect();
        format!("{:?}{by} answered {} {}", view.state, view.answered, halves.join(" ")).trim_end().into()
    }

    fn list(&self, call: &Call<'_>) -> Answered {
        let state = match call.word(1) {
            "open" => None,
            "prepared" => Some(State::Prepared),
            "in-doubt" => Some(State::InDoubt),
            "committed" => Some(State::Committed),
            "rolled-back" => Some(State::RolledBack),
            other => panic!("state {other}"),
        };
        let after = call.option("after").map(|name| self.transaction(name));
        let group: Option<ProducerGroup> = call.option("group").map(str::parse).transpose()?;
        let views = self.ledger.list(state, group.as_ref(), after, call.number("max", 100));
        Ok(names(views.iter().map(|view| self.name(view.transaction))))
    }

    fn due(&mut self, call: &Call<'_>) -> Answered {
        let groups = call.words[1..].iter().map(|group| group.parse()).collect::<Result<Vec<_>, _>>()?;
        let claim = call.seconds("claim", 5);
        let questions = self.ledger.claim_checks(self.now, &groups, call.number("max", 10), claim);
        Ok(names(questions.iter().map(|question| {
            let bodies = question.contents.iter().map(|extent| self.journal.body(*extent));
            format!("{}({})", self.name(question.transaction), bodies.collect::<Vec<_>>().join(" "))
        })))
    }

    fn answer(&mut self, call: &Call<'_>) -> Answered {
        let id = self.transaction(call.word(1));
        let answer = match call.word(2) {
            "commit" => Answer::Decided(Decision::Commit),
            "rollback" => Answer::Decided(Decision::Rollback),
            "unknown" => Answer::Unknown,
            "unreachable" => {
                self.ledger.put_off(id, self.now.after(Duration::from_secs(1)));
                return Ok("ok".into());
            }
            other => panic!("answer {other}"),
        };
        let replacements = self.replacements(call)?;
        let receipt =
            self.ledger.answer(self.now, id, answer, String::new(), replacements, &mut self.journal)?;
        Ok(receipt.map_or_else(|| "ok".into(), |receipt| self.show_receipt(&receipt)))
    }

    fn forget(&mut self, call: &Call<'_>) -> String {
        let id = self.transaction(call.word(1));
        let decided = self.ledger.decided_transaction(id).expect("a decided transaction");
        self.past.insert(id, Arc::clone(decided));
        self.ledger.forget(id);
        "ok".into()
    }

    fn receive(&mut self, call: &Call<'_>) -> Answered {
        let receive = Receive {
            topic: call.word(1).parse()?,
            group: call.word(2).parse()?,
            max: call.number("max", 10),
            invisible: call.seconds("invisible", 30),
            filter: TagFilter::parse(call.option("tag").unwrap_or_default())?,
            start: start(call.option("from").unwrap_or("beginning")),
        };
        let received = self.ledger.receive(self.now, &receive, &mut self.journal)?;
        let mut shown = Vec::new();
        for delivery in received.deliveries {
            let (body, attempt) = (self.journal.body(delivery.content), delivery.handle.attempt);
            let link = match call.options.contains_key("links") {
                true => format!("({}<-{})", delivery.sequence, delivery.previous_sequence),
                false => String::new(),
            };
            shown.push(if attempt == 1 {
                format!("{body}{link}")
            } else {
                format!("{body}#{attempt}{link}")
            });
            self.handles.insert((call.word(2).to_owned(), body), delivery.handle);
        }
        Ok(names(shown.into_iter()))
    }

    fn ack(&mut self, call: &Call<'_>) -> Answered {
        let handles: Vec<_> = call.words[3..].iter().map(|body| self.handle(call, body)).collect();
        let (topic, group) = (call.word(1).parse()?, call.word(2).parse()?);
        // Whom to wake is no promise that outlives a restart: whoever waited is gone then.
        let (results, _wake) = self.ledger.ack(&group, &topic, &handles, &mut self.journal)?;
        let show =
            |result: &Result<(), Rejection>| result.as_ref().err().map_or_else(|| "ok".into(), refusal);
        Ok(names(results.iter().map(show)))
    }

    fn extend(&mut self, call: &Call<'_>) -> Answered {
        let (topic, group) = (call.word(1).parse()?, call.word(2).parse()?);
        let (handle, span) = (self.handle(call, call.word(3)), seconds(call.word(4)));
        let until = self.ledger.extend(self.now, &group, &topic, handle, span, &mut self.journal)?;
        Ok(format!("until {}", self.at(until)))
    }

    fn retry(&mut self, call: &Call<'_>) -> Answered {
        let (topic, group) = (call.word(1).parse()?, call.word(2).parse()?);
        let (handle, delay) = (self.handle(call, call.word(3)), call.option("in").map(seconds));
        let reason = call.option("reason").unwrap_or_default();
        let log = &mut self.journal;
        Ok(match self.ledger.retry_later(self.now, &group, &topic, handle, delay, reason, log)? {
            Retry::Visible(at) => format!("again at {}", self.at(at)),
            Retry::DeadLetter(place) => format!("dead letter {place}"),
        })
    }

    /// The message of this position in a transaction, or in the sends in their order.
    fn recall(&mut self, call: &Call<'_>) -> Answered {
        let (transaction, due) = (self.transaction(call.word(2)), START.after(seconds(call.word(3))));
        let id = MessageId { transaction, index: call.number("index", 0) };
        self.ledger.recall(&call.word(1).parse()?, id, due, &mut self.journal)?;
        Ok("ok".into())
    }

    /// As many pages of so many delayed messages as there are.
    fn shelve(&mut self, call: &Call<'_>) -> String {
        let (page, keep) = (call.number("page", 1), call.number("keep", 0));
        while self.ledger.hot_delayed() >= keep + page {
            assert!(self.ledger.shelve_delayed(page, &mut self.journal));
        }
        "ok".into()
    }

    fn tick(&mut self, call: &Call<'_>) -> String {
        self.now = self.now.after(seconds(call.word(1)));
        let topics = self.ledger.tick(self.now, &mut self.journal).topics;
        if topics.is_empty() { "ok".into() } else { names(topics.iter().map(ToString::to_string)) }
    }

    fn administer(&mut self, call: &Call<'_>) -> Answered {
        let log = &mut self.journal;
        match call.word(0) {
            "topic" => {
                let queues = call.number("queues", 1);
                self.ledger.create_topic(&call.word(1).parse()?, queues, log)?;
            }
            "delete" => {
                let force = call.words.get(2) == Some(&"force");
                self.ledger.delete_topic(&call.word(1).parse()?, force, log)?;
            }
            "configure" => {
                let retry = RetryPolicy {
                    attempts_max: call.number("attempts", 16),
                    delay: call.seconds("delay", 1),
                    ..RetryPolicy::default()
                };
                self.ledger.configure_group(&call.word(1).parse()?, retry, log)?;
            }
            "reset" => {
                let (topic, group) = (call.word(1).parse()?, call.word(2).parse()?);
                self.ledger.reset_group(&group, &topic, start(call.word(3)), log)?;
            }
            "replay" => {
                let group = call.word(1).parse()?;
                let topics = self.ledger.replay_dead_letters(self.now, &group, numbers(call), log)?;
                return Ok(names(topics.iter().map(ToString::to_string)));
            }
            "purge" => {
                let count = self.ledger.purge_dead_letters(&call.word(1).parse()?, numbers(call), log)?;
                return Ok(count.to_string());
            }
            _ => return self.show(call),
        }
        Ok("ok".into())
    }

    fn show(&self, call: &Call<'_>) -> Answered {
        match call.word(0) {
            "describe" => {
                let view = self.ledger.describe_topic(&call.word(1).parse()?)?;
                let queues = view.queues.iter().map(|queue| format!("{}..{}", queue.oldest, queue.next));
                let queues = names(queues);
                Ok(format!("{queues} halves={} delayed={}", view.open, view.delayed))
            }
            "group" => {
                let view = self.ledger.describe_group(&call.word(1).parse()?)?;
                let queues = || view.topics.iter().flat_map(|topic| &topic.queues);
                let undelivered: u64 = queues().map(|queue| queue.undelivered).sum();
                let in_flight: u64 = queues().map(|queue| queue.in_flight).sum();
                Ok(format!("undelivered={undelivered} in_flight={in_flight} dead={}", view.dead_letters))
            }
            "dead" => {
                let letters = self.ledger.dead_letters(&call.word(1).parse()?, 0, 10)?;
                Ok(names(letters.iter().map(|letter| {
                    let origin = &letter.origin;
                    format!("{}:{}x{}:{}", letter.number, origin.place, origin.attempts, origin.reason)
                })))
            }
            "letter" => {
                let number = call.word(2).parse().expect("a number");
                let letter = self.ledger.dead_letter_view(&call.word(1).parse()?, number)?;
                Ok(self.journal.body(letter.content))
            }
            "callback" => Ok(self.ledger.callback(&call.word(1).parse()?).unwrap_or("nothing").to_owned()),
            other => panic!("what is {other:?}?"),
        }
    }

    fn show_receipt(&self, receipt: &Receipt) -> String {
        let place = |at: &Result<Place, Timestamp>| match at {
            Ok(place) => place.to_string(),
            Err(at) => format!("at {}", self.at(*at)),
        };
        let places: Vec<_> = receipt.messages.iter().map(|(_, at)| place(at)).collect();
        if places.is_empty() { receipt.verdict.decision.to_string() } else { places.join(" ") }
    }

    /// `topic:body,body` for each topic, all with the same options.
    fn contents(&self, call: &Call<'_>, topics: &[&str]) -> Result<Send, Rejection> {
        let mut messages = Vec::new();
        for topic in topics {
            let (topic, bodies) = topic.split_once(':').unwrap_or((topic, ""));
            for body in bodies.split(',').filter(|body| !body.is_empty()) {
                let at = call.option("at").map(|at| Visibility::At(START.after(seconds(at))));
                let delay = call.option("delay").map(|delay| Visibility::After(seconds(delay)));
                messages.push(Message {
                    topic: topic.parse()?,
                    body: body.to_owned().into(),
                    tag: call.option("tag").map(str::parse).transpose()?,
                    keys: call.option("key").map(str::to_owned).into_iter().collect(),
                    headers: Vec::new(),
                    message_group: call.option("in").map(str::parse).transpose()?,
                    visibility: at.or(delay).unwrap_or(Visibility::AtOnce),
                });
            }
        }
        Send::new(call.option("request").map(str::parse).transpose()?, messages)
    }

    /// The handle of a body's latest delivery, or of an earlier attempt.
    fn handle(&self, call: &Call<'_>, body: &str) -> ReceiptHandle {
        let handle = self.handles.get(&(call.word(2).to_owned(), body.to_owned()));
        let handle = *handle.unwrap_or(&ReceiptHandle { queue: 0, offset: 999, attempt: 1 });
        ReceiptHandle {
            attempt: call.number("attempt", handle.attempt),
            queue: call.number("queue", handle.queue),
            ..handle
        }
    }

    /// What an engine finds in its index for the request id of this call.
    fn remembered(&self, call: &Call<'_>) -> Option<(TransactionId, DecidedTransaction)> {
        let id = self.transaction(call.option("past")?);
        let past = self.past.get(&id).expect("a forgotten transaction");
        Some((id, DecidedTransaction::clone(past)))
    }

    /// A name that was used before keeps its first id, so that a repeated prepare shows.
    fn fresh(&mut self, name: &str) -> TransactionId {
        let id = TransactionId::from_u128(100 + self.transactions.len() as u128);
        *self.transactions.entry(name.to_owned()).or_insert(id)
    }

    /// An id that nobody has for a name that nobody prepared.
    fn transaction(&self, name: &str) -> TransactionId {
        self.transactions.get(name).copied().unwrap_or(TransactionId::from_u128(1))
    }

    fn name(&self, id: TransactionId) -> String {
        let known = self.transactions.iter().find(|(_, known)| **known == id);
        known.map_or_else(|| id.to_string(), |(name, _)| name.clone())
    }

    /// On the story's clock.
    fn at(&self, at: Timestamp) -> String {
        format!("{}s", at.since(START).as_secs())
    }
}

fn producer_group(call: &Call<'_>) -> Result<ProducerGroup, Rejection> {
    call.option("group").unwrap_or("shop").parse()
}

fn numbers(call: &Call<'_>) -> Option<Vec<u64>> {
    let numbers = call.words[2..].iter().map(|number| number.parse().expect("a number"));
    if call.word(2) == "all" { None } else { Some(numbers.collect()) }
}

fn start(text: &str) -> Start {
    match text {
        "beginning" => Start::Beginning,
        "end" => Start::End,
        since => Start::At(START.after(seconds(since))),
    }
}

fn names(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing".into() } else { names.join(" ") }
}
