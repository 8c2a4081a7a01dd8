//! Reader of Actions for the operation queue.

use std::time::Duration;

use bitzel_access::Permission;
use bitzel_cas::blob_store::{one_chunk, read_whole};
use bitzel_cas::{InstanceBlobStores, Lease};
use bitzel_proto::google::protobuf;
use bitzel_proto::message_memory::decode_message;
use bitzel_proto::platform_property::{RootFileSystem, root_file_system};
use bitzel_proto::reapi::{Action, Command, Platform};
use bitzel_proto::{Digest, InstanceName};
use prost::{Message, Name};

use super::error::ExecutionError;
use super::execution_config::{PlatformMapping, ResourceConfig};
use super::input_leases::TenantInputLeases;
use super::operation_queue::ActionKey;
use super::platform::{RequiredProperties, check_platform, needed_permissions};
use super::resources::Resources;

/// Maximum sizes of an Action and of a Command in bytes: far more than valid ones have. An Action is two digests and some
/// properties.
const MAX_ACTION_BYTES: u64 = 1 << 20;
const MAX_COMMAND_BYTES: u64 = 16 << 20;

/// Properties of an Action that the queue needs.
#[derive(Debug)]
pub(super) struct ActionSummary {
    pub(super) do_not_cache: bool,
    pub(super) requirements: RequiredProperties,
    /// Resources that it states.
    pub(super) resources: Resources,
    /// Permissions that the client needs, beside that to execute.
    pub(super) permissions: Vec<Permission>,
    /// Lease of Action, Command, input root and image root.
    pub(super) inputs: Lease,
}

/// Reader of Actions that checks if they can run.
pub(super) struct ActionReader {
    pub(super) blob_stores: InstanceBlobStores,
    pub(super) input_leases: TenantInputLeases,
    pub(super) max_action_timeout: Duration,
    pub(super) platform_mappings: Vec<PlatformMapping>,
    pub(super) resource_config: ResourceConfig,
}

impl ActionReader {
    /// Reads the Action alone, to decide if the action cache may be used.
    pub(super) async fn read_action(&self, key: &ActionKey) -> Result<Action, ExecutionError> {
        self.read_message(
            "Action",
            "reading the Action",
            &key.instance,
            key.digest,
            MAX_ACTION_BYTES,
        )
        .await
    }

    /// True if the platform of some Actions of the instance is mapped, so that the Action must be read first.
    pub(super) fn maps(&self, instance: &InstanceName) -> bool {
        self.platform_mappings
            .iter()
            .any(|mapping| mapping.is_for(instance))
    }

    /// Maps the platform of an Action. If that changes it, the result is another Action, which is stored.
    pub(super) async fn mapped(&self, key: &ActionKey) -> Result<ActionKey, ExecutionError> {
        let mut action = self.read_action(key).await?;
        let function = key.digest.function();
        let command = Digest::from_wire_field(function, action.command_digest.as_ref())
            .map_err(ExecutionError::invalid_digest("Action.command_digest"))?;
        let mut platform = self.platform(&action, &key.instance, command).await?;
        check_platform(&platform)?;
        let mut is_changed = false;
        for mapping in self
            .platform_mappings
            .iter()
            .filter(|mapping| mapping.is_for(&key.instance))
        {
            is_changed |= mapping.apply(&mut platform);
        }
        if !is_changed {
            return Ok(key.clone());
        }
        action.platform = Some(platform);
        let (digest, bytes) = Digest::of_message(function, &action);
        let store = self.blob_stores.store(&key.instance);
        store
            .write(digest, one_chunk(bytes.into()))
            .await
            .map_err(ExecutionError::store("storing the Action with another platform"))?;
        Ok(ActionKey {
            digest,
            ..key.clone()
        })
    }

    /// Leases the Action's inputs and checks that it can run: its timeout is allowed, and its Command, input root and image
    /// root exist. The rest of both roots is checked by the worker, which has to read it anyway, unless tenants share the workers:
    /// then each of its blobs must be the tenant's, because a worker may have a blob of another tenant in its caches.
    pub(super) async fn check(
        &self,
        key: &ActionKey,
        action: &Action,
    ) -> Result<ActionSummary, ExecutionError> {
        let ActionKey { instance, digest } = key;
        self.check_timeout(action.timeout.as_ref())?;
        let function = digest.function();
        let command = Digest::from_wire_field(function, action.command_digest.as_ref())
            .map_err(ExecutionError::invalid_digest("Action.command_digest"))?;
        let input_root = Digest::from_wire_field(function, action.input_root_digest.as_ref())
            .map_err(ExecutionError::invalid_digest("Action.input_root_digest"))?;
        // The lease comes before the search, so that blobs that are found are not evicted.
        let leases = self.input_leases.of(instance);
        let mut inputs = leases.lease(*digest, command, input_root).await?;
        self.require(instance, &[command, input_root]).await?;
        let mut platform = self.platform(action, instance, command).await?;
        check_platform(&platform)?;
        let resources = Resources::stated(&platform, &self.resource_config)?;
        // They say how much, not which worker.
        platform
            .properties
            .retain(|property| !self.resource_config.is_property(&property.name));
        // The worker refuses a property that is no digest.
        if let Ok(RootFileSystem::Image(root)) = root_file_system(&platform, function) {
            inputs = inputs.and(leases.lease(*digest, command, root).await?);
            self.require(instance, &[root]).await?;
        }
        Ok(ActionSummary {
            do_not_cache: action.do_not_cache,
            requirements: RequiredProperties::new(&platform),
            resources,
            permissions: needed_permissions(&platform),
            inputs,
        })
    }

    /// Checks that blobs are in the store of an instance.
    async fn require(&self, instance: &InstanceName, digests: &[Digest]) -> Result<(), ExecutionError> {
        let missing = self.blob_stores.store(instance).find_missing(digests).await;
        let missing = missing.map_err(ExecutionError::store("searching the Action's inputs"))?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(ExecutionError::MissingBlobs(missing))
        }
    }

    /// Reads the platform. Since version 2.2 that of the Action is preferred; older clients set only that of the Command.
    async fn platform(
        &self,
        action: &Action,
        instance: &InstanceName,
        command: Digest,
    ) -> Result<Platform, ExecutionError> {
        if let Some(platform) = &action.platform {
            return Ok(platform.clone());
        }
        let command: Command = self
            .read_message(
                "Command",
                "reading the Command",
                instance,
                command,
                MAX_COMMAND_BYTES,
            )
            .await?;
        #[expect(deprecated, reason = "clients older than version 2.2 set it")]
        Ok(command.platform.unwrap_or_default())
    }

    fn check_timeout(&self, timeout: Option<&protobuf::Duration>) -> Result<(), ExecutionError> {
        let Some(timeout) = timeout else {
            return Ok(());
        };
        let seconds = u64::try_from(timeout.seconds).ok();
        let nanos = u32::try_from(timeout.nanos)
            .ok()
            .filter(|nanos| *nanos < 1_000_000_000);
        let duration = seconds
            .zip(nanos)
            .map(|(seconds, nanos)| Duration::new(seconds, nanos));
        if duration.is_some_and(|duration| duration <= self.max_action_timeout) {
            return Ok(());
        }
        Err(ExecutionError::Timeout {
            requested: format!("{} s", timeout.seconds),
            maximum: self.max_action_timeout,
        })
    }

    async fn read_message<M: Message + Name + Default>(
        &self,
        message: &'static str,
        context: &'static str,
        instance: &InstanceName,
        digest: Digest,
        limit: u64,
    ) -> Result<M, ExecutionError> {
        if digest.size_bytes() > limit {
            return Err(ExecutionError::MessageTooLarge {
                message,
                digest,
                limit,
            });
        }
        let _turn = self.input_leases.begin_message(digest.size_bytes()).await;
        let bytes = read_whole(&*self.blob_stores.store(instance), digest).await;
        let bytes = bytes.map_err(ExecutionError::store(context))?;
        decode_message::<M>(&bytes).map_err(|source| ExecutionError::MalformedMessage {
            message,
            digest,
            source,
        })
    }
}

#[cfg(test)]
mod tests;
