//! Wake-ups in bulk: whoever is woken finds all that was done, not the first piece of it.
//!
//! Those who wait often run at once, on the processor of whoever wakes them. Woken for the first of forty
//! calls, a thread would take that one, sleep, and be woken for the next: forty switches instead of one.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Wake, Waker};

thread_local! {
    /// What is to be woken when the work of this thread is done; `None` outside of any.
    static DEFERRED: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Does work whose deferrable wake-ups happen at its end.
pub(crate) fn in_bulk<T>(work: impl FnOnce() -> T) -> T {
    let outermost = DEFERRED.with_borrow_mut(|deferred| {
        let outermost = deferred.is_none();
        deferred.get_or_insert_default();
        outermost
    });
    let _woken_even_if_it_panics = outermost.then(|| WakeAll);
    work()
}

/// Wakes at once, or, during work in bulk, at its end.
#[must_use]
pub(crate) fn deferrable(waker: Waker) -> Waker {
    Waker::from(Arc::new(Deferrable(waker)))
}

struct WakeAll;

impl Drop for WakeAll {
    fn drop(&mut self) {
        let deferred = DEFERRED.with_borrow_mut(Option::take);
        deferred.into_iter().flatten().for_each(Waker::wake);
    }
}

struct Deferrable(Waker);

impl Wake for Deferrable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let at_once = DEFERRED.with_borrow_mut(|deferred| match deferred {
            Some(deferred) => {
                deferred.push(self.0.clone());
                false
            }
            None => true,
        });
        if at_once {
            self.0.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Count {
        fn so_far(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn sleeper() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (Arc::clone(&count), deferrable(Waker::from(count)))
    }

    #[test]
    fn outside_of_work_in_bulk_it_wakes_at_once() {
        let (woken, waker) = sleeper();
        waker.wake_by_ref();
        assert_eq!(woken.so_far(), 1);
        waker.wake();
        assert_eq!(woken.so_far(), 2);
    }

    #[test]
    fn wake_ups_happen_when_the_outermost_work_is_done() {
        let (woken, waker) = sleeper();
        in_bulk(|| {
            in_bulk(|| waker.wake_by_ref());
            assert_eq!(woken.so_far(), 0, "the outer work goes on");
            std::thread::scope(|threads| threads.spawn(|| waker.wake_by_ref()).join().expect("it ends"));
            assert_eq!(woken.so_far(), 1, "other threads have nothing to do with it");
        });
        assert_eq!(woken.so_far(), 2);
        waker.wake();
        assert_eq!(woken.so_far(), 3, "and it is over");
    }

    #[test]
    fn nobody_sleeps_for_ever_because_of_a_panic() {
        let (woken, waker) = sleeper();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            in_bulk(|| {
                waker.wake_by_ref();
                panic!("as the story wants it");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(woken.so_far(), 1);
    }
}
