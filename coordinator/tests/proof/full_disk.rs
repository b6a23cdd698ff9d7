//! A full disk refuses new work, goes on with what is there, and recovers when there is room.

use halfmq_coordinator::store::Unavailable;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::sim_disk::SimDisk;
use crate::workload::World;

#[test]
fn full_disk_refuses_new_work_and_goes_on_deciding() {
    let disk = SimDisk::new(3);
    let mut world = World::new(disk.clone(), SmallRng::seed_from_u64(3), 3);
    let (mut engine, _) = world.open().expect("an empty disk can be opened");
    world.create_topic(&mut engine).expect("there is room");
    for _ in 0..10 {
        world.prepare(&mut engine).expect("there is room");
    }
    disk.limit(disk.used());
    // A small message may still fit where a large one did not.
    let refused = (0..10_000).filter(|_| world.prepare(&mut engine) == Err(Unavailable::Full)).count();
    assert!(refused > 9_000, "{refused} of 10,000 were refused");
    for _ in 0..20 {
        world.decide(&mut engine).expect("decisions have a reserve");
        assert_eq!(world.prepare(&mut engine), Err(Unavailable::Full), "it is still full");
    }
    disk.limit(usize::MAX);
    world.clock.advance(std::time::Duration::from_secs(2));
    world.prepare(&mut engine).expect("there is room again");
    world.settle(&mut engine).expect("nothing is lost");
    let (mut engine, _) = world.open().expect("the disk is fine");
    world.settle(&mut engine).expect("nothing is lost");
}
