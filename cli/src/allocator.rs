//! Settings of the C library's allocator.

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
