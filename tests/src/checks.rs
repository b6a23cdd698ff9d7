//! A producer instance as the coordinator's checker sees it.

use halfmq_proto::v1::{
    CheckAnswer, CheckQuestion, ChecksRequest, ChecksResponse, Registration, Resolution, checks_request,
    checks_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{Driver, within};

/// Answers that may wait to be sent.
const ANSWERS_MAX: usize = 64;

/// A registered `Checks` stream. Dropping it is the producer's death.
pub struct CheckStream {
    answers: mpsc::Sender<ChecksRequest>,
    questions: Streaming<ChecksResponse>,
}

impl CheckStream {
    /// Connects a producer instance that can answer checks; returns once the registration took effect.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(driver: &Driver, group: &str, instance: &str) -> Self {
        let opened = within("the registration", Self::try_open(driver, group, instance)).await;
        opened.unwrap_or_else(|status| panic!("{instance} of {group} was not registered: {status}"))
    }

    /// As [`CheckStream::open`], for a coordinator that may be dead.
    ///
    /// # Errors
    /// Whatever the call was answered with.
    pub async fn try_open(driver: &Driver, group: &str, instance: &str) -> Result<Self, Status> {
        let (answers, requests) = mpsc::channel(ANSWERS_MAX);
        let registration = Registration {
            producer_group: group.into(),
            producer_instance: instance.into(),
            has_checker: true,
        };
        let first = ChecksRequest { kind: Some(checks_request::Kind::Registration(registration)) };
        answers.send(first).await.map_err(|_| Status::unavailable("the stream ended"))?;
        let mut transactions = driver.transactions.clone();
        let mut questions = transactions.checks(ReceiverStream::new(requests)).await?.into_inner();
        match questions.message().await?.and_then(|response| response.kind) {
            Some(checks_response::Kind::Registered(_)) => Ok(Self { answers, questions }),
            other => Err(Status::internal(format!("a registration was answered with {other:?}"))),
        }
    }

    /// The next question.
    ///
    /// # Panics
    /// If none comes.
    pub async fn question(&mut self) -> CheckQuestion {
        let asked = within("a check", self.try_question()).await;
        asked.unwrap_or_else(|status| panic!("the check stream broke: {status}"))
    }

    /// The next question of a coordinator that may die.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn try_question(&mut self) -> Result<CheckQuestion, Status> {
        match self.questions.message().await?.and_then(|response| response.kind) {
            Some(checks_response::Kind::Question(question)) => Ok(question),
            None => Err(Status::unavailable("the stream ended")),
            Some(checks_response::Kind::Registered(_)) => Err(Status::internal("registered twice")),
        }
    }

    /// Answers a question. That the answer took effect shows in the transaction, not here.
    pub async fn answer(&self, transaction_id: &str, resolution: Resolution) {
        self.say(CheckAnswer {
            transaction_id: transaction_id.into(),
            resolution: resolution.into(),
            ..CheckAnswer::default()
        })
        .await;
    }

    /// As [`CheckStream::answer`], with everything an answer can say.
    pub async fn say(&self, answer: CheckAnswer) {
        // A stream that broke has nobody to tell; the next question shows it.
        let _broken =
            self.answers.send(ChecksRequest { kind: Some(checks_request::Kind::Answer(answer)) }).await;
    }
}
