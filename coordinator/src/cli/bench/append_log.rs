//! The least that any store must do: write the same groups one after the other, and sync each.

use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::store::embedded::disk::{Directory, Disk, ZEROS_MAX, zeros};
use crate::store::embedded::journal::{Beginning, Journal, JournalOptions, Reader, Segments};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a frame besides its records.
const FRAME_HEAD: usize = 32;

/// Bytes of each group that the journal of this store has written, in their order.
pub(super) fn groups(store: &Path) -> Result<Vec<usize>, Failure> {
    let mut groups = Groups(Vec::new());
    let disk = Directory::new(store.join("journal")).map_err(failed)?;
    Journal::open(Arc::new(disk), JournalOptions::default(), 0, &mut groups).map_err(failed)?;
    Ok(groups.0)
}

/// Sizes of all groups that are there.
struct Groups(Vec<usize>);

impl Reader for Groups {
    fn begin(&mut self, _: &Segments, _: &Beginning) -> bool {
        true
    }

    fn older(&mut self, records: &[u8], address: u64, sequence: u64) -> Result<(), String> {
        self.replay(records, address, sequence)
    }

    fn replay(&mut self, records: &[u8], _: u64, _: u64) -> Result<(), String> {
        self.0.push(FRAME_HEAD + records.len());
        Ok(())
    }
}

/// Writes and syncs groups of this size in a file filled with zeros before; how long that took.
pub(super) fn write(folder: &Path, groups: &[usize]) -> Result<Duration, Failure> {
    const NAME: &str = "bare-log";
    let disk = Directory::new(folder.join("bare")).map_err(failed)?;
    let took = write_on(&disk, NAME, groups).map_err(failed);
    disk.remove(NAME).map_err(failed)?;
    took
}

fn write_on(disk: &Directory, name: &str, groups: &[usize]) -> io::Result<Duration> {
    let file = disk.open(name)?;
    let bytes: usize = groups.iter().sum();
    for at in (0..bytes).step_by(ZEROS_MAX) {
        // Through the memory of the system: the log writes into pages that are there, which is its best.
        file.write_at(zeros(ZEROS_MAX), at as u64)?;
    }
    file.sync()?;
    disk.sync_directory()?;
    let content = vec![b'x'; groups.iter().copied().max().unwrap_or(0)];
    let began = Clock::stopwatch();
    let mut at = 0;
    for group in groups {
        file.write_at(content.get(..*group).unwrap_or(&content), at)?;
        file.sync()?;
        at += *group as u64;
    }
    Ok(began.elapsed())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Bench(format!("the bare append log could not be measured: {error}"))
}
