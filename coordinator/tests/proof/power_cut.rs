//! The power fails at any operation of the disk; afterwards nothing acknowledged is lost, nothing
//! uncommitted is seen, no decision is contradicted, nothing is released twice.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::sim_disk::SimDisk;
use crate::workload::World;

/// Seeds of a normal run; `HALFMQ_SEEDS` makes a campaign of it.
const SEEDS: u64 = 1_200;
/// Deaths in the life of one store.
const CUTS: u32 = 6;

#[test]
fn power_cut_loses_nothing_acknowledged() {
    if let Some(seed) = number("HALFMQ_SEED") {
        return live(seed);
    }
    let seeds = number("HALFMQ_SEEDS").unwrap_or(SEEDS);
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(threads as usize) {
                    if let Err(failure) = catch_unwind(AssertUnwindSafe(|| live(seed))) {
                        let what = failure.downcast_ref::<String>().cloned().unwrap_or_default();
                        panic!("replay this failure with HALFMQ_SEED={seed}: {what}");
                    }
                }
            });
        }
    });
}

/// One store from its first start to the last look at it.
fn live(seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let disk = SimDisk::new(chance.random());
    let world = World::new(disk.clone(), SmallRng::seed_from_u64(chance.random()), seed);
    // Two of three make images, put entries onto the shelf and carry contents forward all the time.
    let mut world = if seed.is_multiple_of(3) { world } else { world.frugal() };
    // One of three lives so long that segments go and their files come back.
    let operations = if seed % 3 == 1 { 1_000 } else { 400 };
    for _ in 0..CUTS {
        // Starting is cut as well: a start that dies must be no worse than none.
        disk.cut_after(chance.random_range(0..operations));
        match world.open() {
            Ok((mut engine, _)) => {
                let began = world.create_topic(&mut engine);
                while began.is_ok() && world.step(&mut engine).is_ok() {}
                assert!(disk.is_off(), "seed {seed}: a step failed although the power was on");
            }
            Err(error) => assert!(disk.is_off(), "seed {seed}: {error}"),
        }
        // A process that dies leaves its unsynced writes to the next one; a power cut does not.
        if chance.random_bool(0.5) {
            disk.process_restarts();
        } else {
            disk.power_on();
        }
    }
    let (mut engine, _) = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    world.create_topic(&mut engine).expect("the power stays on");
    world.settle(&mut engine).expect("the power stays on");
    // And once more from the disk alone.
    let (mut engine, _) = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    world.settle(&mut engine).expect("the power stays on");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}
