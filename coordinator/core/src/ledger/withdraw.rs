//! Taking messages out of the usual way: a delayed one before its time, a delivered one that nobody wants
//! to try again.

use super::Ledger;
use crate::event::{Event, Log};
use crate::ids::{MessageId, ReceiptHandle};
use crate::limits::REASON_BYTES_MAX;
use crate::names::{ConsumerGroup, TopicName};
use crate::queue::Place;
use crate::rejection::Rejection;
use crate::time::Timestamp;

impl Ledger {
    /// Takes back a message that waits until `due`; it is never delivered.
    ///
    /// # Errors
    /// [`Rejection::Invalid`] for one that does not wait: it was delivered, recalled, or never sent.
    pub fn recall(
        &mut self,
        topic: &TopicName,
        id: MessageId,
        due: Timestamp,
        log: &mut dyn Log,
    ) -> Result<(), Rejection> {
        let soon = self.delayed.soon().get(&(due, id)).filter(|delayed| delayed.half.topic == *topic);
        let event = if soon.is_some() {
            let MessageId { transaction, index } = id;
            Event::Recalled { transaction, index, due }
        } else if let Some((page, position)) = self.delayed_on_shelf(topic, (due, id)) {
            Event::RecalledOnShelf { topic: topic.clone(), page, position }
        } else {
            let why = "no message waits for its time under it: it was delivered or recalled before".into();
            return Err(Rejection::Invalid { what: "recall handle", why });
        };
        self.record(log, event);
        Ok(())
    }

    /// Makes a delivery a dead letter at once, whatever attempts are left. `attempts` counts also those the
    /// consumer made by itself. Returns its place in the dead-letter topic.
    ///
    /// # Errors
    /// [`Rejection::ReceiptExpired`], [`Rejection::TooLarge`], unknown names.
    #[expect(clippy::too_many_arguments, reason = "each is one field of the call")]
    pub fn give_up(
        &mut self,
        now: Timestamp,
        group: &ConsumerGroup,
        topic: &TopicName,
        handle: ReceiptHandle,
        attempts: u32,
        reason: &str,
        log: &mut dyn Log,
    ) -> Result<Place, Rejection> {
        Rejection::if_larger("reason", reason.len(), REASON_BYTES_MAX)?;
        self.check_lease(group, topic, handle)?;
        let attempts = attempts.max(handle.attempt);
        Ok(self.dead_letter(now, group, handle.place(topic), attempts, reason, log))
    }
}
