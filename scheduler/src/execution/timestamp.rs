//! Wall clock times on the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitzel_proto::google::protobuf::Timestamp;

/// Time since 1970; zero for anything earlier.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix time in nanoseconds.
pub(super) fn unix_nanos(time: SystemTime) -> i64 {
    i64::try_from(since_epoch(time).as_nanos()).unwrap_or(i64::MAX)
}

/// As the Remote Execution API writes it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let elapsed = since_epoch(time);
    Timestamp {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(elapsed.subsec_nanos()).unwrap_or_default(),
    }
}
