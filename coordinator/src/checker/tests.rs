//! Stories with the real engine, a clock moved by hand, and servers on this machine.

use halfmq_core::{
    CheckPolicy, Decide, DecidedBy, Decision, Prepare, Rejection, Send, State, TransactionView, Visibility,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::store::embedded::{Embedded, EngineOptions, JournalOptions};

/// Never over within a test.
const LONG: Duration = Duration::from_secs(3_600);
/// Over at once.
const SHORT: Duration = Duration::from_millis(20);

struct Story {
    store: Arc<dyn Store>,
    clock: Clock,
    checker: Arc<Checker>,
    decided: mpsc::UnboundedReceiver<TransactionId>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    directory: TempDir,
}

fn patient() -> CheckerSettings {
    CheckerSettings { answer_timeout: LONG, ..CheckerSettings::default() }
}

fn calling(url: &str) -> CheckerSettings {
    let callbacks = CallbackSettings {
        allow: vec![url.into()],
        secret: Some("secret".into()),
        ..CallbackSettings::default()
    };
    CheckerSettings { callbacks, ..patient() }
}

fn group(name: &str) -> ProducerGroup {
    name.parse().expect("a legal name")
}

impl Story {
    async fn new(settings: CheckerSettings) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
        let journal = JournalOptions { segment_bytes: 1024 * 1024, ..JournalOptions::default() };
        let options = EngineOptions { journal, clock: clock.clone(), ..EngineOptions::default() };
        let (store, _) = Embedded::open(directory.path(), options).expect("an empty directory");
        let store: Arc<dyn Store> = Arc::new(store);
        let topic = "paid".parse().expect("a legal name");
        store.create_topic(topic, 1).await.expect("available").expect("a new topic");
        Self::start(directory, store, clock, settings)
    }

    fn start(directory: TempDir, store: Arc<dyn Store>, clock: Clock, settings: CheckerSettings) -> Self {
        let (sender, decided) = mpsc::unbounded_channel();
        let tell = Arc::new(move |receipt: &Receipt| {
            // A test need not look.
            let _unread = sender.send(receipt.transaction);
        });
        let checker = Checker::new(Arc::clone(&store), clock.clone(), settings, tell);
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(Arc::clone(&checker).run(async { drop(stopped.await) }));
        Self { store, clock, checker, decided, stop, running, directory }
    }

    /// The same store, with a new checker.
    async fn restart(self, settings: CheckerSettings) -> Self {
        drop(self.stop);
        self.running.await.expect("the checker ends");
        Self::start(self.directory, self.store, self.clock, settings)
    }

    async fn prepare(&self, name: &str, instance: Option<&str>, callback: Option<&str>) -> TransactionId {
        let message = Message {
            topic: "paid".parse().expect("a legal name"),
            body: "hi!".into(),
            tag: None,
            keys: Vec::new(),
            headers: Vec::new(),
            message_group: None,
            visibility: Visibility::AtOnce,
        };
        let prepare = Prepare {
            producer_group: group(name),
            instance: instance.map(|instance| instance.parse().expect("a legal name")),
            callback: callback.map(str::to_owned),
            policy: CheckPolicy::default(),
            send: Send::new(None, vec![message]).expect("a legal message"),
        };
        let mut accepted = self.store.prepare(vec![prepare]).await.expect("available");
        let accepted = accepted.remove(0).expect("accepted");
        self.checker.nudge(accepted.first_check_at);
        if let Some(url) = callback {
            self.checker.callback_registered(&group(name), url);
        }
        accepted.transaction
    }

    fn connect(&self, name: &str, instance: &str) -> Connection {
        self.checker.connect(group(name), Some(instance.parse().expect("a legal name")), true)
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        // What the passing of time does for a clock that nobody holds.
        self.checker.nudge(self.clock.now());
    }

    async fn answer(&self, transaction: TransactionId, answer: Answer) -> Result<(), Refused> {
        self.checker
            .answer(CheckAnswer { transaction, answer, reason: "because".into(), replacements: Vec::new() })
            .await
    }

    async fn view(&self, transaction: TransactionId) -> TransactionView {
        let mut views = self.store.describe(vec![transaction]).await.expect("available");
        views.remove(0).expect("it is known").0
    }

    /// Looks until it is so; each look is a call of the store.
    async fn until(&self, transaction: TransactionId, so: impl Fn(&TransactionView) -> bool) {
        let look = async { while !so(&self.view(transaction).await) {} };
        tokio::time::timeout(Duration::from_secs(20), look).await.expect("it becomes so");
    }
}

async fn next(connection: &mut Connection) -> TransactionId {
    let asked = tokio::time::timeout(Duration::from_secs(20), connection.questions.recv()).await;
    asked.expect("a question comes").expect("the stream goes on").question.transaction
}

const COMMIT: Answer = Answer::Decided(Decision::Commit);

#[tokio::test]
async fn the_sender_is_asked_first() {
    let mut story = Story::new(patient()).await;
    let (mut first, mut sender) = (story.connect("orders", "one"), story.connect("orders", "two"));
    let mute = story.checker.connect(group("orders"), None, false);
    assert_eq!(story.checker.connected(), 3);
    for _ in 0..3 {
        let transaction = story.prepare("orders", Some("two"), None).await;
        story.advance(6);
        assert_eq!(next(&mut sender).await, transaction);
        assert!(first.questions.try_recv().is_err());
        story.answer(transaction, COMMIT).await.expect("the first decision");
        assert_eq!(story.decided.recv().await, Some(transaction));
        let view = story.view(transaction).await;
        assert_eq!(view.state, State::Committed);
        assert_eq!(view.receipt.map(|receipt| receipt.verdict.by), Some(DecidedBy::Check));
    }
    drop(mute);
    assert_eq!(story.checker.connected(), 2);
}

#[tokio::test]
async fn another_instance_is_asked_when_the_sender_is_silent() {
    let story = Story::new(CheckerSettings { answer_timeout: SHORT, ..patient() }).await;
    let (mut sender, mut other) = (story.connect("orders", "one"), story.connect("orders", "two"));
    let transaction = story.prepare("orders", Some("one"), None).await;
    story.advance(6);
    assert_eq!(next(&mut sender).await, transaction);
    assert_eq!(next(&mut other).await, transaction);
}

#[tokio::test]
async fn another_instance_is_asked_when_the_sender_goes_away() {
    let story = Story::new(patient()).await;
    let mut sender = story.connect("orders", "one");
    let transaction = story.prepare("orders", Some("one"), None).await;
    story.advance(6);
    assert_eq!(next(&mut sender).await, transaction);
    let mut other = story.connect("orders", "two");
    drop(sender);
    assert_eq!(next(&mut other).await, transaction);
}

#[tokio::test]
async fn groups_are_not_asked_about_each_other() {
    let story = Story::new(patient()).await;
    let mut stranger = story.connect("invoices", "one");
    story.prepare("orders", Some("one"), None).await;
    let own = story.prepare("invoices", Some("one"), None).await;
    story.advance(6);
    assert_eq!(next(&mut stranger).await, own);
    assert!(stranger.questions.try_recv().is_err());
    assert!(!story.checker.reachable(&group("orders")) && story.checker.reachable(&group("invoices")));
}

#[tokio::test]
async fn silence_is_not_counted_and_a_new_connection_is_asked_at_once() {
    let story = Story::new(CheckerSettings { answer_timeout: SHORT, ..patient() }).await;
    let mut silent = story.connect("orders", "one");
    let transaction = story.prepare("orders", Some("one"), None).await;
    story.advance(6);
    assert_eq!(next(&mut silent).await, transaction);
    let put_off = Some(story.clock.now().after(Duration::from_secs(1)));
    story.until(transaction, |view| view.next_check == put_off).await;
    drop(silent);
    // Nobody moves the clock: the one that comes now need not wait for the end of the put-off.
    let mut fresh = story.connect("orders", "two");
    assert_eq!(next(&mut fresh).await, transaction);
    let view = story.view(transaction).await;
    assert_eq!((view.state, view.answered), (State::Prepared, 0));
}

#[tokio::test]
async fn unknown_is_counted_once_for_each_question() {
    let story = Story::new(patient()).await;
    let mut producer = story.connect("orders", "one");
    let transaction = story.prepare("orders", Some("one"), None).await;
    // Nobody asked.
    story.answer(transaction, Answer::Unknown).await.expect("dropped");
    for answered in 1..4 {
        story.advance(600);
        assert_eq!(next(&mut producer).await, transaction);
        story.answer(transaction, Answer::Unknown).await.expect("counted");
        story.answer(transaction, Answer::Unknown).await.expect("dropped");
        assert_eq!(story.view(transaction).await.answered, answered);
    }
}

#[tokio::test]
async fn who_connects_later_is_asked_what_was_due_before() {
    let story = Story::new(patient()).await;
    let transaction = story.prepare("orders", Some("gone"), None).await;
    story.advance(3_600);
    let mut producer = story.connect("orders", "one");
    assert_eq!(next(&mut producer).await, transaction);
}

#[tokio::test]
async fn an_answer_against_the_decision_is_refused() {
    let story = Story::new(patient()).await;
    let mut producer = story.connect("orders", "one");
    let transaction = story.prepare("orders", Some("one"), None).await;
    story.advance(6);
    assert_eq!(next(&mut producer).await, transaction);
    let decide = Decide {
        transaction,
        decision: Decision::Rollback,
        by: DecidedBy::Call,
        reason: String::new(),
        replacements: Vec::new(),
    };
    story.store.decide(vec![(decide, Vec::new())]).await.expect("available").remove(0).expect("first");
    let refused = story.answer(transaction, COMMIT).await;
    assert!(matches!(refused, Err(Refused::Rejected(Rejection::DecisionConflict { .. }))), "{refused:?}");
    let rollback = Answer::Decided(Decision::Rollback);
    story.answer(transaction, rollback).await.expect("it says what stands");
}

#[tokio::test]
async fn no_more_are_asked_than_may_be_in_flight() {
    let story = Story::new(CheckerSettings { in_flight_max: 2, ..patient() }).await;
    let mut producer = story.connect("orders", "one");
    for _ in 0..6 {
        story.prepare("orders", Some("one"), None).await;
    }
    story.advance(6);
    let mut open = vec![next(&mut producer).await];
    for _ in 0..5 {
        while let Ok(asked) = producer.questions.try_recv() {
            open.push(asked.question.transaction);
        }
        assert!(open.len() <= 2, "{open:?}");
        let answered = open.remove(0);
        story.answer(answered, COMMIT).await.expect("the first decision");
        if open.is_empty() {
            open.push(next(&mut producer).await);
        }
    }
}

#[tokio::test]
async fn what_is_open_at_the_end_is_asked_by_the_next_checker() {
    let story = Story::new(patient()).await;
    let mut producer = story.connect("orders", "one");
    let transaction = story.prepare("orders", Some("one"), None).await;
    story.advance(6);
    assert_eq!(next(&mut producer).await, transaction);
    let story = story.restart(patient()).await;
    let mut producer = story.connect("orders", "one");
    assert_eq!(next(&mut producer).await, transaction);
}

/// Replies to each call with what `reply` makes of its body, if anything, and passes the call on.
async fn server(
    reply: impl Fn(&str) -> Option<String> + core::marker::Send + 'static,
) -> (String, mpsc::UnboundedReceiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (calls, called) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut text = String::new();
            let (head, body) = loop {
                let mut buffer = [0; 4_096];
                let read = stream.read(&mut buffer).await.expect("a request");
                text.push_str(std::str::from_utf8(&buffer[..read]).expect("ASCII"));
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = header(head, "content-length").and_then(|length| length.parse().ok());
                if length == Some(body.len()) {
                    break (head.to_owned(), body.to_owned());
                }
            };
            match reply(&body) {
                // One who has read enough may hang up.
                Some(reply) => drop(stream.write_all(reply.as_bytes()).await),
                None => silent.push(stream),
            }
            drop(calls.send((head, body)));
        }
    });
    (format!("http://{address}/checks"), called)
}

fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(": "));
    pairs.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value).next()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Answers every question of the body alike.
fn answer_all(body: &str, resolution: &str) -> String {
    let questions: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let questions = questions["questions"].as_array().expect("questions").clone();
    let line = |question: &serde_json::Value| serde_json::json!({ "transaction_id": question["transaction_id"], "resolution": resolution });
    ok(&serde_json::json!({ "answers": questions.iter().map(line).collect::<Vec<_>>() }).to_string())
}

#[tokio::test]
async fn the_url_is_asked_when_no_producer_is_there() {
    let (url, mut calls) = server(|body| Some(answer_all(body, "COMMIT"))).await;
    let mut story = Story::new(calling(&url)).await;
    let transaction = story.prepare("orders", Some("gone"), Some(&url)).await;
    assert!(story.checker.reachable(&group("orders")));
    story.advance(6);
    assert_eq!(story.decided.recv().await, Some(transaction));
    let (head, body) = calls.recv().await.expect("a call");
    assert!(head.starts_with("POST /checks HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "content-type"), Some("application/json"));
    assert_eq!(header(&head, "halfmq-timestamp"), Some("1700000006"));
    assert_eq!(
        header(&head, "halfmq-signature"),
        Some(callback::signature("secret", 1_700_000_006, body.as_bytes()).as_str())
    );
    assert!(body.contains(&transaction.to_string()), "{body}");
}

#[tokio::test]
async fn the_url_is_asked_when_the_producers_are_silent() {
    let (url, _calls) = server(|body| Some(answer_all(body, "ROLLBACK"))).await;
    let mut story = Story::new(CheckerSettings { answer_timeout: SHORT, ..calling(&url) }).await;
    let mut producer = story.connect("orders", "one");
    let transaction = story.prepare("orders", Some("one"), Some(&url)).await;
    story.advance(6);
    assert_eq!(next(&mut producer).await, transaction);
    assert_eq!(story.decided.recv().await, Some(transaction));
    assert_eq!(story.view(transaction).await.state, State::RolledBack);
}

#[tokio::test]
async fn registered_urls_are_read_at_the_start() {
    let (url, _calls) = server(|body| Some(answer_all(body, "COMMIT"))).await;
    let story = Story::new(patient()).await;
    let transaction = story.prepare("orders", None, Some(&url)).await;
    assert!(!story.checker.reachable(&group("orders")), "a URL that is not admitted reaches nobody");
    story.advance(6);
    let mut story = story.restart(calling(&url)).await;
    assert_eq!(story.decided.recv().await, Some(transaction));
}

#[tokio::test]
async fn unclear_replies_are_not_counted() {
    let (target, mut redirected) = server(|body| Some(answer_all(body, "COMMIT"))).await;
    let moved =
        format!("HTTP/1.1 307 Moved\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    type Reply = Box<dyn Fn(&str) -> String + core::marker::Send>;
    let replies: [Reply; 5] = [
        Box::new(move |_| moved.clone()),
        Box::new(|body| answer_all(body, "COMMIT").replace("200 OK", "500 No")),
        Box::new(|_| ok("not JSON")),
        Box::new(|_| ok(r#"{"answers":[]}"#)),
        // A clear answer, but for its length.
        Box::new(|body| {
            let reply = answer_all(body, "COMMIT");
            let (_, reply) = reply.split_once("\r\n\r\n").expect("a reply");
            ok(&format!("{reply}{}", " ".repeat(2 * 1024 * 1024)))
        }),
    ];
    for reply in replies {
        let (url, mut calls) = server(move |body| Some(reply(body))).await;
        let mut settings = calling(&url);
        settings.callbacks.allow.push(target.clone());
        let story = Story::new(settings).await;
        let transaction = story.prepare("orders", None, Some(&url)).await;
        story.advance(6);
        calls.recv().await.expect("a call");
        let put_off = Some(story.clock.now().after(Duration::from_secs(1)));
        story.until(transaction, |view| view.next_check == put_off).await;
        let view = story.view(transaction).await;
        assert_eq!((view.state, view.answered), (State::Prepared, 0));
    }
    assert!(redirected.try_recv().is_err(), "a redirect was followed");
}

#[tokio::test]
async fn unknown_from_a_url_is_counted() {
    let (url, _calls) = server(|body| Some(answer_all(body, "UNKNOWN"))).await;
    let story = Story::new(calling(&url)).await;
    let transaction = story.prepare("orders", None, Some(&url)).await;
    story.advance(6);
    story.until(transaction, |view| view.answered == 1).await;
}

#[tokio::test]
async fn a_silent_url_does_not_stall_others() {
    let (silent, mut called) = server(|_| None).await;
    let (brisk, mut calls) = server(|body| Some(answer_all(body, "COMMIT"))).await;
    let mut settings = calling(&silent);
    settings.callbacks = CallbackSettings { timeout: LONG, batch_max: 2, ..settings.callbacks };
    settings.callbacks.allow.push(brisk.clone());
    let mut story = Story::new(settings).await;
    story.prepare("orders", None, Some(&silent)).await;
    story.advance(6);
    called.recv().await.expect("a call");
    for _ in 0..5 {
        story.prepare("invoices", None, Some(&brisk)).await;
    }
    story.advance(6);
    for _ in 0..5 {
        story.decided.recv().await.expect("a decision");
    }
    while let Ok((_, body)) = calls.try_recv() {
        assert!(body.matches("transaction_id").count() <= 2, "{body}");
    }
}
