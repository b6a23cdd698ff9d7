//! Two groups, a disk that is held up, and what is said to whom.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::task::JoinHandle as Task;

use super::super::disk::{Directory, Disk, DiskFile};
use super::super::{EngineOptions, Turn, Work, enqueue, lock, on_writer};
use super::*;

/// Calls that wait for the writer, at most.
const QUEUE: usize = 16;
/// Nothing here takes so long, unless it never ends.
const LONG: Duration = Duration::from_secs(60);

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
    /// Names of their threads.
    waiting: Vec<String>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn pass(&self) -> io::Result<()> {
        let mut state = self.state();
        state.waiting.push(std::thread::current().name().unwrap_or_default().to_owned());
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| state.shut).expect("nobody panics with it");
        state.waiting.pop();
        if state.fails { Err(io::Error::other("the disk failed")) } else { Ok(()) }
    }

    /// The name of the thread that waits.
    fn wait_for_one(&self) -> String {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, LONG, |state| state.waiting.is_empty());
        let (state, time) = waited.expect("nobody panics with it");
        assert!(!time.timed_out(), "nobody syncs");
        state.waiting.concat()
    }

    fn open(&self, fails: bool) {
        let mut state = self.state();
        (state.shut, state.fails) = (false, fails);
        self.changed.notify_all();
    }
}

struct Gated<T>(T, Arc<Gate>);

impl Disk for Gated<Directory> {
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
        let (jobs, queue) = mpsc::channel(QUEUE);
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
        in_time(running).await.expect("it runs");
        task
    }

    /// The first group is on its way to the disk, what comes second waits behind it.
    async fn two_groups(
        &self,
        second: impl FnOnce(&mut Turn<'_>) + Send + 'static,
    ) -> (Task<Answered>, Task<Answered>) {
        self.gate.state().shut = true;
        let first = self.run(|turn| create_many(turn, "first")).await;
        assert_eq!(self.gate.wait_for_one(), "halfmq-journal");
        let second = self.run(second).await;
        assert!(!first.is_finished() && !second.is_finished(), "nothing is durable yet");
        (first, second)
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("nobody waits for ever")
}

/// What a call is answered in the end.
async fn answer(task: Task<Answered>) -> Answered {
    in_time(task).await.expect("no verb panics")
}

fn create(turn: &mut Turn<'_>, topic: &str) {
    let (_, ledger, log) = turn.parts();
    let created = ledger.create_topic(&topic.parse().expect("a legal name"), 1, log);
    created.expect("a legal topic");
}

/// More than the writer keeps for itself.
fn create_many(turn: &mut Turn<'_>, topic: &str) {
    (0..2_000).for_each(|number| create(turn, &format!("{topic}-{number}")));
}

/// As many bytes as one group takes.
fn create_a_full_group(turn: &mut Turn<'_>, topic: &str) {
    const NAME_BYTES: usize = 120;
    let padding = "x".repeat(NAME_BYTES);
    for number in 0..=GROUP_BYTES_MAX / NAME_BYTES as u64 {
        let name = format!("{topic}-{number}-{padding}");
        create(turn, name.get(..NAME_BYTES).expect("it is longer"));
    }
}

fn look(turn: &mut Turn<'_>) {
    let topics = turn.parts().1.topics();
    assert!(!topics.is_empty(), "the first ones are seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_group_behind_which_nobody_waits_is_not_handed_over() {
    for fails in [false, true] {
        let story = Story::begin();
        story.gate.state().shut = true;
        let small = story.run(|turn| create(turn, "small")).await;
        assert_eq!(story.gate.wait_for_one(), "halfmq-writer");
        assert!(!small.is_finished(), "nothing is durable yet");
        story.gate.open(fails);
        let failed = Unavailable::Failed("the disk failed".to_owned());
        assert_eq!(answer(small).await, if fails { Err(failed.clone()) } else { Ok(()) });
        assert_eq!(story.failed.get(), fails.then_some(&failed));
        story.gate.open(false);
        let next = in_time(on_writer(Some(story.jobs.clone()), Work::Look, |_| ())).await;
        assert_eq!(next.is_err(), fails, "what is in memory is not on disk");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_group_is_handed_over_only_where_calls_came_while_the_last_was_written() {
    let story = Story::begin();
    let (journal, writer) = ("halfmq-journal", "halfmq-writer");
    // Whoever calls first may be followed by many. Those who call meanwhile only look.
    let groups = [(journal, 0), (writer, 1), (writer, 2), (journal, 2), (journal, 0)];
    for (number, (thread, calls_meanwhile)) in groups.into_iter().enumerate() {
        story.gate.state().shut = true;
        let large = story.run(move |turn| create_many(turn, &format!("topic-{number}"))).await;
        assert_eq!(story.gate.wait_for_one(), thread, "group {number} of {groups:?}");
        for _ in 0..calls_meanwhile {
            let look = enqueue(Some(story.jobs.clone()), Work::Look, |_| Box::new(drop));
            in_time(look).await.expect("there is room");
        }
        story.gate.open(false);
        assert_eq!(answer(large).await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_taken_behind_a_group_that_was_full() {
    // Full of bytes: one that is handed over, and one that is not.
    let story = Story::begin();
    for number in 0..2 {
        let full = story.run(move |turn| create_a_full_group(turn, &format!("full-{number}"))).await;
        assert_eq!(answer(full).await, Ok(()));
    }
    assert_eq!(answer(story.run(look).await).await, Ok(()));
    // Full of calls: with the look behind the first as many as go into a group, and as many as wait.
    let story = Story::begin();
    let (first, _) = story.two_groups(look).await;
    for _ in 1..GROUP_CALLS_MAX + QUEUE {
        let look = enqueue(Some(story.jobs.clone()), Work::Look, |_| Box::new(drop));
        in_time(look).await.expect("the writer lives");
    }
    story.gate.open(false);
    assert_eq!(answer(first).await, Ok(()));
    assert_eq!(answer(story.run(look).await).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_taken_for_a_group_that_is_full() {
    let story = Story::begin();
    let (_, second) = story.two_groups(|turn| create_a_full_group(turn, "second")).await;
    let ran = Arc::new(AtomicBool::new(false));
    let third = {
        let ran = Arc::clone(&ran);
        on_writer(Some(story.jobs.clone()), Work::Look, move |_| ran.store(true, Ordering::SeqCst))
    };
    let third = tokio::spawn(third);
    // A writer that took it would have the time to.
    for _ in 0..1_000_000 {
        tokio::task::yield_now().await;
    }
    story.gate.open(true);
    assert!(answer(second).await.is_err() && answer(third).await.is_err());
    assert!(!ran.load(Ordering::SeqCst), "it ran before the disk had failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_group_is_made_while_one_is_synced() {
    let mut story = Story::begin();
    let (first, second) = story.two_groups(|turn| create(turn, "second")).await;
    story.gate.open(false);
    assert_eq!(answer(first).await, Ok(()));
    assert_eq!(answer(second).await, Ok(()));
    drop(story.jobs);
    in_time(story.stopped.wait_for(|stopped| *stopped)).await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_group_behind_one_that_failed_is_answered_as_durable() {
    let story = Story::begin();
    let (first, second) = story.two_groups(|turn| create(turn, "second")).await;
    story.gate.open(true);
    let failed = Unavailable::Failed("the disk failed".to_owned());
    assert_eq!(answer(first).await, Err(failed.clone()));
    assert_eq!(story.failed.get(), Some(&failed), "health knows it before anybody is answered");
    assert_eq!(answer(second).await, Err(failed.clone()));
    story.gate.open(false);
    let third = in_time(on_writer(Some(story.jobs.clone()), Work::Look, |_| ())).await;
    assert_eq!(third, Err(failed), "not even a look, for what is in memory is not on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_of_a_group_is_said_only_when_it_is_durable() {
    for fails in [false, true] {
        let story = Story::begin();
        let (_, second) = story.two_groups(look).await;
        story.gate.open(fails);
        assert_eq!(answer(second).await.is_err(), fails, "it saw what is not on disk");
    }
}

#[test]
fn a_group_that_stands_ready_is_written_behind_one_that_is_durable() {
    for fails in [false, true] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let gate = Arc::<Gate>::default();
        let files = Directory::new(directory.path().to_owned()).expect("a directory");
        let files = Arc::new(Gated(files, Arc::clone(&gate)));
        let (mut engine, _) = Engine::open(files, EngineOptions::default(), None).expect("it opens");
        let mut thread = super::Disk::start(Arc::default()).expect("a thread");
        gate.state().shut = true;
        create(&mut engine.turn(), "first");
        let sealed = engine.seal().expect("the disk is fine").expect("it wrote something");
        thread.write(Group { sealed, answers: Vec::new() });
        gate.wait_for_one();
        create(&mut engine.turn(), "second");
        let sealed = engine.seal_ahead().expect("it wrote something");
        thread.leave_ready(Group { sealed, answers: Vec::new() });
        gate.open(fails);
        let (first, written) = wait(&wait::waker(), |context| thread.poll(context));
        assert_eq!(written.is_err(), fails);
        assert_eq!(thread.is_busy(), !fails, "the thread goes on by itself, but not behind one that failed");
        assert_eq!(engine.settle(first, written).is_err(), fails);
        if fails {
            assert!(thread.take_back().is_some(), "it was not written");
        } else {
            let (second, written) = wait(&wait::waker(), |context| thread.poll(context));
            engine.settle(second, written).expect("the disk is fine");
            assert!(!thread.is_busy() && thread.take_back().is_none(), "there is no third one");
        }
        thread.stop();
    }
}
