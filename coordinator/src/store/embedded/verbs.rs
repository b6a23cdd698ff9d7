//! The port, call by call: what runs on the writer, and what is read afterwards.

use std::time::Duration;

use halfmq_core::limits::{PAGE_MAX, TICK_MAX};
use halfmq_core::{
    Accepted, ConsumerGroup, DeadLetter, Decide, Delivery, GroupView, Message, Place, Prepare, ProducerGroup,
    Receipt, Receive, Rejection, Retry, RetryPolicy, Send, Start, State, Tick, Timestamp, TopicName,
    TopicView, TransactionId, TransactionView,
};

use super::journal::Segments;
use super::{Embedded, Work, enqueue, on_writer};
use crate::store::{
    Ack, Acked, CheckAnswer, Claimed, GiveUp, Horizon, Lease, Leased, ListTransactions, Recall, Replacement,
    Replies, Reply, Statistics, Store, Unavailable, Until,
};

impl Store for Embedded {
    fn prepare(&self, batch: Vec<Prepare>) -> Replies<Accepted> {
        let bytes = batch.iter().map(|prepare| content_bytes(&prepare.send)).sum();
        let turn =
            self.turn(Work::New { bytes }, |turn| batch.into_iter().map(|item| turn.prepare(item)).collect());
        Box::pin(async { turn.await? })
    }

    fn send(&self, batch: Vec<(ProducerGroup, Send)>) -> Replies<Receipt> {
        let bytes = batch.iter().map(|(_, send)| content_bytes(send)).sum();
        let turn = self.turn(Work::New { bytes }, |turn| {
            batch.into_iter().map(|(group, send)| turn.send(group, send)).collect()
        });
        Box::pin(async { turn.await? })
    }

    fn decide(&self, batch: Vec<(Decide, Vec<Replacement>)>) -> Replies<Receipt> {
        let (decides, replacements): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let ids = decides.iter().map(|decide| decide.transaction);
        let whole = self.whole_messages(ids.zip(replacements).collect());
        let jobs = self.jobs();
        Box::pin(async move {
            let whole = whole.await?;
            let work = Work::Going { bytes: replaced_bytes(&whole) };
            let turn = on_writer(jobs, work, |turn| {
                let items = decides.into_iter().zip(whole);
                let decide = |(decide, replacements): (Decide, Result<_, Rejection>)| match replacements {
                    Ok(replacements) => turn.decide(Decide { replacements, ..decide }),
                    Err(rejection) => Ok(Err(rejection)),
                };
                items.map(decide).collect()
            });
            turn.await?
        })
    }

    fn describe(&self, ids: Vec<TransactionId>) -> Replies<(TransactionView, Vec<Message>)> {
        let turn = self.turn(Work::Look, move |turn| {
            let describe = |id| Ok(turn.describe(id)?.ok_or_else(|| turn.missing(id)));
            ids.into_iter().map(describe).collect::<Result<Vec<_>, Unavailable>>()
        });
        let segments = self.segments.clone();
        Box::pin(async move {
            let mut views = Vec::new();
            for view in turn.await?? {
                views.push(match view {
                    Err(missing) => Err(missing),
                    Ok(view) => {
                        let messages = Self::messages(&segments, &view.contents).collect::<Result<_, _>>()?;
                        Ok((view, messages))
                    }
                });
            }
            Ok(views)
        })
    }

    fn list(&self, list: ListTransactions) -> Reply<Vec<TransactionView>> {
        let index = self.index();
        let hot = list.clone();
        let turn = self.turn(Work::Look, move |turn| {
            turn.ledger.list(hot.state, hot.producer_group.as_ref(), hot.after, hot.max)
        });
        Box::pin(async move {
            let mut views = turn.await?;
            if matches!(list.state, Some(State::Committed | State::RolledBack)) {
                // In memory, in the index, or for a moment in both.
                views.extend(index?.list(&list)?.into_iter().map(|(id, decided)| decided.view(id)));
                views.sort_by_key(|view| view.transaction);
                views.dedup_by_key(|view| view.transaction);
                views.truncate(list.max.min(PAGE_MAX));
            }
            Ok(views)
        })
    }

    fn horizon(&self) -> Reply<Horizon> {
        let index = self.index();
        let turn = self.turn(Work::Look, move |turn| {
            let last_sequences = turn.ledger.last_sequences();
            Ok(Horizon {
                receipts_since: Some(index?.floor()).filter(|floor| *floor > Timestamp::ZERO),
                last_sequences: last_sequences.map(|(group, last)| (group.clone(), last)).collect(),
            })
        });
        Box::pin(async { turn.await? })
    }

    fn claim_checks(&self, reachable: Vec<ProducerGroup>, max: usize, claim: Duration) -> Reply<Claimed> {
        let turn = self.turn(Work::SMALL, move |turn| {
            let questions = turn.ledger.claim_checks(turn.now, &reachable, max, claim);
            (questions, turn.ledger.next_check(&reachable))
        });
        let segments = self.segments.clone();
        Box::pin(async move {
            let (questions, next) = turn.await?;
            let mut claimed = Claimed { questions: Vec::with_capacity(questions.len()), next };
            for question in questions {
                match Self::messages(&segments, &question.contents).collect() {
                    Ok(messages) => claimed.questions.push((question, messages)),
                    // It comes again when the claim is over; the others must not wait for it.
                    Err(error) => tracing::error!(%error, transaction = %question.transaction, "not asked"),
                }
            }
            Ok(claimed)
        })
    }

    fn record_answers(&self, mut batch: Vec<CheckAnswer>) -> Replies<Option<Receipt>> {
        let wanted = batch.iter_mut().map(|item| (item.transaction, std::mem::take(&mut item.replacements)));
        let whole = self.whole_messages(wanted.collect());
        let jobs = self.jobs();
        Box::pin(async move {
            let whole = whole.await?;
            let work = Work::Going { bytes: replaced_bytes(&whole) };
            let turn = on_writer(jobs, work, |turn| {
                let answer = |(item, replacements): (CheckAnswer, Result<_, Rejection>)| {
                    let CheckAnswer { transaction, answer, reason, .. } = item;
                    match replacements {
                        Ok(replacements) => turn.answer(transaction, answer, reason, replacements),
                        Err(rejection) => Ok(Err(rejection)),
                    }
                };
                batch.into_iter().zip(whole).map(answer).collect()
            });
            turn.await?
        })
    }

    fn put_off(&self, transactions: Vec<TransactionId>, wait: Duration) -> Reply<()> {
        self.turn(Work::SMALL, move |turn| {
            let until = turn.now.after(wait);
            transactions.into_iter().for_each(|id| turn.ledger.put_off(id, until));
        })
    }

    fn callbacks(&self) -> Reply<Vec<(ProducerGroup, String)>> {
        self.turn(Work::Look, |turn| {
            turn.ledger.callbacks().map(|(group, url)| (group.clone(), url.to_owned())).collect()
        })
    }

    fn receive(&self, batch: Vec<Receive>) -> Replies<Leased> {
        let standing = self.standing.clone();
        let turn = self.turn(LETTERS, move |turn| {
            let (now, ledger, log) = turn.parts();
            let receive = |ask: &Receive| {
                let received = ledger.receive(now, ask, log)?;
                if !received.deliveries.is_empty() {
                    standing.stir(&ask.topic);
                }
                Ok(received)
            };
            batch.iter().map(receive).collect::<Vec<_>>()
        });
        let segments = self.segments.clone();
        Box::pin(async move {
            let mut leased = Vec::new();
            for received in turn.await? {
                leased.push(match received {
                    Err(rejection) => Err(rejection),
                    Ok(received) => {
                        let deliveries = read_deliveries(&segments, received.deliveries)?;
                        Ok(Leased { deliveries, next_visible: received.next_visible })
                    }
                });
            }
            Ok(leased)
        })
    }

    fn stand_by(
        &self,
        receive: Receive,
        looks_at: Option<Timestamp>,
        until: Until,
    ) -> Reply<Result<Leased, Rejection>> {
        let (place, joining, mut answered) = self.standing.place();
        let (jobs, segments) = (self.jobs(), self.segments.clone());
        Box::pin(async move {
            enqueue(jobs.clone(), LETTERS, move |turn| match turn {
                Ok(turn) => joining.join(receive, looks_at, turn).unwrap_or_else(|| Box::new(|_| {})),
                Err(unavailable) => joining.refuse(unavailable),
            })
            .await?;
            let found = tokio::select! {
                found = &mut answered => found,
                () = until => {
                    // What is leased in this moment is still handed over: the writer has the last word.
                    drop(place);
                    on_writer(jobs, Work::Look, |_| ()).await?;
                    answered.await
                }
            };
            Ok(match found.unwrap_or(Err(Unavailable::Stopping))? {
                Err(rejection) => Err(rejection),
                Ok(received) => {
                    let deliveries = read_deliveries(&segments, received.deliveries)?;
                    Ok(Leased { deliveries, next_visible: received.next_visible })
                }
            })
        })
    }

    fn ack(&self, batch: Vec<Ack>) -> Replies<Acked> {
        let work = Work::Going { bytes: batch.iter().map(|ack| NAMES + ack.handles.len() * OFFSET).sum() };
        self.turn(work, move |turn| {
            let (_, ledger, log) = turn.parts();
            let ack = |ack: &Ack| {
                let (results, freed) = ledger.ack(&ack.group, &ack.topic, &ack.handles, log)?;
                Ok(Acked { results, freed })
            };
            batch.iter().map(ack).collect()
        })
    }

    fn extend(&self, batch: Vec<(Lease, Duration)>) -> Replies<Timestamp> {
        let work = Work::Going { bytes: batch.len() * NAMES };
        self.turn(work, move |turn| {
            let (now, ledger, log) = turn.parts();
            let extend = |(lease, span): &(Lease, Duration)| {
                ledger.extend(now, &lease.group, &lease.topic, lease.handle, *span, log)
            };
            batch.iter().map(extend).collect()
        })
    }

    fn retry_later(&self, batch: Vec<(Lease, Option<Duration>, String)>) -> Replies<Retry> {
        let work = Work::Going { bytes: batch.iter().map(|(.., reason)| NAMES + reason.len()).sum() };
        self.turn(work, move |turn| {
            let (now, ledger, log) = turn.parts();
            let retry = |(lease, delay, reason): &(Lease, Option<Duration>, String)| {
                ledger.retry_later(now, &lease.group, &lease.topic, lease.handle, *delay, reason, log)
            };
            batch.iter().map(retry).collect()
        })
    }

    fn give_up(&self, batch: Vec<GiveUp>) -> Replies<Place> {
        let work = Work::Going { bytes: batch.iter().map(|item| NAMES + item.reason.len()).sum() };
        self.turn(work, move |turn| {
            let (now, ledger, log) = turn.parts();
            let give_up = |GiveUp { lease, attempts, reason }: &GiveUp| {
                ledger.give_up(now, &lease.group, &lease.topic, lease.handle, *attempts, reason, log)
            };
            batch.iter().map(give_up).collect()
        })
    }

    fn recall(&self, batch: Vec<Recall>) -> Replies<()> {
        let work = Work::Going { bytes: batch.len() * NAMES };
        self.turn(work, move |turn| {
            let (_, ledger, log) = turn.parts();
            batch.iter().map(|item| ledger.recall(&item.topic, item.message, item.due, log)).collect()
        })
    }

    fn tick(&self) -> Reply<Tick> {
        self.turn(LETTERS, |turn| {
            let (now, ledger, log) = turn.parts();
            ledger.tick(now, log)
        })
    }

    fn create_topic(&self, topic: TopicName, queues: u32) -> Reply<Result<TopicView, Rejection>> {
        self.turn(Work::New { bytes: 0 }, move |turn| {
            let (_, ledger, log) = turn.parts();
            ledger.create_topic(&topic, queues, log)?;
            ledger.describe_topic(&topic)
        })
    }

    fn delete_topic(&self, topic: TopicName, force: bool) -> Reply<Result<(), Rejection>> {
        self.turn(Work::SMALL, move |turn| {
            let (_, ledger, log) = turn.parts();
            ledger.delete_topic(&topic, force, log)
        })
    }

    fn describe_topic(&self, topic: TopicName) -> Reply<Result<TopicView, Rejection>> {
        self.turn(Work::Look, move |turn| turn.ledger.describe_topic(&topic))
    }

    fn topics(&self) -> Reply<Vec<TopicView>> {
        self.turn(Work::Look, |turn| turn.ledger.topics())
    }

    fn configure_group(
        &self,
        group: ConsumerGroup,
        retry: RetryPolicy,
    ) -> Reply<Result<GroupView, Rejection>> {
        self.turn(Work::SMALL, move |turn| {
            let (_, ledger, log) = turn.parts();
            ledger.configure_group(&group, retry, log)?;
            ledger.describe_group(&group)
        })
    }

    fn describe_group(&self, group: ConsumerGroup) -> Reply<Result<GroupView, Rejection>> {
        self.turn(Work::Look, move |turn| turn.ledger.describe_group(&group))
    }

    fn groups(&self) -> Reply<Vec<GroupView>> {
        self.turn(Work::Look, |turn| turn.ledger.groups())
    }

    fn reset_group(
        &self,
        group: ConsumerGroup,
        topic: TopicName,
        start: Start,
    ) -> Reply<Result<GroupView, Rejection>> {
        self.turn(Work::SMALL, move |turn| {
            let (_, ledger, log) = turn.parts();
            ledger.reset_group(&group, &topic, start, log)?;
            ledger.describe_group(&group)
        })
    }

    fn dead_letters(
        &self,
        group: ConsumerGroup,
        from: u64,
        max: usize,
    ) -> Reply<Result<Vec<DeadLetter>, Rejection>> {
        self.turn(Work::Look, move |turn| turn.ledger.dead_letters(&group, from, max))
    }

    fn dead_letter(
        &self,
        group: ConsumerGroup,
        number: u64,
    ) -> Reply<Result<(DeadLetter, Message), Rejection>> {
        let turn = self.turn(Work::Look, move |turn| turn.ledger.dead_letter_view(&group, number));
        let segments = self.segments.clone();
        Box::pin(async move {
            match turn.await? {
                Ok(letter) => {
                    let message = Self::message(&segments, letter.content)?;
                    Ok(Ok((letter, message)))
                }
                Err(rejection) => Ok(Err(rejection)),
            }
        })
    }

    fn replay_dead_letters(
        &self,
        group: ConsumerGroup,
        numbers: Option<Vec<u64>>,
    ) -> Reply<Result<Vec<TopicName>, Rejection>> {
        self.turn(Work::SMALL, move |turn| {
            let (now, ledger, log) = turn.parts();
            ledger.replay_dead_letters(now, &group, numbers, log)
        })
    }

    fn purge_dead_letters(
        &self,
        group: ConsumerGroup,
        numbers: Option<Vec<u64>>,
    ) -> Reply<Result<u64, Rejection>> {
        self.turn(Work::SMALL, move |turn| {
            let (_, ledger, log) = turn.parts();
            ledger.purge_dead_letters(&group, numbers, log)
        })
    }

    fn statistics(&self) -> Reply<Statistics> {
        self.turn(Work::Look, |turn| {
            let groups = turn.ledger.groups();
            Statistics {
                open_transactions: turn.ledger.open_transactions() as u64,
                in_doubt_transactions: turn.ledger.in_doubt_transactions() as u64,
                oldest_open: turn.ledger.oldest_open(),
                dead_letters: groups.iter().map(|group| group.dead_letters).sum(),
                backlogs: groups.into_iter().flat_map(|group| group.topics).collect(),
            }
        })
    }

    fn health(&self) -> Result<(), Unavailable> {
        self.failed.get().map_or(Ok(()), |failed| Err(failed.clone()))
    }

    fn close(&self) -> Reply<()> {
        self.closed()
    }
}

/// Upper bound of the names and numbers of one record.
const NAMES: usize = 512;
/// Upper bound of an offset in a record.
const OFFSET: usize = 10;
/// Upper bound of the dead letters that one tick or one receive makes of ended leases.
pub(super) const LETTERS: Work = Work::Going { bytes: TICK_MAX * NAMES };

fn content_bytes(send: &Send) -> usize {
    // Names, tag and framing of each message besides its content.
    const MESSAGE_OVERHEAD: usize = 1_024;
    send.messages().iter().map(|message| message.content_bytes() + MESSAGE_OVERHEAD).sum()
}

/// A message that cannot be read must not hold up the others: it is reported, and comes again when its
/// lease ends, until it is a dead letter.
fn read_deliveries(
    segments: &Segments,
    deliveries: Vec<Delivery>,
) -> Result<Vec<(Delivery, Message)>, Unavailable> {
    let extents: Vec<_> = deliveries.iter().map(|delivery| delivery.content).collect();
    let messages = Embedded::messages(segments, &extents);
    let mut read = Vec::with_capacity(deliveries.len());
    let mut damaged = None;
    for (delivery, message) in deliveries.into_iter().zip(messages) {
        match message {
            Ok(message) => read.push((delivery, message)),
            Err(error) => {
                tracing::error!(%error, place = %delivery.place, "a message cannot be delivered");
                damaged = Some(error);
            }
        }
    }
    match damaged {
        Some(error) if read.is_empty() => Err(error),
        Some(_) | None => Ok(read),
    }
}

impl Embedded {
    /// The whole messages that replacements stand for, a list for each transaction. Empty for one that is
    /// not open any more: it is answered by the decision that stands.
    fn whole_messages(&self, wanted: Vec<(TransactionId, Vec<Replacement>)>) -> Replies<Vec<(u16, Message)>> {
        let replaced: Vec<_> =
            wanted.iter().filter(|(_, replacements)| !replacements.is_empty()).map(|(id, _)| *id).collect();
        if replaced.is_empty() {
            return Box::pin(std::future::ready(Ok(wanted.iter().map(|_| Ok(Vec::new())).collect())));
        }
        let originals = self.describe(replaced);
        Box::pin(async move {
            let mut originals = originals.await?.into_iter();
            let whole = |(_, replacements): (TransactionId, Vec<Replacement>)| {
                let original = if replacements.is_empty() { None } else { originals.next() };
                match original {
                    Some(Ok((view, messages))) if view.receipt.is_none() => replace(&messages, replacements),
                    Some(Ok(_) | Err(_)) | None => Ok(Vec::new()),
                }
            };
            Ok(wanted.into_iter().map(whole).collect())
        })
    }
}

fn replaced_bytes(whole: &[Result<Vec<(u16, Message)>, Rejection>]) -> usize {
    whole.iter().flatten().flatten().map(|(_, message)| message.content_bytes()).sum()
}

/// The messages as the commit wants them.
fn replace(messages: &[Message], replacements: Vec<Replacement>) -> Result<Vec<(u16, Message)>, Rejection> {
    let replace = |replacement: Replacement| {
        let original = messages.get(usize::from(replacement.index));
        let mut message = original.cloned().ok_or_else(|| Rejection::Invalid {
            what: "index of a replacement",
            why: format!("the transaction has {} messages, counted from 0", messages.len()),
        })?;
        message.body = replacement.body.unwrap_or(message.body);
        message.headers = replacement.headers.unwrap_or(message.headers);
        Ok((replacement.index, message))
    };
    replacements.into_iter().map(replace).collect()
}
