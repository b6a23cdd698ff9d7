//! The narrow seam between the journal and the disk: everything the journal does to files.
//!
//! It is a seam so that a simulated disk can lose what was not synced. Names are flat, within one
//! directory.

use std::fs::{self, File, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use nix::errno::Errno;
#[cfg(target_os = "linux")]
use nix::fcntl::{self, FallocateFlags, FcntlArg, OFlag};

/// Bytes of a page of memory and of the disk: what is written in part has to be read first.
pub const PAGE: usize = 4_096;
/// Zeros that are written at once, at most.
pub const ZEROS_MAX: usize = 1024 * 1024;

#[repr(align(4096))]
struct Pages([u8; ZEROS_MAX]);

static ZEROS: Pages = Pages([0; ZEROS_MAX]);

/// Zeros, at most [`ZEROS_MAX`], which begin with a page.
#[must_use]
pub fn zeros(bytes: usize) -> &'static [u8] {
    ZEROS.0.get(..bytes).unwrap_or(&ZEROS.0)
}

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
    /// Writes all parts, one behind the other, as [`DiskFile::write_at`] does.
    ///
    /// # Errors
    /// Of the operating system, such as `StorageFull`.
    fn write_parts_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        for part in parts {
            self.write_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }
    /// Writes so many zeros, at most [`ZEROS_MAX`], that nobody reads soon.
    ///
    /// # Errors
    /// Of the operating system, such as `StorageFull`.
    fn write_zeros_at(&self, bytes: usize, offset: u64) -> io::Result<()> {
        self.write_at(zeros(bytes), offset)
    }
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
    fn write_parts_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut *slices;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let at = i64::try_from(offset).map_err(io::Error::other)?;
            let written = match nix::sys::uio::pwritev(self, left, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(())
    }

    /// Past the memory of the system, where it can: to copy them there costs ten times as much, and pushes
    /// out what somebody will read.
    #[cfg(target_os = "linux")]
    fn write_zeros_at(&self, bytes: usize, offset: u64) -> io::Result<()> {
        let aligned = bytes.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE as u64);
        if !aligned || write_directly(self, zeros(bytes), offset).is_err() {
            self.write_all_at(zeros(bytes), offset)?;
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        match fcntl::fallocate(self, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
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

/// Whole pages, not through the memory of the system. Nobody else may use the file meanwhile.
#[cfg(target_os = "linux")]
fn write_directly(file: &File, pages: &[u8], offset: u64) -> io::Result<()> {
    let before = OFlag::from_bits_retain(fcntl::fcntl(file, FcntlArg::F_GETFL)?);
    fcntl::fcntl(file, FcntlArg::F_SETFL(before | OFlag::O_DIRECT))?;
    let written = file.write_all_at(pages, offset);
    fcntl::fcntl(file, FcntlArg::F_SETFL(before))?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, Arc<dyn DiskFile>) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = Directory::new(directory.path().to_owned()).expect("a directory");
        let file = disk.open("file").expect("a new file");
        (directory, file)
    }

    fn content(file: &dyn DiskFile) -> Vec<u8> {
        let mut bytes = vec![1; usize::try_from(file.length().expect("a length")).expect("small")];
        file.read_at(&mut bytes, 0).expect("it is there");
        bytes
    }

    #[test]
    fn parts_stand_one_behind_the_other() {
        let (_directory, file) = file();
        let large = vec![b'l'; 3 * PAGE + 1];
        file.write_parts_at(&[b"", b"head", b"", &large, b"pad", b""], 2).expect("room");
        file.write_parts_at(&[], 0).expect("nothing to do");
        assert_eq!(content(&*file), [b"\0\0head", &large[..], b"pad"].concat());
    }

    #[test]
    fn zeros_are_written_whatever_their_place() {
        for (bytes, offset) in [(PAGE, PAGE as u64), (2 * PAGE, 0), (PAGE, 5), (7, PAGE as u64), (0, 0)] {
            let (_directory, file) = file();
            let mut expected = vec![b'x'; 4 * PAGE + 3];
            file.write_at(&expected, 0).expect("room");
            file.write_zeros_at(bytes, offset).expect("room");
            let from = usize::try_from(offset).expect("small");
            expected[from..from + bytes].fill(0);
            assert!(content(&*file) == expected, "{bytes} zeros at {offset}");
            file.write_at(b"y", 1).expect("it takes any byte again");
        }
    }
}
