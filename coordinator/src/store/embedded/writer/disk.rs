//! How a group becomes durable: the writer makes it so itself, or leaves that to a thread and goes on.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::wait::{wait, waker};
use crate::clock::Clock;
use crate::store::Unavailable;
use crate::store::embedded::Answer;
use crate::store::embedded::engine::Sealed;
use crate::{telemetry, wakes};

/// A group that is to be written, and what is said when it is.
pub(super) struct Group {
    pub(super) sealed: Sealed,
    pub(super) answers: Vec<Answer>,
}

/// A group, and what became of it.
pub(super) type Written = (Sealed, io::Result<()>);

/// The group that comes next, if the writer has left one there.
#[derive(Clone, Default)]
struct Ready(Arc<Mutex<Option<Group>>>);

impl Ready {
    fn place(&self) -> MutexGuard<'_, Option<Group>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Makes it durable.
    pub(super) fn write(self, failed: &OnceLock<Unavailable>) -> (Written, Reply) {
        let Self { sealed, answers } = self;
        let (bytes, began) = (sealed.bytes(), Clock::stopwatch());
        let written = sealed.write();
        let durable = match &written {
            Ok(()) => {
                telemetry::journal_synced(answers.len(), bytes, began.elapsed());
                Ok(())
            }
            Err(error) => Err(failed.get_or_init(|| Unavailable::Failed(error.to_string())).clone()),
        };
        ((sealed, written), Reply { answers, durable })
    }
}

/// What those who wait for a group are to be told.
pub(super) struct Reply {
    answers: Vec<Answer>,
    durable: Result<(), Unavailable>,
}

impl Reply {
    pub(super) fn tell(self) {
        wakes::in_bulk(|| self.answers.into_iter().for_each(|answer| answer(self.durable.clone())));
    }
}

/// The thread that makes groups durable, as the writer sees it.
pub(super) struct Disk {
    groups: mpsc::UnboundedSender<Group>,
    /// With each whether the group that stood ready is on its way now.
    written: mpsc::UnboundedReceiver<(Written, bool)>,
    ready: Ready,
    /// A group is on its way.
    busy: bool,
    thread: JoinHandle<()>,
}

impl Disk {
    pub(super) fn start(failed: Arc<OnceLock<Unavailable>>) -> io::Result<Self> {
        let (groups, mut sealed) = mpsc::unbounded_channel::<Group>();
        let (done, written) = mpsc::unbounded_channel();
        let ready = Ready::default();
        let left_there = ready.clone();
        let run = move || {
            let waker = waker();
            let mut next = None;
            while let Some(group) = next.take().or_else(|| wait(&waker, |context| sealed.poll_recv(context)))
            {
                let (written, reply) = group.write(&failed);
                // Behind one that failed nothing is written.
                next = if written.1.is_ok() { left_there.place().take() } else { None };
                // The writer can go on while these are answered. Nobody waits any more: the store ends.
                drop(done.send((written, next.is_some())));
                reply.tell();
            }
        };
        let thread = std::thread::Builder::new().name("halfmq-journal".into()).spawn(run)?;
        Ok(Self { groups, written, ready, busy: false, thread })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands it over.
    pub(super) fn write(&mut self, group: Group) {
        self.busy = true;
        self.groups.send(group).expect(DISK_LIVES);
    }

    /// Leaves it there to be written as soon as the group before it is durable, so that the disk need not wait
    /// for the writer. None may stand there already.
    pub(super) fn leave_ready(&mut self, group: Group) {
        *self.ready.place() = Some(group);
    }

    /// What stands ready, if its time has not come yet.
    pub(super) fn take_back(&mut self) -> Option<Group> {
        self.ready.place().take()
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Written> {
        self.written.poll_recv(context).map(|written| self.heard(written.expect(DISK_LIVES)))
    }

    pub(super) fn take_written(&mut self) -> Option<Written> {
        self.written.try_recv().ok().map(|written| self.heard(written))
    }

    fn heard(&mut self, (written, goes_on): (Written, bool)) -> Written {
        self.busy = goes_on;
        written
    }

    /// Waits until everybody is answered.
    pub(super) fn stop(self) {
        drop(self.groups);
        drop(self.thread.join());
    }
}

/// If it does not, the writer must not go on either; whoever calls is told that the store stops.
const DISK_LIVES: &str = "the thread that makes groups durable ends after its writer";
