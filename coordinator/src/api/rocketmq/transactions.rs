//! Half messages, and what becomes of them.

use std::time::Duration;

use halfmq_core::{Answer, CheckPolicy, Decision, Prepare, ProducerGroup, Send};
use halfmq_proto::rocketmq as v2;
use tonic::Request;
use v2::{Code, TransactionResolution, TransactionSource};

use super::caller::Caller;
use super::from_wire::Incoming;
use super::send::request_id;
use super::status::{Refusal, ok};
use super::{Door, from_wire};
use crate::service::CheckAnswer;

/// How long a producer may ask to be left alone.
const FIRST_CHECK_AFTER_MAX: Duration = Duration::from_secs(3_600);

impl Door {
    pub(super) async fn prepare(
        &self,
        caller: &Caller,
        producer_group: ProducerGroup,
        half: Incoming,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        let topic = half.message.topic.clone();
        let policy = match half.first_check_after {
            None => self.service.policy().clone(),
            Some(after) if after > FIRST_CHECK_AFTER_MAX => {
                let why = "the recovery duration of a transaction is one hour at most; nothing was stored";
                return Err(Refusal::new(Code::BadRequest, why));
            }
            Some(first_after) => CheckPolicy { first_after, ..self.service.policy().clone() },
        };
        let prepare = Prepare {
            producer_group,
            instance: Some(caller.client.clone()),
            callback: None,
            policy,
            send: Send::new(Some(request_id(caller, &half.id)?), vec![half.message])?,
        };
        // Before the first check can be due, and the topic may be one it has not declared.
        self.clients.enter(caller)?.sends_to(&topic);
        let (accepted, _) = self.service.prepare(prepare).await?;
        let entry = v2::SendResultEntry {
            status: Some(ok()),
            message_id: half.id,
            transaction_id: accepted.transaction.to_string(),
            ..v2::SendResultEntry::default()
        };
        Ok(v2::SendMessageResponse { status: None, entries: vec![entry] })
    }

    /// The id alone names the transaction; topic and message id only repeat what is known.
    pub(super) async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Result<v2::EndTransactionResponse, Refusal> {
        self.caller(request.metadata())?;
        let request = request.into_inner();
        from_wire::topic(request.topic.as_ref())?;
        let transaction = request.transaction_id.parse()?;
        let answer = match request.resolution() {
            TransactionResolution::Commit => Answer::Decided(Decision::Commit),
            TransactionResolution::Rollback => Answer::Decided(Decision::Rollback),
            TransactionResolution::Unspecified => Answer::Unknown,
        };
        // The library for Go does not say whether it was asked.
        let asked = request.source() == TransactionSource::SourceServerCheck
            || self.service.checker().waits_for(transaction);
        match answer {
            Answer::Decided(decision) if !asked => {
                self.service.decide(transaction, decision, String::new(), Vec::new()).await?;
            }
            Answer::Decided(_) | Answer::Unknown => {
                let (reason, replacements) = (String::new(), Vec::new());
                let answer = CheckAnswer { transaction, answer, reason, replacements };
                self.service.checker().answer(answer).await?;
            }
        }
        Ok(v2::EndTransactionResponse::default())
    }
}
