//! The hot parts of a transaction's way, each as a batch of 64 on fixed input: nothing here reads a clock,
//! draws a number or touches a disk, so that the same code is the same instructions.

use std::hint::black_box;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use halfmq_coordinator::api::halfmq::{from_wire, to_wire};
use halfmq_coordinator::store::embedded::disk::{Disk, DiskFile};
use halfmq_coordinator::store::embedded::journal::{Beginning, Journal, JournalOptions, Reader, Segments};
use halfmq_coordinator::store::embedded::record;
use halfmq_core::{
    CheckPolicy, ConsumerGroup, Decide, DecidedBy, Decision, Delivery, EmptyShelf, Event, Extent, Ledger,
    Log, Message, Prepare, Receive, Send, Start, TagFilter, Timestamp, TopicName, TransactionId, Visibility,
};
use halfmq_proto::v1;
use prost::Message as _;

const BATCH: u64 = 64;
const BODY_BYTES: usize = 1_024;

/// A part by its name.
pub(crate) type Part = (&'static str, fn() -> Box<dyn FnMut()>);

/// All of them.
pub(crate) const PARTS: [Part; 5] = [
    ("ledger", ledger),
    ("journal", journal),
    ("read-back", read_back),
    ("wire-in", wire_in),
    ("wire-out", wire_out),
];

/// The rules alone: prepare, commit, receive, ack.
fn ledger() -> Box<dyn FnMut()> {
    let mut ledger = Ledger::new(Duration::ZERO, Arc::new(EmptyShelf));
    let mut log = Count(0);
    ledger.create_topic(&topic(), 4, &mut log).expect("a legal topic");
    let mut number = 0;
    Box::new(move || {
        let now = Timestamp::from_micros(1_700_000_000_000_000 + number * 1_000);
        let ids: Vec<_> = (number..number + BATCH).map(|number| id(now, number)).collect();
        number += BATCH;
        for id in &ids {
            black_box(ledger.prepare(now, *id, prepare(), None, &mut log)).expect("a legal prepare");
        }
        for id in &ids {
            black_box(ledger.decide(now, commit(*id), &mut log)).expect("the first decision");
        }
        let deliveries = ledger.receive(now, &receive(), &mut log).expect("the topic exists").deliveries;
        assert_eq!(deliveries.len() as u64, BATCH, "each is delivered");
        let handles: Vec<_> = deliveries.iter().map(|delivery| delivery.handle).collect();
        black_box(ledger.ack(&group(), &topic(), &handles, &mut log)).expect("they are leased");
        // What an engine does with what is over, so that the state stays as large as it is.
        ids.iter().for_each(|id| ledger.forget(*id));
        ledger.tick(now, &mut log);
    })
}

/// Recording a batch of prepares and decisions, and appending it as one frame.
fn journal() -> Box<dyn FnMut()> {
    let options = JournalOptions { segment_bytes: 64 * 1024 * 1024, spare_in_background: false };
    let disk = Arc::new(NoDisk::default());
    let (mut journal, _) = Journal::open(disk, options, 7, &mut Nothing).expect("an empty disk");
    let events = events();
    let mut writer = record::Writer::default();
    Box::new(move || {
        writer.reset(journal.next_address());
        events.iter().for_each(|event| drop(black_box(writer.event(event))));
        journal.append(writer.bytes(), || 7).expect("there is always room");
    })
}

/// Messages from the bytes of the journal.
fn read_back() -> Box<dyn FnMut()> {
    let mut writer = record::Writer::default();
    writer.reset(0);
    let extents: Vec<_> = events().iter().flat_map(|event| writer.event(event)).collect();
    let bytes = Bytes::copy_from_slice(writer.bytes());
    Box::new(move || {
        for extent in &extents {
            let start = usize::try_from(extent.position).expect("a short journal");
            let bytes = bytes.slice(start..start + extent.length as usize);
            black_box(record::message(&bytes)).expect("its checksum fits");
        }
    })
}

/// A stream message of prepares, decoded and checked.
fn wire_in() -> Box<dyn FnMut()> {
    let message = v1::Message {
        topic: topic().to_string(),
        body: vec![b'x'; BODY_BYTES].into(),
        ..v1::Message::default()
    };
    let request = v1::PrepareRequest {
        producer_group: "shop".to_owned(),
        messages: vec![message],
        ..v1::PrepareRequest::default()
    };
    let operation = |correlation_id| v1::ProduceOperation {
        correlation_id,
        verb: Some(v1::produce_operation::Verb::Prepare(request.clone())),
    };
    let request = v1::ProduceRequest { operations: (0..BATCH).map(operation).collect() };
    let bytes = Bytes::from(request.encode_to_vec());
    let policy = CheckPolicy::default();
    Box::new(move || {
        let request = v1::ProduceRequest::decode(bytes.clone()).expect("it was encoded");
        for operation in request.operations {
            let Some(v1::produce_operation::Verb::Prepare(request)) = operation.verb else {
                panic!("another verb came out");
            };
            black_box(from_wire::prepare(request, &policy)).expect("a legal prepare");
        }
    })
}

/// A stream message of deliveries, made and encoded.
fn wire_out() -> Box<dyn FnMut()> {
    let deliveries: Vec<_> = leased().into_iter().map(|delivery| (delivery, content())).collect();
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        let deliveries = deliveries.iter().cloned();
        let deliveries = deliveries.map(|(delivery, content)| to_wire::delivery(delivery, content)).collect();
        let response = v1::ConsumeResponse { deliveries, ..v1::ConsumeResponse::default() };
        response.encode(&mut out).expect("a vector grows");
        black_box(&out);
    })
}

fn topic() -> TopicName {
    "orders".parse().expect("a legal name")
}

fn group() -> ConsumerGroup {
    "shipping".parse().expect("a legal name")
}

fn id(now: Timestamp, number: u64) -> TransactionId {
    let mut random = [7; 10];
    random.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(byte, part)| *byte = part);
    TransactionId::fresh(now, random)
}

fn content() -> Message {
    Message {
        topic: topic(),
        body: vec![b'x'; BODY_BYTES].into(),
        tag: None,
        keys: Vec::new(),
        headers: Vec::new(),
        message_group: None,
        visibility: Visibility::AtOnce,
    }
}

fn prepare() -> Prepare {
    Prepare {
        producer_group: "shop".parse().expect("a legal name"),
        instance: None,
        callback: None,
        policy: CheckPolicy::default(),
        send: Send::new(None, vec![content()]).expect("a legal message"),
    }
}

fn commit(transaction: TransactionId) -> Decide {
    let (decision, by) = (Decision::Commit, DecidedBy::Call);
    Decide { transaction, decision, by, reason: String::new(), replacements: Vec::new() }
}

fn receive() -> Receive {
    Receive {
        group: group(),
        topic: topic(),
        max: usize::try_from(BATCH).expect("small"),
        invisible: Duration::from_secs(30),
        filter: TagFilter::default(),
        start: Start::Beginning,
    }
}

/// What a ledger says while 64 transactions are prepared and committed.
fn events() -> Vec<Event> {
    let (mut ledger, mut log) =
        (Ledger::new(Duration::ZERO, Arc::new(EmptyShelf)), Keep { position: 0, events: Vec::new() });
    transact(&mut ledger, &mut log);
    log.events
}

fn leased() -> Vec<Delivery> {
    let (mut ledger, mut log) = (Ledger::new(Duration::ZERO, Arc::new(EmptyShelf)), Count(0));
    transact(&mut ledger, &mut log);
    let now = Timestamp::from_micros(1_700_000_000_100_000);
    ledger.receive(now, &receive(), &mut log).expect("the topic exists").deliveries
}

fn transact(ledger: &mut Ledger, log: &mut dyn Log) {
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    ledger.create_topic(&topic(), 4, log).expect("a legal topic");
    for number in 0..BATCH {
        ledger.prepare(now, id(now, number), prepare(), None, log).expect("a legal prepare");
    }
    for number in 0..BATCH {
        ledger.decide(now, commit(id(now, number)), log).expect("the first decision");
    }
}

/// Gives places and keeps nothing.
struct Count(u64);

impl Log for Count {
    fn append(&mut self, event: &Event) -> Vec<Extent> {
        extents(event, &mut self.0)
    }
}

struct Keep {
    position: u64,
    events: Vec<Event>,
}

impl Log for Keep {
    fn append(&mut self, event: &Event) -> Vec<Extent> {
        self.events.push(event.clone());
        extents(event, &mut self.position)
    }
}

fn extents(event: &Event, position: &mut u64) -> Vec<Extent> {
    let Event::Prepared(prepared) = event else { return Vec::new() };
    let place = |_: &Message| {
        *position += BODY_BYTES as u64;
        Extent { position: *position, length: BODY_BYTES as u32 }
    };
    prepared.messages.iter().map(place).collect()
}

/// Begins with nothing.
struct Nothing;

impl Reader for Nothing {
    fn begin(&mut self, _: &Segments, _: &Beginning) -> bool {
        false
    }

    fn older(&mut self, _: &[u8], _: u64, _: u64) -> Result<(), String> {
        Ok(())
    }

    fn replay(&mut self, _: &[u8], _: u64, _: u64) -> Result<(), String> {
        Ok(())
    }
}

/// Takes everything and keeps only names and lengths.
#[derive(Default)]
struct NoDisk(Mutex<Vec<String>>);

struct NoFile(Mutex<u64>);

impl NoDisk {
    fn names(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Disk for NoDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.names().push(name.to_owned());
        Ok(Arc::new(NoFile(Mutex::new(0))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names().clone())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.names().retain(|other| other != name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.remove(from)?;
        self.names().push(to.to_owned());
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for NoFile {
    fn length(&self) -> io::Result<u64> {
        Ok(*self.0.lock().expect("nobody panics with it"))
    }

    fn read_at(&self, buffer: &mut [u8], _: u64) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut length = self.0.lock().expect("nobody panics with it");
        *length = (*length).max(offset + bytes.len() as u64);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.write_at(&[], bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
