//! Farm service: the state of the farm for people.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitzel_access::{Pattern, Permission, authorize, permitted};
use bitzel_builds::BuildsService;
use bitzel_proto::InstanceName;
use bitzel_proto::farm::farm_server::{Farm, FarmServer};
use bitzel_proto::farm::{
    DrainWorkersRequest, DrainWorkersResponse, GetFarmRequest, GetFarmResponse, RunningAction, WaitingGroup,
    Worker,
};
use tonic::{Extensions, Request, Response, Status};

use super::dispatcher::Dispatcher;
use super::error::ExecutionError;
use super::operation_queue::{self as queue, QueuedAction};
use super::worker_identity::own_name;

/// Farm service: shows workers and Actions, and drains workers.
#[derive(Clone)]
pub struct FarmService {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) builds: BuildsService,
}

impl FarmService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> FarmServer<Self> {
        FarmServer::new(self)
    }
}

#[tonic::async_trait]
impl Farm for FarmService {
    async fn get_farm(&self, request: Request<GetFarmRequest>) -> Result<Response<GetFarmResponse>, Status> {
        let mut sight = Sight::new(request.extensions());
        let snapshot = self.dispatcher.snapshot();
        let workers = snapshot.workers.into_iter();
        let mut workers: Vec<_> = workers.map(|worker| sight.worker(worker)).collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        let waiting = snapshot.waiting.into_iter();
        let mut waiting: Vec<_> = waiting.map(|group| sight.group(&group)).collect();
        waiting.sort_by(|a, b| (b.actions, &a.user).cmp(&(a.actions, &b.user)));
        Ok(Response::new(GetFarmResponse {
            workers,
            waiting,
            waiting_actions: snapshot.waiting_actions as u64,
            builds: self.builds.running(request.extensions()),
        }))
    }

    async fn drain_workers(
        &self,
        request: Request<DrainWorkersRequest>,
    ) -> Result<Response<DrainWorkersResponse>, Status> {
        authorize(request.extensions(), Permission::Admin, &InstanceName::default())?;
        let name = request.into_inner().name;
        let pattern = Pattern::new(name.as_str());
        let names = self
            .dispatcher
            .drain_workers(|name| pattern.matches(name) || pattern.matches(own_name(name)));
        if names.is_empty() {
            return Err(ExecutionError::WorkerNotFound(name.chars().take(300).collect()).into());
        }
        tracing::info!(?names, "an operator drains workers");
        Ok(Response::new(DrainWorkersResponse {
            names: names.iter().map(|name| String::from(&**name)).collect(),
        }))
    }
}

/// What a caller may see: Actions of the instances on which it may execute.
struct Sight<'a> {
    extensions: &'a Extensions,
    instances: HashMap<InstanceName, bool>,
}

impl<'a> Sight<'a> {
    fn new(extensions: &'a Extensions) -> Self {
        Self {
            extensions,
            instances: HashMap::new(),
        }
    }

    fn sees(&mut self, action: &QueuedAction) -> bool {
        let instance = &action.key.instance;
        if let Some(seen) = self.instances.get(instance) {
            return *seen;
        }
        let granted = permitted(self.extensions, instance);
        let seen = granted.contains(Permission::Execute) || granted.contains(Permission::Admin);
        self.instances.insert(instance.clone(), seen);
        seen
    }

    fn worker(&mut self, worker: queue::WorkerSnapshot) -> Worker {
        let running = worker.running.into_iter();
        Worker {
            name: String::from(&*worker.name),
            pool: String::from(&*worker.pool),
            slots: u32::try_from(worker.slots).unwrap_or(u32::MAX),
            draining: worker.draining,
            paused_milliseconds: milliseconds(worker.paused),
            platform: Some((*worker.platform).clone()),
            running: running.map(|action| self.running(&action)).collect(),
        }
    }

    fn running(&mut self, running: &queue::RunningAction) -> RunningAction {
        let milliseconds = milliseconds(running.running);
        let Some(action) = &running.action else {
            return RunningAction {
                running_milliseconds: milliseconds,
                cancelled: true,
                ..RunningAction::default()
            };
        };
        if !self.sees(action) {
            return RunningAction {
                running_milliseconds: milliseconds,
                ..RunningAction::default()
            };
        }
        let metadata = action.request_metadata.clone().unwrap_or_default();
        RunningAction {
            instance_name: action.key.instance.as_str().to_owned(),
            action_digest: Some(action.key.digest.into()),
            user: String::from(&*action.requester.user),
            target: metadata.target_id,
            mnemonic: metadata.action_mnemonic,
            running_milliseconds: milliseconds,
            cancelled: false,
        }
    }

    fn group(&mut self, group: &queue::WaitingGroup) -> WaitingGroup {
        let is_seen = self.sees(&group.next);
        WaitingGroup {
            user: if is_seen {
                String::from(&*group.user)
            } else {
                String::new()
            },
            // Values such as a root or a project are the group's own.
            requirements: is_seen.then(|| group.requirements.to_platform()),
            actions: group.actions as u64,
            waited_milliseconds: milliseconds(group.waited),
            unserved: group.unserved,
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
