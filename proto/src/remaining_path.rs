//! Remaining path of an Action, from the client to the scheduler.
//!
//! It is metadata of the request and no part of the Action: the same Action has another remaining path in each build, and
//! its digest must not change with it. Any client may send it.

/// Name of the header. Its value is a number of milliseconds: the time that the build still takes at least from the start
/// of this Action on, with all that follows after it.
pub const REMAINING_PATH: &str = "bitzel-remaining-path-ms";
