//! Context of a service call.

use bitzel_access::{Permission, authorize_any};
use bitzel_proto::asset::{FetchBlobRequest, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest};
use bitzel_proto::reapi::{
    self, BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest, GetActionResultRequest,
    GetChunkMappingRequest, GetTreeRequest, RegisterChunkMappingRequest, SpliceBlobRequest, SplitBlobRequest,
    UpdateActionResultRequest,
};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use http::Extensions;
use tonic::{Request, Status};

use super::{digest, digest_function, instance_name};

/// Message that names an instance and a digest function.
pub(super) trait InstanceMessage {
    fn instance_name(&self) -> &str;
    fn digest_function(&self) -> i32;
}

macro_rules! instance_messages {
    ($($message:ty),* $(,)?) => {$(
        impl InstanceMessage for $message {
            fn instance_name(&self) -> &str {
                &self.instance_name
            }

            fn digest_function(&self) -> i32 {
                self.digest_function
            }
        }
    )*};
}

instance_messages![
    BatchReadBlobsRequest,
    BatchUpdateBlobsRequest,
    FetchBlobRequest,
    FetchDirectoryRequest,
    FindMissingBlobsRequest,
    GetActionResultRequest,
    GetChunkMappingRequest,
    GetTreeRequest,
    PushBlobRequest,
    PushDirectoryRequest,
    RegisterChunkMappingRequest,
    SpliceBlobRequest,
    SplitBlobRequest,
    UpdateActionResultRequest,
];

/// Instance and digest function of a call whose caller is authorised.
pub(super) struct RequestContext {
    pub(super) instance: InstanceName,
    pub(super) function: DigestFunction,
    /// Extensions of a request with one message.
    pub(super) extensions: Extensions,
}

impl RequestContext {
    /// Authorises a call and takes its message out. One of `permissions` is enough.
    pub(super) fn authorize<M: InstanceMessage>(
        request: Request<M>,
        permissions: &[Permission],
    ) -> Result<(Self, M), Status> {
        let (_, extensions, message) = request.into_parts();
        let mut context = Self::authorize_message(&extensions, &message, permissions)?;
        context.extensions = extensions;
        Ok((context, message))
    }

    /// Authorises a call by `message`, the first one of a stream.
    pub(super) fn authorize_message(
        extensions: &Extensions,
        message: &impl InstanceMessage,
        permissions: &[Permission],
    ) -> Result<Self, Status> {
        let instance = instance_name(message.instance_name())?;
        authorize_any(extensions, permissions, &instance)?;
        let function = digest_function(message.digest_function())?;
        Ok(Self {
            instance,
            function,
            extensions: Extensions::new(),
        })
    }

    /// Reads the digest in the field `field`.
    pub(super) fn digest(&self, value: Option<&reapi::Digest>, field: &str) -> Result<Digest, Status> {
        digest(self.function, value, field)
    }
}
