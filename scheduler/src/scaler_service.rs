//! External scaler for KEDA: the number of workers that a pool should have.
//!
//! KEDA asks for a value and a target, and gives the pool `value / target` workers, rounded up, within the bounds of the
//! `ScaledObject`. The value is the number of slots that running and waiting Actions need, the target the number of slots
//! of one worker.

use std::collections::HashMap;
use std::sync::Arc;

use bitzel_proto::keda::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use bitzel_proto::keda::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::dispatcher::Dispatcher;
use super::operation_queue::PoolDemand;

/// Name of the only metric.
const METRIC: &str = "bitzel-wanted-slots";
/// Maximum of the numbers in a trigger's metadata.
const MAX_NUMBER: u32 = 1_000_000;

/// External scaler. It belongs on the admin port: KEDA sends no credentials of ours.
#[derive(Clone)]
pub struct ScalerService {
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl ScalerService {
    /// Creates the gRPC service.
    pub fn into_server(self) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(self)
    }

    fn wanted_slots(&self, trigger: &Trigger) -> u64 {
        trigger.wanted_slots(&self.dispatcher.pool_demand(&trigger.pool))
    }
}

/// Metadata of a trigger of type `external`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trigger {
    /// Name of the pool, as its workers have it by `--pool`.
    pub(super) pool: String,
    /// Slots of one worker.
    pub(super) jobs: u32,
    /// Workers to keep idle, so that a burst of Actions does not wait for pods.
    pub(super) idle: u32,
}

impl Trigger {
    fn read(metadata: &HashMap<String, String>) -> Result<Self, Status> {
        let invalid = |name: &str, problem: &str| {
            Status::invalid_argument(format!("metadata.{name} of the trigger {problem}"))
        };
        let number = |name: &str, minimum: u32| match metadata.get(name) {
            None if minimum == 0 => Ok(0),
            None => Err(invalid(name, "is missing")),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| (minimum..=MAX_NUMBER).contains(number))
                .ok_or_else(|| invalid(name, &format!("is not a number from {minimum} to {MAX_NUMBER}"))),
        };
        let pool = metadata.get("pool").filter(|pool| !pool.is_empty());
        Ok(Self {
            pool: pool.cloned().ok_or_else(|| invalid("pool", "is missing"))?,
            jobs: number("jobs", 1)?,
            idle: number("idle", 0)?,
        })
    }

    /// Slots that the pool should have.
    pub(super) fn wanted_slots(&self, demand: &PoolDemand) -> u64 {
        let jobs = u64::from(self.jobs);
        let waiting = demand.waiting as u64;
        // One worker has to come first, and tell what it offers.
        let waiting = if demand.known { waiting } else { waiting.min(jobs) };
        demand.running as u64 + waiting + u64::from(self.idle) * jobs
    }
}

/// The metric of a pool, which does not depend on the queue.
pub(super) fn metric_spec(object: &ScaledObjectRef) -> Result<Response<GetMetricSpecResponse>, Status> {
    let trigger = Trigger::read(&object.scaler_metadata)?;
    let spec = MetricSpec {
        metric_name: METRIC.to_owned(),
        target_size: trigger.jobs.into(),
        target_size_float: trigger.jobs.into(),
    };
    Ok(Response::new(GetMetricSpecResponse {
        metric_specs: vec![spec],
    }))
}

/// Refusal of a stream of answers.
pub(super) fn no_stream() -> Status {
    Status::unimplemented(
        "use a trigger of type external, not external-push: KEDA then asks at its polling interval",
    )
}

#[tonic::async_trait]
impl ExternalScaler for ScalerService {
    type StreamIsActiveStream = BoxStream<'static, Result<IsActiveResponse, Status>>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let trigger = Trigger::read(&request.into_inner().scaler_metadata)?;
        let result = self.wanted_slots(&trigger) > 0;
        Ok(Response::new(IsActiveResponse { result }))
    }

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(no_stream())
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        metric_spec(&request.into_inner())
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let object = request.into_inner().scaled_object_ref.unwrap_or_default();
        let wanted = self.wanted_slots(&Trigger::read(&object.scaler_metadata)?);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: i64::try_from(wanted).unwrap_or(i64::MAX),
            metric_value_float: wanted as f64,
        };
        Ok(Response::new(GetMetricsResponse {
            metric_values: vec![value],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(metadata: &[(&str, &str)]) -> Result<Trigger, String> {
        let metadata = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Trigger::read(&metadata.collect()).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn mistakes_in_the_metadata_are_named() {
        let missing = |name| Err(format!("metadata.{name} of the trigger is missing"));
        assert_eq!(read(&[("jobs", "4")]), missing("pool"));
        assert_eq!(read(&[("pool", "p")]), missing("jobs"));
        for jobs in ["0", "many", "-1", "1000001"] {
            let message = read(&[("pool", "p"), ("jobs", jobs)]).unwrap_err();
            assert_eq!(
                message,
                "metadata.jobs of the trigger is not a number from 1 to 1000000"
            );
        }
    }

    #[test]
    fn slots_are_wanted_for_what_runs_waits_and_may_come() {
        let trigger = read(&[("pool", "p"), ("jobs", "4"), ("idle", "2")]).unwrap();
        let demand = PoolDemand {
            known: true,
            running: 3,
            waiting: 100,
            ..PoolDemand::default()
        };
        assert_eq!(trigger.wanted_slots(&demand), 3 + 100 + 8);
        let unknown = PoolDemand {
            waiting: 100,
            ..PoolDemand::default()
        };
        assert_eq!(
            trigger.wanted_slots(&unknown),
            4 + 8,
            "one worker, and the idle ones"
        );
    }
}
