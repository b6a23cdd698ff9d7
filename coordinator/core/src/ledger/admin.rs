//! Topics, groups and dead letters, for operators.

use super::{Group, Ledger, Subscription};
use crate::event::{Event, Log};
use crate::ids::MessageId;
use crate::limits::{NAMES_MAX, PAGE_MAX, QUEUES_MAX};
use crate::message::Extent;
use crate::names::{ConsumerGroup, TopicName};
use crate::queue::{Origin, Place, Start, Topic};
use crate::rejection::Rejection;
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// A topic, as shown to people.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct TopicView {
    pub topic: TopicName,
    pub queues: Vec<QueueView>,
    /// Half messages of open transactions.
    pub open: u64,
    pub delayed: u64,
    pub groups: Vec<Backlog>,
}

/// The ends of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueView {
    /// Offset of the oldest message that is kept.
    pub oldest: u64,
    /// Offset that the next message gets.
    pub next: u64,
}

/// How far one group is in one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct Backlog {
    pub group: ConsumerGroup,
    pub topic: TopicName,
    pub filter: String,
    pub queues: Vec<QueueBacklog>,
}

/// How far one group is in one queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct QueueBacklog {
    /// Everything below is settled.
    pub floor: u64,
    pub undelivered: u64,
    pub in_flight: u64,
    pub next: u64,
}

/// A consumer group, as shown to people.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct GroupView {
    pub group: ConsumerGroup,
    pub retry: RetryPolicy,
    pub topics: Vec<Backlog>,
    pub dead_letters: u64,
}

/// A dead letter, as shown to people.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields say what their names say")]
pub struct DeadLetter {
    pub number: u64,
    pub id: MessageId,
    pub origin: Origin,
    pub content: Extent,
}

impl Ledger {
    /// Creates a topic. The same again is fine.
    ///
    /// # Errors
    /// [`Rejection::TopicExists`] with another number of queues, [`Rejection::Invalid`], limits.
    pub fn create_topic(
        &mut self,
        topic: &TopicName,
        queues: u32,
        log: &mut dyn Log,
    ) -> Result<(), Rejection> {
        if queues == 0 || queues > QUEUES_MAX {
            let why = format!("it must be 1 to {QUEUES_MAX}");
            return Err(Rejection::Invalid { what: "number of queues", why });
        }
        if topic.is_dead_letter() {
            let why =
                "topics starting with \"dlq.\" come into being with the first dead letter of their group";
            return Err(Rejection::IllegalName { what: "topic", name: topic.to_string(), why });
        }
        match self.topics.get(topic) {
            Some(exists) if exists.queues.len() == queues as usize => Ok(()),
            Some(exists) => {
                let queues = u32::try_from(exists.queues.len()).unwrap_or(QUEUES_MAX);
                Err(Rejection::TopicExists { topic: topic.clone(), queues })
            }
            None if self.topics.len() >= NAMES_MAX => {
                let then = "delete some first; nothing was created";
                Err(Rejection::LimitReached { what: "topics", max: NAMES_MAX, then })
            }
            None => {
                self.record(log, Event::TopicCreated { topic: topic.clone(), queues });
                Ok(())
            }
        }
    }

    /// How many messages were released to a topic so far; `None` if there is none.
    #[must_use]
    pub fn released_to(&self, topic: &TopicName) -> Option<u64> {
        self.topics.get(topic).map(|topic| topic.released)
    }

    /// Whether the topic exists.
    #[must_use]
    pub fn has_topic(&self, topic: &TopicName) -> bool {
        self.topics.contains_key(topic)
    }

    /// Deletes a topic; one that is not there is fine.
    ///
    /// # Errors
    /// [`Rejection::TopicInUse`] while transactions are open for it, or, unless forced, messages are
    /// delayed, undelivered or dead letters.
    pub fn delete_topic(
        &mut self,
        name: &TopicName,
        force: bool,
        log: &mut dyn Log,
    ) -> Result<(), Rejection> {
        let Some(topic) = self.topics.get(name) else { return Ok(()) };
        let in_use = |why| Err(Rejection::TopicInUse { topic: name.clone(), why });
        if topic.halves > 0 {
            return in_use(format!(
                "{} half messages of open transactions; decide those first",
                topic.halves
            ));
        }
        if let Some(why) = self.unfinished(name, topic).filter(|_| !force) {
            return in_use(format!("{why}, or force the deletion"));
        }
        self.record(log, Event::TopicDeleted { topic: name.clone() });
        Ok(())
    }

    /// What an unforced deletion of the topic would lose, and what to do about it.
    fn unfinished(&self, name: &TopicName, topic: &Topic) -> Option<String> {
        let letters = name.dead_letters_of().and_then(|group| self.groups.get(&group));
        let inside = letters.map_or(0, |group| group.dead.len());
        if inside > 0 {
            return Some(format!("{inside} dead letters are in it; replay or purge them"));
        }
        let from: usize = self.groups.values().map(|group| group.dead.of_topic(name).count()).sum();
        if from > 0 {
            return Some(format!("{from} dead letters came from it; replay or purge them"));
        }
        let view = self.topic_view(name, topic);
        let read = view
            .groups
            .iter()
            .map(|backlog| backlog.queues.iter().map(|queue| queue.undelivered).sum::<u64>());
        let unread = match view.groups.is_empty() {
            // Nobody has to read dead letters that were replayed or purged.
            true if name.is_dead_letter() => 0,
            true => view.queues.iter().map(|queue| queue.next - queue.oldest).sum::<u64>(),
            false => read.sum(),
        };
        let waiting = unread + view.delayed;
        (waiting > 0).then(|| format!("{waiting} messages are not delivered yet; consume them"))
    }

    /// One topic.
    ///
    /// # Errors
    /// [`Rejection::UnknownTopic`].
    pub fn describe_topic(&self, name: &TopicName) -> Result<TopicView, Rejection> {
        Ok(self.topic_view(name, self.topic(name)?))
    }

    /// All topics, by name.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicView> {
        self.topics.iter().map(|(name, topic)| self.topic_view(name, topic)).collect()
    }

    /// Creates a group or changes its retry policy.
    ///
    /// # Errors
    /// [`Rejection::Invalid`], limits.
    pub fn configure_group(
        &mut self,
        group: &ConsumerGroup,
        retry: RetryPolicy,
        log: &mut dyn Log,
    ) -> Result<(), Rejection> {
        retry.check()?;
        match self.groups.get(group) {
            Some(exists) if exists.retry == retry => return Ok(()),
            None if self.groups.len() >= NAMES_MAX => {
                let then = "use fewer, longer-lived names; nothing was created";
                return Err(Rejection::LimitReached { what: "consumer groups", max: NAMES_MAX, then });
            }
            None | Some(_) => {}
        }
        self.record(log, Event::GroupConfigured { group: group.clone(), retry });
        Ok(())
    }

    /// One group.
    ///
    /// # Errors
    /// [`Rejection::UnknownGroup`].
    pub fn describe_group(&self, name: &ConsumerGroup) -> Result<GroupView, Rejection> {
        Ok(self.group_view(name, self.group(name)?))
    }

    /// All groups, by name.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupView> {
        self.groups.iter().map(|(name, group)| self.group_view(name, group)).collect()
    }

    /// Moves a group's cursors in one topic; its open deliveries there are forgotten.
    ///
    /// # Errors
    /// [`Rejection::UnknownTopic`], [`Rejection::UnknownGroup`].
    pub fn reset_group(
        &mut self,
        group: &ConsumerGroup,
        topic: &TopicName,
        start: Start,
        log: &mut dyn Log,
    ) -> Result<(), Rejection> {
        let floors =
            self.topic(topic)?.queues.iter().map(|queue| queue.offset_of(start, &*self.shelf)).collect();
        let reads = self.group(group)?.subscriptions.contains_key(topic);
        let (group, topic, filter) = (group.clone(), topic.clone(), crate::message::TagFilter::default());
        let event = match reads {
            true => Event::GroupReset { group, topic, floors },
            false => Event::Subscribed { group, topic, filter, floors },
        };
        self.record(log, event);
        Ok(())
    }

    /// Dead letters of a group from number `from` on, oldest first.
    ///
    /// # Errors
    /// [`Rejection::UnknownGroup`].
    pub fn dead_letters(
        &self,
        group: &ConsumerGroup,
        from: u64,
        max: usize,
    ) -> Result<Vec<DeadLetter>, Rejection> {
        let dead = self.group(group)?.dead.from(from).take(max.min(PAGE_MAX));
        Ok(dead.filter_map(|(number, origin)| self.view_letter(number, origin)).collect())
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`Rejection::UnknownGroup`], [`Rejection::UnknownDeadLetter`].
    pub fn dead_letter_view(&self, group: &ConsumerGroup, number: u64) -> Result<DeadLetter, Rejection> {
        let origin = self.group(group)?.dead.get(number);
        let unknown = || Rejection::UnknownDeadLetter { group: group.clone(), number };
        origin.and_then(|origin| self.view_letter(number, origin)).ok_or_else(unknown)
    }

    /// Gives dead letters (`None`: all) back to their group. Returns the topics they went to, one for each.
    ///
    /// # Errors
    /// [`Rejection::UnknownGroup`], [`Rejection::UnknownDeadLetter`]; then none was given back.
    pub fn replay_dead_letters(
        &mut self,
        now: Timestamp,
        group: &ConsumerGroup,
        numbers: Option<Vec<u64>>,
        log: &mut dyn Log,
    ) -> Result<Vec<TopicName>, Rejection> {
        let numbers = self.select_letters(group, numbers)?;
        let dead = &self.group(group)?.dead;
        let topics =
            numbers.iter().filter_map(|number| Some(dead.get(*number)?.place.topic.clone())).collect();
        if !numbers.is_empty() {
            self.record(log, Event::DeadLettersReplayed { group: group.clone(), numbers, at: now });
        }
        Ok(topics)
    }

    /// Forgets dead letters (`None`: all). Returns how many.
    ///
    /// # Errors
    /// [`Rejection::UnknownGroup`], [`Rejection::UnknownDeadLetter`]; then none was forgotten.
    pub fn purge_dead_letters(
        &mut self,
        group: &ConsumerGroup,
        numbers: Option<Vec<u64>>,
        log: &mut dyn Log,
    ) -> Result<u64, Rejection> {
        let numbers = self.select_letters(group, numbers)?;
        let count = numbers.len() as u64;
        if count > 0 {
            self.record(log, Event::DeadLettersPurged { group: group.clone(), numbers });
        }
        Ok(count)
    }

    fn select_letters(
        &self,
        group: &ConsumerGroup,
        numbers: Option<Vec<u64>>,
    ) -> Result<Vec<u64>, Rejection> {
        let dead = &self.group(group)?.dead;
        let Some(mut numbers) = numbers else { return Ok(dead.numbers().collect()) };
        numbers.sort_unstable();
        numbers.dedup();
        match numbers.iter().find(|number| dead.get(**number).is_none()) {
            Some(number) => Err(Rejection::UnknownDeadLetter { group: group.clone(), number: *number }),
            None => Ok(numbers),
        }
    }

    fn view_letter(&self, number: u64, origin: &Origin) -> Option<DeadLetter> {
        let place = Place { topic: origin.group.dead_letter_topic(), queue: 0, offset: number };
        let entry = self.entry(&place)?;
        Some(DeadLetter { number, id: entry.id, origin: origin.clone(), content: entry.content })
    }

    fn topic_view(&self, name: &TopicName, topic: &Topic) -> TopicView {
        let readers =
            self.groups.iter().filter_map(|(group, state)| Some((group, state.subscriptions.get(name)?)));
        TopicView {
            topic: name.clone(),
            queues: topic
                .queues
                .iter()
                .map(|queue| QueueView { oldest: queue.base(), next: queue.next() })
                .collect(),
            open: topic.halves as u64,
            delayed: topic.delayed as u64,
            groups: readers.map(|(group, reader)| self.backlog(group, name, reader)).collect(),
        }
    }

    fn group_view(&self, name: &ConsumerGroup, group: &Group) -> GroupView {
        let topics = group.subscriptions.iter().map(|(topic, reader)| self.backlog(name, topic, reader));
        GroupView {
            group: name.clone(),
            retry: group.retry.clone(),
            topics: topics.collect(),
            dead_letters: group.dead.len() as u64,
        }
    }

    fn backlog(&self, group: &ConsumerGroup, topic: &TopicName, reader: &Subscription) -> Backlog {
        let queues = self.topics.get(topic).map(|topic| topic.queues.as_slice()).unwrap_or_default();
        let queue = |(queue, cursor): (&crate::queue::Queue, &crate::cursor::Cursor)| QueueBacklog {
            floor: cursor.floor(),
            undelivered: cursor.undelivered(queue.next()),
            in_flight: cursor.in_flight(),
            next: queue.next(),
        };
        Backlog {
            group: group.clone(),
            topic: topic.clone(),
            filter: reader.filter.to_string(),
            queues: queues.iter().zip(&reader.cursors).map(queue).collect(),
        }
    }
}
