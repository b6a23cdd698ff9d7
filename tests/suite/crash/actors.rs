//! Producers, the checker and consumers, which live through every death of the coordinator.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use halfmq_proto::v1::{
    AckRequest, CommitRequest, Decision, DecisionReceipt, Delivery, Message, PrepareRequest, ReceiveRequest,
    RollbackRequest, SendRequest, message,
};
use halfmq_tests::{CheckStream, Driver, Refusal, half, message, seconds};
use tokio::sync::watch;
use tonic::{Code, Response, Status};

use super::ledger::Ledger;
use super::plan::{Outcome, Plan, Plans, ToldBy};
use super::{CONSUMER_GROUPS, TOPICS};

/// Of all transactions.
pub(super) const PRODUCER_GROUP: &str = "shop";
const CONFLICT: (Code, &str) = (Code::FailedPrecondition, "REASON_DECISION_CONFLICT");
const BATCH: u32 = 16;
/// Bytes.
const BALLAST: usize = 8 * 1024;

/// What all actors share.
pub(super) struct Stage {
    driver: Driver,
    pub(super) plans: Plans,
    pub(super) ledger: Ledger,
    up: watch::Sender<bool>,
    over: AtomicBool,
}

impl Stage {
    pub(super) fn new(driver: Driver, plans: Plans, ledger: Ledger) -> Self {
        Self { driver, plans, ledger, up: watch::Sender::new(true), over: AtomicBool::new(false) }
    }

    pub(super) fn goes_down(&self) {
        self.up.send_replace(false);
    }

    pub(super) fn comes_up(&self) {
        self.up.send_replace(true);
    }

    /// Producers finish what they have begun, and begin nothing more.
    pub(super) fn curtain(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Calls once. `None` if the coordinator died over it: then nobody knows whether it took effect.
    async fn once<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Option<Result<T, Refusal>> {
        match call.await {
            Ok(response) => Some(Ok(response.into_inner())),
            Err(status) => {
                let refusal = Refusal::from(status);
                let unavailable = refusal.reason.is_empty() || refusal.code == Code::Unavailable;
                (!unavailable).then_some(Err(refusal))
            }
        }
    }

    /// Calls until there is an answer.
    async fn answered<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            self.is_up().await;
            if let Some(answer) = self.once(call()).await {
                return answer;
            }
            // The kill is noticed here before the stage knows of it.
            tokio::task::yield_now().await;
        }
    }

    async fn is_up(&self) {
        self.up.subscribe().wait_for(|up| *up).await.expect("the stage outlives its actors");
    }
}

/// Begins transaction after transaction until the curtain falls.
pub(super) async fn produce(stage: Arc<Stage>, producer: usize) {
    for number in 0.. {
        if stage.over.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("p{producer}-{number}");
        let plan = stage.plans.of(&key);
        if plan.told_by == ToldBy::Send {
            send(&stage, &key, plan).await;
        } else if let Some(transaction_id) = prepare(&stage, &key, plan).await {
            tell_outcome(&stage, &key, plan, &transaction_id).await;
        }
    }
}

/// Bodies are `<key>/<index>`: a message tells where it comes from. Most of its bytes are in a header.
fn messages(key: &str, plan: Plan) -> Vec<Message> {
    let message_at = |index: usize| {
        let (topic, _) = TOPICS[index % TOPICS.len()];
        let visibility =
            (plan.delayed && index + 1 == plan.messages).then(|| message::Visibility::Delay(seconds(0.05)));
        let headers = HashMap::from([("ballast".to_owned(), "x".repeat(BALLAST))]);
        Message { visibility, headers, ..message(topic, &format!("{key}/{index}")) }
    };
    (0..plan.messages).map(message_at).collect()
}

async fn send(stage: &Stage, key: &str, plan: Plan) {
    let request = SendRequest {
        producer_group: PRODUCER_GROUP.into(),
        request_id: key.into(),
        messages: messages(key, plan),
    };
    let send = || {
        let (mut queues, request) = (stage.driver.queues.clone(), request.clone());
        async move { queues.send(request).await }
    };
    match stage.answered(send).await {
        Ok(sent) => stage.ledger.acknowledge(|entries| {
            entries.sent.insert(key.into(), sent.messages);
        }),
        Err(refusal) => stage.ledger.violation(format!("send of {key}: {refusal:?}")),
    }
}

async fn prepare(stage: &Stage, key: &str, plan: Plan) -> Option<String> {
    let request = PrepareRequest {
        request_id: key.into(),
        producer_instance: key.split('-').next().unwrap_or_default().into(),
        ..half(PRODUCER_GROUP, messages(key, plan))
    };
    let prepare = || {
        let (mut transactions, request) = (stage.driver.transactions.clone(), request.clone());
        async move { transactions.prepare(request).await }
    };
    let answer = match plan.told_by {
        // This producer dies with the coordinator: whether its half message was kept, nobody knows.
        ToldBy::OneCall => {
            stage.is_up().await;
            stage.once(prepare()).await?
        }
        ToldBy::Call | ToldBy::Check | ToldBy::Send => stage.answered(prepare).await,
    };
    match answer {
        Ok(prepared) => {
            let transaction_id = prepared.transaction_id.clone();
            stage.ledger.acknowledge(|entries| {
                entries.prepared.insert(key.into(), prepared);
            });
            Some(transaction_id)
        }
        Err(refusal) => {
            stage.ledger.violation(format!("prepare of {key}: {refusal:?}"));
            None
        }
    }
}

async fn tell_outcome(stage: &Stage, key: &str, plan: Plan, id: &str) {
    let tell = || decide(stage, id, plan.outcome);
    let answer = match plan.told_by {
        ToldBy::Check | ToldBy::Send => return,
        ToldBy::OneCall => match stage.once(tell()).await {
            Some(answer) => answer,
            None => return,
        },
        ToldBy::Call => stage.answered(tell).await,
    };
    let receipt = match answer {
        Ok(receipt) => receipt,
        Err(refusal) => return stage.ledger.violation(format!("decision of {key}: {refusal:?}")),
    };
    let expected = match plan.outcome {
        Outcome::Commit => Decision::Commit,
        Outcome::Rollback => Decision::Rollback,
    };
    if receipt.decision() != expected {
        stage.ledger.violation(format!("{key} was to {expected:?}: {receipt:?}"));
    }
    stage.ledger.acknowledge(|entries| {
        entries.receipts.insert(key.into(), receipt.clone());
    });
    if key.ends_with('7') {
        contradict(stage, key, plan, &receipt).await;
    }
}

/// P2: the same again is the same, the opposite is a conflict, whatever died in between.
async fn contradict(stage: &Stage, key: &str, plan: Plan, receipt: &DecisionReceipt) {
    let id = receipt.transaction_id.as_str();
    match stage.answered(|| decide(stage, id, plan.outcome)).await {
        Ok(again) if again == *receipt => {}
        other => stage.ledger.violation(format!("{key} again: {other:?} instead of {receipt:?}")),
    }
    let opposite = match plan.outcome {
        Outcome::Commit => Outcome::Rollback,
        Outcome::Rollback => Outcome::Commit,
    };
    match stage.answered(|| decide(stage, id, opposite)).await {
        Err(refusal) if refusal.kind() == CONFLICT => {}
        other => stage.ledger.violation(format!("the opposite of {key}: {other:?}")),
    }
}

async fn decide(stage: &Stage, id: &str, outcome: Outcome) -> Result<Response<DecisionReceipt>, Status> {
    let mut transactions = stage.driver.transactions.clone();
    let transaction_id = id.to_owned();
    match outcome {
        Outcome::Commit => {
            transactions.commit(CommitRequest { transaction_id, ..CommitRequest::default() }).await
        }
        Outcome::Rollback => {
            transactions.rollback(RollbackRequest { transaction_id, ..RollbackRequest::default() }).await
        }
    }
}

/// Answers checks for every producer, by what the local database would say.
pub(super) async fn answer_checks(stage: Arc<Stage>) {
    loop {
        stage.is_up().await;
        let Ok(mut stream) = CheckStream::try_open(&stage.driver, PRODUCER_GROUP, "checker").await else {
            continue;
        };
        while let Ok(question) = stream.try_question().await {
            let body = question.messages.first().map(|message| message.body.clone()).unwrap_or_default();
            let body = String::from_utf8_lossy(&body).into_owned();
            let key = body.split('/').next().unwrap_or_default();
            let resolution = stage.plans.answer(key, question.checks_answered);
            stream.answer(&question.transaction_id, resolution).await;
        }
    }
}

/// Receives and acks. Now and then it dies before the ack, and the lease has to end.
pub(super) async fn consume(stage: Arc<Stage>, topic: &'static str, group: &'static str) {
    assert!(CONSUMER_GROUPS.contains(&group), "the audit expects every group to see everything");
    let request = ReceiveRequest {
        topic: topic.into(),
        group: group.into(),
        max_messages: BATCH,
        wait: Some(seconds(0.5)),
        invisible: Some(seconds(2.0)),
        ..ReceiveRequest::default()
    };
    loop {
        let receive = || {
            let (mut queues, request) = (stage.driver.queues.clone(), request.clone());
            async move { queues.receive(request).await }
        };
        let deliveries = match stage.answered(receive).await {
            Ok(response) => response.deliveries,
            Err(refusal) => return stage.ledger.violation(format!("receive of {topic}: {refusal:?}")),
        };
        stage.ledger.deliver(group, &deliveries);
        let dies = |delivery: &Delivery| delivery.attempt == 1 && delivery.sequence.is_multiple_of(20);
        let (_lost, settled): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(dies);
        if !settled.is_empty() {
            ack(&stage, topic, group, &settled).await;
        }
    }
}

async fn ack(stage: &Stage, topic: &str, group: &'static str, deliveries: &[Delivery]) {
    let request = AckRequest {
        topic: topic.into(),
        group: group.into(),
        receipt_handles: deliveries.iter().map(|delivery| delivery.receipt_handle.clone()).collect(),
    };
    let mut queues = stage.driver.queues.clone();
    match stage.once(queues.ack(request)).await {
        None => {}
        Some(Err(refusal)) => stage.ledger.violation(format!("ack of {topic} for {group}: {refusal:?}")),
        Some(Ok(response)) => {
            for (result, delivery) in response.results.iter().zip(deliveries) {
                match (result.ok, result.reason.as_str()) {
                    (true, _) => stage.ledger.acked(group, delivery),
                    // Slower than the lease; it comes again.
                    (false, "REASON_RECEIPT_EXPIRED") => {}
                    (false, other) => {
                        stage.ledger.violation(format!("ack of {:?} for {group}: {other}", delivery.place));
                    }
                }
            }
        }
    }
}
