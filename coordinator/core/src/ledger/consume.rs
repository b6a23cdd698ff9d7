//! Handing messages to consumer groups, and taking them back: ack, extend, retry later, dead letter.

use std::time::Duration;

use super::{Group, Ledger, Subscription};
use crate::cursor::Turn;
use crate::event::{Event, Log};
use crate::ids::{MessageId, ReceiptHandle};
use crate::limits::{
    ACKS_MAX, IN_FLIGHT_MAX, INVISIBLE_MAX, INVISIBLE_MIN, NAMES_MAX, REASON_BYTES_MAX, RECEIVE_BYTES_MAX,
    RECEIVE_MAX, SCAN_MAX,
};
use crate::message::{Extent, TagFilter};
use crate::names::{ConsumerGroup, ProducerGroup, TopicName};
use crate::queue::{Entry, Origin, Place, Start};
use crate::rejection::Rejection;
use crate::shelf::Found;
use crate::time::Timestamp;

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Receive {
    /// For which group.
    pub group: ConsumerGroup,
    /// From which topic.
    pub topic: TopicName,
    /// At most so many messages.
    pub max: usize,
    /// How long they stay invisible to the rest of the group.
    pub invisible: Duration,
    /// Which tags the group wants.
    pub filter: TagFilter,
    /// Where a group begins that reads this topic for the first time.
    pub start: Start,
}

impl Receive {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`Rejection::Invalid`].
    pub fn check(&self) -> Result<(), Rejection> {
        if self.max == 0 || self.max > RECEIVE_MAX {
            return Err(Rejection::Invalid {
                what: "max_messages",
                why: format!("it must be 1 to {RECEIVE_MAX}"),
            });
        }
        check_invisible(self.invisible)
    }
}

/// One message, leased to one consumer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Delivery {
    pub id: MessageId,
    pub content: Extent,
    pub place: Place,
    pub handle: ReceiptHandle,
    pub invisible_until: Timestamp,
    pub released_at: Timestamp,
    pub producer_group: ProducerGroup,
    pub sequence: u64,
    pub previous_sequence: u64,
    pub origin: Option<Origin>,
}

/// What a receive found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// In the order to work on them.
    pub deliveries: Vec<Delivery>,
    /// When something that is leased or waits now will be visible. The past if the search broke off at its bound.
    pub next_visible: Option<Timestamp>,
}

/// What became of a delivery that was given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Retry {
    /// It comes again then.
    Visible(Timestamp),
    /// It was the last attempt: its place in the dead-letter topic.
    DeadLetter(Place),
}

const LEASE_ENDED: &str = "the lease of the last attempt ended without an ack";

impl Ledger {
    /// Leases messages to a group; its first receive registers it.
    ///
    /// # Errors
    /// [`Rejection::UnknownTopic`], [`Rejection::Invalid`] and limits.
    pub fn receive(
        &mut self,
        now: Timestamp,
        ask: &Receive,
        log: &mut dyn Log,
    ) -> Result<Received, Rejection> {
        ask.check()?;
        self.subscribe(ask, log)?;
        let queues = self.topic(&ask.topic)?.queues.len();
        let first = self.rotate(ask);
        let mut received = Received::default();
        let mut bytes = 0;
        let mut steps = SCAN_MAX;
        for queue in (0..queues).map(|step| (first + step) % queues) {
            let queue = u32::try_from(queue).expect("a topic has at most QUEUES_MAX queues");
            self.receive_from(now, ask, queue, &mut received, &mut bytes, &mut steps, log);
        }
        let subscription = self.groups.get(&ask.group).and_then(|group| group.subscriptions.get(&ask.topic));
        let cursors = subscription.map(|subscription| subscription.cursors.as_slice()).unwrap_or_default();
        received.next_visible = match steps {
            0 => Some(now),
            _ => cursors.iter().filter_map(crate::cursor::Cursor::next_visible).min(),
        };
        Ok(received)
    }

    /// Settles deliveries. Each handle is answered by itself; a handle that comes twice is fine.
    /// The flag says that messages wait which this has set free.
    ///
    /// # Errors
    /// [`Rejection::UnknownTopic`], [`Rejection::UnknownGroup`] and [`Rejection::Invalid`] for the whole call.
    pub fn ack(
        &mut self,
        group: &ConsumerGroup,
        topic: &TopicName,
        handles: &[ReceiptHandle],
        log: &mut dyn Log,
    ) -> Result<(Vec<Result<(), Rejection>>, bool), Rejection> {
        if handles.is_empty() || handles.len() > ACKS_MAX {
            let why = format!("there are {}; 1 to {ACKS_MAX} go into one call", handles.len());
            return Err(Rejection::Invalid { what: "number of receipt handles", why });
        }
        self.topic(topic)?;
        let reader = self.group(group)?.subscriptions.get(topic);
        let reader = reader.ok_or_else(|| Rejection::UnknownGroup(group.clone()))?;
        let mut settled: Vec<(u32, Vec<u64>)> = Vec::new();
        let mut results = Vec::with_capacity(handles.len());
        for handle in handles {
            let cursor = reader.cursors.get(handle.queue as usize);
            let result =
                match cursor.ok_or(Rejection::ReceiptExpired).and_then(|cursor| cursor.leased(*handle)) {
                    Ok(_) => {
                        match settled.iter_mut().find(|(queue, _)| *queue == handle.queue) {
                            Some((_, offsets)) if offsets.contains(&handle.offset) => {}
                            Some((_, offsets)) => offsets.push(handle.offset),
                            None => settled.push((handle.queue, vec![handle.offset])),
                        }
                        Ok(())
                    }
                    Err(_) if self.is_acked(group, topic, *handle) => Ok(()),
                    Err(expired) => Err(expired),
                };
            results.push(result);
        }
        // Whoever waits because too much is in flight may go on.
        let full = reader.cursors.iter().any(|cursor| cursor.in_flight() >= IN_FLIGHT_MAX as u64);
        for (queue, offsets) in settled {
            self.record(log, Event::Settled { group: group.clone(), topic: topic.clone(), queue, offsets });
        }
        let freed = self.groups.get(group).and_then(|group| group.subscriptions.get(topic));
        let freed = freed.is_some_and(|reader| reader.cursors.iter().any(crate::cursor::Cursor::has_freed));
        Ok((results, full || freed))
    }

    /// Keeps a delivery invisible for longer, counted from now.
    ///
    /// # Errors
    /// [`Rejection::ReceiptExpired`], [`Rejection::Invalid`], unknown names.
    pub fn extend(
        &mut self,
        now: Timestamp,
        group: &ConsumerGroup,
        topic: &TopicName,
        handle: ReceiptHandle,
        invisible: Duration,
        log: &mut dyn Log,
    ) -> Result<Timestamp, Rejection> {
        check_invisible(invisible)?;
        self.check_lease(group, topic, handle)?;
        let until = now.after(invisible);
        let ReceiptHandle { queue, offset, .. } = handle;
        self.record(
            log,
            Event::Extended { group: group.clone(), topic: topic.clone(), queue, offset, until },
        );
        Ok(until)
    }

    /// Gives a delivery back, to come again after `delay` or as the group's retry policy says; after the
    /// last attempt it becomes a dead letter.
    ///
    /// # Errors
    /// [`Rejection::ReceiptExpired`], [`Rejection::Invalid`], unknown names.
    #[expect(clippy::too_many_arguments, reason = "each is one field of the call")]
    pub fn retry_later(
        &mut self,
        now: Timestamp,
        group: &ConsumerGroup,
        topic: &TopicName,
        handle: ReceiptHandle,
        delay: Option<Duration>,
        reason: &str,
        log: &mut dyn Log,
    ) -> Result<Retry, Rejection> {
        if let Some(delay) = delay.filter(|delay| *delay > INVISIBLE_MAX) {
            let why = format!("{} s is longer than 12 hours", delay.as_secs());
            return Err(Rejection::Invalid { what: "retry delay", why });
        }
        Rejection::if_larger("reason", reason.len(), REASON_BYTES_MAX)?;
        self.check_lease(group, topic, handle)?;
        let retry = &self.group(group)?.retry;
        if retry.is_last(handle.attempt) {
            let place = handle.place(topic);
            return Ok(Retry::DeadLetter(self.dead_letter(now, group, place, handle.attempt, reason, log)));
        }
        let visible_at = now.after(delay.unwrap_or_else(|| retry.wait(handle.attempt)));
        let ReceiptHandle { queue, offset, .. } = handle;
        self.record(
            log,
            Event::Retried { group: group.clone(), topic: topic.clone(), queue, offset, visible_at },
        );
        Ok(Retry::Visible(visible_at))
    }

    /// Moves what no consumer will get any more to the group's dead-letter topic.
    pub(super) fn dead_letter(
        &mut self,
        now: Timestamp,
        group: &ConsumerGroup,
        place: Place,
        attempts: u32,
        reason: &str,
        log: &mut dyn Log,
    ) -> Place {
        let letters = group.dead_letter_topic();
        if !self.topics.contains_key(&letters) {
            self.record(log, Event::TopicCreated { topic: letters.clone(), queues: 1 });
        }
        let number =
            self.topics.get(&letters).and_then(|topic| topic.queue(0)).map_or(0, crate::queue::Queue::next);
        self.record(
            log,
            Event::DeadLettered {
                group: group.clone(),
                topic: place.topic,
                queue: place.queue,
                offset: place.offset,
                attempts,
                reason: if reason.is_empty() { "no reason given".into() } else { reason.into() },
                number,
                at: now,
            },
        );
        Place { topic: letters, queue: 0, offset: number }
    }

    /// The message at a place, for a delivery or for people.
    pub(super) fn entry(&self, place: &Place) -> Option<Found<'_>> {
        self.topics.get(&place.topic)?.queue(place.queue)?.entry(place.offset, &*self.shelf)
    }

    fn subscribe(&mut self, ask: &Receive, log: &mut dyn Log) -> Result<(), Rejection> {
        let topic = self.topic(&ask.topic)?;
        let (group, name) = (ask.group.clone(), ask.topic.clone());
        match self.groups.get(&ask.group).map(|group| group.subscriptions.get(&ask.topic)) {
            Some(Some(subscription)) if subscription.filter == ask.filter => {}
            Some(Some(_)) => {
                self.record(log, Event::FilterChanged { group, topic: name, filter: ask.filter.clone() });
            }
            None if self.groups.len() >= NAMES_MAX => {
                let then = "use fewer, longer-lived names; nothing was delivered";
                return Err(Rejection::LimitReached { what: "consumer groups", max: NAMES_MAX, then });
            }
            None | Some(None) => {
                let floors =
                    topic.queues.iter().map(|queue| queue.offset_of(ask.start, &*self.shelf)).collect();
                self.record(
                    log,
                    Event::Subscribed { group, topic: name, filter: ask.filter.clone(), floors },
                );
            }
        }
        Ok(())
    }

    /// The queue to begin with, a different one each time, so that no queue starves.
    fn rotate(&mut self, ask: &Receive) -> usize {
        let subscription =
            self.groups.get_mut(&ask.group).and_then(|group| group.subscriptions.get_mut(&ask.topic));
        subscription.map_or(0, |subscription| {
            subscription.turn = subscription.turn.wrapping_add(1);
            subscription.turn
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the budgets of one receive, passed from queue to queue")]
    fn receive_from(
        &mut self,
        now: Timestamp,
        ask: &Receive,
        queue: u32,
        received: &mut Received,
        bytes: &mut u64,
        steps: &mut usize,
        log: &mut dyn Log,
    ) {
        let until = now.after(ask.invisible);
        let (group, topic) = (&ask.group, &ask.topic);
        let mut taken: Vec<(u64, u32)> = Vec::new();
        let mut unwanted: Vec<u64> = Vec::new();
        while received.deliveries.len() < ask.max && *bytes < RECEIVE_BYTES_MAX {
            let Some(turn) = self.turn(ask, queue, now, steps) else { break };
            match turn {
                Turn::Deliver { offset, attempt } => {
                    let place = Place { topic: topic.clone(), queue, offset };
                    let Some(entry) = self.entry(&place) else { break };
                    let delivery = delivery(&entry, place, attempt, until);
                    *bytes += u64::from(delivery.content.length);
                    let message_group = entry.message_group;
                    received.deliveries.push(delivery);
                    taken.push((offset, attempt));
                    // Leased at once, so that the next turn is another message's; the event below says the same.
                    if let Some(cursor) = self.cursor_mut(group, topic, queue) {
                        cursor.deliver(offset, attempt, until, message_group);
                    }
                }
                Turn::Exhausted { offset, attempts } => {
                    let place = Place { topic: topic.clone(), queue, offset };
                    self.dead_letter(now, group, place, attempts, LEASE_ENDED, log);
                }
                Turn::Unwanted { offset } => unwanted.push(offset),
            }
        }
        if !unwanted.is_empty() {
            let (group, topic) = (group.clone(), topic.clone());
            self.record(log, Event::Settled { group, topic, queue, offsets: unwanted });
        }
        if !taken.is_empty() {
            let (group, topic) = (group.clone(), topic.clone());
            self.record(log, Event::Delivered { group, topic, queue, deliveries: taken, until });
        }
    }

    fn turn(&mut self, ask: &Receive, queue: u32, now: Timestamp, steps: &mut usize) -> Option<Turn> {
        let entries = self.topics.get(&ask.topic)?.queue(queue)?;
        let Group { retry, subscriptions, .. } = self.groups.get_mut(&ask.group)?;
        let Subscription { filter, cursors, .. } = subscriptions.get_mut(&ask.topic)?;
        cursors.get_mut(queue as usize)?.turn((entries, &*self.shelf), filter, retry.attempts_max, now, steps)
    }

    pub(super) fn check_lease(
        &self,
        group: &ConsumerGroup,
        topic: &TopicName,
        handle: ReceiptHandle,
    ) -> Result<(), Rejection> {
        self.topic(topic)?;
        let reader = self.group(group)?.subscriptions.get(topic);
        let cursor = reader.and_then(|reader| reader.cursors.get(handle.queue as usize));
        cursor.ok_or(Rejection::ReceiptExpired)?.leased(handle).map(drop)
    }

    /// Settled, and not because it became a dead letter.
    fn is_acked(&self, group: &ConsumerGroup, topic: &TopicName, handle: ReceiptHandle) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        let reader = group.subscriptions.get(topic);
        let cursor = reader.and_then(|reader| reader.cursors.get(handle.queue as usize));
        let place = handle.place(topic);
        cursor.is_some_and(|cursor| cursor.is_done(handle.offset)) && !group.dead.came_from(&place)
    }
}

pub(super) fn lease_ended() -> &'static str {
    LEASE_ENDED
}

fn delivery(entry: &Entry, place: Place, attempt: u32, invisible_until: Timestamp) -> Delivery {
    Delivery {
        id: entry.id,
        content: entry.content,
        handle: ReceiptHandle { queue: place.queue, offset: place.offset, attempt },
        place,
        invisible_until,
        released_at: entry.released_at,
        producer_group: entry.producer_group.clone(),
        sequence: entry.sequence,
        previous_sequence: entry.previous,
        origin: entry.origin.as_deref().cloned(),
    }
}

fn check_invisible(invisible: Duration) -> Result<(), Rejection> {
    if (INVISIBLE_MIN..=INVISIBLE_MAX).contains(&invisible) {
        Ok(())
    } else {
        Err(Rejection::Invalid { what: "invisible duration", why: "it must be 1 s to 12 h".into() })
    }
}
