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
