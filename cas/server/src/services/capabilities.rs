//! `Capabilities`: features and limits of the server.

use bitzel_access::{Permission, PermissionSet, authorize_any, permitted};
use bitzel_proto::DigestFunction;
use bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE;
use bitzel_proto::reapi::capabilities_server::{Capabilities, CapabilitiesServer};
use bitzel_proto::reapi::symlink_absolute_path_strategy::Value as AbsoluteSymlinks;
use bitzel_proto::reapi::{
    ActionCacheUpdateCapabilities, CacheCapabilities, ExecutionCapabilities, GetCapabilitiesRequest,
    PriorityCapabilities, ServerCapabilities, compressor, priority_capabilities::PriorityRange,
};
use bitzel_proto::semver::SemVer;
use tonic::{Request, Response, Status};

use super::{Chunking, instance_name};

/// The `Capabilities` service. Its answer depends on the permissions of the caller, not on the instance.
#[derive(Debug, Clone, Default)]
pub struct CapabilitiesService {
    executes: bool,
    chunking: Chunking,
}

impl CapabilitiesService {
    /// Announces a cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces that the server executes Actions.
    #[must_use]
    pub fn with_execution(mut self) -> Self {
        self.executes = true;
        self
    }

    /// Sets the chunking that is announced: that of the [`super::ContentAddressableStorageService`].
    #[must_use]
    pub fn with_chunking(mut self, chunking: Chunking) -> Self {
        self.chunking = chunking;
        self
    }

    /// The service for a tonic router.
    pub fn into_server(self) -> CapabilitiesServer<Self> {
        CapabilitiesServer::new(self)
    }

    /// The capabilities for a caller with the permissions `granted`. Clients ask so that they need not try.
    pub(super) fn capabilities(&self, granted: PermissionSet) -> ServerCapabilities {
        let may = |permission| granted.contains(permission);
        let functions: Vec<i32> = DigestFunction::ALL.map(DigestFunction::to_wire).into();
        // Identity is understood everywhere and need not be listed.
        let compressors = vec![compressor::Value::Zstd.into()];
        let cache = CacheCapabilities {
            digest_functions: functions.clone(),
            action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                update_enabled: may(Permission::ActionCacheWrite),
            }),
            max_batch_total_size_bytes: i64::try_from(MAX_BATCH_TOTAL_SIZE).unwrap_or(i64::MAX),
            // Sysroots and work trees of BitBake hold absolute symlinks.
            symlink_absolute_path_strategy: AbsoluteSymlinks::Allowed.into(),
            supported_compressors: compressors.clone(),
            supported_batch_update_compressors: compressors,
            split_blob_support: true,
            splice_blob_support: true,
            fast_cdc_2020_params: Some(self.chunking.to_wire()),
            cache_priority_capabilities: Some(only_priority_zero()),
            ..CacheCapabilities::default()
        };
        let execution = ExecutionCapabilities {
            digest_function: DigestFunction::default().to_wire(),
            exec_enabled: true,
            execution_priority_capabilities: Some(all_priorities()),
            supported_node_properties: vec!["hardlink-group".into(), "mtime".into(), "unix_mode".into()],
            digest_functions: functions,
        };
        ServerCapabilities {
            cache_capabilities: Some(cache),
            execution_capabilities: (self.executes && may(Permission::Execute)).then_some(execution),
            deprecated_api_version: None,
            low_api_version: Some(version(2, 0)),
            high_api_version: Some(version(2, 13)),
        }
    }
}

#[tonic::async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let (_, extensions, request) = request.into_parts();
        let instance = instance_name(&request.instance_name)?;
        authorize_any(&extensions, &Permission::ALL, &instance)?;
        let granted = permitted(&extensions, &instance);
        Ok(Response::new(self.capabilities(granted)))
    }
}

fn version(major: i32, minor: i32) -> SemVer {
    SemVer {
        major,
        minor,
        ..SemVer::default()
    }
}

/// The queue accepts every priority; smaller ones run sooner.
fn all_priorities() -> PriorityCapabilities {
    priorities(i32::MIN, i32::MAX)
}

/// The least recently used blob is evicted first, whatever its priority.
fn only_priority_zero() -> PriorityCapabilities {
    priorities(0, 0)
}

fn priorities(min_priority: i32, max_priority: i32) -> PriorityCapabilities {
    PriorityCapabilities {
        priorities: vec![PriorityRange {
            min_priority,
            max_priority,
        }],
    }
}
