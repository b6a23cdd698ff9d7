//! The two threads that write: one runs the verbs of a group while the other makes the group before durable.
//!
//! ```text
//!   queue ─► writer: verbs ─► sealed group ─► disk: one frame, one sync ─► answers
//!              ▲    the next one meanwhile              │
//!              └──────────── settled ───────────────────┘
//! ```
//!
//! Never more than one group is on its way to the disk: of two, a crash could leave the second without the
//! first.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};

use tokio::sync::{mpsc, watch};

use super::engine::Sealed;
use super::standing::Standing;
use super::{Answer, Engine, Index, Job};
use crate::clock::Clock;
use crate::store::Unavailable;
use crate::telemetry;

/// Calls answered by one sync.
const GROUP_CALLS_MAX: usize = 4_096;
/// Bytes synced at once; a single larger call is still one group.
const GROUP_BYTES_MAX: u64 = 512 * 1024;

/// Runs the verbs.
pub(super) struct Writer {
    engine: Engine,
    queue: mpsc::Receiver<Job>,
    standing: Standing,
    /// Of the group that is being made.
    answers: Vec<Answer>,
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
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let answers = Vec::new();
            Self { engine, queue, standing, answers, disk, waker, failed, index, lock, stopping }.run();
        };
        std::thread::Builder::new().name("halfmq-writer".into()).spawn(run)?;
        Ok(())
    }

    fn run(mut self) {
        loop {
            match self.next() {
                Next::Call(job) => self.gather(job),
                Next::Written(written) => self.settle(written),
                Next::End => break,
            }
            if !self.disk.busy {
                self.submit();
            }
        }
        self.wait_for_disk();
        self.submit();
        self.wait_for_disk();
        self.disk.stop();
        self.standing.close();
        self.index.close();
        drop(self.lock);
        self.stopping.send_replace(true);
    }

    /// Waits for the disk, or for a call if the group can take one.
    fn next(&mut self) -> Next {
        let full = self.is_full();
        let Self { queue, disk, waker, .. } = self;
        wait(waker, |context| match disk.poll(context) {
            Poll::Ready(written) => Poll::Ready(Next::Written(written)),
            Poll::Pending if full => Poll::Pending,
            Poll::Pending => queue.poll_recv(context).map(|job| job.map_or(Next::End, Next::Call)),
        })
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= GROUP_CALLS_MAX || self.engine.pending_bytes() >= GROUP_BYTES_MAX
    }

    /// Natural batching: whatever has come while the last group was written. Never a timer.
    fn gather(&mut self, mut job: Job) {
        loop {
            self.take(job);
            if self.is_full() {
                return;
            }
            if let Some(written) = self.disk.take_written() {
                return self.settle(written);
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
            Ok(Some(sealed)) => self.disk.write(sealed, answers),
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

    fn settle(&mut self, (sealed, written): Written) {
        match self.engine.settle(sealed, written) {
            Ok(()) => self.engine.upkeep(),
            Err(failed) => drop(self.failed.get_or_init(|| failed)),
        }
    }

    fn wait_for_disk(&mut self) {
        while self.disk.busy {
            let written = wait(&self.waker, |context| self.disk.poll(context));
            self.settle(written);
        }
    }
}

/// A group, and what became of it.
type Written = (Sealed, io::Result<()>);

/// The thread that makes groups durable, as the writer sees it.
struct Disk {
    groups: mpsc::UnboundedSender<(Sealed, Vec<Answer>)>,
    written: mpsc::UnboundedReceiver<Written>,
    /// A group is on its way.
    busy: bool,
    thread: JoinHandle<()>,
}

impl Disk {
    fn start(failed: Arc<OnceLock<Unavailable>>) -> io::Result<Self> {
        let (groups, mut sealed) = mpsc::unbounded_channel::<(Sealed, Vec<Answer>)>();
        let (done, written) = mpsc::unbounded_channel();
        let run = move || {
            while let Some((sealed, answers)) = sealed.blocking_recv() {
                let (bytes, began) = (sealed.bytes(), Clock::stopwatch());
                let written = sealed.write();
                let durable = match &written {
                    Ok(()) => {
                        telemetry::journal_synced(answers.len(), bytes, began.elapsed());
                        Ok(())
                    }
                    Err(error) => Err(failed.get_or_init(|| Unavailable::Failed(error.to_string())).clone()),
                };
                // The next group can come while these are answered. Nobody waits any more: the store ends.
                drop(done.send((sealed, written)));
                answers.into_iter().for_each(|answer| answer(durable.clone()));
            }
        };
        let thread = std::thread::Builder::new().name("halfmq-journal".into()).spawn(run)?;
        Ok(Self { groups, written, busy: false, thread })
    }

    fn write(&mut self, sealed: Sealed, answers: Vec<Answer>) {
        self.busy = true;
        self.groups.send((sealed, answers)).expect(DISK_LIVES);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Written> {
        let written = self.written.poll_recv(context).map(|written| written.expect(DISK_LIVES));
        self.busy &= written.is_pending();
        written
    }

    /// Waits until everybody is answered.
    fn stop(self) {
        drop(self.groups);
        drop(self.thread.join());
    }

    fn take_written(&mut self) -> Option<Written> {
        let written = self.written.try_recv().ok();
        self.busy &= written.is_none();
        written
    }
}

/// If it does not, the writer must not go on either; whoever calls is told that the store stops.
const DISK_LIVES: &str = "the thread that makes groups durable ends after its writer";

/// Sleeps until there is something.
fn wait<T>(waker: &Waker, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut context = Context::from_waker(waker);
    loop {
        if let Poll::Ready(ready) = poll(&mut context) {
            return ready;
        }
        std::thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
