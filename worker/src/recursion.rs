//! Recursion over trees whose depth others choose.

/// Most stack that one level takes, with everything that it calls in between. The part of rayon is the largest.
const STACK_BYTES_PER_LEVEL: usize = 128 << 10;
/// Size of a further segment of stack.
const STACK_SEGMENT_BYTES: usize = 1 << 20;

/// Runs one level of a recursion, on a new segment of stack if this thread has little left.
///
/// Trees of the allowed depth do not fit otherwise. Rayon puts further ones on top: a thread that waits for its part of
/// one tree works at another.
pub(crate) fn descend<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_BYTES_PER_LEVEL, STACK_SEGMENT_BYTES, work)
}
