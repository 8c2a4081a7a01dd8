//! Builds service of a server in a group: the leader walks all builds.

use bitzel_builds::BuildsService;
use bitzel_proto::builds::builds_client::BuildsClient;
use bitzel_proto::builds::builds_server::{Builds, BuildsServer};
use bitzel_proto::builds::{
    AttachBuildRequest, AttachBuildResponse, CancelBuildRequest, CancelBuildResponse, ListBuildsRequest,
    ListBuildsResponse, StartBuildRequest, StartBuildResponse,
};
use bitzel_rpc::endpoint::Channel;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::leadership::router::{
    Destination, MAX_LEADER_WAIT, Router, answer, not_leading, passed_on, while_following,
};
use crate::worker_queue_service::MAX_MESSAGE_BYTES;

/// Builds service of a server in a group.
#[derive(Clone)]
pub struct GroupBuildsService {
    pub(in crate::leadership) router: Router,
}

type Answer<T> = BoxFuture<'static, Result<Response<T>, Status>>;
type AttachStream = BoxStream<'static, Result<AttachBuildResponse, Status>>;

impl GroupBuildsService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> BuildsServer<Self> {
        BuildsServer::new(self)
    }

    /// Answers a call by this server, or by the leader. Clients repeat a call whose leader is gone: a new leader has to
    /// read the journal first, and a build that was handed over has its identifier.
    async fn follow<T, Own: Send>(
        &self,
        request: Request<T>,
        own: impl FnOnce(BuildsService, Request<T>) -> Answer<Own> + Send,
        forward: impl FnOnce(BuildsClient<Channel>, Request<T>) -> Answer<Own> + Send,
    ) -> Result<Response<Own>, Status>
    where
        T: Send,
    {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        match self.router.destination(request.metadata(), deadline).await? {
            Destination::Own(reign) => {
                let response = own(reign.builds.clone(), request).await;
                // That it does not know a build says nothing about the new leader.
                if reign.tenure.is_valid() {
                    response
                } else {
                    Err(not_leading())
                }
            }
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, message) = request.into_parts();
                let request = leader.request(message, &metadata, &extensions, &self.router.identities);
                let answer = leader.answer(forward(client(channel), request)).await;
                answer.map_err(passed_on)
            }
        }
    }
}

#[tonic::async_trait]
impl Builds for GroupBuildsService {
    type AttachBuildStream = AttachStream;

    async fn start_build(
        &self,
        request: Request<StartBuildRequest>,
    ) -> Result<Response<StartBuildResponse>, Status> {
        self.follow(
            request,
            |own, request| async move { own.start_build(request).await }.boxed(),
            |mut leader, request| async move { leader.start_build(request).await }.boxed(),
        )
        .await
    }

    async fn attach_build(
        &self,
        request: Request<AttachBuildRequest>,
    ) -> Result<Response<AttachStream>, Status> {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        match self.router.destination(request.metadata(), deadline).await? {
            Destination::Own(reign) => {
                let response = reign.builds.attach_build(request).await;
                answer(reign, response).unwrap_or_else(|| Err(not_leading()))
            }
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, message) = request.into_parts();
                let request = leader.request(message, &metadata, &extensions, &self.router.identities);
                let attached = leader.answer(client(channel).attach_build(request)).await;
                let attached = attached.map_err(passed_on)?;
                Ok(attached.map(|responses| while_following(&leader, responses)))
            }
        }
    }

    async fn cancel_build(
        &self,
        request: Request<CancelBuildRequest>,
    ) -> Result<Response<CancelBuildResponse>, Status> {
        self.follow(
            request,
            |own, request| async move { own.cancel_build(request).await }.boxed(),
            |mut leader, request| async move { leader.cancel_build(request).await }.boxed(),
        )
        .await
    }

    async fn list_builds(
        &self,
        request: Request<ListBuildsRequest>,
    ) -> Result<Response<ListBuildsResponse>, Status> {
        self.follow(
            request,
            |own, request| async move { own.list_builds(request).await }.boxed(),
            |mut leader, request| async move { leader.list_builds(request).await }.boxed(),
        )
        .await
    }
}

fn client(channel: Channel) -> BuildsClient<Channel> {
    BuildsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
