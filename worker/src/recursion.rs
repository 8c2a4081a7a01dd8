//! Recursion over trees that somebody else made.

/// What one level takes at most, with all that it calls in between: rayon's part is the largest.
const LEVEL_BYTES: usize = 128 << 10;
/// A further piece of stack.
const PIECE_BYTES: usize = 1 << 20;

/// Runs one level of a recursion, on a new piece of stack when this thread has little left. Trees of the depth that we
/// allow do not fit otherwise, and rayon puts further ones on top: a thread that waits for its part of one tree works
/// at another.
pub(crate) fn level<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(LEVEL_BYTES, PIECE_BYTES, work)
}
