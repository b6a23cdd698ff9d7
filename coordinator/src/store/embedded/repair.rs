//! A data directory that no coordinator uses: looking for damage, and cutting it off.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Directory, Disk};
use super::journal::{OpenError, repair};
use super::{Error, lock};

pub use repair::Inspection;

/// A store that is closed, and stays so while this lives.
pub struct Closed {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    _lock: File,
}

impl Closed {
    /// Keeps every coordinator out of this directory.
    ///
    /// # Errors
    /// [`Error::InUse`] while one uses it, [`Error::Directory`] if there is no journal.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let directory = |error| Error::Directory { path: path.to_owned(), error };
        let journal = path.join("journal");
        if !journal.is_dir() {
            return Err(directory(io::Error::new(io::ErrorKind::NotFound, "there is no journal in it")));
        }
        let lock = lock(path)?;
        let disk = Arc::new(Directory::new(journal).map_err(directory)?);
        Ok(Self { path: path.to_owned(), disk, _lock: lock })
    }

    /// Reads everything and changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub fn inspect(&self) -> Result<Inspection, Error> {
        Ok(repair::inspect(&self.disk)?)
    }

    /// Ends the journal in front of the damage, and returns the directory with the files as they were.
    ///
    /// # Errors
    /// Of the disk; nothing is changed before all copies are durable.
    pub fn cut(&self, inspection: &Inspection) -> Result<PathBuf, Error> {
        let disk = |error: io::Error| Error::Journal(OpenError::Disk(error));
        let damage = inspection.damage.as_ref().filter(|_| !inspection.contents_only);
        let Some(damage) = damage else { return Ok(self.path.join("journal")) };
        let copies = self.path.join(format!("damaged-{}", damage.sequence));
        fs::create_dir_all(&copies).map_err(disk)?;
        for name in &inspection.files {
            let copy = copies.join(name);
            fs::copy(self.path.join("journal").join(name), &copy).map_err(disk)?;
            File::open(&copy).and_then(|copy| copy.sync_all()).map_err(disk)?;
        }
        File::open(&copies).and_then(|copies| copies.sync_all()).map_err(disk)?;
        repair::cut(&self.disk, damage)?;
        Ok(copies)
    }
}
