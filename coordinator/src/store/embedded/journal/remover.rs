//! A thread that takes files away: some milliseconds for each, in which callers would wait.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::store::embedded::disk::Disk;

/// Ends when the last file is gone: whoever opens the directory next finds none that is about to go.
pub(super) struct Remover {
    names: Option<mpsc::Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Remover {
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (names, waiting) = mpsc::channel::<String>();
        let run = move || {
            for name in waiting {
                if let Err(error) = disk.remove(&name) {
                    tracing::warn!(%error, name, "a segment could not be removed; it goes after the next start");
                }
            }
        };
        let thread = std::thread::Builder::new().name("halfmq-remove".into()).spawn(run)?;
        Ok(Self { names: Some(names), thread: Some(thread) })
    }

    /// Takes the file of this name away, soon.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) fn remove(&self, name: String) -> io::Result<()> {
        let sent = self.names.as_ref().is_some_and(|names| names.send(name).is_ok());
        if sent { Ok(()) } else { Err(io::Error::other("the thread that removes files has ended")) }
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        drop(self.names.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::store::embedded::disk::DiskFile;

    /// A disk on which a removal takes its time, and what is gone from it.
    #[derive(Default)]
    struct Slow(Mutex<Vec<String>>);

    impl Slow {
        fn gone(&self) -> Vec<String> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Disk for Slow {
        fn open(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn list(&self) -> io::Result<Vec<String>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            (0..10_000).for_each(|_| std::thread::yield_now());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
            Ok(())
        }

        fn rename(&self, _: &str, _: &str) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync_directory(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn all_files_are_gone_when_the_remover_is() -> io::Result<()> {
        let disk = Arc::<Slow>::default();
        let remover = Remover::start(Arc::<Slow>::clone(&disk))?;
        for name in ["one", "two", "three"] {
            remover.remove(name.to_owned())?;
        }
        drop(remover);
        assert_eq!(disk.gone(), ["one", "two", "three"]);
        Ok(())
    }
}
