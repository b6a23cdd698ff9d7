//! Which clients there are: what they are, what they send to, and which streams are theirs.
//!
//! Nothing here is durable. After a restart clients go on without introducing themselves again, so every
//! call tells what it can: a heartbeat the kind of client, a route its topics, a half message both.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halfmq_core::{InstanceId, TopicName};
use halfmq_proto::rocketmq as v2;
use tokio::sync::mpsc;
use tokio::time::Instant;
use v2::{AddressScheme, ClientType, Code, Language};

use super::caller::Caller;
use super::status::Refusal;

/// Clients remembered.
const CLIENTS_MAX: usize = 100_000;
/// Topics of one client that it can be asked about.
const TOPICS_MAX: usize = 1_000;
/// How long a client is remembered that says nothing.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A client whose stream is gone lives as long as its heartbeats come, every 10 s.
const HEARTBEAT_MAX: Duration = Duration::from_secs(25);

#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<InstanceId, Arc<Client>>>);

/// One client, by the name it gives itself. A process that starts again may use the name again.
pub(super) struct Client {
    pub(super) id: InstanceId,
    state: Mutex<State>,
}

struct State {
    kind: ClientType,
    language: Language,
    topics: BTreeSet<TopicName>,
    streams: Vec<(u64, mpsc::Sender<TopicName>)>,
    streams_ever: u64,
    heard_at: Instant,
    beats_at: Option<Instant>,
    is_python: bool,
    /// It lives and has no stream.
    is_deaf: bool,
    scheme: Option<AddressScheme>,
}

/// A stream of a client; dropping it takes the client off the list of those who can be asked by it.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    id: u64,
    /// Topics it can be asked about from now on.
    pub(super) topics: mpsc::Receiver<TopicName>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.client.state();
        state.streams.retain(|(id, _)| *id != self.id);
        if state.streams.is_empty() {
            // Most likely the process died; if it did not, its next heartbeat says so.
            state.beats_at = None;
        }
    }
}

impl Clients {
    /// The client that calls, from now on known.
    pub(super) fn enter(&self, caller: &Caller) -> Result<Arc<Client>, Refusal> {
        let mut clients = self.clients();
        if let Some(client) = clients.get(&caller.client) {
            client.state().heard_at = Instant::now();
            return Ok(Arc::clone(client));
        }
        if clients.len() >= CLIENTS_MAX {
            return Err(Refusal::new(Code::TooManyRequests, format!("{CLIENTS_MAX} clients are connected")));
        }
        let client = Arc::new(Client::new(caller));
        clients.insert(caller.client.clone(), Arc::clone(&client));
        Ok(client)
    }

    pub(super) fn find(&self, client: &InstanceId) -> Option<Arc<Client>> {
        self.clients().get(client).cloned()
    }

    /// It said goodbye: its streams have ended or will soon, and it is asked nothing more.
    pub(super) fn leave(&self, client: &InstanceId) {
        if let Some(client) = self.clients().remove(client) {
            client.state().streams.clear();
        }
    }

    pub(super) fn forget_silent(&self) {
        let now = Instant::now();
        self.clients().retain(|_, client| {
            let state = client.state();
            !state.streams.is_empty() || now < state.heard_at + REMEMBERED
        });
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Client>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn new(caller: &Caller) -> Self {
        let state = State {
            kind: ClientType::Unspecified,
            language: Language::Unspecified,
            topics: BTreeSet::new(),
            streams: Vec::new(),
            streams_ever: 0,
            heard_at: Instant::now(),
            beats_at: None,
            is_python: caller.is_python,
            is_deaf: false,
            scheme: None,
        };
        Self { id: caller.client.clone(), state: Mutex::new(state) }
    }

    /// Opens a stream. A client may have several; each can be asked.
    pub(super) fn open(self: Arc<Self>) -> Session {
        let (sender, topics) = mpsc::channel(2 * TOPICS_MAX);
        let mut state = self.state();
        let id = state.streams_ever;
        state.streams_ever += 1;
        state.is_deaf = false;
        if state.kind == ClientType::Producer {
            tell(&sender, &state.topics);
        }
        state.streams.push((id, sender));
        drop(state);
        Session { client: self, id, topics }
    }

    /// It introduced itself.
    pub(super) fn learn(&self, kind: ClientType, language: Language, topics: BTreeSet<TopicName>) {
        self.state().language = language;
        self.learn_topics(kind, topics);
    }

    pub(super) fn beat(&self, kind: ClientType) {
        {
            let mut state = self.state();
            state.beats_at = Some(Instant::now());
            state.is_deaf = state.is_python && state.streams.is_empty();
        }
        self.learn_topics(kind, BTreeSet::new());
    }

    /// It sent a half message to this topic, so it is the one to ask.
    pub(super) fn sends_to(&self, topic: &TopicName) {
        let knows = {
            let state = self.state();
            state.kind == ClientType::Producer && state.topics.contains(topic)
        };
        if !knows {
            self.learn_topics(ClientType::Producer, BTreeSet::from([topic.clone()]));
        }
    }

    /// It asked where this topic is; whether to send or to receive is told elsewhere.
    pub(super) fn looks_for(&self, topic: &TopicName) {
        self.learn_topics(ClientType::Unspecified, BTreeSet::from([topic.clone()]));
    }

    /// How addresses are called in its routes.
    ///
    /// The Python library opens a stream only to an address it has not seen, and after losing one is blind
    /// for up to five minutes. The same address under another scheme counts as new; a numeric one may be
    /// called a name, but not the other way round.
    pub(super) fn scheme(&self, asked: AddressScheme) -> AddressScheme {
        let mut state = self.state();
        if state.is_deaf && asked == AddressScheme::IPv4 {
            state.scheme = Some(match state.scheme.unwrap_or(asked) {
                AddressScheme::IPv4 => AddressScheme::DomainName,
                AddressScheme::DomainName | AddressScheme::IPv6 | AddressScheme::Unspecified => {
                    AddressScheme::IPv4
                }
            });
        }
        state.scheme.unwrap_or(asked)
    }

    pub(super) fn kind(&self) -> ClientType {
        self.state().kind
    }

    pub(super) fn language(&self) -> Language {
        self.state().language
    }

    /// Whether it has a stream, or sends heartbeats without one.
    pub(super) fn is_alive(&self) -> bool {
        let state = self.state();
        !state.streams.is_empty() || state.beats_at.is_some_and(|at| Instant::now() < at + HEARTBEAT_MAX)
    }

    fn learn_topics(&self, kind: ClientType, topics: BTreeSet<TopicName>) {
        let mut state = self.state();
        state.heard_at = Instant::now();
        let was_producer = state.kind == ClientType::Producer;
        if kind != ClientType::Unspecified {
            state.kind = kind;
        }
        let before = state.topics.len();
        for topic in topics {
            if state.topics.len() < TOPICS_MAX {
                state.topics.insert(topic);
            }
        }
        let is_producer = state.kind == ClientType::Producer;
        if is_producer && (!was_producer || state.topics.len() > before) {
            // Streams know which of them are new.
            state.streams.iter().for_each(|(_, sender)| tell(sender, &state.topics));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that does not take them has ended, or hears of them when the client next learns a topic.
fn tell(sender: &mpsc::Sender<TopicName>, topics: &BTreeSet<TopicName>) {
    for topic in topics {
        if sender.try_send(topic.clone()).is_err() {
            return;
        }
    }
}
