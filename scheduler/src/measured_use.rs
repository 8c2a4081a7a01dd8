//! Use of resources in a worker's response.

use std::time::Duration;

use bitzel_proto::google::protobuf::Timestamp;
use bitzel_proto::reapi::{ExecuteResponse, ExecutedActionMetadata};
use bitzel_proto::resource_usage;
use tonic::Code;

use super::operation_queue::MeasuredUse;
use super::resources::Resources;

/// Reads how much a successful Action used. `None` for others: they may have ended early.
pub(super) fn measured_use(response: &ExecuteResponse) -> Option<MeasuredUse> {
    let result = response.result.as_ref()?;
    let is_ok = response
        .status
        .as_ref()
        .is_none_or(|status| status.code == Code::Ok as i32);
    if !is_ok || result.exit_code != 0 {
        return None;
    }
    let metadata = result.execution_metadata.as_ref()?;
    let duration = duration(metadata)?;
    let usage = resource_usage::read(metadata).unwrap_or_default();
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
    Some(MeasuredUse {
        resources: Resources {
            memory_bytes: usage.peak_memory_bytes,
            // Microseconds in a millisecond are thousandths of processors.
            millicpus: usage.cpu_micros / milliseconds,
            disk_bytes: usage.disk_bytes,
        },
        duration,
    })
}

/// Bound of memory that an Action reached and was ended for.
pub(super) fn memory_bound(response: &ExecuteResponse) -> Option<u64> {
    let metadata = response.result.as_ref()?.execution_metadata.as_ref()?;
    let usage = resource_usage::read(metadata)?;
    (usage.memory_bound_bytes > 0).then_some(usage.memory_bound_bytes)
}

/// Time of the command.
fn duration(metadata: &ExecutedActionMetadata) -> Option<Duration> {
    let since_epoch = |time: &Timestamp| {
        let seconds = u64::try_from(time.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(time.nanos).ok()?))
    };
    let start = since_epoch(metadata.execution_start_timestamp.as_ref()?)?;
    let end = since_epoch(metadata.execution_completed_timestamp.as_ref()?)?;
    end.checked_sub(start)
}

#[cfg(test)]
mod tests {
    use bitzel_proto::google::protobuf::Any;
    use bitzel_proto::reapi::ActionResult;
    use bitzel_proto::worker::ResourceUsage;

    use super::*;

    fn response(usage: &ResourceUsage, exit_code: i32) -> ExecuteResponse {
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let mut metadata = ExecutedActionMetadata {
            execution_start_timestamp: time(100),
            execution_completed_timestamp: time(110),
            auxiliary_metadata: vec![Any::default()],
            ..ExecutedActionMetadata::default()
        };
        resource_usage::record(&mut metadata, usage);
        ExecuteResponse {
            result: Some(ActionResult {
                exit_code,
                execution_metadata: Some(metadata),
                ..ActionResult::default()
            }),
            ..ExecuteResponse::default()
        }
    }

    #[test]
    fn reads_the_use_of_a_success() {
        let usage = ResourceUsage {
            peak_memory_bytes: 5,
            cpu_micros: 25_000_000,
            disk_bytes: 7,
            memory_bound_bytes: 0,
        };
        let expected = MeasuredUse {
            resources: Resources {
                memory_bytes: 5,
                millicpus: 2500,
                disk_bytes: 7,
            },
            duration: Duration::from_secs(10),
        };
        assert_eq!(measured_use(&response(&usage, 0)), Some(expected));
        assert_eq!(measured_use(&response(&usage, 1)), None);
        assert_eq!(measured_use(&ExecuteResponse::default()), None);
        assert_eq!(memory_bound(&response(&usage, 0)), None);
    }

    #[test]
    fn reads_the_bound_that_was_reached() {
        let usage = ResourceUsage {
            memory_bound_bytes: 9,
            ..ResourceUsage::default()
        };
        assert_eq!(memory_bound(&response(&usage, 137)), Some(9));
    }
}
