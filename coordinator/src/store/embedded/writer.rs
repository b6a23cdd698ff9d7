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
use crate::{telemetry, wakes};

/// Calls answered by one sync.
const GROUP_CALLS_MAX: usize = 4_096;
/// Bytes synced at once; a single larger call is still one group.
const GROUP_BYTES_MAX: u64 = 512 * 1024;
/// What a disk does not wait for any longer: its sync takes about as long as it took to make so much.
const IDLE_DISK_BYTES: u64 = 64 * 1024;

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
            let waker = wakes::deferrable(Waker::from(Arc::new(Unpark(std::thread::current()))));
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

    /// Natural batching: whatever has come while the last group was written. Never a timer. A disk that has
    /// nothing to do gets the first of many calls at once, and works while the others are run.
    fn gather(&mut self, mut job: Job) {
        loop {
            self.take(job);
            if self.is_full() || !self.disk.busy && self.engine.pending_bytes() >= IDLE_DISK_BYTES {
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
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            while let Some((sealed, answers)) = wait(&waker, |context| sealed.poll_recv(context)) {
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
                wakes::in_bulk(|| answers.into_iter().for_each(|answer| answer(durable.clone())));
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

/// Looks so many times before it sleeps, some 20 microseconds. What is waited for is often there by then, and to
/// be woken from sleep takes as long.
const LOOKS: u32 = 32;

/// Sleeps until there is something.
fn wait<T>(waker: &Waker, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut context = Context::from_waker(waker);
    loop {
        for _ in 0..LOOKS {
            if let Poll::Ready(ready) = poll(&mut context) {
                return ready;
            }
            std::thread::yield_now();
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

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex, MutexGuard};

    use tokio::task::JoinHandle as Task;

    use super::super::disk::{Directory, Disk as Files, DiskFile};
    use super::super::{EngineOptions, Turn, Work, lock, on_writer};
    use super::*;

    /// Holds syncs up.
    #[derive(Default)]
    struct Gate {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        shut: bool,
        fails: bool,
        waiting: usize,
    }

    impl Gate {
        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().expect("nobody panics with it")
        }

        fn pass(&self) -> io::Result<()> {
            let mut state = self.state();
            state.waiting += 1;
            self.changed.notify_all();
            let mut state =
                self.changed.wait_while(state, |state| state.shut).expect("nobody panics with it");
            state.waiting -= 1;
            if state.fails { Err(io::Error::other("the disk failed")) } else { Ok(()) }
        }

        fn wait_for_one(&self) {
            let state = self.state();
            drop(self.changed.wait_while(state, |state| state.waiting == 0).expect("nobody panics with it"));
        }

        fn open(&self, fails: bool) {
            let mut state = self.state();
            (state.shut, state.fails) = (false, fails);
            self.changed.notify_all();
        }
    }

    struct Gated<T>(T, Arc<Gate>);

    impl Files for Gated<Directory> {
        fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(Gated(self.0.open(name)?, Arc::clone(&self.1))))
        }

        fn list(&self) -> io::Result<Vec<String>> {
            self.0.list()
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }

        fn sync_directory(&self) -> io::Result<()> {
            self.0.sync_directory()
        }
    }

    impl DiskFile for Gated<Arc<dyn DiskFile>> {
        fn length(&self) -> io::Result<u64> {
            self.0.length()
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_at(buffer, offset)
        }

        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_at(bytes, offset)
        }

        fn allocate(&self, bytes: u64) -> io::Result<()> {
            self.0.allocate(bytes)
        }

        fn sync(&self) -> io::Result<()> {
            self.1.pass()?;
            self.0.sync()
        }
    }

    struct Story {
        gate: Arc<Gate>,
        jobs: mpsc::Sender<Job>,
        failed: Arc<OnceLock<Unavailable>>,
        stopped: watch::Receiver<bool>,
        _directory: tempfile::TempDir,
    }

    type Answered = Result<(), Unavailable>;

    impl Story {
        fn begin() -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let (path, gate) = (directory.path(), Arc::<Gate>::default());
            let index = Arc::new(Index::open(&path.join("index")).expect("an index"));
            let files = Directory::new(path.join("journal")).expect("a directory");
            let files = Arc::new(Gated(files, Arc::clone(&gate)));
            let engine = Engine::open(files, EngineOptions::default(), Some(Arc::clone(&index)));
            let (jobs, queue) = mpsc::channel(16);
            let (stopping, stopped) = watch::channel(false);
            let failed = Arc::<OnceLock<_>>::default();
            let shared = Shared { standing: Standing::default(), failed: Arc::clone(&failed), index };
            let lock = lock(path).expect("nobody else has it");
            Writer::start(engine.expect("it opens").0, queue, shared, lock, stopping).expect("threads");
            Self { gate, jobs, failed, stopped, _directory: directory }
        }

        /// Returns when the verb has run, not when it is answered.
        async fn run(&self, verb: impl FnOnce(&mut Turn<'_>) + Send + 'static) -> Task<Answered> {
            let (ran, running) = tokio::sync::oneshot::channel();
            let verb = move |turn: &mut Turn<'_>| {
                verb(turn);
                ran.send(()).expect("the story waits");
            };
            let task = tokio::spawn(on_writer(Some(self.jobs.clone()), Work::SMALL, verb));
            running.await.expect("it runs");
            task
        }

        /// The first group is on its way to the disk, what comes second waits behind it.
        async fn two_groups(
            &self,
            second: impl FnOnce(&mut Turn<'_>) + Send + 'static,
        ) -> (Task<Answered>, Task<Answered>) {
            self.gate.state().shut = true;
            let first = self.run(|turn| create(turn, "first")).await;
            self.gate.wait_for_one();
            let second = self.run(second).await;
            assert!(!first.is_finished() && !second.is_finished(), "nothing is durable yet");
            (first, second)
        }
    }

    fn create(turn: &mut Turn<'_>, topic: &str) {
        let (_, ledger, log) = turn.parts();
        let created = ledger.create_topic(&topic.parse().expect("a legal name"), 1, log);
        created.expect("a legal topic");
    }

    fn look(turn: &mut Turn<'_>) {
        let topics = turn.parts().1.topics();
        assert_eq!(topics.len(), 1, "the first one is seen");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_next_group_is_made_while_one_is_synced() {
        let mut story = Story::begin();
        let (first, second) = story.two_groups(|turn| create(turn, "second")).await;
        story.gate.open(false);
        assert_eq!(first.await.expect("it ends"), Ok(()));
        assert_eq!(second.await.expect("it ends"), Ok(()));
        drop(story.jobs);
        story.stopped.wait_for(|stopped| *stopped).await.expect("it stops");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_group_behind_one_that_failed_is_answered_as_durable() {
        let story = Story::begin();
        let (first, second) = story.two_groups(|turn| create(turn, "second")).await;
        story.gate.open(true);
        let failed = Unavailable::Failed("the disk failed".to_owned());
        assert_eq!(first.await.expect("it ends"), Err(failed.clone()));
        assert_eq!(story.failed.get(), Some(&failed), "health knows it before anybody is answered");
        assert_eq!(second.await.expect("it ends"), Err(failed.clone()));
        story.gate.open(false);
        let third = on_writer(Some(story.jobs.clone()), Work::Look, |_| ()).await;
        assert_eq!(third, Err(failed), "not even a look, for what is in memory is not on disk");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_seen_of_a_group_is_said_only_when_it_is_durable() {
        for fails in [false, true] {
            let story = Story::begin();
            let (_, second) = story.two_groups(look).await;
            story.gate.open(fails);
            assert_eq!(second.await.expect("it ends").is_err(), fails, "it saw what is not on disk");
        }
    }
}
