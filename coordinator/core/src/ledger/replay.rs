//! What each event does to the ledger: the same right after a verb as after a restart.

use std::sync::Arc;

use super::{DecidedTransaction, Group, Inconsistency, Ledger, Subscription, TxMessage};
use crate::cursor::Cursor;
use crate::delayed::Delayed;
use crate::event::{Decided, Event, Prepared, Release, Sent};
use crate::ids::{MessageId, TransactionId};
use crate::image::{Half, OpenTransaction};
use crate::message::{Extent, Message, MessageGroup, hash};
use crate::names::{ConsumerGroup, ProducerGroup, TopicName};
use crate::queue::{Entry, Origin, Place, Topic};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;
use crate::transaction::{DecidedBy, Decision, Verdict};

type Applied = Result<(), Inconsistency>;

impl Ledger {
    /// Applies an event. `extents` says where the contents of its messages are, in their order.
    ///
    /// # Errors
    /// [`Inconsistency`] if it does not fit; the ledger must not be used any further.
    pub fn apply(&mut self, event: Event, extents: &[Extent]) -> Applied {
        match event {
            Event::TopicCreated { topic, queues } => self.topic_created(topic, queues),
            Event::TopicDeleted { topic } => self.topic_deleted(&topic),
            Event::GroupConfigured { group, retry } => self.group_configured(group, retry),
            Event::Subscribed { group, topic, filter, floors } => {
                self.subscribed(group, topic, filter, &floors)
            }
            Event::FilterChanged { group, topic, filter } => {
                self.subscription(&group, &topic).map(|reader| reader.filter = filter)
            }
            Event::GroupReset { group, topic, floors } => {
                self.subscription(&group, &topic).map(|reader| reader.cursors = cursors(&floors))
            }
            Event::CallbackChanged { producer_group, callback } => {
                self.producers.entry(producer_group).or_default().callback = callback;
                Ok(())
            }
            Event::Prepared(prepared) => self.prepared(prepared, extents),
            Event::Sent(sent) => self.sent(sent, extents),
            Event::Decided(decided) => self.decided(decided, extents),
            Event::Checked { transaction, answered, next_check, in_doubt } => {
                self.checked(transaction, answered, next_check, in_doubt)
            }
            Event::Released { transaction, index, queue, offset, previous, at } => {
                self.released(MessageId { transaction, index }, (queue, offset), previous, at)
            }
            Event::Recalled { transaction, index, due } => {
                self.recalled(MessageId { transaction, index }, due)
            }
            Event::RecalledOnShelf { topic, page, position } => {
                self.recalled_on_shelf(&topic, page, position)
            }
            Event::Delivered { group, topic, queue, deliveries, until } => {
                self.delivered(&group, &topic, queue, &deliveries, until)
            }
            Event::Settled { group, topic, queue, offsets } => {
                let cursor = self.cursor(&group, &topic, queue);
                cursor.map(|cursor| offsets.into_iter().for_each(|offset| cursor.settle(offset)))
            }
            Event::Extended { group, topic, queue, offset, until } => {
                self.cursor(&group, &topic, queue).map(|cursor| cursor.extend(offset, until))
            }
            Event::Retried { group, topic, queue, offset, visible_at } => {
                self.cursor(&group, &topic, queue).map(|cursor| cursor.retry(offset, visible_at))
            }
            Event::DeadLettered { group, topic, queue, offset, attempts, reason, number, at } => {
                let place = Place { topic, queue, offset };
                self.dead_lettered(Origin { group, place, attempts, reason, at }, number)
            }
            Event::DeadLettersReplayed { group, numbers, at } => {
                self.dead_letters_replayed(&group, &numbers, at)
            }
            Event::DeadLettersPurged { group, numbers } => self.dead_letters_purged(&group, &numbers),
            Event::Trimmed { topic, queue, base } => self.trimmed(&topic, queue, base),
            Event::Paged { topic, queue, first, page } => {
                self.paged(&topic, queue, first, &page, extents).ok_or(Inconsistency("a page of nothing"))
            }
            Event::DelayedPaged { old, page } => {
                self.delayed_paged(old, &page, extents).ok_or(Inconsistency("a page of nothing"))
            }
            Event::DelayedLoaded { first } => self.delayed_loaded(first),
            Event::LetGo { topic, queue, offsets } => {
                self.let_go(&topic, queue, &offsets).ok_or(Inconsistency("nothing to let go of"))
            }
            Event::Moved { holder, .. } => {
                self.moved(&holder, extents).ok_or(Inconsistency("a content of nothing was moved"))
            }
            Event::Image(piece) => self.restored(*piece),
        }
    }

    /// After a restart, spreads the checks that fell due meanwhile over some time, at most `window`, so that
    /// it is no storm. A few are no storm anyway, and do not wait long.
    pub fn warm_up(&mut self, now: Timestamp, window: std::time::Duration) {
        let overdue = self.open.values().filter(|open| open.next_check <= now).count();
        let each = crate::check::WARM_UP_EACH.saturating_mul(u32::try_from(overdue).unwrap_or(u32::MAX));
        let window = window.min(each);
        for (id, transaction) in &mut self.open {
            let Some(producer) = self.producers.get_mut(&transaction.producer_group) else { continue };
            producer.due.remove(&(transaction.next_check, *id));
            transaction.next_check = crate::check::warmed_up(transaction.next_check, *id, now, window);
            producer.due.insert((transaction.next_check, *id));
        }
    }

    fn group_configured(&mut self, group: ConsumerGroup, retry: RetryPolicy) -> Applied {
        self.groups.entry(group).or_default().retry = retry;
        Ok(())
    }

    fn dead_letters_purged(&mut self, group: &ConsumerGroup, numbers: &[u64]) -> Applied {
        let group = self.groups.get_mut(group).ok_or(Inconsistency("group"))?;
        numbers.iter().for_each(|number| drop(group.dead.remove(*number)));
        Ok(())
    }

    fn trimmed(&mut self, topic: &TopicName, queue: u32, base: u64) -> Applied {
        let topic = self.topics.get_mut(topic).ok_or(Inconsistency("topic"))?;
        topic.queue_mut(queue).ok_or(Inconsistency("queue"))?.trim(base);
        Ok(())
    }

    fn topic_created(&mut self, topic: TopicName, queues: u32) -> Applied {
        self.topics.insert(topic, Topic::new(queues));
        Ok(())
    }

    fn topic_deleted(&mut self, name: &TopicName) -> Applied {
        self.topics.remove(name).ok_or(Inconsistency("topic"))?;
        self.delayed.forget(name);
        if let Some(group) = name.dead_letters_of().and_then(|group| self.groups.get_mut(&group)) {
            group.dead.clear();
        }
        for state in self.groups.values_mut() {
            state.subscriptions.remove(name);
            for number in state.dead.of_topic(name).collect::<Vec<_>>() {
                state.dead.remove(number);
            }
        }
        Ok(())
    }

    fn subscribed(
        &mut self,
        group: ConsumerGroup,
        topic: TopicName,
        filter: crate::message::TagFilter,
        floors: &[u64],
    ) -> Applied {
        let subscription = Subscription { filter, cursors: cursors(floors), turn: 0 };
        self.groups.entry(group).or_default().subscriptions.insert(topic, subscription);
        Ok(())
    }

    fn prepared(&mut self, prepared: Prepared, extents: &[Extent]) -> Applied {
        let halves = halves(prepared.messages, prepared.first_sequence, extents)?;
        let producer = self.producers.entry(prepared.producer_group.clone()).or_default();
        producer.sequence = prepared.first_sequence + halves.len() as u64 - 1;
        let open = OpenTransaction {
            producer_group: prepared.producer_group,
            instance: prepared.instance,
            request_id: prepared.request_id,
            fingerprint: prepared.fingerprint,
            next_check: prepared.policy.first(prepared.at),
            policy: Arc::new(prepared.policy),
            prepared_at: prepared.at,
            answered: 0,
            in_doubt: false,
            halves: halves.into(),
        };
        self.open_restored(prepared.transaction, open)
    }

    fn sent(&mut self, sent: Sent, extents: &[Extent]) -> Applied {
        let halves = halves(sent.messages, sent.first_sequence, extents)?;
        let producer = self.producers.entry(sent.producer_group.clone()).or_default();
        producer.sequence = sent.first_sequence + halves.len() as u64 - 1;
        // Nobody can ask again about a send without a request id.
        if let Some(request_id) = &sent.request_id {
            producer.requests.insert(request_id.clone(), sent.transaction);
        }
        let messages =
            self.release(sent.transaction, &sent.producer_group, halves, &sent.releases, sent.at)?;
        if let Some(request_id) = sent.request_id {
            let reason = String::new();
            let decided = DecidedTransaction {
                verdict: Verdict { decision: Decision::Commit, by: DecidedBy::Call, at: sent.at, reason },
                producer_group: sent.producer_group,
                instance: None,
                request_id: Some(request_id),
                fingerprint: sent.fingerprint,
                prepared_at: sent.at,
                answered: 0,
                messages,
            };
            self.decided.insert(sent.transaction, Arc::new(decided));
        }
        Ok(())
    }

    fn decided(&mut self, event: Decided, extents: &[Extent]) -> Applied {
        let id = event.transaction;
        let mut open = self.open.remove(&id).ok_or(Inconsistency("a decision without a prepare"))?;
        self.in_doubt -= usize::from(open.in_doubt);
        if let Some(producer) = self.producers.get_mut(&open.producer_group) {
            producer.due.remove(&(open.next_check, id));
        }
        for ((index, _), extent) in event.replacements.iter().zip(extents) {
            open.halves.get_mut(usize::from(*index)).ok_or(Inconsistency("replacement"))?.content = *extent;
        }
        for half in &open.halves {
            self.topics.get_mut(&half.topic).ok_or(Inconsistency("topic"))?.halves -= 1;
        }
        let messages = match event.verdict.decision {
            Decision::Commit => self.release(
                id,
                &open.producer_group,
                open.halves.into_vec(),
                &event.releases,
                event.verdict.at,
            )?,
            Decision::Rollback => open
                .halves
                .into_vec()
                .into_iter()
                .map(|half| TxMessage { topic: half.topic, sequence: half.sequence, release: None })
                .collect(),
        };
        let decided = DecidedTransaction {
            verdict: event.verdict,
            producer_group: open.producer_group,
            instance: open.instance,
            request_id: open.request_id,
            fingerprint: open.fingerprint,
            prepared_at: open.prepared_at,
            answered: open.answered,
            messages,
        };
        self.decided.insert(id, Arc::new(decided));
        Ok(())
    }

    fn checked(
        &mut self,
        id: TransactionId,
        answered: u32,
        next_check: Timestamp,
        in_doubt: bool,
    ) -> Applied {
        let open = self.open.get_mut(&id).ok_or(Inconsistency("a check without a prepare"))?;
        let producer = self.producers.get_mut(&open.producer_group).ok_or(Inconsistency("producer group"))?;
        producer.due.remove(&(open.next_check, id));
        producer.due.insert((next_check, id));
        self.in_doubt += usize::from(in_doubt && !open.in_doubt);
        open.answered = answered;
        open.next_check = next_check;
        open.in_doubt |= in_doubt;
        Ok(())
    }

    /// Gives each message its place, or sets it aside until its time comes.
    fn release(
        &mut self,
        transaction: TransactionId,
        producer_group: &ProducerGroup,
        halves: Vec<Half>,
        releases: &[Release],
        at: Timestamp,
    ) -> Result<Vec<TxMessage>, Inconsistency> {
        if halves.len() != releases.len() {
            return Err(Inconsistency("a release for each message"));
        }
        let mut messages = Vec::with_capacity(halves.len());
        for ((index, half), release) in (0..).zip(halves).zip(releases) {
            let id = MessageId { transaction, index };
            messages.push(TxMessage {
                topic: half.topic.clone(),
                sequence: half.sequence,
                release: Some(*release),
            });
            match *release {
                Release::Scheduled { at } => {
                    let delayed = Delayed { producer_group: producer_group.clone(), half };
                    self.delayed_restored((at, id), delayed)?;
                }
                Release::Placed { queue, offset, previous } => {
                    self.put(id, producer_group.clone(), half, (queue, offset), previous, at)?;
                }
            }
        }
        Ok(messages)
    }

    fn released(&mut self, id: MessageId, place: (u32, u64), previous: u64, at: Timestamp) -> Applied {
        let due = self.delayed_at(id, at).ok_or(Inconsistency("a release of nothing"))?;
        let delayed =
            self.delayed.soon_mut().remove(&(due, id)).ok_or(Inconsistency("a release of nothing"))?;
        self.topics.get_mut(&delayed.half.topic).ok_or(Inconsistency("topic"))?.delayed -= 1;
        self.put(id, delayed.producer_group, delayed.half, place, previous, at)
    }

    fn recalled(&mut self, id: MessageId, due: Timestamp) -> Applied {
        let delayed =
            self.delayed.soon_mut().remove(&(due, id)).ok_or(Inconsistency("a recall of nothing"))?;
        self.topics.get_mut(&delayed.half.topic).ok_or(Inconsistency("topic"))?.delayed -= 1;
        Ok(())
    }

    /// Delayed messages come out in the order of their times, so the one released now is near the front.
    fn delayed_at(&self, id: MessageId, now: Timestamp) -> Option<Timestamp> {
        self.delayed
            .soon()
            .keys()
            .take_while(|(due, _)| *due <= now)
            .find(|(_, other)| *other == id)
            .map(|(due, _)| *due)
    }

    fn put(
        &mut self,
        id: MessageId,
        producer_group: ProducerGroup,
        half: Half,
        (queue, offset): (u32, u64),
        previous: u64,
        released_at: Timestamp,
    ) -> Applied {
        let topic = self.topics.get_mut(&half.topic).ok_or(Inconsistency("topic"))?;
        topic.released += 1;
        let queue = topic.queue_mut(queue).ok_or(Inconsistency("queue"))?;
        if queue.next() != offset {
            return Err(Inconsistency("offsets are dense"));
        }
        queue.push(Entry {
            id,
            content: half.content,
            tag: half.tag,
            message_group: half.message_group,
            producer_group,
            sequence: half.sequence,
            previous,
            released_at,
            origin: None,
        });
        Ok(())
    }

    fn delivered(
        &mut self,
        group: &ConsumerGroup,
        topic: &TopicName,
        queue: u32,
        deliveries: &[(u64, u32)],
        until: Timestamp,
    ) -> Applied {
        let entries =
            self.topics.get(topic).and_then(|topic| topic.queue(queue)).ok_or(Inconsistency("queue"))?;
        let groups: Vec<_> = deliveries
            .iter()
            .map(|(offset, _)| entries.entry(*offset, &*self.shelf).and_then(|entry| entry.message_group))
            .collect();
        let cursor = self.cursor(group, topic, queue)?;
        for ((offset, attempt), message_group) in deliveries.iter().zip(groups) {
            cursor.deliver(*offset, *attempt, until, message_group);
        }
        Ok(())
    }

    fn dead_lettered(&mut self, origin: Origin, number: u64) -> Applied {
        let Place { topic, queue, offset } = &origin.place;
        let entries =
            self.topics.get(topic).and_then(|topic| topic.queue(*queue)).ok_or(Inconsistency("queue"))?;
        let entry = entries.entry(*offset, &*self.shelf).ok_or(Inconsistency("a dead letter of nothing"))?;
        let entry = Entry::clone(&entry);
        self.cursor(&origin.group, topic, *queue)?.settle(*offset);
        let letters =
            self.topics.get_mut(&origin.group.dead_letter_topic()).and_then(|topic| topic.queue_mut(0));
        letters.ok_or(Inconsistency("dead-letter topic"))?.push(Entry {
            origin: Some(Box::new(origin.clone())),
            released_at: origin.at,
            message_group: None,
            ..entry
        });
        let group: &mut Group = self.groups.get_mut(&origin.group).ok_or(Inconsistency("group"))?;
        group.dead.insert(number, origin);
        Ok(())
    }

    fn dead_letters_replayed(&mut self, group: &ConsumerGroup, numbers: &[u64], at: Timestamp) -> Applied {
        for number in numbers {
            let dead = self.groups.get_mut(group).and_then(|group| group.dead.remove(*number));
            let place = dead.ok_or(Inconsistency("a replay of nothing"))?.place;
            self.cursor(group, &place.topic, place.queue)?.revive(place.offset, at);
        }
        Ok(())
    }

    fn subscription(
        &mut self,
        group: &ConsumerGroup,
        topic: &TopicName,
    ) -> Result<&mut Subscription, Inconsistency> {
        let group = self.groups.get_mut(group).ok_or(Inconsistency("group"))?;
        group.subscriptions.get_mut(topic).ok_or(Inconsistency("subscription"))
    }

    fn cursor(
        &mut self,
        group: &ConsumerGroup,
        topic: &TopicName,
        queue: u32,
    ) -> Result<&mut Cursor, Inconsistency> {
        self.cursor_mut(group, topic, queue).ok_or(Inconsistency("cursor"))
    }
}

fn cursors(floors: &[u64]) -> Vec<Cursor> {
    floors.iter().map(|floor| Cursor::starting_at(*floor)).collect()
}

fn halves(
    messages: Vec<Message>,
    first_sequence: u64,
    extents: &[Extent],
) -> Result<Vec<Half>, Inconsistency> {
    if messages.len() != extents.len() {
        return Err(Inconsistency("an extent for each message"));
    }
    let half = |((message, extent), sequence): ((Message, &Extent), u64)| Half {
        topic: message.topic,
        content: *extent,
        tag: message.tag,
        message_group: message.message_group.as_ref().map(group_hash),
        visibility: message.visibility,
        sequence,
    };
    Ok(messages.into_iter().zip(extents).zip(first_sequence..).map(half).collect())
}

fn group_hash(group: &MessageGroup) -> u64 {
    hash(&[group.as_str().as_bytes()])
}
