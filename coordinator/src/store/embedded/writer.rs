//! The two threads that write: one runs the verbs of a group while the other makes the group before durable.
//!
//! ```text
//!   queue ─► writer: verbs ─► sealed group ─► disk: one frame, one sync ─► answers
//!              ▲    the next one meanwhile              │
//!              └──────────── settled ───────────────────┘
//! ```
//!
//! Never more than one group is on its way to the disk: of two, a crash could leave the second without the
//! first. A second one stands ready when the writer has nothing to add to it, and is taken back when it has: so
//! the disk goes on at once. With little to do meanwhile one thread does both: to hand a group over takes longer
//! than it would save.

mod disk;
mod wait;

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use tokio::sync::{mpsc, watch};

use super::engine::Sealed;
use super::standing::Standing;
use super::{Answer, Engine, Index, Job};
use crate::store::Unavailable;
use crate::wakes;
use disk::{Disk, Group, Written};
use wait::wait;

/// Calls answered by one sync.
const GROUP_CALLS_MAX: usize = 4_096;
/// Bytes synced at once; a single larger call is still one group.
pub(crate) const GROUP_BYTES_MAX: u64 = 512 * 1024;
/// What a disk does not wait for any longer: its sync takes about as long as it took to make so much.
const IDLE_DISK_BYTES: u64 = 32 * 1024;
/// A group of so few bytes, behind which nobody waits, is not handed over: what would be done meanwhile takes
/// less time than to wake a thread twice.
const OWN_GROUP_BYTES: u64 = 16 * 1024;
/// Nor is a larger one if fewer calls than these came while the one before it was written: then most callers wait
/// for this one, and nobody would use the time.
const CALLS_WORTH_A_THREAD: usize = 2;

/// Runs the verbs.
pub(super) struct Writer {
    engine: Engine,
    queue: mpsc::Receiver<Job>,
    standing: Standing,
    /// Of the group that is being made.
    answers: Vec<Answer>,
    /// That group takes no more calls, also while it stands ready.
    full: bool,
    /// Calls that came while the group before it was written.
    came_meanwhile: usize,
    disk: Disk,
    waker: Waker,
    failed: Arc<OnceLock<Unavailable>>,
    index: Arc<Index>,
    /// Held as long as the engine writes.
    lock: File,
    stopping: watch::Sender<bool>,
}

/// What it shares with the rest of the store.
pub(super) struct Shared {
    pub(super) standing: Standing,
    pub(super) failed: Arc<OnceLock<Unavailable>>,
    pub(super) index: Arc<Index>,
}

/// What comes next.
enum Next {
    Call(Job),
    Written(Written),
    /// Nobody calls any more.
    End,
}

impl Writer {
    /// Starts both threads. They end when nobody can call any more; `stopping` then becomes true.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        engine: Engine,
        queue: mpsc::Receiver<Job>,
        shared: Shared,
        lock: File,
        stopping: watch::Sender<bool>,
    ) -> io::Result<()> {
        let Shared { standing, failed, index } = shared;
        let disk = Disk::start(Arc::clone(&failed))?;
        let run = move || {
            let waker = wakes::deferrable(wait::waker());
            let writer = Self {
                engine,
                queue,
                standing,
                answers: Vec::new(),
                full: false,
                came_meanwhile: CALLS_WORTH_A_THREAD,
                disk,
                waker,
                failed,
                index,
                lock,
                stopping,
            };
            writer.run();
        };
        std::thread::Builder::new().name("halfmq-writer".into()).spawn(run)?;
        Ok(())
    }

    fn run(mut self) {
        loop {
            let next = self.next();
            self.take_back();
            match next {
                Next::Call(job) => self.gather(job),
                Next::Written(written) => self.heard(written),
                Next::End => break,
            }
            // It waits for the disk; where nothing is on its way that would be for ever.
            self.full = self.disk.is_busy() && self.is_full();
            if self.disk.is_busy() {
                self.leave_ready();
            } else {
                self.submit();
            }
            self.engine.index_decided();
        }
        self.wait_for_disk();
        self.submit();
        self.wait_for_disk();
        self.engine.index_decided();
        self.disk.stop();
        self.standing.close();
        self.index.close();
        let Self { engine, index, lock, stopping, .. } = self;
        // Whoever opens the store next needs the files that both have open.
        drop((engine, index));
        drop(lock);
        stopping.send_replace(true);
    }

    /// Waits for the disk, or for a call if the group can take one.
    fn next(&mut self) -> Next {
        let Self { queue, disk, waker, full, .. } = self;
        wait(waker, |context| match disk.poll(context) {
            Poll::Ready(written) => Poll::Ready(Next::Written(written)),
            Poll::Pending if *full => Poll::Pending,
            Poll::Pending => queue.poll_recv(context).map(|job| job.map_or(Next::End, Next::Call)),
        })
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= GROUP_CALLS_MAX || self.engine.pending_bytes() >= GROUP_BYTES_MAX
    }

    /// Natural batching: whatever has come while the last group was written. Never a timer. A disk that has
    /// nothing to do gets the first of many calls at once, and works while the others are run.
    fn gather(&mut self, mut job: Job) {
        loop {
            self.take(job);
            if self.is_full() || !self.disk.is_busy() && self.engine.pending_bytes() >= IDLE_DISK_BYTES {
                return;
            }
            if let Some(written) = self.disk.take_written() {
                return self.heard(written);
            }
            match self.queue.try_recv() {
                Ok(next) => job = next,
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, job: Job) {
        if self.engine.pending_bytes() > 0 && self.engine.admit(job.work).is_err() {
            // There may be room when this group does not need it any more.
            self.wait_for_disk();
            self.submit();
        }
        self.answers.push(match self.engine.admit(job.work) {
            Ok(()) => (job.run)(Ok(&mut self.engine.turn())),
            Err(unavailable) => (job.run)(Err(unavailable)),
        });
    }

    /// Sends the group to the disk, which has nothing to do.
    fn submit(&mut self) {
        self.standing.serve(&mut self.engine, &mut self.answers);
        let sealed = self.engine.seal();
        let answers = std::mem::take(&mut self.answers);
        match sealed {
            Ok(Some(sealed)) if self.hands_over(&sealed) => self.disk.write(Group { sealed, answers }),
            Ok(Some(sealed)) => {
                let (written, reply) = Group { sealed, answers }.write(&self.failed);
                self.came_meanwhile = self.queue.len();
                reply.tell();
                self.settle(written);
            }
            Ok(None) => {
                answers.into_iter().for_each(|answer| answer(Ok(())));
                self.engine.upkeep();
            }
            Err(failed) => {
                self.failed.get_or_init(|| failed.clone());
                answers.into_iter().for_each(|answer| answer(Err(failed.clone())));
            }
        }
    }

    /// Whether the other thread writes it, so that calls are run meanwhile.
    fn hands_over(&self, sealed: &Sealed) -> bool {
        let somebody_calls = self.came_meanwhile >= CALLS_WORTH_A_THREAD;
        !self.queue.is_empty() || sealed.bytes() > OWN_GROUP_BYTES && somebody_calls
    }

    /// Leaves the group to the disk, which is still busy with the one before. While there is little to do that
    /// would only make groups smaller: calls that come in a moment would miss this one.
    fn leave_ready(&mut self) {
        if self.engine.bytes_on_their_way() + self.engine.pending_bytes() <= OWN_GROUP_BYTES {
            return;
        }
        self.standing.serve(&mut self.engine, &mut self.answers);
        if let Some(sealed) = self.engine.seal_ahead() {
            let answers = std::mem::take(&mut self.answers);
            self.disk.leave_ready(Group { sealed, answers });
        }
    }

    /// The group that stands ready is made further, if the disk has not come for it.
    fn take_back(&mut self) {
        if let Some(Group { sealed, answers }) = self.disk.take_back() {
            self.engine.reopen(sealed);
            self.answers = answers;
        }
    }

    fn heard(&mut self, written: Written) {
        self.came_meanwhile = self.answers.len() + self.queue.len();
        self.settle(written);
    }

    fn settle(&mut self, (sealed, written): Written) {
        match self.engine.settle(sealed, written) {
            Ok(()) => self.engine.upkeep(),
            Err(failed) => drop(self.failed.get_or_init(|| failed)),
        }
    }

    fn wait_for_disk(&mut self) {
        while self.disk.is_busy() {
            let written = wait(&self.waker, |context| self.disk.poll(context));
            self.settle(written);
        }
    }
}

#[cfg(test)]
mod tests;
