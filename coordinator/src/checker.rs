//! Who asks whom, when: finding out what became of silent transactions.
//!
//! ```text
//!   Store::claim_checks ──► Rounds ──► stream of the sender ─► streams of its group ─► callback URL
//!     (when something         │                                                            │
//!      is due and there       └─ nobody answered: Store::put_off, never counted            │
//!      is room and budget)                                                                 ▼
//!   Store::record_answers ◄── recorder, as many at once as wait ◄──────────────────── answers
//! ```
//!
//! The store keeps the schedule and counts answers; the checker holds nothing that a restart would miss.
//! An UNKNOWN that no open question waits for is dropped: one check is counted once, whoever answers.
//! Deliberately absent: any rule about what follows an answer; that is `halfmq_core`.

mod admission;
mod budget;
mod callback;
mod recorder;
mod roster;
mod rounds;
mod settings;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halfmq_core::limits::REASON_BYTES_MAX;
use halfmq_core::{Answer, InstanceId, Message, ProducerGroup, Question, Receipt, Timestamp, TransactionId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use settings::{CallbackSettings, CheckerSettings};

use crate::clock::Clock;
use crate::store::{CheckAnswer, Claimed, Refused, Store};
use crate::telemetry;
use admission::Admission;
use budget::Budget;
use callback::Caller;
use recorder::{Decided, STOPPING, Submitted};
use roster::{ConnectionId, STREAMS_MAX};
use rounds::{Rounds, body_bytes};

/// Questions that wait in one stream; one that does not take them is passed over.
const STREAM_QUESTIONS_MAX: usize = 256;
/// Answers that wait for the store; more wait with those who bring them.
const ANSWERS_MAX: usize = 4_096;
/// Transactions claimed at once.
const CLAIM_MAX: usize = 100;
/// Bytes of messages held by open questions. The last claim may go beyond by what it brought.
const OPEN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A question's share: one group holds at most this part of what may be in flight.
const GROUP_SHARE: usize = 4;
/// Other coordinators may have made something due that nobody here was told of.
const TICK: Duration = Duration::from_secs(1);
/// Other coordinators may have registered a URL.
const CALLBACKS_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// After a claim that brought nothing although something seems due: the store's clock may be behind.
const PAUSE: Duration = Duration::from_millis(100);

/// A question for a producer, with the messages it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    /// In their order in the transaction.
    pub messages: Vec<Message>,
}

/// A connected producer. Dropping it disconnects: what it has not answered is asked elsewhere.
pub struct Connection {
    /// What it is asked.
    pub questions: mpsc::Receiver<Asked>,
    checker: Arc<Checker>,
    group: ProducerGroup,
    id: ConnectionId,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.checker.rounds().disconnect(&self.group, self.id, Instant::now());
        self.checker.wake.notify_one();
    }
}

/// Asks producers about transactions that are due.
pub struct Checker {
    store: Arc<dyn Store>,
    clock: Clock,
    settings: CheckerSettings,
    decided: Decided,
    admission: Admission,
    /// None if no URL is admitted.
    caller: Option<Caller>,
    rounds: Mutex<Rounds>,
    /// When something may be due, in microseconds of the store's clock.
    due: AtomicU64,
    wake: Notify,
    /// Put-off transactions of groups that somebody connected for.
    welcome: Mutex<Vec<TransactionId>>,
    answers: mpsc::Sender<Submitted>,
    inbox: Mutex<Option<mpsc::Receiver<Submitted>>>,
}

/// What one run of the loop remembers.
struct Pace {
    budget: Budget,
    claimed_at: Option<Instant>,
    callbacks_at: Option<Instant>,
    /// Transactions to claim next, so that large ones do not come by the hundred.
    page: usize,
    claims: usize,
}

/// A call to a URL that came back.
struct Called {
    url: String,
    asked: Vec<TransactionId>,
}

impl Checker {
    /// `decided` is called for each receipt that an answer brought.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        settings: CheckerSettings,
        decided: Arc<dyn Fn(&Receipt) + Send + Sync>,
    ) -> Arc<Self> {
        let (answers, inbox) = mpsc::channel(ANSWERS_MAX);
        let callbacks = &settings.callbacks;
        Arc::new(Self {
            admission: Admission::new(&callbacks.allow),
            caller: (!callbacks.allow.is_empty()).then(|| Caller::new(callbacks)),
            rounds: Mutex::new(Rounds::new(settings.answer_timeout)),
            due: AtomicU64::new(0),
            wake: Notify::new(),
            welcome: Mutex::default(),
            answers,
            inbox: Mutex::new(Some(inbox)),
            store,
            clock,
            settings,
            decided,
        })
    }

    /// Registers a producer. What is due for its group is asked at once.
    #[must_use]
    pub fn connect(
        self: &Arc<Self>,
        group: ProducerGroup,
        instance: Option<InstanceId>,
        has_checker: bool,
    ) -> Connection {
        let (sender, questions) = mpsc::channel(STREAM_QUESTIONS_MAX);
        let (id, parked) = self.rounds().roster.connect(group.clone(), instance, has_checker, sender);
        if has_checker {
            lock(&self.welcome).extend(parked);
            self.look_now();
        }
        Connection { questions, checker: Arc::clone(self), group, id }
    }

    /// Takes the answer of a connected producer; returns when it is durable.
    ///
    /// # Errors
    /// [`Refused::Rejected`] if it comes too late (somebody decided otherwise, or the transaction is
    /// forgotten): that is reported here, and no reason to end the stream. [`Refused::Unavailable`] if it
    /// was not recorded; the producer is asked again.
    pub async fn answer(&self, answer: CheckAnswer) -> Result<(), Refused> {
        match self.submit(answer).await? {
            Some(recorded) => recorded.await.unwrap_or(Err(STOPPING)),
            None => Ok(()),
        }
    }

    /// Whether somebody can be asked about this group's transactions right now.
    #[must_use]
    pub fn reachable(&self, group: &ProducerGroup) -> bool {
        self.rounds().roster.reachable(group)
    }

    /// Whether a producer was asked about this transaction and has not answered.
    #[must_use]
    pub fn waits_for(&self, transaction: TransactionId) -> bool {
        self.rounds().waits_for(transaction)
    }

    /// Whether this URL may be called.
    ///
    /// # Errors
    /// Why not, as the end of a sentence about the URL.
    pub fn admits(&self, url: &str) -> Result<(), String> {
        self.admission.admits(url).map(drop)
    }

    /// A prepare brought a callback URL for this group. One that is not admitted is not called.
    pub fn callback_registered(&self, group: &ProducerGroup, url: &str) {
        if let Err(why) = self.register(group, url) {
            tracing::warn!(%group, "the callback URL of a producer group is not called: {why}");
        }
    }

    /// A transaction was prepared that may be due earlier than any the checker knows of. Cheap.
    pub fn nudge(&self, first_check_at: Timestamp) {
        let due = first_check_at.as_micros();
        if due < self.due.load(Ordering::Relaxed) && due < self.due.fetch_min(due, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// How many producers are connected, with and without a checker.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.rounds().roster.connected()
    }

    /// Asks until `shutdown`, then records the answers that have come and lets go of what is open. To be
    /// run once.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let Some(inbox) = lock(&self.inbox).take() else {
            tracing::error!("the checker runs already, or has run; it is not run twice");
            return;
        };
        let (stop, stopped) = oneshot::channel();
        let asking = async {
            self.ask_until(shutdown).await;
            drop(stop);
        };
        tokio::join!(asking, recorder::record(inbox, self.store.as_ref(), &self.decided, stopped));
    }

    async fn ask_until(self: &Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut pace = Pace {
            budget: Budget::new(self.settings.per_second_max, Instant::now()),
            claimed_at: None,
            callbacks_at: None,
            page: CLAIM_MAX,
            claims: 0,
        };
        let mut calls = JoinSet::new();
        loop {
            let again = self.turn(&mut pace, &mut calls).await;
            tokio::select! {
                () = &mut shutdown => break,
                () = self.wake.notified() => {}
                Some(called) = calls.join_next() => match called {
                    Ok(Called { url, asked }) => self.rounds().called(&url, &asked, Instant::now()),
                    Err(bug) => std::panic::resume_unwind(bug.into_panic()),
                },
                () = tokio::time::sleep_until(again) => {}
            }
        }
        calls.shutdown().await;
        let open = self.rounds().ids();
        if !open.is_empty()
            && let Err(unavailable) = self.store.put_off(open, Duration::ZERO).await
        {
            tracing::warn!(%unavailable, "open questions are asked again only when their claim is over");
        }
    }

    /// Does all there is to do now. Returns when to look again unless something happens.
    async fn turn(self: &Arc<Self>, pace: &mut Pace, calls: &mut JoinSet<Called>) -> Instant {
        self.reread_callbacks(pace).await;
        let welcome = std::mem::take(&mut *lock(&self.welcome));
        if !welcome.is_empty() {
            self.put_off(welcome, Duration::ZERO).await;
            self.due.store(0, Ordering::Release);
        }
        let expired = self.rounds().expire(Instant::now());
        pace.budget.spend(expired);
        let again = self.claim(pace).await;
        self.call(calls);
        let failed = self.rounds().take_failed();
        for (wait, transactions) in failed {
            telemetry::unanswered(transactions.len() as u64);
            self.put_off(transactions, wait).await;
        }
        let rounds = self.rounds();
        if rounds.have_failed() {
            return Instant::now();
        }
        rounds.next_deadline().map_or(again, |deadline| deadline.min(again))
    }

    /// Claims what is due and asks about it. Returns when to look again.
    async fn claim(&self, pace: &mut Pace) -> Instant {
        let now = Instant::now();
        let tick = pace.claimed_at.map_or(now, |at| at + TICK);
        if let Some(again) = self.not_due(now, tick) {
            return again;
        }
        let tokens = pace.budget.available(now);
        if tokens == 0 {
            return pace.budget.ready_at();
        }
        // Before anybody is looked for, so that whoever comes meanwhile is not forgotten.
        let due = self.due.swap(u64::MAX, Ordering::AcqRel);
        let Some((mut groups, room)) = self.room(now) else {
            self.due.fetch_min(due, Ordering::AcqRel);
            return now + TICK;
        };
        // Each group comes first once, lest one with very many due takes all there is.
        pace.claims = pace.claims.wrapping_add(1);
        let first = pace.claims % groups.len();
        groups.rotate_left(first);
        pace.claimed_at = Some(now);
        let max = tokens.min(room).min(pace.page);
        let claimed = match self.store.claim_checks(groups, max, self.claim_span()).await {
            Ok(claimed) => claimed,
            Err(unavailable) => {
                tracing::warn!(%unavailable, "no checks for now; they are tried again every second");
                return Instant::now() + TICK;
            }
        };
        if let Some(next) = claimed.next {
            self.due.fetch_min(next.as_micros(), Ordering::AcqRel);
        }
        let asked = self.begin(claimed, pace);
        let now = Instant::now();
        let again = self.not_due(now, now + TICK).unwrap_or(now);
        if asked == 0 { again.max(now + PAUSE) } else { again }
    }

    /// When something will be due, unless it is now.
    fn not_due(&self, now: Instant, tick: Instant) -> Option<Instant> {
        let due = Timestamp::from_micros(self.due.load(Ordering::Acquire));
        let wait = due.since(self.clock.now());
        (!wait.is_zero() && tick > now).then(|| tick.min(now + wait.min(TICK)))
    }

    /// Groups to claim checks of, and how many questions there is room for.
    fn room(&self, now: Instant) -> Option<(Vec<ProducerGroup>, usize)> {
        let in_flight_max = self.settings.in_flight_max.max(1);
        let mut rounds = self.rounds();
        let room = in_flight_max.saturating_sub(rounds.open());
        let share = in_flight_max.div_ceil(GROUP_SHARE);
        let (groups, left_out) = rounds.roster.askable(now, share);
        let full = room == 0 || rounds.bytes() >= OPEN_BYTES_MAX;
        rounds.starved = full || left_out;
        (!full && !groups.is_empty()).then_some((groups, room))
    }

    fn begin(&self, claimed: Claimed, pace: &mut Pace) -> usize {
        let asked = claimed.questions.len();
        pace.budget.spend(asked);
        let now = Instant::now();
        let mut rounds = self.rounds();
        let largest = claimed.questions.iter().map(|(_, messages)| body_bytes(messages)).max();
        for (question, messages) in claimed.questions {
            rounds.begin(Asked { question, messages }, now);
        }
        if let Some(largest) = largest {
            pace.page = (OPEN_BYTES_MAX / GROUP_SHARE / largest.max(1)).clamp(1, CLAIM_MAX);
        }
        asked
    }

    /// Long enough to try everybody; nobody else asks meanwhile.
    fn claim_span(&self) -> Duration {
        let streams = u32::try_from(STREAMS_MAX).unwrap_or(u32::MAX);
        let waits = self.settings.answer_timeout.saturating_mul(streams + 2);
        waits + self.settings.callbacks.timeout + TICK
    }

    /// Calls URLs that have questions, as many as may be called at the same time.
    fn call(self: &Arc<Self>, calls: &mut JoinSet<Called>) {
        let limits = &self.settings.callbacks;
        while calls.len() < limits.in_flight_max.max(1) {
            let Some((url, batch)) = self.rounds().take_batch(limits, Instant::now()) else { return };
            calls.spawn(Arc::clone(self).ask_url(url, batch));
        }
    }

    async fn ask_url(self: Arc<Self>, url: String, batch: Vec<Asked>) -> Called {
        let asked = batch.iter().map(|asked| asked.question.transaction).collect();
        let (Ok(target), Some(caller)) = (self.admission.admits(&url), &self.caller) else {
            return Called { url, asked };
        };
        let host = target.host_str().unwrap_or_default().to_owned();
        match caller.ask(target, self.clock.now(), &batch).await {
            Ok(answers) => {
                for answer in answers {
                    // What comes of it is reported where it is recorded.
                    if self.submit(answer).await.is_err() {
                        break;
                    }
                }
            }
            Err(why) => {
                tracing::warn!(host, questions = batch.len(), "a callback brought no answers: {why}");
            }
        }
        Called { url, asked }
    }

    /// Hands an answer to the recorder; `None` if it is not worth recording.
    async fn submit(
        &self,
        mut answer: CheckAnswer,
    ) -> Result<Option<oneshot::Receiver<Result<(), Refused>>>, Refused> {
        let starved = {
            let mut rounds = self.rounds();
            let awaited = rounds.answered(answer.transaction, Instant::now());
            if !awaited && answer.answer == Answer::Unknown {
                return Ok(None);
            }
            std::mem::take(&mut rounds.starved)
        };
        if starved {
            self.look_now();
        }
        // A long story must not cost the decision.
        if answer.reason.len() > REASON_BYTES_MAX {
            let fits = (0..=REASON_BYTES_MAX).rev().find(|end| answer.reason.is_char_boundary(*end));
            answer.reason.truncate(fits.unwrap_or_default());
        }
        let (recorded, receiver) = oneshot::channel();
        self.answers.send(Submitted { answer, recorded }).await.map_err(|_| STOPPING)?;
        Ok(Some(receiver))
    }

    async fn put_off(&self, transactions: Vec<TransactionId>, wait: Duration) {
        if transactions.is_empty() {
            return;
        }
        if let Err(unavailable) = self.store.put_off(transactions, wait).await {
            tracing::warn!(%unavailable, "unanswered questions come again when their claim is over");
        }
    }

    async fn reread_callbacks(&self, pace: &mut Pace) {
        let now = Instant::now();
        if pace.callbacks_at.is_some_and(|at| now < at + CALLBACKS_AGAIN_AFTER) {
            return;
        }
        let first = pace.callbacks_at.is_none();
        pace.callbacks_at = Some(now);
        let callbacks = match self.store.callbacks().await {
            Ok(callbacks) => callbacks,
            Err(unavailable) => {
                tracing::warn!(%unavailable, "the callback URLs could not be read; they are tried again later");
                return;
            }
        };
        for (group, url) in callbacks {
            match self.register(&group, &url) {
                Err(why) if first => {
                    tracing::warn!(%group, "the callback URL of a producer group is not called: {why}");
                }
                // Said once.
                Err(_) | Ok(()) => {}
            }
        }
    }

    fn register(&self, group: &ProducerGroup, url: &str) -> Result<(), String> {
        if self.rounds().roster.callback(group) == Some(url) {
            return Ok(());
        }
        let admitted = self.admits(url);
        self.rounds().roster.set_callback(group, admitted.is_ok().then(|| url.to_owned()));
        if admitted.is_ok() {
            self.look_now();
        }
        admitted
    }

    /// Something may be due that was out of reach before.
    fn look_now(&self) {
        self.due.store(0, Ordering::Release);
        self.wake.notify_one();
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        lock(&self.rounds)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
