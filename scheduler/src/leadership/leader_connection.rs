//! Connection to the server that leads.

use bitzel_access::Caller;
use bitzel_proto::scheduling_hint::{INPUT_TREES, REMAINING_PATH};
use bitzel_rpc::endpoint::{self, Channel, ClientCredentials};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Extensions, Request, Status};

use super::forwarded_identity::ForwardedIdentities;

/// Mark of a forwarded call. A server that does not lead refuses one, so that calls never go in circles.
const FORWARDED: &str = "bitzel-forwarded";
/// Metadata of a call that the leader needs: who builds what, and the trace.
const KEPT_METADATA: [&str; 5] = [
    INPUT_TREES,
    REMAINING_PATH,
    "build.bazel.remote.execution.v2.requestmetadata-bin",
    "traceparent",
    "tracestate",
];

/// Connection to another server that leads.
#[derive(Debug)]
pub(super) struct LeaderConnection {
    epoch: i64,
    address: String,
    credentials: ClientCredentials,
    channel: OnceCell<Channel>,
    left: CancellationToken,
}

impl LeaderConnection {
    pub(super) fn new(epoch: i64, address: String, credentials: ClientCredentials) -> Self {
        Self {
            epoch,
            address,
            credentials,
            channel: OnceCell::new(),
            left: CancellationToken::new(),
        }
    }

    /// Fencing number of the leader.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Connects at the first call.
    pub(super) async fn channel(&self) -> Result<Channel, Status> {
        let connecting = || endpoint::connect_with(&self.address, &self.credentials);
        let channel = self.channel.get_or_try_init(connecting).await.map_err(|error| {
            let error = bitzel_proto::with_causes(&error);
            Status::unavailable(format!(
                "the scheduler that leads, {}, cannot be reached: {error}",
                self.address
            ))
        })?;
        Ok(channel.clone())
    }

    /// Token that is cancelled when the server does not lead any more.
    pub(super) fn left(&self) -> &CancellationToken {
        &self.left
    }

    /// Waits for the answer to a call as long as the server leads: the machine of a lost one may never answer.
    pub(super) async fn answer<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.left.cancelled() => Err(left_status()),
            answer = call => answer,
        }
    }

    /// Request in the name of the caller of another one.
    pub(super) fn request<T>(
        &self,
        message: T,
        metadata: &MetadataMap,
        extensions: &Extensions,
        identities: &ForwardedIdentities,
    ) -> Request<T> {
        let mut headers = http::HeaderMap::new();
        for name in KEPT_METADATA {
            if let Some(value) = metadata.as_ref().get(name) {
                headers.insert(name, value.clone());
            }
        }
        let mut request = Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        request
            .metadata_mut()
            .insert(FORWARDED, AsciiMetadataValue::from_static("yes"));
        let caller = extensions.get::<Caller>();
        let proof = caller.and_then(|caller| identities.authorization(&caller.identity, self.epoch));
        if let Some(proof) = proof.and_then(|proof| proof.parse::<AsciiMetadataValue>().ok()) {
            request.metadata_mut().insert("authorization", proof);
        }
        request
    }
}

/// Status of a call to a server that does not lead any more.
pub(super) fn left_status() -> Status {
    Status::unavailable("another scheduler leads now; try again")
}

/// True if another server has forwarded the call.
pub(super) fn is_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED)
}
