//! Settings of the C library's allocator.

use std::time::Duration;

/// Limits the arenas of glibc to the number of processors. Must be called before the first other thread starts.
///
/// By default glibc creates up to eight arenas for each processor, and memory that was freed in one arena cannot be used in
/// another. The buffers of large blobs pass through all threads, so each arena grew to hold its share of them: a quarter of
/// a busy server's memory (decision 0027). Other C libraries have no arenas.
pub(crate) fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc;

        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(processors).unwrap_or(libc::c_int::MAX);
        #[expect(
            unsafe_code,
            reason = "std has no such call; it takes two numbers, and no other thread runs yet"
        )]
        let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
        debug_assert_eq!(accepted, 1, "glibc has M_ARENA_MAX");
    }
}

/// Interval of the looks at the memory of a server.
const TRIM_INTERVAL: Duration = Duration::from_secs(15);
/// Anonymous memory above the least so far that is worth a trim.
const TRIM_THRESHOLD_BYTES: u64 = 32 << 20;

/// Returns freed memory to the system again and again. glibc keeps what many responses have used at the same time, which
/// may be several times what the server uses otherwise. A trim takes some milliseconds, in which the other threads cannot
/// allocate, so there is none unless the memory has grown.
pub(crate) async fn return_freed_memory() {
    let mut least = u64::MAX;
    let mut interval = tokio::time::interval(TRIM_INTERVAL);
    loop {
        interval.tick().await;
        // Without /proc there is nothing to decide by.
        let Some(bytes) = anonymous_memory() else { return };
        least = least.min(bytes);
        if bytes > least.saturating_add(TRIM_THRESHOLD_BYTES) {
            // An error means that the runtime ends.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

/// Anonymous memory of this process, in bytes.
fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn trim() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(
            unsafe_code,
            reason = "std has no such call; it takes a number and locks what it needs"
        )]
        unsafe {
            nix::libc::malloc_trim(0);
        }
    }
}
