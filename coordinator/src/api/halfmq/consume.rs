//! One Consume stream: deliveries as long as there is credit, acks and their answers beside them.
//!
//! ```text
//!            credit                    found                     credit is used up
//!   idle ───────────► look at the queue ─────► deliveries ──► look again ─────────────► idle
//!                               │ nothing there       ▲
//!                               └─► stand by ─────────┘ for an arrival, or for a lease to end
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use halfmq_core::{ReceiptHandle, Receive, Rejection, TagFilter, Timestamp, limits};
use halfmq_proto::v1;
use tokio::sync::Notify;
use tonic::{Status, Streaming};
use v1::consume_answer::Outcome;
use v1::consume_operation::Verb;

use super::queues::acked;
use super::status::{answered_together, refusal, status};
use super::streams::{self, IN_FLIGHT_MAX, OPERATIONS_MAX, Work};
use super::{from_wire, to_wire};
use crate::clock::Clock;
use crate::service::{Ack, Lease, Leased, Refused, Service};

/// Deliveries a client may ask for ahead of time.
const CREDITS_MAX: usize = 10_000;

/// A stream, from its subscription to its last answer.
pub(super) struct Consuming {
    service: Arc<Service>,
    requests: Streaming<v1::ConsumeRequest>,
    stopping: Work<Status>,
    running: FuturesUnordered<Work<Done>>,
    /// Deliveries that are to be settled and are not answered yet: an operation may name many.
    in_flight: usize,
    /// What is asked for; `None` before the first message.
    receive: Option<Receive>,
    credits: usize,
    watch: Watch,
    stood_by: bool,
    /// Ends standing by.
    enough: Arc<Notify>,
    announced: bool,
    /// Nothing more is read or leased; how the stream ends once everything is answered.
    end: Option<Result<(), Status>>,
}

/// Answers, and how many deliveries were asked about.
struct Done {
    answers: Vec<v1::ConsumeAnswer>,
    weight: usize,
}

/// Where the eyes are.
enum Watch {
    Idle,
    Looking(Work<Result<Leased, Refused>>),
}

impl Consuming {
    pub(super) fn new(service: Arc<Service>, requests: Streaming<v1::ConsumeRequest>) -> Self {
        Self {
            stopping: streams::stopping(&service),
            service,
            requests,
            running: FuturesUnordered::new(),
            in_flight: 0,
            receive: None,
            credits: 0,
            watch: Watch::Idle,
            stood_by: false,
            enough: Arc::default(),
            announced: false,
            end: None,
        }
    }

    /// The next deliveries or answers; `None` at the end.
    pub(super) async fn respond(&mut self) -> Result<Option<v1::ConsumeResponse>, Status> {
        loop {
            if let Some(end) = &self.end {
                // A look that has begun may have leased something already, so it is seen through.
                let looking = matches!(self.watch, Watch::Looking(_));
                if self.running.is_empty() && !looking {
                    return end.clone().map(|()| None);
                }
            } else {
                self.look();
            }
            let open = self.end.is_none();
            let room = self.in_flight < IN_FLIGHT_MAX;
            tokio::select! {
                done = streams::next_done(&mut self.running) => return Ok(Some(self.collect(done))),
                seen = self.watch.seen() => if let Some(response) = self.take(seen) {
                    return Ok(Some(response));
                },
                request = self.requests.next(), if open && room => match request {
                    Some(Ok(request)) => {
                        if let Err(status) = self.begin(request) {
                            self.finish(Err(status));
                        }
                    }
                    Some(Err(status)) => self.finish(Err(status)),
                    None => self.finish(Ok(())),
                },
                status = &mut self.stopping, if open => self.finish(Err(status)),
            }
        }
    }

    fn finish(&mut self, end: Result<(), Status>) {
        self.enough.notify_one();
        self.end = Some(end);
    }

    /// Looks, if there is credit and the eyes are free.
    fn look(&mut self) {
        if let (Watch::Idle, Some(receive), 1..) = (&self.watch, &self.receive, self.credits) {
            let (service, max) = (Arc::clone(&self.service), self.credits.min(limits::RECEIVE_MAX));
            let receive = Receive { max, ..receive.clone() };
            self.watch = Watch::Looking(Box::pin(async move { service.lease(receive).await }));
        }
    }

    fn take(&mut self, leased: Result<Leased, Refused>) -> Option<v1::ConsumeResponse> {
        self.watch = Watch::Idle;
        match leased {
            Ok(leased) => self.hand_over(leased),
            Err(refused) => {
                self.finish(Err(status(&refused)));
                None
            }
        }
    }

    fn hand_over(&mut self, leased: Leased) -> Option<v1::ConsumeResponse> {
        let nothing = leased.deliveries.is_empty() && self.end.is_none();
        // Having stood by for nothing, it looks again.
        if nothing && !std::mem::take(&mut self.stood_by) {
            self.watch = self.stand_by(leased.next_visible);
            self.stood_by = true;
        }
        let subscribed = !std::mem::replace(&mut self.announced, true);
        if leased.deliveries.is_empty() && !subscribed {
            return None;
        }
        self.stood_by &= nothing;
        self.credits = self.credits.saturating_sub(leased.deliveries.len());
        let deliveries = leased.deliveries.into_iter();
        let deliveries = deliveries.map(|(delivery, content)| to_wire::delivery(delivery, content)).collect();
        Some(v1::ConsumeResponse { subscribed, deliveries, answers: Vec::new() })
    }

    fn stand_by(&self, next_visible: Option<Timestamp>) -> Watch {
        let Some(receive) = self.receive.clone() else { return Watch::Idle };
        let receive = Receive { max: self.credits.clamp(1, limits::RECEIVE_MAX), ..receive };
        let (service, enough) = (Arc::clone(&self.service), Arc::clone(&self.enough));
        let deadline = tokio::time::Instant::now() + limits::WAIT_MAX;
        let arrival = service.arrival(&receive.topic, &receive.group, next_visible, deadline);
        let until = async move {
            tokio::select! {
                () = arrival => {}
                () = enough.notified() => {}
            }
        };
        Watch::Looking(Box::pin(async move { service.stand_by(receive, next_visible, until).await }))
    }

    /// These answers, with all others that are ready.
    fn collect(&mut self, done: Done) -> v1::ConsumeResponse {
        let Done { mut answers, mut weight } = done;
        while weight < OPERATIONS_MAX
            && let Some(Some(more)) = self.running.next().now_or_never()
        {
            answers.extend(more.answers);
            weight += more.weight;
        }
        self.in_flight -= weight;
        v1::ConsumeResponse { answers, ..v1::ConsumeResponse::default() }
    }

    fn begin(&mut self, request: v1::ConsumeRequest) -> Result<(), Status> {
        streams::check_operations(request.operations.len())?;
        match (request.subscription, &self.receive) {
            (Some(subscription), None) => {
                let receive = receive(subscription).map_err(|rejection| status(&rejection.into()))?;
                self.receive = Some(receive);
            }
            (None, Some(_)) => {}
            (Some(_), Some(_)) => {
                return Err(streams::broken("Consume stream", "it has a subscription already"));
            }
            (None, None) => {
                return Err(streams::broken("Consume stream", "its first message must be a subscription"));
            }
        }
        self.credits += request.credits as usize;
        if self.credits > CREDITS_MAX {
            let why = format!("{} are unused; at most {CREDITS_MAX} may be", self.credits);
            return Err(streams::broken("credits", why));
        }
        self.settle(request.operations);
        Ok(())
    }

    fn settle(&mut self, operations: Vec<v1::ConsumeOperation>) {
        let Some(Receive { topic, group, .. }) = &self.receive else { return };
        let lease = |handle| Lease { group: group.clone(), topic: topic.clone(), handle };
        let (mut acks, mut extends, mut retries) = (Vec::new(), Vec::new(), Vec::new());
        let mut refused = Vec::new();
        for operation in operations {
            let id = operation.correlation_id;
            match parse(operation.verb) {
                Ok(Settle::Ack(handles)) => {
                    let legal = handles.iter().flatten().copied().collect();
                    let ack = Ack { group: group.clone(), topic: topic.clone(), handles: legal };
                    acks.push((id, handles, ack));
                }
                Ok(Settle::Extend(handle, invisible)) => extends.push((id, (lease(handle), invisible))),
                Ok(Settle::Retry(handle, delay, reason)) => {
                    retries.push((id, (lease(handle), delay, reason)))
                }
                Err(rejection) => refused.push(refused_answer(id, &rejection.into())),
            }
        }
        if !refused.is_empty() {
            self.start(refused.len(), std::future::ready(refused));
        }
        if !acks.is_empty() {
            let weight = acks.iter().map(|(_, handles, _)| weight(handles)).sum();
            self.start(weight, ack(Arc::clone(&self.service), acks));
        }
        if !extends.is_empty() {
            self.start(extends.len(), extend(Arc::clone(&self.service), extends));
        }
        if !retries.is_empty() {
            self.start(retries.len(), retry_later(Arc::clone(&self.service), retries));
        }
    }

    fn start(&mut self, weight: usize, verb: impl Future<Output = Vec<v1::ConsumeAnswer>> + Send + 'static) {
        self.in_flight += weight;
        self.running.push(Box::pin(async move { Done { answers: verb.await, weight } }));
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        streams::carry_on(&mut self.running);
        if let Some(Receive { topic, group, .. }) = &self.receive {
            // The arrival that woke this one may have been meant for another.
            self.service.pass_on(topic, group);
        }
    }
}

impl Watch {
    async fn seen(&mut self) -> Result<Leased, Refused> {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Looking(look) => look.await,
        }
    }
}

/// Each is answered by itself, a malformed one as well.
type Handle = Result<ReceiptHandle, Rejection>;

/// An operation on deliveries, checked.
enum Settle {
    Ack(Vec<Handle>),
    Extend(ReceiptHandle, Duration),
    Retry(ReceiptHandle, Option<Duration>, String),
}

/// What an ack costs: its handles, and itself.
fn weight(handles: &[Handle]) -> usize {
    1 + handles.len()
}

fn parse(verb: Option<Verb>) -> Result<Settle, Rejection> {
    match verb {
        Some(Verb::Ack(ack)) => Ok(Settle::Ack(from_wire::handles(&ack.receipt_handles))),
        Some(Verb::Extend(extend)) => {
            Ok(Settle::Extend(extend.receipt_handle.parse()?, from_wire::invisible(extend.invisible)?))
        }
        Some(Verb::RetryLater(retry)) => {
            let delay = from_wire::span("delay", retry.delay)?;
            Ok(Settle::Retry(retry.receipt_handle.parse()?, delay, retry.reason))
        }
        None => Err(streams::no_verb()),
    }
}

fn receive(subscription: v1::Subscription) -> Result<Receive, Rejection> {
    let receive = Receive {
        group: subscription.group.parse()?,
        topic: subscription.topic.parse()?,
        max: 1,
        invisible: from_wire::invisible(subscription.invisible)?,
        filter: TagFilter::parse(&subscription.tag_filter)?,
        start: from_wire::start(subscription.start)?,
    };
    receive.check()?;
    Ok(receive)
}

async fn ack(service: Arc<Service>, batch: Vec<(u64, Vec<Handle>, Ack)>) -> Vec<v1::ConsumeAnswer> {
    let began = Clock::stopwatch();
    let mut items = Vec::with_capacity(batch.len());
    let mut asked = Vec::with_capacity(batch.len());
    for (id, handles, ack) in batch {
        // Nothing well-formed to ask about, unlike an ack of nothing, which the rules refuse.
        let all_malformed = ack.handles.is_empty() && !handles.is_empty();
        asked.push((id, handles, all_malformed));
        items.extend((!all_malformed).then_some(ack));
    }
    let answers = service.ack_all(items).await;
    answered_together("ack", began, &answers);
    let mut answers = answers.into_iter();
    let answer = |(id, handles, all_malformed)| {
        let results = match all_malformed {
            true => Some(Ok(Vec::new())),
            false => answers.next().map(|acked| acked.map(|acked| acked.results)),
        };
        results.map(|results| match results {
            Ok(results) => answered(id, Outcome::Acked(acked(handles, results))),
            Err(refused) => refused_answer(id, &refused),
        })
    };
    asked.into_iter().filter_map(answer).collect()
}

async fn extend(service: Arc<Service>, batch: Vec<(u64, (Lease, Duration))>) -> Vec<v1::ConsumeAnswer> {
    let (ids, items) = batch.into_iter().unzip();
    let began = Clock::stopwatch();
    let answers = service.extend_all(items).await;
    answered_together("extend", began, &answers);
    answer_all(ids, answers, |until| Outcome::Extended(to_wire::extended(until)))
}

/// Which delivery, for how long, and why.
type GivenBack = (Lease, Option<Duration>, String);

async fn retry_later(service: Arc<Service>, batch: Vec<(u64, GivenBack)>) -> Vec<v1::ConsumeAnswer> {
    let (ids, items) = batch.into_iter().unzip();
    let began = Clock::stopwatch();
    let answers = service.retry_later_all(items).await;
    answered_together("retry_later", began, &answers);
    answer_all(ids, answers, |retry| Outcome::GivenBack(to_wire::given_back(&retry)))
}

fn answer_all<T>(
    ids: Vec<u64>,
    answers: Vec<Result<T, Refused>>,
    outcome: impl Fn(T) -> Outcome,
) -> Vec<v1::ConsumeAnswer> {
    let answer = |(id, answer)| match answer {
        Ok(answer) => answered(id, outcome(answer)),
        Err(refused) => refused_answer(id, &refused),
    };
    ids.into_iter().zip(answers).map(answer).collect()
}

fn refused_answer(correlation_id: u64, refused: &Refused) -> v1::ConsumeAnswer {
    answered(correlation_id, Outcome::Refused(refusal(refused)))
}

fn answered(correlation_id: u64, outcome: Outcome) -> v1::ConsumeAnswer {
    v1::ConsumeAnswer { correlation_id, outcome: Some(outcome) }
}
