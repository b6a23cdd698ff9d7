//! Where chunks (chunk.rs) stand: in files that only grow. The tree only says where: it writes a whole node again
//! and again while that fills, which made ten bytes of each byte of a chunk.
//!
//! ```text
//! receipts/<number>   crc32c u32 LE of the chunk │ chunk │ crc32c │ chunk │ …
//! place               number u32 BE │ offset u32 BE of the chunk │ its bytes u32 BE
//! filled of a file    bytes u32 BE that are synced │ youngest span u64 BE
//! ```
//!
//! A file is synced before the tree says what is in it. Lifetime of a file: until all receipts in it are pruned.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::checksum::crc32c;

/// Bytes at which the next file begins.
pub(super) const FILE_BYTES: u32 = 64 * 1024 * 1024;
const SUM_BYTES: usize = 4;

/// The folder of files.
#[derive(Clone, Debug)]
pub(super) struct Receipts {
    folder: PathBuf,
    file_bytes: u32,
}

/// Where a chunk stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    number: u32,
    offset: u32,
    bytes: u32,
}

/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Filled {
    /// Synced.
    pub(super) bytes: u32,
    /// Of the transactions in it.
    pub(super) youngest: u64,
}

impl Place {
    pub(super) fn put(self) -> Vec<u8> {
        [self.number, self.offset, self.bytes].map(u32::to_be_bytes).concat()
    }

    /// # Errors
    /// `InvalidData` when it is no place.
    pub(super) fn take(bytes: &[u8]) -> io::Result<Self> {
        match three_numbers(bytes) {
            Some([number, offset, bytes]) => Ok(Self { number, offset, bytes }),
            None => Err(damaged("what should say where a receipt is does not")),
        }
    }
}

impl Filled {
    pub(super) fn put(self) -> Vec<u8> {
        [&self.bytes.to_be_bytes()[..], &self.youngest.to_be_bytes()].concat()
    }

    /// # Errors
    /// `InvalidData` when it is none.
    pub(super) fn take(bytes: &[u8]) -> io::Result<Self> {
        match three_numbers(bytes) {
            Some([bytes, high, low]) => Ok(Self { bytes, youngest: u64::from(high) << 32 | u64::from(low) }),
            None => Err(damaged("what should say how long a file of receipts is does not")),
        }
    }
}

fn three_numbers(bytes: &[u8]) -> Option<[u32; 3]> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    let numbers: [[u8; 4]; 3] = numbers.try_into().ok()?;
    rest.is_empty().then(|| numbers.map(u32::from_be_bytes))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Receipts {
    /// The folder in this index, made if it is not there.
    ///
    /// # Errors
    /// Of the operating system.
    pub(super) fn open(index: &Path, file_bytes: u32) -> io::Result<Self> {
        let folder = index.join("receipts");
        fs::create_dir_all(&folder)?;
        File::open(index)?.sync_all()?;
        Ok(Self { folder, file_bytes })
    }

    /// # Errors
    /// Of the operating system; `InvalidData` when something else stands there.
    pub(super) fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        let Place { number, offset, bytes } = place;
        let mut chunk = vec![0; SUM_BYTES + bytes as usize];
        let at = u64::from(offset).checked_sub(SUM_BYTES as u64);
        let at = at.ok_or_else(|| damaged("no receipt stands at the begin of a file"))?;
        File::open(self.path(number))?.read_exact_at(&mut chunk, at)?;
        let sum = chunk.drain(..SUM_BYTES).collect::<Vec<_>>();
        if sum != crc32c(&chunk).to_le_bytes() {
            return Err(damaged("receipts are damaged"));
        }
        Ok(chunk)
    }

    /// All files.
    ///
    /// # Errors
    /// Of the operating system.
    pub(super) fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            numbers.extend(number.filter(|number| *name == *file_name(*number)));
        }
        Ok(numbers)
    }

    /// Whether all that was synced is there.
    pub(super) fn has(&self, number: u32, filled: Filled) -> bool {
        fs::metadata(self.path(number)).is_ok_and(|file| file.len() >= u64::from(filled.bytes))
    }

    /// Takes a file away that nobody needs; if that fails, the next start does it.
    pub(super) fn remove(&self, number: u32) {
        if let Err(error) = fs::remove_file(self.path(number)) {
            tracing::warn!(%error, number, "a file of old receipts could not be removed");
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(file_name(number))
    }
}

fn file_name(number: u32) -> String {
    format!("{number:010}")
}

/// Whether another attempt would find the same; errors of a system that is short of something pass.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    [InvalidData, NotFound, UnexpectedEof].contains(&error.kind())
}

/// The file that grows.
pub(super) struct Growing {
    pub(super) number: u32,
    file: File,
    bytes_max: u32,
    /// Written or not.
    bytes: u32,
    youngest: u64,
    unwritten: Vec<u8>,
}

impl Growing {
    /// Begins a file. Its name is durable when this returns.
    ///
    /// # Errors
    /// Of the operating system.
    pub(super) fn begin(receipts: &Receipts, number: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).write(true).open(receipts.path(number))?;
        File::open(&receipts.folder)?.sync_all()?;
        let bytes_max = receipts.file_bytes;
        Ok(Self { number, file, bytes_max, bytes: 0, youngest: 0, unwritten: Vec::new() })
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Adds a chunk of transactions of this span. It is not there before [`Growing::write`].
    pub(super) fn add(&mut self, span: u64, chunk: &[u8]) -> Place {
        let bytes = u32::try_from(chunk.len()).expect("a chunk is far smaller than 4 GiB");
        self.unwritten.extend_from_slice(&crc32c(chunk).to_le_bytes());
        self.unwritten.extend_from_slice(chunk);
        let place = Place { number: self.number, offset: self.bytes + SUM_BYTES as u32, bytes };
        self.bytes = place.offset + bytes;
        self.youngest = self.youngest.max(span);
        place
    }

    /// # Errors
    /// Of the operating system; the file is then not to be used any further.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.unwritten)?;
        self.unwritten.clear();
        Ok(())
    }

    /// All that was written is durable when this returns.
    ///
    /// # Errors
    /// As [`Growing::write`].
    pub(super) fn sync(&mut self) -> io::Result<Filled> {
        self.write()?;
        self.file.sync_data()?;
        Ok(Filled { bytes: self.bytes, youngest: self.youngest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back_or_is_an_error() {
        let index = tempfile::tempdir().expect("a temporary directory");
        let receipts = Receipts::open(index.path(), FILE_BYTES).expect("it is made");
        let mut growing = Growing::begin(&receipts, 7).expect("it is made");
        let chunks = [&b"one"[..], b"", b"three"];
        let places = chunks.map(|chunk| growing.add(5, chunk));
        let filled = growing.sync().expect("it takes all");
        assert_eq!(filled, Filled { bytes: 20, youngest: 5 });
        assert_eq!(receipts.numbers().expect("they are there"), [7]);
        for (place, chunk) in places.into_iter().zip(chunks) {
            let place = Place::take(&place.put()).expect("it survives its bytes");
            assert_eq!(receipts.read(place).expect("it is there"), chunk);
        }
        let whole = fs::read(receipts.path(7)).expect("it is there");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(receipts.path(7), &bytes).expect("it is there");
            let wrong = places.into_iter().filter(|place| receipts.read(*place).is_err()).count();
            assert_eq!(wrong, 1, "byte {at} flipped");
        }
        fs::write(receipts.path(7), &whole[..whole.len() - 1]).expect("it is there");
        assert!(!receipts.has(7, filled) && !receipts.has(8, filled));
        assert!(receipts.read(places[2]).is_err() && receipts.read(places[0]).is_ok());
    }

    #[test]
    fn what_the_tree_says_survives_its_bytes() {
        let filled = Filled { bytes: 9, youngest: u64::MAX - 1 };
        assert_eq!(Filled::take(&filled.put()).expect("it is one"), filled);
        assert!(Filled::take(b"short").is_err() && Place::take(&[0; 13]).is_err());
    }
}
