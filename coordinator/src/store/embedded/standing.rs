//! Receives that found nothing and stand by: what is released is leased to them in the same frame, which
//! saves them to be woken, to ask, and to wait for one sync more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use halfmq_core::{ConsumerGroup, Receive, Received, Rejection, Timestamp, TopicName};
use tokio::sync::oneshot;

use super::verbs::LETTERS;
use super::{Answer, Engine, Turn};
use crate::store::Unavailable;

/// What a receive found, once it is durable.
pub(super) type Found = Result<Result<Received, Rejection>, Unavailable>;

/// Those who stand by; shared with whoever joins or leaves them.
#[derive(Clone, Default)]
pub(super) struct Standing {
    topics: Arc<Mutex<HashMap<TopicName, Waiters>>>,
    /// Somebody has left.
    left: Arc<AtomicBool>,
}

#[derive(Default)]
struct Waiters {
    /// Messages of the topic when they looked last.
    released: Option<u64>,
    /// Who came first is served first.
    queue: Vec<Waiter>,
}

struct Waiter {
    receive: Receive,
    /// It looks again by itself then, or not before something is told to it.
    looks_at: Option<Timestamp>,
    gone: Arc<AtomicBool>,
    answer: oneshot::Sender<Found>,
}

/// Takes its waiter away when it is dropped, unless that has been served.
pub(super) struct Place {
    gone: Arc<AtomicBool>,
    left: Arc<AtomicBool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
        self.left.store(true, Ordering::Release);
    }
}

impl Standing {
    /// A place to stand, and where the answer comes.
    pub(super) fn place(&self) -> (Place, Joining, oneshot::Receiver<Found>) {
        let (answer, answered) = oneshot::channel();
        let gone = Arc::new(AtomicBool::new(false));
        let place = Place { gone: Arc::clone(&gone), left: Arc::clone(&self.left) };
        (place, Joining { standing: self.clone(), gone, answer }, answered)
    }

    /// Nobody is served any more.
    pub(super) fn close(&self) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Somebody else has leased from this topic: those who stand by may have to look when that lease ends.
    pub(super) fn stir(&self, topic: &TopicName) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiters) = topics.get_mut(topic) {
            waiters.released = None;
        }
    }

    /// Leases what this group has released. Those who have left are answered: nothing was leased to them.
    pub(super) fn serve(&self, engine: &mut Engine, answers: &mut Vec<Answer>) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let somebody_left = self.left.swap(false, Ordering::AcqRel);
        topics.retain(|topic, waiters| {
            if somebody_left {
                let gone = waiters.queue.extract_if(.., |waiter| waiter.gone.load(Ordering::Acquire));
                answers.extend(gone.map(|waiter| waiter.found(Ok(Received::default()))));
            }
            let released = engine.turn().ledger.released_to(topic);
            if released != waiters.released {
                waiters.released = released;
                waiters.serve(engine, answers);
            }
            !waiters.queue.is_empty()
        });
    }
}

impl Waiters {
    fn serve(&mut self, engine: &mut Engine, answers: &mut Vec<Answer>) {
        // One of a group that finds nothing speaks for all of it, and one looks when a lease ends.
        let mut in_vain: HashMap<ConsumerGroup, Option<Timestamp>> = HashMap::new();
        for waiter in std::mem::take(&mut self.queue) {
            if !in_vain.contains_key(&waiter.receive.group) && !waiter.gone.load(Ordering::Acquire) {
                if engine.admit(LETTERS).is_err() {
                    // No room: again with the next group.
                    self.released = None;
                } else {
                    match waiter.look(&mut engine.turn()) {
                        Ok(Received { deliveries, next_visible }) if deliveries.is_empty() => {
                            in_vain.insert(waiter.receive.group.clone(), next_visible);
                        }
                        found => {
                            answers.push(waiter.found(found));
                            continue;
                        }
                    }
                }
            }
            self.queue.push(waiter);
        }
        for (group, next_visible) in in_vain {
            self.set_timer(&group, next_visible, answers);
        }
    }

    /// Sees to it that one of this group looks then.
    fn set_timer(&mut self, group: &ConsumerGroup, then: Option<Timestamp>, answers: &mut Vec<Answer>) {
        let mut of_group = self.queue.iter().filter(|waiter| waiter.receive.group == *group);
        if of_group.any(|waiter| !waiter.oversleeps(then)) {
            return;
        }
        let first = self.queue.iter().position(|waiter| waiter.receive.group == *group);
        if let Some(waiter) = first.map(|first| self.queue.remove(first)) {
            answers.push(waiter.found(Ok(Received { deliveries: Vec::new(), next_visible: then })));
        }
    }
}

impl Waiter {
    /// Whether something becomes visible before it looks.
    fn oversleeps(&self, next_visible: Option<Timestamp>) -> bool {
        next_visible.is_some_and(|visible| self.looks_at.is_none_or(|looks| visible < looks))
    }

    fn look(&self, turn: &mut Turn<'_>) -> Result<Received, Rejection> {
        let (now, ledger, log) = turn.parts();
        ledger.receive(now, &self.receive, log)
    }

    fn found(self, found: Result<Received, Rejection>) -> Answer {
        Box::new(move |durable| drop(self.answer.send(durable.map(|()| found))))
    }
}

/// On its way to stand by.
pub(super) struct Joining {
    standing: Standing,
    gone: Arc<AtomicBool>,
    answer: oneshot::Sender<Found>,
}

impl Joining {
    pub(super) fn refuse(self, unavailable: Unavailable) -> Answer {
        Box::new(move |_| drop(self.answer.send(Err(unavailable))))
    }

    /// A last look; stands by if there is nothing. `Some`: what is to be said when the group is durable.
    pub(super) fn join(
        self,
        receive: Receive,
        looks_at: Option<Timestamp>,
        turn: &mut Turn<'_>,
    ) -> Option<Answer> {
        let Self { standing, gone, answer } = self;
        let waiter = Waiter { receive, looks_at, gone, answer };
        // Nobody asks again after those who left before they came.
        if waiter.gone.load(Ordering::Acquire) {
            return Some(waiter.found(Ok(Received::default())));
        }
        let found = waiter.look(turn);
        let nothing =
            |found: &Received| found.deliveries.is_empty() && !waiter.oversleeps(found.next_visible);
        if !found.as_ref().is_ok_and(nothing) {
            return Some(waiter.found(found));
        }
        let mut topics = standing.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let waiters = topics.entry(waiter.receive.topic.clone()).or_default();
        if waiters.queue.is_empty() {
            waiters.released = turn.ledger.released_to(&waiter.receive.topic);
        }
        waiters.queue.push(waiter);
        None
    }
}
