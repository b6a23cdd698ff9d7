//! Taking messages in: half messages, and plain sends.

use super::Ledger;
use super::transactions::DecidedTransaction;
use crate::check::CheckPolicy;
use crate::event::{Event, Log, Prepared, Release, Sent};
use crate::ids::{MessageId, TransactionId};
use crate::limits::{MESSAGES_MAX, NAMES_MAX, OPEN_TRANSACTIONS_MAX, TRANSACTION_BYTES_MAX};
use crate::message::Message;
use crate::names::{InstanceId, ProducerGroup, RequestId};
use crate::queue::{Place, Placement};
use crate::rejection::Rejection;
use crate::time::Timestamp;
use crate::transaction::Verdict;

/// A transaction to keep until it is decided.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// Who can be asked about it.
    pub producer_group: ProducerGroup,
    /// Who is asked first.
    pub instance: Option<InstanceId>,
    /// Where the group can be asked besides.
    pub callback: Option<String>,
    /// When to ask.
    pub policy: CheckPolicy,
    /// The content.
    pub send: Send,
}

/// Messages that belong together.
#[derive(Clone, Debug)]
pub struct Send {
    request_id: Option<RequestId>,
    fingerprint: u64,
    messages: Vec<Message>,
}

impl Send {
    /// Checks the messages, and prepares to recognise them if they come again.
    ///
    /// # Errors
    /// [`Rejection`] for a message that may not be sent, for none, or for too many.
    pub fn new(request_id: Option<RequestId>, messages: Vec<Message>) -> Result<Self, Rejection> {
        if messages.is_empty() || messages.len() > MESSAGES_MAX {
            let why = format!("there are {}; 1 to {MESSAGES_MAX} go into one call", messages.len());
            return Err(Rejection::Invalid { what: "number of messages", why });
        }
        messages.iter().try_for_each(Message::check)?;
        let bytes = messages.iter().map(Message::content_bytes).sum();
        Rejection::if_larger("transaction", bytes, TRANSACTION_BYTES_MAX)?;
        let fingerprint = match request_id {
            Some(_) => messages.iter().fold(0, |before, message| message.fingerprint(before)),
            None => 0,
        };
        Ok(Self { request_id, fingerprint, messages })
    }

    /// The messages.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The caller's own key.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }
}

/// The answer to a prepare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Its id, from now on.
    pub transaction: TransactionId,
    /// One for each message.
    pub message_ids: Vec<MessageId>,
    /// When it is asked about if nobody decides.
    pub first_check_at: Timestamp,
}

/// The answer to a decision or a send; the same for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Which transaction.
    pub transaction: TransactionId,
    /// The decision that stands.
    pub verdict: Verdict,
    /// Of a commit: each message, and its place or the time it gets one.
    pub messages: Vec<(MessageId, Result<Place, Timestamp>)>,
}

impl Ledger {
    /// Keeps half messages. `past` is what an engine remembers of this request id beyond the ledger.
    ///
    /// # Errors
    /// Unknown topics, a reused request id, and limits; nothing is kept then.
    pub fn prepare(
        &mut self,
        now: Timestamp,
        fresh: TransactionId,
        prepare: Prepare,
        past: Option<(TransactionId, DecidedTransaction)>,
        log: &mut dyn Log,
    ) -> Result<Accepted, Rejection> {
        if let Some(accepted) = self.prepared_before(&prepare, past)? {
            return Ok(accepted);
        }
        prepare.policy.check()?;
        self.check_intake(now, &prepare.producer_group, &prepare.send)?;
        if self.open.len() >= OPEN_TRANSACTIONS_MAX {
            let then = "decide some of them first; nothing was stored";
            return Err(Rejection::LimitReached {
                what: "open transactions",
                max: OPEN_TRANSACTIONS_MAX,
                then,
            });
        }
        let producer = self.producers.get(&prepare.producer_group);
        let first_sequence = producer.map_or(1, |producer| producer.sequence + 1);
        let callback = producer.and_then(|producer| producer.callback.as_ref());
        if prepare.callback.is_some() && prepare.callback.as_ref() != callback {
            let (producer_group, callback) = (prepare.producer_group.clone(), prepare.callback);
            self.record(log, Event::CallbackChanged { producer_group, callback });
        }
        let accepted = accepted(fresh, prepare.send.messages.len(), prepare.policy.first(now));
        let prepared = Prepared {
            transaction: fresh,
            producer_group: prepare.producer_group,
            instance: prepare.instance,
            request_id: prepare.send.request_id,
            fingerprint: prepare.send.fingerprint,
            policy: prepare.policy,
            at: now,
            first_sequence,
            messages: prepare.send.messages,
        };
        self.record(log, Event::Prepared(prepared));
        Ok(accepted)
    }

    /// Releases messages without a transaction. `past` as for [`Ledger::prepare`].
    ///
    /// # Errors
    /// Unknown topics, a reused request id, and limits; nothing is kept then.
    pub fn send(
        &mut self,
        now: Timestamp,
        fresh: TransactionId,
        producer_group: ProducerGroup,
        send: Send,
        past: Option<(TransactionId, DecidedTransaction)>,
        log: &mut dyn Log,
    ) -> Result<Receipt, Rejection> {
        // Never that of a prepare: the two must not answer for each other's request ids.
        let fingerprint = !send.fingerprint;
        if let Some(request_id) = &send.request_id {
            let hot = self.request(&producer_group, request_id);
            let hot = hot.and_then(|id| Some((id, self.decided.get(&id)?.as_ref())));
            if let Some((id, decided)) = hot.or(past.as_ref().map(|(id, decided)| (*id, decided))) {
                return match decided.fingerprint == fingerprint {
                    true => Ok(decided.receipt(id)),
                    false => Err(Rejection::RequestIdReused(request_id.clone())),
                };
            }
            if self.request(&producer_group, request_id).is_some() {
                return Err(Rejection::RequestIdReused(request_id.clone()));
            }
        }
        self.check_intake(now, &producer_group, &send)?;
        let first_sequence = self.producers.get(&producer_group).map_or(1, |producer| producer.sequence + 1);
        let mut placement = Placement::default();
        let places = send.messages.iter().zip(first_sequence..).map(|(message, sequence)| {
            let group = message
                .message_group
                .as_ref()
                .map(|group| crate::message::hash(&[group.as_str().as_bytes()]));
            match message.visibility.due(now) {
                Some(at) => Ok(Release::Scheduled { at }),
                None => {
                    let topic = self.topic(&message.topic)?;
                    Ok(placement.place(&message.topic, topic, group, &producer_group, sequence))
                }
            }
        });
        let releases = places.collect::<Result<Vec<_>, Rejection>>()?;
        let receipt = Receipt {
            transaction: fresh,
            verdict: Verdict::by_call(now),
            messages: receipt_lines(fresh, send.messages.iter().map(|message| &message.topic).zip(&releases)),
        };
        let sent = Sent {
            transaction: fresh,
            producer_group,
            request_id: send.request_id,
            fingerprint,
            at: now,
            first_sequence,
            messages: send.messages,
            releases,
        };
        self.record(log, Event::Sent(sent));
        Ok(receipt)
    }

    /// The transaction that this request id brought, if the ledger still knows it.
    #[must_use]
    pub fn request(&self, producer_group: &ProducerGroup, request_id: &RequestId) -> Option<TransactionId> {
        self.producers.get(producer_group)?.requests.get(request_id).copied()
    }

    fn prepared_before(
        &self,
        prepare: &Prepare,
        past: Option<(TransactionId, DecidedTransaction)>,
    ) -> Result<Option<Accepted>, Rejection> {
        let Some(request_id) = &prepare.send.request_id else { return Ok(None) };
        let known = self.request(&prepare.producer_group, request_id).and_then(|id| {
            let open = self.open.get(&id).map(|open| (open.fingerprint, open.policy.first(open.prepared_at)));
            let fact = open
                .or_else(|| self.decided.get(&id).map(|decided| (decided.fingerprint, decided.prepared_at)));
            fact.map(|(fingerprint, first_check)| (id, fingerprint, first_check))
        });
        let known =
            known.or_else(|| past.map(|(id, decided)| (id, decided.fingerprint, decided.prepared_at)));
        match known {
            None => Ok(None),
            Some((id, fingerprint, first_check)) if fingerprint == prepare.send.fingerprint => {
                Ok(Some(accepted(id, prepare.send.messages.len(), first_check)))
            }
            Some(_) => Err(Rejection::RequestIdReused(request_id.clone())),
        }
    }

    fn check_intake(
        &self,
        now: Timestamp,
        producer_group: &ProducerGroup,
        send: &Send,
    ) -> Result<(), Rejection> {
        for message in &send.messages {
            self.topic(&message.topic)?;
            message.visibility.check(now)?;
        }
        if !self.producers.contains_key(producer_group) && self.producers.len() >= NAMES_MAX {
            let then = "use fewer, longer-lived names; nothing was stored";
            return Err(Rejection::LimitReached { what: "producer groups", max: NAMES_MAX, then });
        }
        Ok(())
    }
}

fn accepted(transaction: TransactionId, messages: usize, first_check_at: Timestamp) -> Accepted {
    let message_ids = (0..).take(messages).map(|index| MessageId { transaction, index }).collect();
    Accepted { transaction, message_ids, first_check_at }
}

/// The lines of a receipt: each message with its place, or the time it gets one.
pub(super) fn receipt_lines<'a>(
    transaction: TransactionId,
    released: impl Iterator<Item = (&'a crate::names::TopicName, &'a Release)>,
) -> Vec<(MessageId, Result<Place, Timestamp>)> {
    let line = |(index, (topic, release)): (u16, (&crate::names::TopicName, &Release))| {
        let place = match *release {
            Release::Placed { queue, offset, .. } => Ok(Place { topic: topic.clone(), queue, offset }),
            Release::Scheduled { at } => Err(at),
        };
        (MessageId { transaction, index }, place)
    };
    (0..).zip(released).map(line).collect()
}
