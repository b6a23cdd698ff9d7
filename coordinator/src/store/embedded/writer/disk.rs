//! How a group becomes durable: the writer makes it so itself, or leaves that to a thread and goes on.

use std::io;
use std::sync::{Arc, OnceLock};
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
    written: mpsc::UnboundedReceiver<Written>,
    /// A group is on its way.
    busy: bool,
    thread: JoinHandle<()>,
}

impl Disk {
    pub(super) fn start(failed: Arc<OnceLock<Unavailable>>) -> io::Result<Self> {
        let (groups, mut sealed) = mpsc::unbounded_channel::<Group>();
        let (done, written) = mpsc::unbounded_channel();
        let run = move || {
            let waker = waker();
            while let Some(group) = wait(&waker, |context| sealed.poll_recv(context)) {
                let (written, reply) = group.write(&failed);
                // The next group can come while these are answered. Nobody waits any more: the store ends.
                drop(done.send(written));
                reply.tell();
            }
        };
        let thread = std::thread::Builder::new().name("halfmq-journal".into()).spawn(run)?;
        Ok(Self { groups, written, busy: false, thread })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands it over.
    pub(super) fn write(&mut self, group: Group) {
        self.busy = true;
        self.groups.send(group).expect(DISK_LIVES);
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Written> {
        let written = self.written.poll_recv(context).map(|written| written.expect(DISK_LIVES));
        self.busy &= written.is_pending();
        written
    }

    pub(super) fn take_written(&mut self) -> Option<Written> {
        let written = self.written.try_recv().ok();
        self.busy &= written.is_none();
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
