//! `halfmq.v1.Transactions`.

use halfmq_core::{Decision, Prepare, Send, TransactionId};
use halfmq_proto::v1;
use tonic::{Request, Response, Status, Streaming};
use v1::transactions_server::Transactions;

use super::checks::Questions;
use super::status::answer;
use super::{Door, from_wire, to_wire};
use crate::service::{ListTransactions, Refused};

#[tonic::async_trait]
impl Transactions for Door {
    type ChecksStream = Questions;

    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        answer("prepare", self.prepare_transaction(request.into_inner())).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::DecisionReceipt>, Status> {
        let request = request.into_inner();
        let commit = async {
            let transaction = request.transaction_id.parse()?;
            let replacements = from_wire::replacements(request.replacements)?;
            let decided = self.service.decide(transaction, Decision::Commit, request.reason, replacements);
            Ok(to_wire::receipt(&decided.await?))
        };
        answer("commit", commit).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::DecisionReceipt>, Status> {
        let request = request.into_inner();
        let rollback = async {
            let transaction = request.transaction_id.parse()?;
            let decided = self.service.decide(transaction, Decision::Rollback, request.reason, Vec::new());
            Ok(to_wire::receipt(&decided.await?))
        };
        answer("rollback", rollback).await
    }

    async fn describe_transaction(
        &self,
        request: Request<v1::DescribeTransactionRequest>,
    ) -> Result<Response<v1::Transaction>, Status> {
        let describe = async {
            let described = self.service.describe(request.into_inner().transaction_id.parse()?).await?;
            Ok(to_wire::transaction(described, true))
        };
        answer("describe_transaction", describe).await
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        answer("list_transactions", self.list(request.into_inner())).await
    }

    async fn checks(
        &self,
        request: Request<Streaming<v1::ChecksRequest>>,
    ) -> Result<Response<Self::ChecksStream>, Status> {
        Ok(Response::new(super::checks::questions(
            std::sync::Arc::clone(&self.service),
            request.into_inner(),
        )))
    }
}

impl Door {
    async fn prepare_transaction(&self, request: v1::PrepareRequest) -> Result<v1::PrepareResponse, Refused> {
        let check = request.check.unwrap_or_default();
        let prepare = Prepare {
            producer_group: request.producer_group.parse()?,
            instance: from_wire::optional(&request.producer_instance)?,
            policy: from_wire::policy(&check, self.service.policy())?,
            callback: (!check.callback_url.is_empty()).then_some(check.callback_url),
            send: Send::new(
                from_wire::optional(&request.request_id)?,
                from_wire::messages(request.messages)?,
            )?,
        };
        let (accepted, reachable) = self.service.prepare(prepare).await?;
        Ok(v1::PrepareResponse {
            transaction_id: accepted.transaction.to_string(),
            message_ids: accepted.message_ids.iter().map(ToString::to_string).collect(),
            first_check_at: Some(to_wire::timestamp(accepted.first_check_at)),
            warnings: if reachable { Vec::new() } else { vec![v1::Warning::NoResolver.into()] },
        })
    }

    async fn list(
        &self,
        request: v1::ListTransactionsRequest,
    ) -> Result<v1::ListTransactionsResponse, Refused> {
        let max = from_wire::page_size(request.page_size)?;
        let list = ListTransactions {
            state: from_wire::state(request.state)?,
            producer_group: from_wire::optional(&request.producer_group)?,
            after: from_wire::optional::<TransactionId>(&request.page_token)?,
            max,
        };
        let listed = self.service.list(list).await?;
        let last = listed.last().map(|described| described.view.transaction.to_string());
        Ok(v1::ListTransactionsResponse {
            next_page_token: last.filter(|_| listed.len() == max).unwrap_or_default(),
            transactions: listed
                .into_iter()
                .map(|described| to_wire::transaction(described, false))
                .collect(),
        })
    }
}
