//! Wall-clock times as [`Timestamp`] messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::google::protobuf::Timestamp;

/// Present time.
pub fn now() -> Timestamp {
    from_system_time(SystemTime::now())
}

/// Converts a wall-clock time; times before 1970 become 1970.
pub fn from_system_time(time: SystemTime) -> Timestamp {
    let elapsed = since_epoch(time);
    Timestamp {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(elapsed.subsec_nanos()).unwrap_or_default(),
    }
}

/// Unix time in nanoseconds; times before 1970 become 0.
pub fn unix_nanos(time: SystemTime) -> i64 {
    i64::try_from(since_epoch(time).as_nanos()).unwrap_or(i64::MAX)
}

/// The inverse of [`unix_nanos`].
pub fn from_unix_nanos(nanos: i64) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    Timestamp {
        seconds: nanos.div_euclid(SECOND),
        nanos: i32::try_from(nanos.rem_euclid(SECOND)).unwrap_or_default(),
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_and_messages_agree() {
        let time = UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(unix_nanos(time), 5_000_000_007);
        assert_eq!(from_unix_nanos(unix_nanos(time)), from_system_time(time));
    }

    #[test]
    fn times_before_1970_become_1970() {
        let time = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(from_system_time(time), Timestamp::default());
        assert_eq!(unix_nanos(time), 0);
    }
}
