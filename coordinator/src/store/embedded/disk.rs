//! The narrow seam between the journal and the disk: everything the journal does to files.
//!
//! It is a seam so that a simulated disk can lose what was not synced. Names are flat, within one
//! directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use nix::fcntl::FallocateFlags;

/// A directory of files.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing, or makes an empty one.
    ///
    /// # Errors
    /// Of the operating system.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of all files.
    ///
    /// # Errors
    /// Of the operating system.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Takes a file away.
    ///
    /// # Errors
    /// Of the operating system.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in one step; what had that name before is gone.
    ///
    /// # Errors
    /// Of the operating system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and new names durable.
    ///
    /// # Errors
    /// Of the operating system.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A file that is written in place.
pub trait DiskFile: Send + Sync {
    /// Bytes.
    ///
    /// # Errors
    /// Of the operating system.
    fn length(&self) -> io::Result<u64>;
    /// Fills the whole buffer from `offset`.
    ///
    /// # Errors
    /// Of the operating system, and `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes the whole buffer at `offset`. Durable only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// Of the operating system, such as `StorageFull`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Takes the room for so many bytes at once, which is cheaper than piece by piece; what is new are zeros.
    /// Where the system cannot do that nothing happens.
    ///
    /// # Errors
    /// `StorageFull`.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// Of the operating system. After one the file's content is not to be trusted: what was written may
    /// be gone although a second sync succeeds.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, made if it is not there.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Disk for Directory {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        match nix::fcntl::fallocate(self, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
