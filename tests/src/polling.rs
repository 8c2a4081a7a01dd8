//! Polling, for states of other programs that no event reports.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);

/// Longer than anything here takes; only a program that hangs reaches it.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Calls `probe` until it returns a value. Panics with `state`, the name of the awaited state, after the timeout.
///
/// For programs whose state no event reports: a foreign server that opens its port, a task's process in a sandbox. For
/// everything else wait for the event itself.
pub fn poll_until<T>(state: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            started.elapsed() < TIMEOUT,
            "{state}: not after {} s",
            TIMEOUT.as_secs()
        );
        std::thread::sleep(INTERVAL);
    }
}
