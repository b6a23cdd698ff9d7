//! The outside ledger: everything that was acknowledged or seen, kept where no kill reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use halfmq_proto::v1::{DecisionReceipt, Delivery, MessageReceipt, PrepareResponse};
use halfmq_tests::{bodies, within};
use tokio::sync::watch;

/// Topic, queue, offset.
pub(super) type Spot = (String, u32, u64);

#[derive(Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
    acknowledgements: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct Entries {
    /// By key: the answer to a prepare.
    pub(super) prepared: BTreeMap<String, PrepareResponse>,
    /// By key: the answer to a decision.
    pub(super) receipts: BTreeMap<String, DecisionReceipt>,
    /// By key: the answer to a send.
    pub(super) sent: BTreeMap<String, Vec<MessageReceipt>>,
    /// By consumer group and place: what was delivered.
    pub(super) seen: BTreeMap<(&'static str, Spot), Seen>,
    /// Consumer group and place of each acknowledged ack.
    acked: BTreeSet<(&'static str, Spot)>,
    /// What must not happen, noticed while it happened.
    pub(super) violations: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) message_id: String,
    pub(super) body: String,
    pub(super) producer_group: String,
    pub(super) sequence: u64,
    pub(super) previous_sequence: u64,
}

impl Ledger {
    pub(super) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no actor panics while it writes into the ledger")
    }

    /// Writes down an acknowledgement.
    pub(super) fn acknowledge(&self, write: impl FnOnce(&mut Entries)) {
        write(&mut self.entries());
        self.acknowledgements.send_modify(|count| *count += 1);
    }

    pub(super) fn violation(&self, what: String) {
        self.entries().violations.push(what);
    }

    /// Waits for so many further acknowledgements.
    pub(super) async fn acknowledged(&self, count: u64) {
        let mut acknowledgements = self.acknowledgements.subscribe();
        let goal = *acknowledgements.borrow() + count;
        let reached = acknowledgements.wait_for(|count| *count >= goal);
        within("further acknowledgements", reached).await.expect("the ledger outlives its watchers");
    }

    /// Writes down deliveries. One that was settled before must not come again.
    pub(super) fn deliver(&self, group: &'static str, deliveries: &[Delivery]) {
        let mut entries = self.entries();
        for (delivery, body) in deliveries.iter().zip(bodies(deliveries)) {
            let spot = spot(delivery);
            let seen = Seen {
                message_id: delivery.message_id.clone(),
                body,
                producer_group: delivery.producer_group.clone(),
                sequence: delivery.sequence,
                previous_sequence: delivery.previous_sequence,
            };
            if entries.acked.contains(&(group, spot.clone())) {
                entries.violations.push(format!("{group} got {spot:?} again after its ack was acknowledged"));
            }
            let before = entries.seen.insert((group, spot.clone()), seen.clone());
            if let Some(before) = before.filter(|before| *before != seen) {
                entries.violations.push(format!("{spot:?} changed for {group}: {before:?}, then {seen:?}"));
            }
        }
    }

    pub(super) fn acked(&self, group: &'static str, delivery: &Delivery) {
        self.acknowledge(|entries| {
            entries.acked.insert((group, spot(delivery)));
        });
    }

    /// The sums, for people.
    pub(super) fn story(&self) -> String {
        let entries = self.entries();
        format!(
            "{} prepares, {} decisions, {} sends, {} acks acknowledged; {} deliveries to {} groups",
            entries.prepared.len(),
            entries.receipts.len(),
            entries.sent.len(),
            entries.acked.len(),
            entries.seen.len(),
            super::CONSUMER_GROUPS.len(),
        )
    }
}

fn spot(delivery: &Delivery) -> Spot {
    let place = delivery.place.clone().expect("a delivery has a place");
    (place.topic, place.queue, place.offset)
}
