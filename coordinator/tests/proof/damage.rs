//! Damage is reported with file and offset, never skipped; a torn tail is cut.

use std::sync::Arc;

use halfmq_coordinator::store::embedded::disk::Disk;
use halfmq_coordinator::store::embedded::journal::repair;
use halfmq_coordinator::store::embedded::{Damage, OpenError};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::sim_disk::SimDisk;
use crate::workload::World;

const PLACES: usize = 40;
const HEAD: usize = 4_096;
const FRAME_HEAD: usize = 32;

/// A store with several segments, stopped between two groups.
fn grown(seed: u64) -> (SimDisk, World) {
    let disk = SimDisk::new(seed);
    let mut world = World::new(disk.clone(), SmallRng::seed_from_u64(seed), seed);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    for _ in 0..400 {
        world.step(&mut engine).expect("the disk is fine");
    }
    (disk, world)
}

/// Places in frames: file, offset. What is behind the last frame does not count.
fn places(disk: &SimDisk, chance: &mut SmallRng) -> Vec<(String, usize)> {
    let segments: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".seg") && !disk.is_spare(name))
        .map(|(name, _)| (frames_end(&disk.content(&name)), name))
        .collect();
    let place = |_| {
        let (end, name) = &segments[chance.random_range(0..segments.len())];
        (name.clone(), chance.random_range(HEAD..*end))
    };
    (0..PLACES).map(place).collect()
}

/// Where the frames of a segment end; behind them may stand some of another life of the file.
fn frames_end(segment: &[u8]) -> usize {
    let (mut at, mut expected) = (HEAD, None);
    while segment.len() >= at + FRAME_HEAD && segment[at..].starts_with(b"HMQf") {
        let records = u32::from_le_bytes(segment[at + 8..at + 12].try_into().expect("four bytes"));
        let sequence = u64::from_le_bytes(segment[at + 16..at + 24].try_into().expect("eight bytes"));
        if records == 0 || expected.is_some_and(|expected| expected != sequence) {
            break;
        }
        expected = Some(sequence + 1);
        at += FRAME_HEAD + records as usize;
    }
    at
}

fn refused(world: &World, what: &str) {
    match world.open() {
        Err(OpenError::Damaged(damage)) => {
            assert!(damage.file.ends_with(".seg"), "{what}: {damage}");
        }
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: it was not noticed"),
    }
}

#[test]
fn damaged_frame_refuses_to_start() {
    let mut chance = SmallRng::seed_from_u64(1);
    for (kind, damage) in [
        ("a flipped bit", (|bytes: &mut Vec<u8>, at: usize| bytes[at] ^= 4) as fn(&mut Vec<u8>, usize)),
        ("a zeroed page", |bytes, at| {
            let start = (at / 4_096 * 4_096).max(HEAD);
            let end = (start + 4_096).min(bytes.len());
            bytes[start..end].fill(0);
        }),
        ("a cut file", |bytes, at| bytes.truncate(at)),
    ] {
        let (disk, world) = grown(7);
        for (file, offset) in places(&disk, &mut chance) {
            let copy = disk.copy(1);
            copy.tamper(&file, |bytes| damage(bytes, offset));
            let world = World::new(copy, SmallRng::seed_from_u64(1), 1);
            refused(&world, &format!("{kind} in {file} at {offset}"));
        }
        world.open().expect("the original is whole");
    }
}

#[test]
fn missing_segment_refuses_to_start() {
    let (disk, _) = grown(8);
    let segments: Vec<_> = disk.files().into_iter().filter(|(name, _)| name.ends_with(".seg")).collect();
    assert!(segments.len() > 3, "the story needs several segments");
    for (name, _) in &segments {
        let copy = disk.copy(1);
        let broken = World::new(copy.clone(), SmallRng::seed_from_u64(1), 1);
        Disk::remove(&copy, name).expect("the file is there");
        if !disk.is_spare(name) {
            refused(&broken, &format!("without {name}"));
        }
    }
}

#[test]
fn one_broken_head_is_fine_two_are_not() {
    let (disk, _) = grown(9);
    let copy = disk.copy(1);
    let world = World::new(copy.clone(), SmallRng::seed_from_u64(1), 1);
    copy.tamper("0000000001.seg", |bytes| bytes[9] ^= 1);
    world.open().expect("the second copy of the head serves");
    let copy = disk.copy(1);
    let world = World::new(copy.clone(), SmallRng::seed_from_u64(1), 1);
    copy.tamper("0000000001.seg", |bytes| {
        bytes[9] ^= 1;
        bytes[2_048 + 9] ^= 1;
    });
    refused(&world, "both heads broken");
}

#[test]
fn journal_of_another_version_is_left_alone() {
    let (disk, world) = grown(14);
    disk.tamper("0000000002.seg", |bytes| {
        for copy in [0, 2_048] {
            bytes[copy + 4] = 2;
            let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[copy..copy + 64]);
            bytes[copy + 64..copy + 68].copy_from_slice(&sum.to_le_bytes()[..4]);
        }
    });
    let refused = |what: OpenError| {
        assert!(matches!(what, OpenError::Unreadable(_)), "{what}");
        assert!(what.to_string().contains("0000000002.seg has format 2"), "{what}");
    };
    refused(world.open().map(drop).expect_err("it cannot be read"));
    let before = disk.files();
    let files: Arc<dyn Disk> = Arc::new(disk.clone());
    refused(repair::inspect(&files).expect_err("it cannot be read"));
    let damage = Damage { file: "0000000001.seg".into(), offset: 0, sequence: 1, what: "a guess".into() };
    refused(repair::cut(&files, &damage).expect_err("it cannot be read"));
    assert_eq!(disk.files(), before, "nothing is taken away");
}

#[test]
fn torn_tail_is_cut_and_said() {
    let (disk, mut world) = grown(10);
    let last = last_used(&disk);
    let (before, mark) = (frames_end(&disk.content(&last)), disk.content("high-water"));
    let (mut engine, _) = world.open().expect("the disk is fine");
    world.prepare(&mut engine).expect("the disk is fine");
    let after = frames_end(&disk.content(&last));
    assert!(after > before, "the story needs one more frame in {last}");
    disk.tamper(&last, |bytes| bytes[after - 5..after].fill(0));
    refused(&world, "a frame that was acknowledged");
    // Nobody was told of it.
    disk.tamper("high-water", |bytes| *bytes = mark);
    let (_, recovered) = world.open().expect("a torn tail is no damage");
    assert_eq!(recovered.torn_bytes, (after - before) as u64);
    let (_, recovered) = world.open().expect("it was cut");
    assert_eq!(recovered.torn_bytes, 0);
}

/// The disk forgets that a file was begun: what it says of itself is whole, and old.
#[test]
fn head_from_before_the_first_frame_is_damage() {
    let (disk, mut world) = grown(13);
    let spare = |disk: &SimDisk| {
        let mut files = disk.files().into_iter().map(|(name, _)| name);
        files.find(|name| name.ends_with(".seg") && disk.content(name).starts_with(b"HMQb"))
    };
    let (mut engine, _) = world.open().expect("the disk is fine");
    while spare(&disk).is_none() {
        world.step(&mut engine).expect("the disk is fine");
    }
    let name = spare(&disk).expect("one is ready");
    let (blank, mark) = (disk.content(&name), disk.content("high-water"));
    while disk.is_spare(&name) {
        world.step(&mut engine).expect("the disk is fine");
    }
    disk.tamper(&name, |bytes| bytes[..HEAD].copy_from_slice(&blank[..HEAD]));
    // And of all that was acknowledged since.
    disk.tamper("high-water", |bytes| *bytes = mark);
    refused(&world, "a head from before the first frame");
}

#[test]
fn failed_sync_stops_the_store_and_a_new_start_finds_all() {
    let (disk, mut world) = grown(11);
    let (mut engine, _) = world.open().expect("the disk is fine");
    disk.fail_next_sync();
    assert!(world.prepare(&mut engine).is_err(), "nobody may be told that it is durable");
    for _ in 0..20 {
        assert!(world.prepare(&mut engine).is_err(), "the store is not trusted any more");
    }
    let (mut engine, _) = world.open().expect("the disk is fine again");
    world.settle(&mut engine).expect("nothing acknowledged is lost");
}

fn last_used(disk: &SimDisk) -> String {
    let mut files = disk.files().into_iter().map(|(name, _)| name);
    files.rfind(|name| name.ends_with(".seg") && !disk.is_spare(name)).expect("there is one")
}

/// A start reads little of what stands before the newest image, so it need not notice; a look does.
#[test]
fn damage_before_the_newest_image_is_found_by_a_look() {
    let mut chance = SmallRng::seed_from_u64(2);
    let disk = SimDisk::new(12);
    let mut world = World::new(disk.clone(), SmallRng::seed_from_u64(12), 12).frugal();
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("the disk is fine");
    for _ in 0..1_540 {
        world.step(&mut engine).expect("the disk is fine");
    }
    let (mut refused, mut found) = (0, 0);
    for (file, offset) in places(&disk, &mut chance) {
        let copy = disk.copy(1);
        copy.tamper(&file, |bytes| bytes[offset] ^= 4);
        let look = repair::inspect(&(Arc::new(copy.clone()) as Arc<dyn Disk>)).expect("the disk can be read");
        let damage = look.damage.unwrap_or_else(|| panic!("{file} at {offset}: it was not noticed"));
        assert_eq!(damage.file, file, "{damage}");
        let opened = World::new(copy, SmallRng::seed_from_u64(1), 1).frugal().open();
        match opened {
            Ok(_) => assert!(look.contents_only, "{file} at {offset}: {damage}"),
            Err(OpenError::Damaged(_)) => assert!(!look.contents_only, "{file} at {offset}: {damage}"),
            // Delayed messages that came back since the image were read from there.
            Err(error) => assert!(error.to_string().contains("a page of delayed messages"), "{error}"),
        }
        *if look.contents_only { &mut found } else { &mut refused } += 1;
    }
    assert!(refused > 0 && found > 0, "{refused} refused, {found} found: the story needs both");
    let look = repair::inspect(&(Arc::new(disk) as Arc<dyn Disk>)).expect("the disk can be read");
    assert_eq!(look.damage, None, "the original is whole");
}
