//! What was written once stays readable: every record comes back as it was, and so does a stored sample.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use halfmq_coordinator::store::embedded::record::{
    Malformed, Reader, Writer, delayed_page, message, page, put_decided, take_decided,
};
use halfmq_core::image::{CursorImage, Half, Holder, Image, OpenTransaction, QueueImage};
use halfmq_core::{
    CheckPolicy, Decided, DecidedBy, DecidedTransaction, Decision, Delayed, DelayedPage, DelayedPageRef,
    Entry, Event, Extent, InDoubtPolicy, Message, MessageId, Open, Origin, Page, PageRef, Place, Prepared,
    Release, RetryPolicy, Run, Sent, TagFilter, Timestamp, TopicName, TransactionId, TxMessage, Verdict,
    Visibility,
};

type Events = fn() -> Vec<Event>;

/// Written by the versions that first stored records like these. They must never change.
const SAMPLES: [(&str, Events); 3] = [
    (include_str!("samples/records-v1.hex"), events),
    (include_str!("samples/images-v1.hex"), images),
    (include_str!("samples/delayed-v1.hex"), delayed),
];

#[test]
fn every_record_comes_back_as_it_was() {
    let all = || events().into_iter().chain(images()).chain(delayed());
    let mut writer = Writer::default();
    writer.reset(1_000);
    let mut extents = Vec::new();
    for event in all() {
        extents.push(writer.event(&event));
    }
    let mut reader = Reader::events(writer.bytes(), 1_000);
    for (event, extents) in all().zip(extents) {
        let (read, found) = reader.event().expect("it is readable").expect("there is one more");
        assert_eq!(read, without_bodies(event));
        assert_eq!(found, extents);
    }
    assert_eq!(reader.event(), Ok(None));
}

#[test]
fn message_is_read_back_alone_and_its_damage_is_noticed() {
    let mut writer = Writer::default();
    writer.reset(77);
    let extents = writer.event(&prepared());
    let Event::Prepared(prepared) = prepared() else { unreachable!("it is a prepare") };
    assert_eq!(extents.len(), prepared.messages.len());
    for (extent, expected) in extents.iter().zip(&prepared.messages) {
        let start = usize::try_from(extent.position - 77).expect("small");
        let bytes = &writer.bytes()[start..start + extent.length as usize];
        assert_eq!(message(&Bytes::copy_from_slice(bytes)).as_ref(), Ok(expected));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(message(&damaged.into()).is_err(), "byte {at} flipped");
        }
    }
}

#[test]
fn pages_are_read_back_alone_and_their_damage_is_noticed() {
    let paged = Event::Paged { topic: topic(), queue: 1, first: 7, page: a_page() };
    page_is_read_back_alone(&paged, &a_page(), page);
    let paged = Event::DelayedPaged { old: None, page: a_delayed_page() };
    page_is_read_back_alone(&paged, &a_delayed_page(), delayed_page);
}

fn page_is_read_back_alone<P: PartialEq + std::fmt::Debug>(
    paged: &Event,
    page: &P,
    read: fn(&Bytes) -> Result<P, Malformed>,
) {
    let mut writer = Writer::default();
    writer.reset(77);
    let extents = writer.event(paged);
    let [extent] = extents.as_slice() else { panic!("one page has one extent") };
    let start = usize::try_from(extent.position - 77).expect("small");
    let bytes = &writer.bytes()[start..start + extent.length as usize];
    assert_eq!(read(&Bytes::copy_from_slice(bytes)).as_ref(), Ok(page));
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        assert!(read(&damaged.into()).is_err(), "byte {at} flipped");
    }
}

#[test]
fn stored_samples_stay_readable() {
    for (sample, events) in SAMPLES {
        let digits: Vec<u8> = sample.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
        let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
        let mut reader = Reader::events(&bytes, 0);
        for event in events() {
            let (read, _) = reader.event().expect("it is readable").expect("there is one more");
            assert_eq!(read, without_bodies(event));
        }
        assert_eq!(reader.event(), Ok(None));
    }
}

#[test]
fn decided_transaction_comes_back_as_it_was() {
    let decided = DecidedTransaction {
        verdict: verdict(Decision::Commit),
        producer_group: "shop".parse().expect("a legal name"),
        instance: Some("one".parse().expect("a legal name")),
        request_id: Some("r1".parse().expect("a legal name")),
        fingerprint: u64::MAX,
        prepared_at: Timestamp::from_micros(1),
        answered: 3,
        messages: vec![TxMessage {
            topic: "orders".parse().expect("a legal name"),
            sequence: 9,
            release: placed(),
        }],
    };
    let mut bytes = b"before".to_vec();
    put_decided(&decided, &mut bytes);
    assert_eq!(take_decided(&bytes[6..]), Ok(decided));
}

/// One of each kind, with every field set to something of its own.
fn events() -> Vec<Event> {
    let topic = || "orders".parse().expect("a legal name");
    let group = || "cart".parse().expect("a legal name");
    let at = Timestamp::from_micros(1_700_000_000_123_456);
    let retry =
        RetryPolicy { attempts_max: 5, delay: Duration::from_millis(1), delay_max: Duration::from_secs(9) };
    let filter = || TagFilter::parse("red || blue").expect("a legal filter");
    vec![
        Event::TopicCreated { topic: topic(), queues: 4 },
        Event::TopicDeleted { topic: topic() },
        Event::GroupConfigured { group: group(), retry },
        Event::Subscribed {
            group: group(),
            topic: topic(),
            filter: filter(),
            floors: vec![0, 300, u64::MAX],
        },
        Event::FilterChanged { group: group(), topic: topic(), filter: TagFilter::default() },
        Event::GroupReset { group: group(), topic: topic(), floors: vec![7] },
        Event::CallbackChanged {
            producer_group: "shop".parse().expect("a legal name"),
            callback: Some("http://127.0.0.1/check".into()),
        },
        prepared(),
        sent(),
        Event::Decided(Decided {
            transaction: TransactionId::from_u128(u128::MAX),
            verdict: verdict(Decision::Rollback),
            releases: vec![Release::Scheduled { at }],
            replacements: vec![(3, a_message("new"))],
        }),
        Event::Checked {
            transaction: TransactionId::from_u128(2),
            answered: 300,
            next_check: at,
            in_doubt: true,
        },
        Event::Released {
            transaction: TransactionId::from_u128(2),
            index: 1,
            queue: 2,
            offset: 3,
            previous: 4,
            at,
        },
        Event::Delivered {
            group: group(),
            topic: topic(),
            queue: 1,
            deliveries: vec![(5, 1), (6, 2)],
            until: at,
        },
        Event::Settled { group: group(), topic: topic(), queue: 1, offsets: vec![5, 6] },
        Event::Extended { group: group(), topic: topic(), queue: 1, offset: 5, until: at },
        Event::Retried { group: group(), topic: topic(), queue: 1, offset: 5, visible_at: at },
        Event::DeadLettered {
            group: group(),
            topic: topic(),
            queue: 1,
            offset: 5,
            attempts: 16,
            reason: "broken".into(),
            number: 8,
            at,
        },
        Event::DeadLettersReplayed { group: group(), numbers: vec![8], at },
        Event::DeadLettersPurged { group: group(), numbers: vec![9, 10] },
        Event::Trimmed { topic: topic(), queue: 1, base: 1 << 40 },
    ]
}

/// What images, the shelf and the carrying forward write.
fn images() -> Vec<Event> {
    let image = |piece| Event::Image(Box::new(piece));
    let shop = || "shop".parse().expect("a legal name");
    let cart = || "cart".parse().expect("a legal name");
    let at = Timestamp::from_micros(77);
    let transaction = TransactionId::from_u128(9);
    let id = MessageId { transaction, index: 1 };
    let Page(entries) = a_page();
    let origin = entries[1].origin.as_deref().cloned().expect("the second is a dead letter");
    let page = PageRef {
        first: 1,
        count: 2,
        extent: Extent { position: 1 << 40, length: 99 },
        released: (at, at),
        contents: vec![Run { from: 5, to: 500, bytes: 50 }],
    };
    let queue = QueueImage { base: 1, hot_base: 3, last: vec![(shop(), 12)], pages: vec![page] };
    let open = Open { attempt: 2, visible_at: at, leased: true, message_group: Some(u64::MAX) };
    let cursor = CursorImage { floor: 4, settled: vec![(6, 9)], open: vec![(5, open)] };
    let decided = DecidedTransaction {
        verdict: verdict(Decision::Commit),
        producer_group: shop(),
        instance: None,
        request_id: None,
        fingerprint: 0,
        prepared_at: at,
        answered: 0,
        messages: vec![TxMessage { topic: topic(), sequence: 9, release: placed() }],
    };
    let retry = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    vec![
        image(Image::Began { at }),
        image(Image::Topic { topic: topic(), released: 300, queues: vec![queue] }),
        image(Image::Entries { topic: topic(), queue: 1, entries }),
        image(Image::Producer { producer_group: shop(), sequence: 12, callback: Some("http://a/b".into()) }),
        image(Image::Open { transaction, open: an_open_transaction() }),
        image(Image::Delayed { due: at, id, producer_group: shop(), half: a_half() }),
        image(Image::Decided { transaction, decided }),
        image(Image::Group { group: cart(), retry }),
        image(Image::DeadLetters { group: cart(), letters: vec![(8, origin)] }),
        image(Image::Subscription {
            group: cart(),
            topic: topic(),
            filter: TagFilter::default(),
            cursors: vec![cursor],
        }),
        image(Image::Ended),
        Event::Moved { holder: Holder::Half(id), message: a_message("half") },
        Event::Moved { holder: Holder::Delayed(at, id), message: a_message("delayed") },
        Event::Moved { holder: Holder::Entry(a_place()), message: a_message("entry") },
        Event::Moved { holder: Holder::Page, message: a_message("page") },
        Event::Paged { topic: topic(), queue: 1, first: 7, page: a_page() },
        Event::LetGo { topic: topic(), queue: 1, offsets: vec![7, 9] },
        Event::Recalled { transaction, index: 1, due: at },
    ]
}

/// What delayed messages on the shelf write.
fn delayed() -> Vec<Event> {
    let DelayedPage(page) = a_delayed_page();
    let ((first, _), (last, _)) = (page[0].clone(), page[1].clone());
    let on_shelf = DelayedPageRef {
        first,
        last,
        ids: (last.1, first.1),
        count: 2,
        live: vec![(topic(), 1)],
        recalled: vec![1],
        extent: Extent { position: 1 << 41, length: 98 },
        contents: vec![Run { from: 6, to: 600, bytes: 60 }],
    };
    vec![
        Event::DelayedPaged { old: None, page: a_delayed_page() },
        Event::DelayedPaged { old: Some(first), page: a_delayed_page() },
        Event::DelayedLoaded { first },
        Event::RecalledOnShelf { topic: topic(), page: first, position: 300 },
        Event::Image(Box::new(Image::DelayedPage { page: on_shelf })),
    ]
}

fn a_delayed_page() -> DelayedPage {
    let due = |at, id| {
        let transaction = TransactionId::from_u128(id);
        (Timestamp::from_micros(at), MessageId { transaction, index: 2 })
    };
    let delayed = Delayed { producer_group: "shop".parse().expect("a legal name"), half: a_half() };
    DelayedPage(vec![
        (due(1_700_000_000_000_000, 8), delayed.clone()),
        (due(1_700_000_000_000_001, 7), delayed),
    ])
}

fn topic() -> TopicName {
    "orders".parse().expect("a legal name")
}

fn a_place() -> Place {
    Place { topic: topic(), queue: 1, offset: 7 }
}

/// One entry that is kept, and a dead letter whose content is let go of.
fn a_page() -> Page {
    let entry = Entry {
        id: MessageId { transaction: TransactionId::from_u128(1 << 100), index: 2 },
        content: Extent { position: 1 << 35, length: 1_200 },
        tag: Some("red".parse().expect("a legal tag")),
        message_group: Some(42),
        producer_group: "shop".parse().expect("a legal name"),
        sequence: 300,
        previous: 299,
        released_at: Timestamp::from_micros(1_700_000_000_000_000),
        origin: None,
    };
    let origin = Origin {
        group: "cart".parse().expect("a legal name"),
        place: a_place(),
        attempts: 16,
        reason: "broken".into(),
        at: Timestamp::from_micros(5),
    };
    let letter = Entry {
        content: Extent::NONE,
        tag: None,
        message_group: None,
        origin: Some(Box::new(origin)),
        ..entry.clone()
    };
    Page(vec![entry, letter])
}

fn a_half() -> Half {
    Half {
        topic: topic(),
        content: Extent { position: 1, length: 2 },
        tag: None,
        message_group: Some(3),
        visibility: Visibility::After(Duration::from_secs(4)),
        sequence: 5,
    }
}

fn an_open_transaction() -> OpenTransaction {
    OpenTransaction {
        producer_group: "shop".parse().expect("a legal name"),
        instance: Some("one".parse().expect("a legal name")),
        request_id: Some("r1".parse().expect("a legal name")),
        fingerprint: 6,
        policy: Arc::new(CheckPolicy::default()),
        prepared_at: Timestamp::from_micros(7),
        answered: 8,
        in_doubt: true,
        next_check: Timestamp::from_micros(9),
        halves: vec![a_half()].into(),
    }
}

fn prepared() -> Event {
    Event::Prepared(Prepared {
        transaction: TransactionId::from_u128(1),
        producer_group: "shop".parse().expect("a legal name"),
        instance: Some("one".parse().expect("a legal name")),
        request_id: Some("r1".parse().expect("a legal name")),
        fingerprint: 0x0123_4567_89ab_cdef,
        policy: CheckPolicy { in_doubt: InDoubtPolicy::Commit, ..CheckPolicy::default() },
        at: Timestamp::from_micros(1_700_000_000_000_001),
        first_sequence: 128,
        messages: vec![
            a_message("first"),
            Message { visibility: Visibility::After(Duration::from_secs(5)), ..a_message("") },
        ],
    })
}

fn sent() -> Event {
    Event::Sent(Sent {
        transaction: TransactionId::from_u128(3),
        producer_group: "shop".parse().expect("a legal name"),
        request_id: None,
        fingerprint: 0,
        at: Timestamp::from_micros(1),
        first_sequence: 1,
        messages: vec![Message {
            visibility: Visibility::At(Timestamp::from_micros(9)),
            ..a_message("sent")
        }],
        releases: placed().into_iter().collect(),
    })
}

fn placed() -> Option<Release> {
    Some(Release::Placed { queue: 3, offset: 1 << 33, previous: 127 })
}

fn verdict(decision: Decision) -> Verdict {
    Verdict { decision, by: DecidedBy::Policy, at: Timestamp::from_micros(5), reason: "because".into() }
}

fn a_message(body: &str) -> Message {
    Message {
        topic: "orders".parse().expect("a legal name"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        tag: Some("red".parse().expect("a legal tag")),
        keys: vec!["k1".into(), "k2".into()],
        headers: vec![("name".into(), "value".into())],
        message_group: Some("customer-7".parse().expect("a legal name")),
        visibility: Visibility::AtOnce,
    }
}

/// A replay leaves bodies where they are.
fn without_bodies(event: Event) -> Event {
    let empty = |messages: Vec<Message>| {
        messages.into_iter().map(|message| Message { body: Bytes::new(), ..message })
    };
    if let Event::Prepared(prepared) = event {
        let messages = empty(prepared.messages).collect();
        return Event::Prepared(Prepared { messages, ..prepared });
    }
    if let Event::Sent(sent) = event {
        let messages = empty(sent.messages).collect();
        return Event::Sent(Sent { messages, ..sent });
    }
    if let Event::Decided(decided) = event {
        let (indexes, messages): (Vec<_>, Vec<_>) = decided.replacements.into_iter().unzip();
        let replacements = indexes.into_iter().zip(empty(messages)).collect();
        return Event::Decided(Decided { replacements, ..decided });
    }
    if let Event::Moved { holder, message } = event {
        return Event::Moved { holder, message: Message { body: Bytes::new(), ..message } };
    }
    event
}
