//! `halfmq.v1.Admin`.

use halfmq_core::{ConsumerGroup, Rejection};
use halfmq_proto::v1;
use tonic::{Request, Response, Status};
use v1::admin_server::Admin;

use super::status::answer;
use super::{Door, from_wire, to_wire};

#[tonic::async_trait]
impl Admin for Door {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let request = request.into_inner();
        let create = async {
            let topic = self.service.create_topic(request.topic.parse()?, request.queues).await?;
            Ok(to_wire::topic(&topic))
        };
        answer("create_topic", create).await
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let request = request.into_inner();
        let describe =
            async { Ok(to_wire::topic(&self.service.describe_topic(request.topic.parse()?).await?)) };
        answer("describe_topic", describe).await
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let list = async {
            let topics = self.service.topics().await?.iter().map(to_wire::topic).collect();
            Ok(v1::ListTopicsResponse { topics })
        };
        answer("list_topics", list).await
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let request = request.into_inner();
        let delete = async {
            self.service.delete_topic(request.topic.parse()?, request.force).await?;
            Ok(v1::DeleteTopicResponse {})
        };
        answer("delete_topic", delete).await
    }

    async fn configure_group(
        &self,
        request: Request<v1::ConfigureGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let configure = async {
            let retry = from_wire::retry(&request.retry.unwrap_or_default())?;
            Ok(to_wire::group(&self.service.configure_group(request.group.parse()?, retry).await?))
        };
        answer("configure_group", configure).await
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let describe =
            async { Ok(to_wire::group(&self.service.describe_group(request.group.parse()?).await?)) };
        answer("describe_group", describe).await
    }

    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let list = async {
            let groups = self.service.groups().await?.iter().map(to_wire::group).collect();
            Ok(v1::ListGroupsResponse { groups })
        };
        answer("list_groups", list).await
    }

    async fn reset_group(
        &self,
        request: Request<v1::ResetGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let request = request.into_inner();
        let reset = async {
            let (group, topic) = (request.group.parse()?, request.topic.parse()?);
            let view = self.service.reset_group(group, topic, from_wire::start(request.start)?).await?;
            Ok(to_wire::group(&view))
        };
        answer("reset_group", reset).await
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let list = async {
            let from = match request.page_token.as_str() {
                "" => 0,
                token => token.parse().map_err(|_| Rejection::Invalid {
                    what: "page_token",
                    why: "use the next_page_token of the page before".to_owned(),
                })?,
            };
            let max = from_wire::page_size(request.page_size)?;
            let letters = self.service.dead_letters(request.group.parse()?, from, max).await?;
            let next =
                letters.last().filter(|_| letters.len() == max).map(|last| (last.number + 1).to_string());
            Ok(v1::ListDeadLettersResponse {
                dead_letters: letters.iter().map(|letter| to_wire::dead_letter(letter, None)).collect(),
                next_page_token: next.unwrap_or_default(),
            })
        };
        answer("list_dead_letters", list).await
    }

    async fn show_dead_letter(
        &self,
        request: Request<v1::ShowDeadLetterRequest>,
    ) -> Result<Response<v1::DeadLetter>, Status> {
        let request = request.into_inner();
        let show = async {
            let (letter, message) = self.service.dead_letter(request.group.parse()?, request.number).await?;
            Ok(to_wire::dead_letter(&letter, Some(message)))
        };
        answer("show_dead_letter", show).await
    }

    async fn replay_dead_letters(
        &self,
        request: Request<v1::SelectDeadLetters>,
    ) -> Result<Response<v1::DeadLettersChanged>, Status> {
        let replay = async {
            let (group, numbers) = selection(request.into_inner())?;
            Ok(v1::DeadLettersChanged { count: self.service.replay(group, numbers).await? })
        };
        answer("replay_dead_letters", replay).await
    }

    async fn purge_dead_letters(
        &self,
        request: Request<v1::SelectDeadLetters>,
    ) -> Result<Response<v1::DeadLettersChanged>, Status> {
        let purge = async {
            let (group, numbers) = selection(request.into_inner())?;
            Ok(v1::DeadLettersChanged { count: self.service.purge(group, numbers).await? })
        };
        answer("purge_dead_letters", purge).await
    }
}

/// `None` is all of them, and only when that was said.
fn selection(select: v1::SelectDeadLetters) -> Result<(ConsumerGroup, Option<Vec<u64>>), Rejection> {
    if select.all && !select.numbers.is_empty() {
        return Err(Rejection::Invalid {
            what: "selection",
            why: "give numbers, or all, not both".to_owned(),
        });
    }
    Ok((select.group.parse()?, (!select.all).then_some(select.numbers)))
}
