//! Leases of push consumers, which rely on the server to prolong them as long as they live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use halfmq_core::{ConsumerGroup, ReceiptHandle, TopicName};
use tokio::time::Instant;

use super::Door;
use super::clients::Client;
use crate::service::{Lease, Service};

/// Deliveries watched at once; past that a lease is not prolonged, and the message comes again when it ends.
const WATCHED_MAX: usize = 1_000_000;
/// Prolonged in one call.
const BATCH_MAX: usize = 1_000;
/// How long a message may be worked on at all.
const WORK_MAX: Duration = Duration::from_secs(3 * 3_600);
/// Looks in the time of one lease.
const LOOKS: u32 = 4;

pub(super) struct Leases {
    invisible: Duration,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    count: usize,
    places: HashMap<(ConsumerGroup, TopicName), HashMap<(u32, u64), Delivered>>,
}

struct Delivered {
    client: Arc<Client>,
    attempt: u32,
    since: Instant,
    until: Instant,
}

impl Leases {
    pub(super) fn new(invisible: Duration) -> Self {
        Self { invisible, watched: Mutex::default() }
    }

    /// These have just been leased to this client.
    pub(super) fn watch(
        &self,
        client: &Arc<Client>,
        group: &ConsumerGroup,
        topic: &TopicName,
        handles: impl Iterator<Item = ReceiptHandle>,
    ) {
        let now = Instant::now();
        let mut watched = self.watched();
        let room = WATCHED_MAX.saturating_sub(watched.count);
        let place = watched.places.entry((group.clone(), topic.clone())).or_default();
        let before = place.len();
        for handle in handles.take(room) {
            let ReceiptHandle { queue, offset, attempt } = handle;
            let delivered =
                Delivered { client: Arc::clone(client), attempt, since: now, until: now + self.invisible };
            place.insert((queue, offset), delivered);
        }
        let grown = place.len() - before;
        watched.count += grown;
    }

    /// Whoever had it is done with it, or keeps it for a time of its own choice.
    pub(super) fn forget(&self, lease: &Lease) {
        let Lease { group, topic, handle } = lease;
        let mut watched = self.watched();
        // The names are cloned by reference count only.
        let Some(place) = watched.places.get_mut(&(group.clone(), topic.clone())) else { return };
        let key = (handle.queue, handle.offset);
        if place.get(&key).is_some_and(|delivered| delivered.attempt == handle.attempt) {
            place.remove(&key);
            watched.count -= 1;
        }
    }

    /// Those that end soon; those of dead clients are let go of.
    fn due(&self) -> Vec<Lease> {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut watched = self.watched();
        watched.places.retain(|(group, topic), place| {
            place.retain(|(queue, offset), delivered| {
                if delivered.until > now + self.invisible / 2 {
                    return true;
                }
                if now > delivered.since + WORK_MAX || !delivered.client.is_alive() {
                    return false;
                }
                delivered.until = now + self.invisible;
                let handle = ReceiptHandle { queue: *queue, offset: *offset, attempt: delivered.attempt };
                due.push(Lease { group: group.clone(), topic: topic.clone(), handle });
                true
            });
            !place.is_empty()
        });
        watched.count = watched.places.values().map(HashMap::len).sum();
        due
    }

    async fn prolong(&self, service: &Service) {
        let due = self.due();
        for batch in due.chunks(BATCH_MAX) {
            let items = batch.iter().map(|lease| (lease.clone(), self.invisible)).collect();
            let answers = service.extend_all(items).await;
            // It was settled meanwhile, or came too late: the message comes again.
            let over = answers.iter().zip(batch).filter(|(answer, _)| answer.is_err());
            over.for_each(|(_, lease)| self.forget(lease));
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prolongs leases, and forgets clients that are gone, until the coordinator stops.
pub(super) async fn prolong(door: Arc<Door>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(door.leases.invisible / LOOKS) => {}
            () = door.service.stopping() => return,
        }
        door.leases.prolong(&door.service).await;
        door.clients.forget_silent();
    }
}
