//! Messages out, and what becomes of them.

use std::time::Duration;

use halfmq_core::{ConsumerGroup, Place, Receive, Retry, Timestamp, TopicName, limits};
use tokio::time::Instant;

use super::{Service, answer_all, one, only};
use crate::store::{Ack, Acked, GiveUp, Lease, Leased, Recall, Refused};
use crate::telemetry;

impl Service {
    /// Leases messages; waits up to `wait` for the first one.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn receive(&self, receive: Receive, wait: Duration) -> Result<Leased, Refused> {
        let deadline = Instant::now() + wait.min(limits::WAIT_MAX);
        let mut leased = self.lease(receive.clone()).await?;
        while leased.deliveries.is_empty() && Instant::now() < deadline && !self.is_stopping() {
            let until = self.arrival(&receive.topic, &receive.group, leased.next_visible, deadline);
            leased = self.stand_by(receive.clone(), leased.next_visible, until).await?;
            if leased.deliveries.is_empty() {
                leased = self.lease(receive.clone()).await?;
            }
        }
        Ok(leased)
    }

    /// Leases messages as soon as they are released. Finds nothing when `until` resolves first, or when it
    /// should resolve earlier than at `next_visible`: look again then.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn stand_by(
        &self,
        receive: Receive,
        next_visible: Option<Timestamp>,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Leased, Refused> {
        Ok(self.store.stand_by(receive, next_visible, Box::pin(until)).await??)
    }

    /// Leases the messages that are there.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn lease(&self, receive: Receive) -> Result<Leased, Refused> {
        if self.settings.create_topics && !receive.topic.is_dead_letter() {
            self.create_topic_if_missing(&receive.topic).await?;
        }
        let (max, topic, group) = (receive.max, receive.topic.clone(), receive.group.clone());
        let leased = one(self.store.receive(vec![receive])).await?;
        if leased.deliveries.len() >= max {
            // There may be more, and one wake may have stood for many messages.
            self.pass_on(&topic, &group);
        }
        Ok(leased)
    }

    /// Waits until this group should look again: messages were released, something that is leased or waits
    /// becomes visible, the deadline has come, or the coordinator stops.
    pub fn arrival(
        &self,
        topic: &TopicName,
        group: &ConsumerGroup,
        next_visible: Option<Timestamp>,
        deadline: Instant,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (arrivals, stopping) = (self.arrivals.of(topic, group), self.stopping());
        let visible = next_visible.map_or(limits::WAIT_MAX, |at| at.since(self.clock.now()));
        let visible = Instant::now() + visible.max(Duration::from_millis(1));
        async move {
            tokio::select! {
                () = arrivals.notified() => {}
                () = tokio::time::sleep_until(visible.min(deadline)) => {}
                () = stopping => {}
            }
        }
    }

    /// Lets another consumer of the group look: this one takes no more, or goes away.
    pub fn pass_on(&self, topic: &TopicName, group: &ConsumerGroup) {
        self.arrivals.of(topic, group).notify_one();
    }

    /// Settles deliveries, one answer for each handle.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn ack(&self, ack: Ack) -> Result<Acked, Refused> {
        only(self.ack_all(vec![ack]).await)
    }

    /// Settles deliveries of many acks, each answered by itself in its place.
    pub async fn ack_all(&self, batch: Vec<Ack>) -> Vec<Result<Acked, Refused>> {
        let topics: Vec<_> = batch.iter().map(|ack| ack.topic.clone()).collect();
        let answers = answer_all(self.store.ack(batch), topics.len()).await;
        for (acked, topic) in answers.iter().zip(topics) {
            let Ok(acked) = acked else { continue };
            let settled = acked.results.iter().filter(|result| result.is_ok()).count();
            telemetry::acked(settled as u64);
            telemetry::receipts_expired((acked.results.len() - settled) as u64);
            if acked.freed {
                self.arrivals.wake(&topic);
            }
        }
        answers
    }

    /// Keeps a delivery invisible for longer.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn extend(&self, lease: Lease, invisible: Duration) -> Result<Timestamp, Refused> {
        only(self.extend_all(vec![(lease, invisible)]).await)
    }

    /// Keeps many deliveries invisible for longer, each answered by itself in its place.
    pub async fn extend_all(&self, batch: Vec<(Lease, Duration)>) -> Vec<Result<Timestamp, Refused>> {
        let items = batch.len();
        answer_all(self.store.extend(batch), items).await
    }

    /// Gives a delivery back.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn retry_later(
        &self,
        lease: Lease,
        delay: Option<Duration>,
        reason: String,
    ) -> Result<Retry, Refused> {
        only(self.retry_later_all(vec![(lease, delay, reason)]).await)
    }

    /// Makes a delivery a dead letter at once, whatever attempts are left.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn give_up(&self, give_up: GiveUp) -> Result<Place, Refused> {
        let topic = give_up.lease.topic.clone();
        let place = one(self.store.give_up(vec![give_up])).await?;
        self.arrivals.wake(&place.topic);
        // Its message group may go on.
        self.arrivals.wake(&topic);
        Ok(place)
    }

    /// Takes a delayed message back before its time.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn recall(&self, recall: Recall) -> Result<(), Refused> {
        one(self.store.recall(vec![recall])).await
    }

    /// Gives many deliveries back, each answered by itself in its place.
    pub async fn retry_later_all(
        &self,
        batch: Vec<(Lease, Option<Duration>, String)>,
    ) -> Vec<Result<Retry, Refused>> {
        let topics: Vec<_> = batch.iter().map(|(lease, _, _)| lease.topic.clone()).collect();
        let answers = answer_all(self.store.retry_later(batch), topics.len()).await;
        for (retry, topic) in answers.iter().zip(topics) {
            let Ok(retry) = retry else { continue };
            if let Retry::DeadLetter(place) = retry {
                self.arrivals.wake(&place.topic);
            }
            // Whoever waits computes anew when it will see something.
            self.arrivals.wake(&topic);
        }
        answers
    }
}
