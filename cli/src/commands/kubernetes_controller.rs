//! `bitzel kubernetes-controller`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use axum::Router;
use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_proto::farm::{GetFarmRequest, GetFarmResponse};
use bitzel_rpc::endpoint::{Channel, ClientCredentials};
use bitzel_scheduler::deletion_costs::{DeletionCosts, IDLE_COST, LIGHT_COST, WorkerLoad};
use bitzel_scheduler::{Clock as _, SystemClock};
use metrics::counter;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::AdminListener;
use crate::arguments::KubernetesControllerArguments;
use crate::command_error::CommandError;
use crate::connection::connect;
use crate::interrupt;
use crate::kubernetes::KubernetesPods;
use crate::readiness::Readiness;
use crate::status_hint::with_status_hint;

/// Maximum size of the farm's state: some thousand workers with what they run.
const MAX_STATE_BYTES: usize = 64 << 20;

/// Marks pods until interrupted. It needs nothing to be there at the start: it tries again until the scheduler and the API
/// server answer.
pub(crate) async fn run(arguments: KubernetesControllerArguments) -> Result<ExitCode, CommandError> {
    let Some(server) = arguments.farm.remote else {
        return Err(CommandError::new("no server is named")
            .hint("give --remote grpc://host:port, or set BITZEL_REMOTE"));
    };
    let mut controller = Controller {
        server,
        credentials: arguments.farm.credentials.credentials()?,
        farm: None,
        pods: KubernetesPods::open(&arguments.api)?,
        selector: arguments.selector,
        costs: DeletionCosts::new(arguments.idle_time),
        clock: SystemClock::default(),
    };
    let (problem, problems) = watch::channel(Some("it has not looked at the farm yet".to_owned()));
    let _admin = match arguments.admin {
        Some(address) => {
            let admin = AdminListener::bind(address).await?;
            writeln!(io::stdout(), "metrics are on http://{}/metrics", admin.address()?)?;
            let readiness = Readiness::until(CancellationToken::new()).without(problems);
            let serving = admin.serve(vec![], readiness, Router::new());
            Some(AbortOnDropHandle::new(tokio::spawn(serving)))
        }
        None => None,
    };
    let mut ticks = tokio::time::interval(arguments.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rounds = async {
        loop {
            ticks.tick().await;
            let found = controller.round().await.err().map(|error| error.to_string());
            let outcome = if found.is_none() { "succeeded" } else { "failed" };
            counter!("bitzel_controller_rounds_total", "outcome" => outcome).increment(1);
            if let Some(error) = found
                .as_ref()
                .filter(|found| problem.borrow().as_ref() != Some(found))
            {
                tracing::error!(%error, "cannot mark the pods; they keep their costs");
            }
            problem.send_replace(found);
        }
    };
    tokio::select! {
        () = rounds => {}
        () = interrupt::interrupted() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Controller that brings the pods' costs in line with what their workers do.
struct Controller {
    server: String,
    credentials: ClientCredentials,
    /// Client, once the server was reached. It connects again by itself.
    farm: Option<FarmClient<Channel>>,
    pods: KubernetesPods,
    selector: String,
    costs: DeletionCosts,
    clock: SystemClock,
}

impl Controller {
    /// One look at the farm, and the writes that follow from it.
    async fn round(&mut self) -> Result<(), CommandError> {
        // First the pods, so that the state of the workers is as new as it can be when it is written.
        let pods = self.pods.list(&self.selector).await?;
        let workers: Vec<_> = self.farm().await?.workers.into_iter().map(load).collect();
        for mark in self.costs.marks(self.clock.now(), &pods, &workers) {
            self.pods.set_cost(&mark).await?;
            let state = match mark.cost {
                IDLE_COST => "idle",
                LIGHT_COST => "light",
                _ => "busy",
            };
            counter!("bitzel_controller_marks_total", "state" => state).increment(1);
            tracing::info!(pod = mark.pod, state, "marked");
        }
        Ok(())
    }

    async fn farm(&mut self) -> Result<GetFarmResponse, CommandError> {
        let farm = match &mut self.farm {
            Some(farm) => farm,
            None => {
                let channel = connect(&self.server, &self.credentials).await?;
                let farm = FarmClient::new(channel);
                self.farm.insert(farm.max_decoding_message_size(MAX_STATE_BYTES))
            }
        };
        let state = farm.get_farm(GetFarmRequest {}).await;
        Ok(state.map_err(with_status_hint)?.into_inner())
    }
}

fn load(worker: bitzel_proto::farm::Worker) -> WorkerLoad {
    WorkerLoad {
        running: worker.running.len(),
        slots: worker.slots as usize,
        name: worker.name,
        draining: worker.draining,
    }
}
