//! The folder in which a benched store lives.

use crate::cli::failure::Failure;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder of the user's choice, or one that goes with the run.
pub(super) enum Home {
    Given(PathBuf),
    Temporary(TempDir),
}

impl Home {
    pub(super) fn new(given: Option<PathBuf>) -> Result<Self, Failure> {
        match given {
            Some(path) => {
                let refused =
                    |error| Failure::Bench(format!("the folder {} cannot be used: {error}", path.display()));
                fs::create_dir_all(&path).map_err(refused)?;
                Ok(Self::Given(path))
            }
            None => tempfile::Builder::new()
                .prefix("halfmq-bench-")
                .tempdir()
                .map(Self::Temporary)
                .map_err(|error| Failure::Bench(format!("no temporary folder can be made: {error}"))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// In memory a sync costs nothing, and the figures say nothing about a disk.
    pub(super) fn warning(&self) -> Option<String> {
        let path = fs::canonicalize(self.path()).ok()?;
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let kind = file_system(&mounts, &path)?;
        matches!(kind, "tmpfs" | "ramfs").then(|| {
            format!(
                "{} is in memory ({kind}), not on a disk: choose a folder on one with --data",
                path.display()
            )
        })
    }
}

/// The kind of the innermost mount that holds this path; of equal ones the last is on top.
pub(super) fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    };
    let holding = mounts.lines().filter_map(mount).filter(|(point, _)| path.starts_with(point));
    holding.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind)
}
