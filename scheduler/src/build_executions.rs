//! Executions of the builds that this server walks, by its own Execution service.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_access::{AccessPolicy, Caller};
use bitzel_builds::{BuildExecutions, Owner};
use bitzel_graph::ExecutionCalls;
use bitzel_graph::remote_executions::OperationStream;
use bitzel_proto::reapi::execution_server::Execution as _;
use bitzel_proto::reapi::{ExecuteRequest, WaitExecutionRequest};
use tonic::{Request, Status};

use super::execution_service::ExecutionService;

/// Makes calls of the Execution service in this process.
pub(super) struct LocalExecutions(pub(super) ExecutionService);

impl BuildExecutions for LocalExecutions {
    fn calls(&self, owner: &Owner) -> Arc<dyn ExecutionCalls> {
        // The access layer would find these in the request of the owner.
        let caller = Caller {
            identity: Arc::new(owner.identity.clone()),
            policy: Arc::new(AccessPolicy {
                rules: vec![],
                anonymous: owner.permissions,
            }),
        };
        Arc::new(OwnersCalls {
            service: self.0.clone(),
            caller,
        })
    }
}

/// Calls in the name of the owner of a build. Its share of the slots and its permissions are those of the owner.
struct OwnersCalls {
    service: ExecutionService,
    caller: Caller,
}

impl OwnersCalls {
    fn of_owner<T>(&self, mut request: Request<T>) -> Request<T> {
        request.extensions_mut().insert(self.caller.clone());
        request
    }
}

#[async_trait]
impl ExecutionCalls for OwnersCalls {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<OperationStream, Status> {
        Ok(self.service.execute(self.of_owner(request)).await?.into_inner())
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<OperationStream, Status> {
        let response = self.service.wait_execution(self.of_owner(request)).await?;
        Ok(response.into_inner())
    }
}
