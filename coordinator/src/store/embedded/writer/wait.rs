//! How a thread waits for what another one sends it.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// Looks so many times before it sleeps, some 20 microseconds. What is waited for is often there by then, and to
/// be woken from sleep takes as long.
const LOOKS: u32 = 32;

/// Sleeps until there is something; `waker` wakes this thread.
pub(super) fn wait<T>(waker: &Waker, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
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

/// Wakes the thread that calls this.
pub(super) fn waker() -> Waker {
    Waker::from(Arc::new(Unpark(std::thread::current())))
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
