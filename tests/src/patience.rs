//! Bounds of waiting. Nothing here waits for luck: a bound that is reached is a failed test.

use std::time::Duration;

/// How long anything may take before its test fails; generous, so that a slow machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Pause between two looks of [`eventually`].
const PAUSE: Duration = Duration::from_millis(20);

/// Waits for `work`, at most for [`PATIENCE`].
///
/// # Panics
/// If it takes longer.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}

/// Looks again and again until `look` finds something, at most for [`PATIENCE`].
///
/// # Panics
/// If it finds nothing in time.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut pauses = tokio::time::interval(PAUSE);
    within(what, async {
        loop {
            pauses.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    })
    .await
}
