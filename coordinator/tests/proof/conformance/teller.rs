//! Tells a story to a store, and compares what it answers.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use halfmq_coordinator::clock::Clock;
use halfmq_coordinator::store::{
    Ack, CheckAnswer, GiveUp, Lease, ListTransactions, Recall, Replacement, Replies, Store, Unavailable,
};
use halfmq_core::{
    Answer, CheckPolicy, Decide, DecidedBy, Decision, InDoubtPolicy, Message, MessageId, Place, Prepare,
    Receipt, ReceiptHandle, Receive, Rejection, Retry, RetryPolicy, Send, Start, State, TagFilter, Timestamp,
    TransactionId, Visibility,
};

const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// One store, and what the story calls things.
pub(crate) struct Teller<'a> {
    store: Arc<dyn Store>,
    clock: Clock,
    directory: &'a Path,
    open: super::Open,
    transactions: BTreeMap<String, TransactionId>,
    /// The handle of each body's latest delivery.
    handles: HashMap<String, ReceiptHandle>,
    /// What was sent last to come later.
    scheduled: Option<(MessageId, Timestamp)>,
}

/// The words of a call, and its `name=value` options.
struct Call<'a> {
    words: Vec<&'a str>,
    options: HashMap<&'a str, &'a str>,
}

impl<'a> Call<'a> {
    fn read(line: &'a str) -> Self {
        let (options, words): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        Self { words, options: options.into_iter().filter_map(|option| option.split_once('=')).collect() }
    }

    fn word(&self, at: usize) -> &'a str {
        self.words.get(at).copied().unwrap_or_else(|| panic!("word {at} is missing in {:?}", self.words))
    }

    fn option(&self, name: &str) -> Option<&'a str> {
        self.options.get(name).copied()
    }

    fn seconds(&self, name: &str, default: u64) -> Duration {
        self.option(name).map_or(Duration::from_secs(default), seconds)
    }

    fn number<N: std::str::FromStr>(&self, name: &str, default: N) -> N {
        self.option(name)
            .map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{name}={number}")))
    }
}

impl<'a> Teller<'a> {
    pub(crate) async fn tell(where_from: &str, story: &str, open: super::Open, restarted: bool) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let clock = Clock::manual(START);
        let mut teller = Teller {
            store: open(directory.path(), clock.clone()),
            clock,
            directory: directory.path(),
            open,
            transactions: BTreeMap::new(),
            handles: HashMap::new(),
            scheduled: None,
        };
        let mut so_far = String::new();
        for line in story.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()) {
            let (call, expected) = line.split_once("->").unwrap_or_else(|| panic!("no answer in {line:?}"));
            let answer = teller.call(call.trim()).await;
            let title = story.lines().next().unwrap_or_default();
            assert_eq!(answer, expected.trim(), "{where_from}: {title}\n{so_far}>>> {line}");
            so_far.push_str(line);
            so_far.push('\n');
            if restarted {
                teller.restart().await;
            }
        }
        teller.store.close().await.expect("the store closes");
    }

    async fn restart(&mut self) {
        self.store.close().await.expect("the store closes");
        self.store = (self.open)(self.directory, self.clock.clone());
    }

    async fn call(&mut self, line: &str) -> String {
        let call = Call::read(line);
        let answer = match call.word(0) {
            "prepare" => self.prepare(&call).await,
            "commit" => self.decide(&call, Decision::Commit).await,
            "rollback" => self.decide(&call, Decision::Rollback).await,
            "send" => self.send(&call).await,
            "state" => self.state(&call).await,
            "list" => self.list(&call).await,
            "horizon" => self.horizon().await,
            "due" => self.due(&call).await,
            "answer" => self.answer(&call).await,
            "receive" => self.receive(&call).await,
            "ack" => self.ack(&call).await,
            "extend" => self.extend(&call).await,
            "retry" => self.retry(&call).await,
            "give-up" => self.give_up(&call).await,
            "recall" => self.recall(&call).await,
            "tick" => self.tick(&call).await,
            _ => self.administer(&call).await,
        };
        answer.unwrap_or_else(|rejection| name_of(&rejection))
    }

    async fn prepare(&mut self, call: &Call<'_>) -> Result<String, Rejection> {
        let in_doubt = match call.option("in_doubt") {
            None => InDoubtPolicy::Keep,
            Some("commit") => InDoubtPolicy::Commit,
            Some("rollback") => InDoubtPolicy::Rollback,
            Some(other) => panic!("in_doubt={other}"),
        };
        let prepare = Prepare {
            producer_group: call.option("group").unwrap_or("shop").parse()?,
            instance: Some("one".parse()?),
            callback: call.option("callback").map(str::to_owned),
            policy: CheckPolicy {
                checks_max: call.number("checks_max", 15),
                in_doubt,
                ..CheckPolicy::default()
            },
            send: contents(call, &call.words[2..])?,
        };
        let accepted = one(self.store.prepare(vec![prepare])).await?;
        let alias = call.word(1).to_owned();
        let known = self.transactions.iter().find(|(_, id)| **id == accepted.transaction);
        if let Some((name, _)) = known {
            return Ok(format!("{name} again"));
        }
        self.transactions.insert(alias, accepted.transaction);
        Ok(format!("check at {}", self.since_now(accepted.first_check_at)))
    }

    async fn decide(&mut self, call: &Call<'_>, decision: Decision) -> Result<String, Rejection> {
        let transaction = self.transaction(call.word(1));
        let replace = |(index, body): (&str, &str)| Replacement {
            index: index.parse().expect("an index"),
            body: Some(body.to_owned().into()),
            headers: None,
        };
        let replacements = call.option("replace").and_then(|new| new.split_once(':')).map(replace);
        let reason = call.option("reason").unwrap_or_default().to_owned();
        let decide = Decide { transaction, decision, by: DecidedBy::Call, reason, replacements: Vec::new() };
        let receipt = one(self.store.decide(vec![(decide, replacements.into_iter().collect())])).await?;
        Ok(self.show_receipt(&receipt))
    }

    async fn send(&mut self, call: &Call<'_>) -> Result<String, Rejection> {
        let send = contents(call, &call.words[1..])?;
        let receipt =
            one(self.store.send(vec![(call.option("group").unwrap_or("shop").parse()?, send)])).await?;
        let scheduled =
            |(id, at): &(MessageId, Result<Place, Timestamp>)| Some((*id, at.as_ref().err().copied()?));
        self.scheduled = receipt.messages.iter().find_map(scheduled).or(self.scheduled);
        Ok(self.show_receipt(&receipt))
    }

    async fn state(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let (view, messages) = one(self.store.describe(vec![self.transaction(call.word(1))])).await?;
        let verdict = view.receipt.as_ref().map(|receipt| &receipt.verdict);
        let by = verdict.map(|verdict| format!(" by {:?}", verdict.by).to_lowercase()).unwrap_or_default();
        let halves: Vec<_> = messages.iter().map(|message| text(&message.body)).collect();
        let halves = if halves.is_empty() { String::new() } else { format!(" {}", halves.join(" ")) };
        Ok(format!("{:?}{by} answered {}{halves}", view.state, view.answered))
    }

    async fn list(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let state = match call.word(1) {
            "open" => None,
            "in-doubt" => Some(State::InDoubt),
            "committed" => Some(State::Committed),
            "rolled-back" => Some(State::RolledBack),
            other => panic!("state {other}"),
        };
        let after = call.option("after").map(|name| self.transaction(name));
        let list = ListTransactions { state, producer_group: None, after, max: call.number("max", 100) };
        let views = self.store.list(list).await.expect("the store works");
        Ok(names(views.iter().map(|view| self.name(view.transaction))))
    }

    async fn due(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let groups = call.words[1..].iter().map(|group| group.parse()).collect::<Result<_, _>>()?;
        let claimed =
            self.store.claim_checks(groups, 10, Duration::from_secs(5)).await.expect("the store works");
        Ok(names(claimed.questions.iter().map(|(question, messages)| {
            let bodies: Vec<_> = messages.iter().map(|message| text(&message.body)).collect();
            format!("{}({})", self.name(question.transaction), bodies.join(" "))
        })))
    }

    async fn answer(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let transaction = self.transaction(call.word(1));
        let answer = match call.word(2) {
            "commit" => Answer::Decided(Decision::Commit),
            "rollback" => Answer::Decided(Decision::Rollback),
            "unknown" => Answer::Unknown,
            "unreachable" => {
                self.store.put_off(vec![transaction], Duration::from_secs(1)).await.expect("the store works");
                return Ok("ok".into());
            }
            other => panic!("answer {other}"),
        };
        let answer = CheckAnswer { transaction, answer, reason: String::new(), replacements: Vec::new() };
        let receipt = one(self.store.record_answers(vec![answer])).await?;
        Ok(receipt.map_or_else(|| "ok".into(), |receipt| self.show_receipt(&receipt)))
    }

    async fn receive(&mut self, call: &Call<'_>) -> Result<String, Rejection> {
        let receive = Receive {
            topic: call.word(1).parse()?,
            group: call.word(2).parse()?,
            max: call.number("max", 10),
            invisible: call.seconds("invisible", 30),
            filter: TagFilter::parse(call.option("tag").unwrap_or_default())?,
            start: start(call.option("from").unwrap_or("beginning")),
        };
        let leased = one(self.store.receive(vec![receive])).await?;
        let mut shown = Vec::new();
        for (delivery, message) in leased.deliveries {
            let body = text(&message.body);
            let attempt = delivery.handle.attempt;
            shown.push(if attempt == 1 { body.clone() } else { format!("{body}#{attempt}") });
            if call.options.contains_key("links") {
                shown.push(format!("({}<-{})", delivery.sequence, delivery.previous_sequence));
            }
            self.handles.insert(body, delivery.handle);
        }
        Ok(names(shown.into_iter()))
    }

    async fn ack(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let handles = call.words[3..].iter().map(|body| self.handle(call, body)).collect();
        let ack = Ack { topic: call.word(1).parse()?, group: call.word(2).parse()?, handles };
        let acked = one(self.store.ack(vec![ack])).await?;
        let show =
            |result: &Result<(), Rejection>| result.as_ref().err().map_or_else(|| "ok".to_owned(), name_of);
        Ok(acked.results.iter().map(show).collect::<Vec<_>>().join(" "))
    }

    async fn extend(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let until = one(self.store.extend(vec![(self.lease(call)?, seconds(call.word(4)))])).await?;
        Ok(format!("until {}", self.since_now(until)))
    }

    async fn retry(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let delay = call.option("in").map(seconds);
        let reason = call.option("reason").unwrap_or_default().to_owned();
        Ok(match one(self.store.retry_later(vec![(self.lease(call)?, delay, reason)])).await? {
            Retry::Visible(at) => format!("again at {}", self.since_now(at)),
            Retry::DeadLetter(place) => format!("dead letter {place}"),
        })
    }

    async fn give_up(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let reason = call.option("reason").unwrap_or_default().to_owned();
        let give_up = GiveUp { lease: self.lease(call)?, attempts: call.number("attempts", 0), reason };
        Ok(format!("dead letter {}", one(self.store.give_up(vec![give_up])).await?))
    }

    /// Of the message that was sent last to come later.
    async fn recall(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let (message, due) = self.scheduled.expect("a story recalls what it has sent");
        one(self.store.recall(vec![Recall { topic: call.word(1).parse()?, message, due }])).await?;
        Ok("ok".into())
    }

    async fn tick(&self, call: &Call<'_>) -> Result<String, Rejection> {
        self.clock.advance(seconds(call.word(1)));
        let tick = self.store.tick().await.expect("the store works");
        Ok(if tick.topics.is_empty() {
            "ok".into()
        } else {
            names(tick.topics.iter().map(ToString::to_string))
        })
    }

    /// Whether all receipts are kept, and the last number of each producer group.
    async fn horizon(&self) -> Result<String, Rejection> {
        let horizon = self.store.horizon().await.expect("the store works");
        let receipts = if horizon.receipts_since.is_none() { "all" } else { "some" };
        let numbers = horizon.last_sequences.iter().map(|(group, last)| format!("{group}={last}"));
        Ok(format!("{receipts} {}", names(numbers)))
    }

    async fn administer(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let works = "the store works";
        match call.word(0) {
            "topic" => {
                let view = self
                    .store
                    .create_topic(call.word(1).parse()?, call.number("queues", 1))
                    .await
                    .expect(works)?;
                Ok(format!("{} queues", view.queues.len()))
            }
            "delete" => {
                let force = call.words.get(2) == Some(&"force");
                self.store.delete_topic(call.word(1).parse()?, force).await.expect(works)?;
                Ok("ok".into())
            }
            "describe" => {
                let view = self.store.describe_topic(call.word(1).parse()?).await.expect(works)?;
                let queues: Vec<_> =
                    view.queues.iter().map(|queue| format!("{}..{}", queue.oldest, queue.next)).collect();
                Ok(format!("{} halves={} delayed={}", queues.join(" "), view.open, view.delayed))
            }
            "topics" => {
                Ok(names(self.store.topics().await.expect(works).iter().map(|view| view.topic.to_string())))
            }
            "configure" => {
                let retry =
                    RetryPolicy { attempts_max: call.number("attempts", 16), ..RetryPolicy::default() };
                let view = self.store.configure_group(call.word(1).parse()?, retry).await.expect(works)?;
                Ok(format!("attempts={}", view.retry.attempts_max))
            }
            "groups" => {
                Ok(names(self.store.groups().await.expect(works).iter().map(|view| view.group.to_string())))
            }
            "group" => {
                let view = self.store.describe_group(call.word(1).parse()?).await.expect(works)?;
                let queues = || view.topics.iter().flat_map(|topic| &topic.queues);
                let undelivered: u64 = queues().map(|queue| queue.undelivered).sum();
                let in_flight: u64 = queues().map(|queue| queue.in_flight).sum();
                Ok(format!("undelivered={undelivered} in_flight={in_flight} dead={}", view.dead_letters))
            }
            "reset" => {
                let (topic, group) = (call.word(1).parse()?, call.word(2).parse()?);
                self.store.reset_group(group, topic, start(call.word(3))).await.expect(works)?;
                Ok("ok".into())
            }
            _ => self.care_for_dead_letters(call).await,
        }
    }

    async fn care_for_dead_letters(&self, call: &Call<'_>) -> Result<String, Rejection> {
        let works = "the store works";
        match call.word(0) {
            "dead" => {
                let letters = self.store.dead_letters(call.word(1).parse()?, 0, 10).await.expect(works)?;
                let show = |letter: &halfmq_core::DeadLetter| {
                    format!(
                        "{}:{}x{}:{}",
                        letter.number, letter.origin.place, letter.origin.attempts, letter.origin.reason
                    )
                };
                Ok(names(letters.iter().map(show)))
            }
            "letter" => {
                let number = call.word(2).parse().expect("a number");
                let (_, message) =
                    self.store.dead_letter(call.word(1).parse()?, number).await.expect(works)?;
                Ok(text(&message.body))
            }
            "replay" => {
                let topics = self
                    .store
                    .replay_dead_letters(call.word(1).parse()?, numbers(call))
                    .await
                    .expect(works)?;
                Ok(names(topics.iter().map(ToString::to_string)))
            }
            "purge" => {
                let count = self
                    .store
                    .purge_dead_letters(call.word(1).parse()?, numbers(call))
                    .await
                    .expect(works)?;
                Ok(count.to_string())
            }
            "statistics" => {
                let numbers = self.store.statistics().await.expect(works);
                let (open, in_doubt) = (numbers.open_transactions, numbers.in_doubt_transactions);
                Ok(format!("open={open} in_doubt={in_doubt} dead={}", numbers.dead_letters))
            }
            other => panic!("what is {other:?}?"),
        }
    }

    fn show_receipt(&self, receipt: &Receipt) -> String {
        let place = |at: &Result<Place, Timestamp>| match at {
            Ok(place) => place.to_string(),
            Err(at) => format!("at {}", self.since_now(*at)),
        };
        let places: Vec<_> = receipt.messages.iter().map(|(_, at)| place(at)).collect();
        if places.is_empty() { receipt.verdict.decision.to_string() } else { places.join(" ") }
    }

    fn lease(&self, call: &Call<'_>) -> Result<Lease, Rejection> {
        let handle = self.handle(call, call.word(3));
        Ok(Lease { topic: call.word(1).parse()?, group: call.word(2).parse()?, handle })
    }

    /// The handle of a body's latest delivery, or of an earlier attempt.
    fn handle(&self, call: &Call<'_>, body: &str) -> ReceiptHandle {
        let handle = *self.handles.get(body).unwrap_or_else(|| panic!("{body} was never delivered"));
        ReceiptHandle { attempt: call.number("attempt", handle.attempt), ..handle }
    }

    /// An id that nobody has for a name that nobody prepared.
    fn transaction(&self, name: &str) -> TransactionId {
        self.transactions.get(name).copied().unwrap_or(TransactionId::from_u128(1))
    }

    fn name(&self, id: TransactionId) -> String {
        self.transactions
            .iter()
            .find(|(_, known)| **known == id)
            .map_or_else(|| id.to_string(), |(name, _)| name.clone())
    }

    fn since_now(&self, at: Timestamp) -> String {
        format!("{}s", at.since(self.clock.now()).as_secs())
    }
}

async fn one<T>(replies: Replies<T>) -> Result<T, Rejection> {
    let answers: Result<Vec<Result<T, Rejection>>, Unavailable> = replies.await;
    answers.expect("the store works").pop().expect("an answer for the item")
}

/// `topic:body,body` for each topic, all with the same options.
fn contents(call: &Call<'_>, topics: &[&str]) -> Result<Send, Rejection> {
    let mut messages = Vec::new();
    for topic in topics {
        let (topic, bodies) = topic.split_once(':').unwrap_or((topic, ""));
        for body in bodies.split(',').filter(|body| !body.is_empty()) {
            messages.push(Message {
                topic: topic.parse()?,
                body: body.to_owned().into(),
                tag: call.option("tag").map(str::parse).transpose()?,
                keys: Vec::new(),
                headers: Vec::new(),
                message_group: call.option("in").map(str::parse).transpose()?,
                visibility: call
                    .option("delay")
                    .map_or(Visibility::AtOnce, |delay| Visibility::After(seconds(delay))),
            });
        }
    }
    Send::new(call.option("request").map(str::parse).transpose()?, messages)
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

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{text:?} is no time")))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn names(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing".into() } else { names.join(" ") }
}

/// The kind of a refusal.
fn name_of(rejection: &Rejection) -> String {
    format!("{rejection:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}
