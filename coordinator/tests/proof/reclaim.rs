//! The disk holds little more than what is needed, memory little of a long backlog, and a start reads little
//! more than what happened since the newest image.

use std::collections::BTreeMap;
use std::time::Duration;

use halfmq_coordinator::store::embedded::{Engine, Work, journal, record};
use halfmq_core::{Delivery, Message, Send, Visibility};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::sim_disk::SimDisk;
use crate::workload::{SEGMENT_BYTES, START, World, group, lease};

const MESSAGES: usize = 600;

fn world(seed: u64) -> (SimDisk, World) {
    let disk = SimDisk::new(seed);
    let world = World::new(disk.clone(), SmallRng::seed_from_u64(seed), seed).frugal();
    (disk, world)
}

fn journal_bytes(disk: &SimDisk) -> u64 {
    let of_journal = |name: &str| name.ends_with(".seg") || name.ends_with(".old");
    disk.files().iter().filter(|(name, _)| of_journal(name)).map(|(_, length)| *length as u64).sum()
}

/// Each body is different, so that no other can stand in for it.
fn body(number: usize) -> Vec<u8> {
    number.to_string().into_bytes().repeat(200)
}

fn send(engine: &mut Engine, number: usize) {
    send_later(engine, number, Visibility::AtOnce);
}

fn send_later(engine: &mut Engine, number: usize, visibility: Visibility) {
    send_body(engine, number, visibility, body(number));
}

fn send_body(engine: &mut Engine, number: usize, visibility: Visibility, body: Vec<u8>) {
    let message = Message {
        topic: "orders".parse().expect("a legal name"),
        body: body.into(),
        tag: None,
        keys: vec![number.to_string()],
        headers: Vec::new(),
        message_group: None,
        visibility,
    };
    let work = Work::New { bytes: 8_192.max(message.content_bytes() + 4_096) };
    let send = Send::new(None, vec![message]).expect("a legal message");
    let sent = engine.run(work, |turn| turn.send("shop".parse().expect("a legal name"), send));
    sent.expect("the disk is fine").expect("there is no index").expect("a legal send");
}

/// The message of a delivery as it is on disk, by its key.
fn read(engine: &Engine, delivery: &Delivery) -> (usize, Vec<u8>) {
    let content = delivery.content;
    let bytes = journal::read(&engine.segments(), content.position, content.length).expect("it is there");
    let message = record::message(&bytes).expect("its checksum fits");
    (message.keys.first().and_then(|key| key.parse().ok()).expect("its key"), message.body.to_vec())
}

fn ack(engine: &mut Engine, delivery: &Delivery) {
    let acked = engine.run(Work::SMALL, |turn| {
        let (_, ledger, log) = turn.parts();
        ledger.ack(&group(), &delivery.place.topic, &[delivery.handle], log).expect("group and topic exist").0
    });
    assert_eq!(acked, Ok(vec![Ok(())]));
}

/// Leases all that there is.
fn lease_all(world: &World, engine: &mut Engine) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let deliveries = lease(engine, 64).expect("the disk is fine");
        world.clock.advance(Duration::from_millis(1));
        if deliveries.is_empty() {
            return all;
        }
        all.extend(deliveries);
    }
}

#[test]
fn consumed_messages_leave_the_disk() {
    let (disk, mut world) = world(1);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    for _ in 0..2_000 {
        world.step(&mut engine).expect("the disk is fine");
    }
    let grown = journal_bytes(&disk);
    assert!(grown > 20 * SEGMENT_BYTES, "the story needs a long journal, this one has {grown} bytes");
    world.settle(&mut engine).expect("nothing is lost");
    world.rest(&mut engine, 60).expect("the disk is fine");
    let left = journal_bytes(&disk);
    // The last image, with all decisions in it since there is no index, and what came after it.
    assert!(left <= grown / 4, "{left} of {grown} bytes are left although nothing is needed");
    let (mut engine, _) = world.open().expect("what is left is enough");
    world.settle(&mut engine).expect("nothing is lost");
}

/// A file that is used again was a segment: whatever the power does to its names and its head, it is never
/// taken for what it was, nor for one with a broken head.
#[test]
fn power_cut_while_a_file_is_reused_is_no_damage() {
    let (named, begun) = operations_of_a_reuse();
    for seed in 0..960 {
        let (disk, mut world, mut engine) = with_released(seed);
        // Around both steps, and not what lies between.
        let step = if seed % 2 == 0 { named } else { begun };
        let at = step.saturating_sub(12) + seed / 2 % 24;
        disk.cut_after(at);
        while world.prepare(&mut engine).is_ok() {}
        assert!(disk.is_off(), "a step failed although the power was on");
        disk.power_on();
        let opened = world.open().map(drop);
        assert!(opened.is_ok(), "seed {seed}, cut after {at} ({named}, {begun}): {opened:?}");
    }
}

/// The process dies before the new name of a file is durable. The next one finds the file, and uses it: its
/// frames must not be lost with that name.
#[test]
fn power_cut_after_a_kill_while_a_file_is_reused_loses_nothing() {
    let (named, _) = operations_of_a_reuse();
    for seed in 0..480 {
        let (disk, mut world, mut engine) = with_released(seed);
        disk.cut_after(named - 2 + seed % 4);
        while world.prepare(&mut engine).is_ok() {}
        disk.process_restarts();
        let (mut engine, _) = world.open().expect("all is there");
        disk.cut_after(seed / 4 * 2);
        while world.prepare(&mut engine).is_ok() {}
        disk.power_on();
        let (mut engine, _) = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.settle(&mut engine).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// Operations of the disk until a released file has its new name, and until it is a segment again.
fn operations_of_a_reuse() -> (u64, u64) {
    let (disk, mut world, mut engine) = with_released(0);
    let before = disk.operations();
    while has_released(&disk) {
        world.prepare(&mut engine).expect("the disk is fine");
    }
    let named = disk.operations() - before;
    let (name, _) =
        disk.files().into_iter().rfind(|(name, _)| name.ends_with(".seg")).expect("it is the last one");
    assert!(disk.is_spare(&name), "{name} is the one that is used again");
    while disk.is_spare(&name) {
        world.prepare(&mut engine).expect("the disk is fine");
    }
    (named, disk.operations() - before)
}

/// A store that has just let go of a segment.
fn with_released(seed: u64) -> (SimDisk, World, Engine) {
    let (disk, world) = world(seed);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    for number in 0..4_000 {
        send(&mut engine, number);
        lease_all(&world, &mut engine).iter().for_each(|delivery| ack(&mut engine, delivery));
        world.rest(&mut engine, 1).expect("the disk is fine");
        if has_released(&disk) {
            return (disk, world, engine);
        }
    }
    panic!("seed {seed}: nothing was released");
}

fn has_released(disk: &SimDisk) -> bool {
    disk.files().iter().any(|(name, _)| name.ends_with(".old"))
}

#[test]
fn few_messages_that_stay_do_not_keep_the_others() {
    for one_in in [MESSAGES, 40] {
        few_stay(one_in);
    }
}

fn few_stay(one_in: usize) {
    let (disk, world) = world(2);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    (0..MESSAGES).for_each(|number| send(&mut engine, number));
    let grown = journal_bytes(&disk);
    let mut stay = BTreeMap::new();
    for delivery in lease_all(&world, &mut engine) {
        let (number, body) = read(&engine, &delivery);
        match number % one_in {
            0 => drop(stay.insert(number, body)),
            _ => ack(&mut engine, &delivery),
        }
    }
    assert_eq!(stay.len(), MESSAGES / one_in);
    world.rest(&mut engine, 120).expect("the disk is fine");
    let left = journal_bytes(&disk);
    // Two released files wait for reuse, besides.
    let most = grown / 3 + 2 * SEGMENT_BYTES;
    assert!(left <= most, "{left} of {grown} bytes are left for {} messages", stay.len());
    for restarted in [false, true] {
        if restarted {
            engine = world.open().expect("the disk is fine").0;
        }
        world.clock.advance(Duration::from_secs(3_600));
        let found: BTreeMap<_, _> =
            lease_all(&world, &mut engine).iter().map(|delivery| read(&engine, delivery)).collect();
        assert_eq!(found, stay, "restarted: {restarted}");
    }
}

#[test]
fn long_backlog_is_on_the_shelf_and_comes_in_order() {
    let (_, world) = world(3);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    for number in 0..MESSAGES {
        send(&mut engine, number);
        world.clock.advance(Duration::from_secs(1));
        engine.upkeep();
    }
    let hot = engine.turn().ledger.hot_entries();
    assert!(hot < 32, "{hot} of {MESSAGES} entries are in memory");
    let (mut engine, recovered) = world.open().expect("the disk is fine");
    assert!(recovered.frames < MESSAGES as u64 / 2, "a start reads {} frames", recovered.frames);
    let deliveries = lease_all(&world, &mut engine);
    let mut next = [0; 2];
    for delivery in &deliveries {
        let next = &mut next[delivery.place.queue as usize];
        assert_eq!(delivery.place.offset, *next, "offsets are dense and in order");
        *next += 1;
        let (number, found) = read(&engine, delivery);
        assert_eq!(found, body(number));
    }
    assert_eq!(deliveries.len(), MESSAGES);
}

/// Messages with random delays: each page has some of every time, which is the worst for a shelf.
#[test]
fn delayed_messages_are_on_the_shelf_and_come_out_in_order() {
    const DELAYED: usize = 6_000;
    const PAGE: usize = 8;
    const WINDOW: usize = 64 * PAGE;
    let (disk, mut world) = world(5);
    (world.page_entries, world.hot_delayed_max) = (PAGE, WINDOW);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    let mut due = Vec::new();
    let mut hot_max = 0;
    for number in 0..DELAYED {
        let seconds = 100_000 + (number as u64 * 7_919) % 50_000;
        let at = START.after(Duration::from_secs(seconds));
        send_later(&mut engine, number, Visibility::At(at));
        due.push((at, number));
        hot_max = hot_max.max(engine.turn().ledger.hot_delayed());
        world.clock.advance(Duration::from_millis(100));
        engine.upkeep();
    }
    // What comes between two looks is more than the window.
    assert!(hot_max <= WINDOW + 10, "{hot_max} of {DELAYED} messages were in memory");
    let stretch = journal_bytes(&disk);
    due.sort_unstable();
    let mut restarts = due.iter().step_by(DELAYED / 3).map(|(at, _)| *at).collect::<Vec<_>>();
    let mut found = Vec::new();
    let mut hot_max = 0;
    let end = START.after(Duration::from_secs(151_000));
    while world.clock.now() < end {
        if restarts.first().is_some_and(|at| *at <= world.clock.now()) {
            restarts.remove(0);
            engine = world.open().expect("the disk is fine").0;
        }
        world.rest(&mut engine, 1).expect("the disk is fine");
        hot_max = hot_max.max(engine.turn().ledger.hot_delayed());
        world.clock.advance(Duration::from_secs(60));
        for delivery in lease_all(&world, &mut engine) {
            ack(&mut engine, &delivery);
            let (number, content) = read(&engine, &delivery);
            assert_eq!(content, body(number));
            found.push((delivery.place.queue, delivery.place.offset, number));
        }
    }
    assert_eq!(found.len(), DELAYED, "each came once");
    // One page at most of each time that pages were written, besides the window.
    let bound = WINDOW + DELAYED / (WINDOW / 2 / PAGE);
    assert!(hot_max <= bound, "{hot_max} of {DELAYED} messages were in memory at once, not {bound}");
    assert!(journal_bytes(&disk) < stretch / 4, "the disk is free again");
    found.sort_unstable();
    for queue in 0..2 {
        let came: Vec<_> = found.iter().filter(|(at, ..)| *at == queue).map(|(.., number)| *number).collect();
        let times: Vec<_> = came.iter().map(|number| (*number as u64 * 7_919) % 50_000).collect();
        assert!(times.is_sorted(), "they came out in the order of their times");
    }
}

/// Contents of one page stand far apart, and what stood between them is gone already.
#[test]
fn page_may_reach_over_segments_that_are_gone() {
    const TOGETHER: usize = 6;
    const DELAYED: usize = 70 * TOGETHER;
    let (disk, mut world) = world(6);
    world.hot_delayed_max = DELAYED;
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    let large = |number: usize| vec![number as u8; SEGMENT_BYTES as usize / 2];
    for number in 0..DELAYED {
        let later = Visibility::After(Duration::from_secs(10_000));
        send_body(&mut engine, number, later, large(number));
        if number % TOGETHER == 0 {
            (0..2 * TOGETHER).for_each(|_| send_body(&mut engine, number, Visibility::AtOnce, large(number)));
            lease_all(&world, &mut engine).iter().for_each(|delivery| ack(&mut engine, delivery));
        }
    }
    let grown = journal_bytes(&disk);
    world.rest(&mut engine, 120).expect("the disk is fine");
    assert_eq!(engine.turn().ledger.hot_delayed(), DELAYED);
    let left = journal_bytes(&disk);
    assert!(left < grown * 2 / 3, "the story needs gaps: {left} of {grown} bytes are left");
    (world.page_entries, world.hot_delayed_max) = (400, 30);
    let (mut engine, _) = world.open().expect("the disk is fine");
    world.rest(&mut engine, 10).expect("the disk is fine");
    assert_eq!(engine.turn().ledger.hot_delayed(), DELAYED - 400, "one page is on the shelf");
    let (mut engine, _) = world.open().expect("all is there that is needed");
    world.clock.advance(Duration::from_secs(10_000));
    world.rest(&mut engine, 1).expect("the disk is fine");
    let found: BTreeMap<_, _> =
        lease_all(&world, &mut engine).iter().map(|delivery| read(&engine, delivery)).collect();
    assert!(found.into_iter().eq((0..DELAYED).map(|number| (number, large(number)))), "one is not as it was");
}

#[test]
fn missing_segment_with_needed_messages_refuses_to_start() {
    let (disk, world) = world(4);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    for number in 0..MESSAGES {
        send(&mut engine, number);
        world.clock.advance(Duration::from_secs(1));
        engine.upkeep();
    }
    for (name, _) in disk.files().iter().filter(|(name, _)| name.ends_with(".seg")) {
        let copy = disk.copy(1);
        let spare = disk.is_spare(name);
        halfmq_coordinator::store::embedded::disk::Disk::remove(&copy, name).expect("the file is there");
        let opened = World::new(copy, SmallRng::seed_from_u64(1), 1).frugal().open();
        assert_eq!(opened.is_ok(), spare, "without {name}");
    }
}

#[test]
fn contents_read_together_are_those_read_alone() {
    let (_, world) = world(11);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    (0..MESSAGES).for_each(|number| send(&mut engine, number));
    let mut contents: Vec<_> =
        lease_all(&world, &mut engine).iter().map(|delivery| delivery.content).collect();
    assert_eq!(contents.len(), MESSAGES);
    let reach = contents.iter().map(|content| content.position).max().expect("there are some");
    assert!(reach > 4 * SEGMENT_BYTES, "the story needs several segments");
    // Neighbours apart and strangers together, one of them nowhere, one of them twice.
    contents.sort_by_key(|content| (content.position / 7) % 13);
    let nowhere = halfmq_core::Extent { position: 10 * reach, length: 8 };
    contents.insert(MESSAGES / 2, nowhere);
    contents.push(contents[0]);
    let together = journal::read_all(&engine.segments(), &contents);
    assert_eq!(together.len(), contents.len());
    for (content, bytes) in contents.iter().zip(together) {
        let alone = journal::read(&engine.segments(), content.position, content.length);
        assert_eq!(bytes.ok(), alone.ok(), "at {}", content.position);
    }
}
