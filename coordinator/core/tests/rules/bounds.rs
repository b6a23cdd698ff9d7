//! What is too large for a story, or not said in one.

use std::time::Duration;

use halfmq_core::limits::{
    ACKS_MAX, BODY_BYTES_MAX, HEAD_BYTES_MAX, MESSAGES_MAX, NAMES_MAX, PAGES_LOADED_MAX, RECEIVE_BYTES_MAX,
    RECEIVE_MAX, TRANSACTION_BYTES_MAX,
};
use halfmq_core::{
    Ledger, Message, ReceiptHandle, Receive, Received, Rejection, RetryPolicy, Send, Start, TagFilter,
    Timestamp, TransactionId, Visibility,
};

use crate::journal::Journal;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn message(body: Vec<u8>) -> Message {
    Message {
        topic: "orders".parse().expect("a legal name"),
        body: body.into(),
        tag: None,
        keys: Vec::new(),
        headers: Vec::new(),
        message_group: None,
        visibility: Visibility::AtOnce,
    }
}

fn orders(log: &mut Journal) -> Ledger {
    let mut ledger = log.ledger(Duration::ZERO);
    ledger.create_topic(&"orders".parse().expect("a legal name"), 1, log).expect("a legal topic");
    ledger
}

fn send(ledger: &mut Ledger, id: u128, messages: Vec<Message>, log: &mut Journal) {
    let (id, group) = (TransactionId::from_u128(id), "shop".parse().expect("a legal name"));
    let send = Send::new(None, messages).expect("legal messages");
    ledger.send(NOW, id, group, send, None, log).expect("the topic exists");
}

fn receive(ledger: &mut Ledger, group: &str, max: usize, log: &mut Journal) -> Result<Received, Rejection> {
    let receive = Receive {
        group: group.parse()?,
        topic: "orders".parse()?,
        max,
        invisible: Duration::from_secs(30),
        filter: TagFilter::default(),
        start: Start::Beginning,
    };
    ledger.receive(NOW, &receive, log)
}

#[test]
fn contents_have_a_bound() {
    let what = |messages: Vec<Message>| match Send::new(None, messages) {
        Ok(_) => "fits",
        Err(Rejection::TooLarge { what, .. } | Rejection::Invalid { what, .. }) => what,
        Err(other) => panic!("{other}"),
    };
    let key = |bytes| Message { keys: vec!["k".repeat(bytes)], ..message(Vec::new()) };
    assert_eq!(what(vec![message(vec![0; BODY_BYTES_MAX])]), "fits");
    assert_eq!(what(vec![message(vec![0; BODY_BYTES_MAX + 1])]), "body");
    assert_eq!(what(vec![key(HEAD_BYTES_MAX)]), "fits");
    assert_eq!(what(vec![key(HEAD_BYTES_MAX + 1)]), "keys and headers");
    let full = TRANSACTION_BYTES_MAX / BODY_BYTES_MAX;
    assert_eq!(what(vec![message(vec![0; BODY_BYTES_MAX]); full]), "fits");
    assert_eq!(what(vec![message(vec![0; BODY_BYTES_MAX]); full + 1]), "transaction");
    assert_eq!(what(vec![message(Vec::new()); MESSAGES_MAX]), "fits");
    assert_eq!(what(vec![message(Vec::new()); MESSAGES_MAX + 1]), "number of messages");
}

#[test]
fn names_have_a_bound_and_those_that_exist_go_on() {
    let mut log = Journal::default();
    let mut ledger = orders(&mut log);
    let limit = |refused: Rejection| {
        let Rejection::LimitReached { what, max: NAMES_MAX, .. } = refused else { panic!("{refused}") };
        what
    };
    for number in 0..NAMES_MAX {
        let name = format!("n{number}");
        // The topic `orders` is one of them.
        if number > 0 {
            ledger.create_topic(&name.parse().expect("a legal name"), 1, &mut log).expect("room");
        }
        let group = name.parse().expect("a legal name");
        ledger.configure_group(&group, RetryPolicy::default(), &mut log).expect("room");
        let send = Send::new(None, vec![message(Vec::new())]).expect("legal messages");
        let (id, group) = (TransactionId::from_u128(number as u128), name.parse().expect("a legal name"));
        ledger.send(NOW, id, group, send, None, &mut log).expect("room");
    }
    let more = "more".parse().expect("a legal name");
    assert_eq!(ledger.create_topic(&more, 1, &mut log).map_err(limit), Err("topics"));
    let more = "more".parse().expect("a legal name");
    let configured = ledger.configure_group(&more, RetryPolicy::default(), &mut log);
    assert_eq!(configured.map_err(limit), Err("consumer groups"));
    assert_eq!(receive(&mut ledger, "more", 1, &mut log).map(drop).map_err(limit), Err("consumer groups"));
    let content = || Send::new(None, vec![message(Vec::new())]).expect("legal messages");
    let mut send = |group: &str| {
        let (id, group) = (TransactionId::from_u128(u128::MAX), group.parse().expect("a legal name"));
        ledger.send(NOW, id, group, content(), None, &mut log).map(drop).map_err(limit)
    };
    assert_eq!(send("more"), Err("producer groups"));
    assert_eq!(send("n7"), Ok(()));
    assert!(receive(&mut ledger, "n7", 1, &mut log).is_ok());
}

#[test]
fn one_receive_has_a_bound_in_bytes_but_takes_one_message_of_any_size() {
    let mut log = Journal::default();
    let mut ledger = orders(&mut log);
    let half = usize::try_from(RECEIVE_BYTES_MAX / 2).expect("a bounded content");
    send(&mut ledger, 1, vec![message(vec![0; BODY_BYTES_MAX]), message(vec![0; half])], &mut log);
    send(&mut ledger, 2, vec![message(vec![0; half]), message(vec![0; half])], &mut log);
    let mut sizes = || {
        let received = receive(&mut ledger, "cart", RECEIVE_MAX, &mut log).expect("a legal receive");
        received.deliveries.iter().map(|delivery| delivery.content.length as usize).collect::<Vec<_>>()
    };
    assert_eq!(sizes(), [BODY_BYTES_MAX]);
    assert_eq!(sizes(), [half, half]);
    assert_eq!(sizes(), [half]);
}

#[test]
fn one_ack_has_a_bound() {
    let mut log = Journal::default();
    let mut ledger = orders(&mut log);
    receive(&mut ledger, "cart", 1, &mut log).expect("a legal receive");
    let (group, topic) = ("cart".parse().expect("a legal name"), "orders".parse().expect("a legal name"));
    let handles = vec![ReceiptHandle { queue: 0, offset: 0, attempt: 1 }; ACKS_MAX + 1];
    let acked = ledger.ack(&group, &topic, &handles, &mut log);
    assert!(matches!(acked, Err(Rejection::Invalid { what: "number of receipt handles", .. })), "{acked:?}");
}

#[test]
fn ack_says_that_it_has_set_messages_free() {
    let mut log = Journal::default();
    let mut ledger = orders(&mut log);
    let ordered =
        || Message { message_group: Some("g".parse().expect("a legal name")), ..message(Vec::new()) };
    send(&mut ledger, 1, vec![ordered(), ordered()], &mut log);
    let (group, topic) = ("cart".parse().expect("a legal name"), "orders".parse().expect("a legal name"));
    for freed in [true, false] {
        let received = receive(&mut ledger, "cart", 9, &mut log).expect("a legal receive");
        let handles: Vec<_> = received.deliveries.iter().map(|delivery| delivery.handle).collect();
        assert_eq!(handles.len(), 1);
        let acked = ledger.ack(&group, &topic, &handles, &mut log).expect("group and topic exist");
        assert_eq!(acked, (vec![Ok(())], freed));
    }
}

#[test]
fn one_tick_brings_a_bounded_number_of_pages_back() {
    let mut log = Journal::default();
    let mut ledger = orders(&mut log);
    let later = Visibility::After(Duration::from_secs(1));
    let count = u64::try_from(PAGES_LOADED_MAX).expect("a small number") + 3;
    for number in 0..count {
        let number = u128::from(number);
        send(&mut ledger, number, vec![Message { visibility: later, ..message(Vec::new()) }], &mut log);
        assert!(ledger.shelve_delayed(1, &mut log));
    }
    let due = NOW.after(Duration::from_secs(1));
    let topic = "orders".parse().expect("a legal name");
    let mut released = Vec::new();
    loop {
        let tick = ledger.tick(due, &mut log);
        released.push(ledger.describe_topic(&topic).expect("it exists").queues[0].next);
        let Some(next) = tick.next else { break };
        assert_eq!(next, due, "it is called again at once");
    }
    assert_eq!(released, [PAGES_LOADED_MAX as u64, count]);
}
