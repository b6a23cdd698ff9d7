//! A client's stream: its settings come in and go back, questions about its half messages go out. The answers
//! to those are calls of their own.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::SelectAll;
use halfmq_core::TopicName;
use halfmq_proto::rocketmq as v2;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Status, Streaming};
use v2::Language;
use v2::telemetry_command::Command;

use super::clients::{Client, Session};
use super::status::Refusal;
use super::{Commands, Door, from_wire, to_wire};
use crate::checker::{Asked, Connection};

/// Commands on their way to one client; more questions wait in the checker.
const COMMANDS_MAX: usize = 16;
/// The library for Node.js listens to settings only once it knows the routes of all its topics. Those that
/// come before are lost to it, and it would wait for minutes; so it hears them again.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

type Tell = mpsc::Sender<Result<v2::TelemetryCommand, Status>>;

/// Serves one stream, and returns at once: clients wait for the head of the answer.
pub(super) fn commands(door: Arc<Door>, request: Request<Streaming<v2::TelemetryCommand>>) -> Commands {
    let (tell, commands) = mpsc::channel(COMMANDS_MAX);
    // By the header, not by the settings: a library that comes back does not always send them again.
    let client = door.caller(request.metadata()).and_then(|caller| door.clients.enter(&caller));
    // Now, so that whoever sends a half message next can be asked about it.
    let client = client.map(Client::open);
    tokio::spawn(async move {
        match client {
            Ok(session) => {
                let stream =
                    Serving { door: &door, tell, connected: HashSet::new(), asking: SelectAll::new() };
                stream.serve(session, request.into_inner()).await;
            }
            Err(refusal) => drop(tell.send(Ok(refused(refusal))).await),
        }
    });
    Box::pin(ReceiverStream::new(commands))
}

/// A connection to the checker as a stream of its questions.
struct Asking(Connection);

impl Stream for Asking {
    type Item = Asked;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Asked>> {
        self.0.questions.poll_recv(context)
    }
}

struct Serving<'a> {
    door: &'a Door,
    tell: Tell,
    connected: HashSet<TopicName>,
    asking: SelectAll<Asking>,
}

/// The client has gone away.
struct Gone;

impl Serving<'_> {
    /// Until the client or the coordinator goes away. Never ended otherwise: some libraries would not come
    /// back.
    async fn serve(mut self, mut session: Session, mut said: Streaming<v2::TelemetryCommand>) {
        let mut again: VecDeque<(Instant, v2::TelemetryCommand)> = VecDeque::new();
        loop {
            let next = again.front().map(|(at, _)| *at);
            let outcome = tokio::select! {
                command = said.next() => match command {
                    Some(Ok(command)) => self.hear(&session, command, &mut again).await,
                    Some(Err(_)) | None => return,
                },
                topic = session.topics.recv() => match topic {
                    Some(topic) => {
                        self.connect(&session, topic);
                        Ok(())
                    }
                    // It said goodbye.
                    None => return,
                },
                Some(asked) = self.asking.next(), if !self.asking.is_empty() => self.ask(asked).await,
                () = until(next) => match again.pop_front() {
                    Some((_, command)) => self.say(command).await,
                    None => Ok(()),
                },
                () = self.tell.closed() => return,
                () = self.door.service.stopping() => return,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn hear(
        &self,
        session: &Session,
        command: v2::TelemetryCommand,
        again: &mut VecDeque<(Instant, v2::TelemetryCommand)>,
    ) -> Result<(), Gone> {
        let Some(Command::Settings(settings)) = command.command else { return Ok(()) };
        let settled = self.door.settle_settings(&session.client, settings).await;
        let settled = settled.unwrap_or_else(|unavailable| refused(unavailable.into()));
        if session.client.language() == Language::NodeJs {
            let now = Instant::now();
            again.clear();
            again.extend(AGAIN_AFTER.map(|wait| (now + wait, settled.clone())));
        }
        self.say(settled).await
    }

    /// From now on it may be asked about this topic.
    fn connect(&mut self, session: &Session, topic: TopicName) {
        if self.connected.contains(&topic) {
            return;
        }
        if let Ok(group) = from_wire::producer_group(&topic) {
            let connection =
                self.door.service.checker().connect(group, Some(session.client.id.clone()), true);
            self.asking.push(Asking(connection));
            self.connected.insert(topic);
        }
    }

    async fn ask(&self, asked: Asked) -> Result<(), Gone> {
        match to_wire::question(asked) {
            Some(question) => self.say(question).await,
            None => Ok(()),
        }
    }

    async fn say(&self, command: v2::TelemetryCommand) -> Result<(), Gone> {
        self.tell.send(Ok(command)).await.map_err(|_| Gone)
    }
}

fn refused(refusal: Refusal) -> v2::TelemetryCommand {
    v2::TelemetryCommand { status: Some(refusal.status()), command: None }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
