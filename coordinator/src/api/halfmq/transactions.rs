//! `halfmq.v1.Transactions`.

use halfmq_core::TransactionId;
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
        let prepare = async {
            let prepare = from_wire::prepare(request.into_inner(), self.service.policy())?;
            Ok(to_wire::prepared(&self.service.prepare(prepare).await?))
        };
        answer("prepare", prepare).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::DecisionReceipt>, Status> {
        let commit = async {
            let (decide, replacements) = from_wire::commit(request.into_inner())?;
            let decided =
                self.service.decide(decide.transaction, decide.decision, decide.reason, replacements);
            Ok(to_wire::receipt(&decided.await?))
        };
        answer("commit", commit).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::DecisionReceipt>, Status> {
        let rollback = async {
            let (decide, replacements) = from_wire::rollback(request.into_inner())?;
            let decided =
                self.service.decide(decide.transaction, decide.decision, decide.reason, replacements);
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

    async fn describe_floor(
        &self,
        request: Request<v1::DescribeFloorRequest>,
    ) -> Result<Response<v1::TransactionFloor>, Status> {
        let floor = async {
            let floor = self.service.transaction_floor().await?;
            let horizon = self.service.horizon().await?;
            let told = horizon.last_sequences.into_iter().filter(|_| request.get_ref().with_last_sequences);
            Ok(v1::TransactionFloor {
                transaction_id: floor.to_string(),
                receipts_since: horizon.receipts_since.map(to_wire::timestamp),
                last_sequences: told.map(|(group, last)| (group.to_string(), last)).collect(),
            })
        };
        answer("describe_floor", floor).await
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
                .map(|described| to_wire::transaction(described, request.with_messages))
                .collect(),
        })
    }
}
