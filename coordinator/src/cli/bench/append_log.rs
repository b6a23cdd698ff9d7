//! The least that any store must do: write the same groups one after the other, and sync each.

use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::store::embedded::disk::{Directory, Disk, ZEROS_MAX, zeros};
use std::io;
use std::path::Path;
use std::time::Duration;

/// So many groups, and their bytes altogether.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Groups {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// Writes and syncs them in a file filled with zeros before; how long that took. All are of one size: what a
/// write and a sync take grows evenly with it, so that the sum is the same.
pub(super) fn write(folder: &Path, groups: Groups) -> Result<Duration, Failure> {
    const NAME: &str = "bare-log";
    let disk = Directory::new(folder.join("bare")).map_err(failed)?;
    let took = write_on(&disk, NAME, groups).map_err(failed);
    disk.remove(NAME).map_err(failed)?;
    took
}

fn write_on(disk: &Directory, name: &str, groups: Groups) -> io::Result<Duration> {
    let file = disk.open(name)?;
    let group = vec![b'x'; usize::try_from(groups.bytes.div_ceil(groups.count.max(1))).unwrap_or(0)];
    let mut at = 0;
    while at < groups.count * group.len() as u64 {
        // Through the memory of the system: the log writes into pages that are there, which is its best.
        file.write_at(zeros(ZEROS_MAX), at)?;
        at += ZEROS_MAX as u64;
    }
    file.sync()?;
    disk.sync_directory()?;
    let began = Clock::stopwatch();
    for number in 0..groups.count {
        file.write_at(&group, number * group.len() as u64)?;
        file.sync()?;
    }
    Ok(began.elapsed())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Bench(format!("the bare append log could not be measured: {error}"))
}
