//! The C library's allocator, told what a server needs of it.

/// Lets threads share as many arenas as there are processors.
///
/// glibc makes eight for each processor, and what was freed in one is of no use to the others. The buffers of large
/// blobs pass through all threads, so each arena grew to hold its share of them: a quarter of a busy server's memory
/// (decision 0027). Other C libraries have no arenas. Has to come before the first other thread.
pub(crate) fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc;

        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(processors).unwrap_or(libc::c_int::MAX);
        #[expect(
            unsafe_code,
            reason = "std has no such call; it takes two numbers, and there is one thread yet"
        )]
        let understood = unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
        debug_assert_eq!(understood, 1, "glibc knows M_ARENA_MAX");
    }
}
