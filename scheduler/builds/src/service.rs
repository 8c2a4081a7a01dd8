//! Builds service for clients.

use std::sync::Arc;
use std::time::SystemTime;

use bitzel_access::{Caller, Identity, Permission, authorize, permitted};
use bitzel_graph::plan::tree::DIGEST_FUNCTION;
use bitzel_proto::builds::builds_server::{Builds as BuildsApi, BuildsServer};
use bitzel_proto::builds::{
    AttachBuildRequest, AttachBuildResponse, AttachedBuild, Build, CancelBuildRequest, CancelBuildResponse,
    EarlierEvents, ListBuildsRequest, ListBuildsResponse, StartBuildRequest, StartBuildResponse, TaskName,
    attach_build_response, build,
};
use bitzel_proto::{Digest, InstanceName, timestamp};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status};
use uuid::Uuid;

use crate::build::{BuildId, BuildRequest, Ending, Owner};
use crate::builds::{BuildView, Builds, LiveBuild};
use crate::error::BuildsError;
use crate::event_log::{Entry, Position};
use crate::event_messages::{message_of_event, message_of_progress};

/// Entries of a log that are read at once.
const MAX_ENTRIES_PER_READ: usize = 8;
/// Messages to a client that it has not read. Few, for each can be as long as the end of a task's log, and an identity can
/// have many streams.
const MAX_UNREAD_MESSAGES: usize = 2;
/// Maximum number of targets that are kept, and of the bytes of each.
const MAX_TARGETS: usize = 32;
const MAX_TARGET_BYTES: usize = 256;

/// Builds service: takes builds over, and shows and ends them.
#[derive(Clone)]
pub struct BuildsService {
    builds: Arc<Builds>,
}

impl BuildsService {
    /// Creates the service.
    pub fn new(builds: Arc<Builds>) -> Self {
        Self { builds }
    }

    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> BuildsServer<Self> {
        BuildsServer::new(self)
    }

    /// Messages of the builds that run and that the caller sees, the newest first.
    pub fn running(&self, extensions: &Extensions) -> Vec<Build> {
        let builds = self.builds.list(|request| is_visible(extensions, request));
        let running = builds.into_iter().filter(|build| build.end.is_none());
        running.map(|build| message(extensions, build)).collect()
    }

    /// The build that a caller names, or the newest own one.
    fn named(&self, extensions: &Extensions, name: &str) -> Result<BuildId, BuildsError> {
        if !name.is_empty() {
            return self.builds.find(name, |request| is_visible(extensions, request));
        }
        let own = self
            .builds
            .list(|request| is_own(extensions, request) && is_visible(extensions, request));
        let newest = own.first().ok_or(BuildsError::NoOwnBuild)?;
        Ok(newest.id)
    }

    fn view(&self, id: BuildId) -> Result<BuildView, BuildsError> {
        let view = self.builds.view(id);
        view.ok_or_else(|| BuildsError::NotFound(id.to_string()))
    }
}

type AttachStream = BoxStream<'static, Result<AttachBuildResponse, Status>>;

#[tonic::async_trait]
impl BuildsApi for BuildsService {
    type AttachBuildStream = AttachStream;

    async fn start_build(
        &self,
        request: Request<StartBuildRequest>,
    ) -> Result<Response<StartBuildResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let instance = InstanceName::new(request.instance_name.as_str()).map_err(BuildsError::from)?;
        // What the walk does in the owner's name.
        for permission in [
            Permission::Execute,
            Permission::CasRead,
            Permission::CasWrite,
            Permission::ActionCacheRead,
        ] {
            authorize(&extensions, permission, &instance)?;
        }
        let id = Uuid::try_parse(&request.id).map_err(|_| BuildsError::Id)?;
        let plan = Digest::from_wire_field(DIGEST_FUNCTION, request.plan.as_ref())
            .map_err(BuildsError::digest("StartBuildRequest.plan"))?;
        let targets = request.targets.into_iter().take(MAX_TARGETS);
        let request = BuildRequest {
            owner: Owner {
                identity: identity(&extensions),
                permissions: permitted(&extensions, &instance),
            },
            instance,
            plan,
            targets: targets.map(shortened).collect(),
            started: SystemTime::now(),
        };
        let started = self.builds.hand_over(BuildId(id), request).await?;
        Ok(Response::new(StartBuildResponse {
            build: Some(message(&extensions, started)),
        }))
    }

    async fn attach_build(
        &self,
        request: Request<AttachBuildRequest>,
    ) -> Result<Response<AttachStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let id = self.named(&extensions, &request.build)?;
        let live = self.builds.live(id);
        let live = live.ok_or_else(|| BuildsError::NotFound(id.to_string()))?;
        let position = Uuid::try_parse(&request.log)
            .ok()
            .filter(|log| *log == live.log.id)
            .and_then(|_| live.log.position_after(request.after));
        let (log, position) = match position {
            Some(position) => (live.log.id, position),
            // The log has lost what comes next, so the client has to begin again: for that it gets another identifier.
            None if Uuid::try_parse(&request.log) == Ok(live.log.id) => (Uuid::new_v4(), Position::default()),
            None => (live.log.id, Position::default()),
        };
        let log = log.to_string();
        let attached = AttachedBuild {
            build: Some(message(&extensions, self.view(id)?)),
            log,
        };
        let (sender, receiver) = mpsc::channel(MAX_UNREAD_MESSAGES);
        let follower = Follower {
            service: self.clone(),
            extensions,
            id,
            live,
            position,
            sender,
        };
        tokio::spawn(follower.run(attached));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn cancel_build(
        &self,
        request: Request<CancelBuildRequest>,
    ) -> Result<Response<CancelBuildResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        if request.build.is_empty() {
            return Err(BuildsError::NotFound(String::new()).into());
        }
        let id = self.named(&extensions, &request.build)?;
        let build = self.view(id)?.request;
        let is_operator = permitted(&extensions, &build.instance).contains(Permission::Admin);
        if !is_operator && !is_own(&extensions, &build) {
            return Err(BuildsError::OtherOwner {
                build: id.to_string(),
                owner: build.owner.user(),
            }
            .into());
        }
        let cancelled = self.builds.cancel(id).await;
        let cancelled = cancelled.ok_or_else(|| BuildsError::NotFound(id.to_string()))?;
        if cancelled.end.is_none() {
            return Err(BuildsError::ShuttingDown.into());
        }
        Ok(Response::new(CancelBuildResponse {
            build: Some(message(&extensions, cancelled)),
        }))
    }

    async fn list_builds(
        &self,
        request: Request<ListBuildsRequest>,
    ) -> Result<Response<ListBuildsResponse>, Status> {
        let extensions = request.extensions();
        let builds = self.builds.list(|request| is_visible(extensions, request));
        let builds = builds.into_iter().map(|build| message(extensions, build));
        Ok(Response::new(ListBuildsResponse {
            builds: builds.collect(),
        }))
    }
}

/// Task that sends the log of a build to one client.
struct Follower {
    service: BuildsService,
    extensions: Extensions,
    id: BuildId,
    live: LiveBuild,
    position: Position,
    sender: mpsc::Sender<Result<AttachBuildResponse, Status>>,
}

impl Follower {
    async fn run(mut self, attached: AttachedBuild) {
        let sender = self.sender.clone();
        let shutdown = self.service.builds.shutdown().clone();
        let followed = tokio::select! {
            () = sender.closed() => return,
            () = shutdown.cancelled() => Err(BuildsError::ShuttingDown.into()),
            followed = self.follow(attached) => followed,
        };
        let last = match followed {
            Ok(build) => Ok(response(attach_build_response::Message::Ended(build))),
            Err(status) => Err(status),
        };
        // An error means that the client is gone.
        sender.send(last).await.ok();
    }

    /// Sends everything until the build has ended. Returns it then.
    async fn follow(&mut self, attached: AttachedBuild) -> Result<Build, Status> {
        self.send(attach_build_response::Message::Attached(attached))
            .await;
        let mut changes = self.live.log.changes();
        loop {
            changes.mark_unchanged();
            let has_ended = self.live.ended.is_cancelled();
            let mut has_events = false;
            for entry in self.live.log.read(&mut self.position, MAX_ENTRIES_PER_READ) {
                has_events |= matches!(entry, Entry::Event(..));
                if let Some(message) = entry_message(entry) {
                    self.send(message).await;
                }
            }
            if has_events {
                continue;
            }
            if has_ended {
                return Ok(message(&self.extensions, self.service.view(self.id)?));
            }
            tokio::select! {
                // The log is as old as this task.
                _ = changes.changed() => {}
                () = self.live.ended.cancelled() => {}
            }
        }
    }

    async fn send(&self, message: attach_build_response::Message) {
        // The end of the client ends this task.
        self.sender.send(Ok(response(message))).await.ok();
    }
}

fn response(message: attach_build_response::Message) -> AttachBuildResponse {
    AttachBuildResponse {
        message: Some(message),
    }
}

fn entry_message(entry: Entry) -> Option<attach_build_response::Message> {
    use attach_build_response::Message;
    Some(match entry {
        Entry::Earlier { finished, running } => {
            let running = running
                .into_iter()
                .map(|(recipe, task)| TaskName { recipe, task });
            Message::Earlier(EarlierEvents {
                finished: Some(finished.into()),
                running: running.collect(),
            })
        }
        Entry::Event(sequence, event) => Message::Event(message_of_event(sequence, &event)?),
        Entry::Progress(progress) => Message::Progress(message_of_progress(
            progress.done,
            progress.wanted,
            progress.running,
        )),
    })
}

/// Message of a build for a caller who sees it.
fn message(extensions: &Extensions, view: BuildView) -> Build {
    let own = is_own(extensions, &view.request);
    let millis = |time| timestamp::unix_nanos(time) / 1_000_000;
    let state = match view.end.as_ref().map(|end| end.ending) {
        None => build::State::Running,
        Some(Ending::Succeeded) => build::State::Succeeded,
        Some(Ending::Failed) => build::State::Failed,
        Some(Ending::Cancelled) => build::State::Cancelled,
    };
    let progress = message_of_progress(view.progress.done, view.progress.wanted, view.progress.running);
    Build {
        id: view.id.to_string(),
        instance_name: view.request.instance.to_string(),
        user: view.request.owner.user(),
        targets: view.request.targets,
        state: state.into(),
        started_unix_millis: millis(view.request.started),
        ended_unix_millis: view.end.as_ref().map_or(0, |end| millis(end.at)),
        progress: view.end.is_none().then_some(progress),
        tasks: Some(view.counts.into()),
        error: view
            .end
            .as_ref()
            .and_then(|end| end.error.clone())
            .unwrap_or_default(),
        plan: Some(view.request.plan.to_wire()),
        results: view
            .end
            .and_then(|end| end.results)
            .map(|digest| digest.to_wire()),
        own,
    }
}

/// Who may execute on the instance of a build sees it, and so do operators.
fn is_visible(extensions: &Extensions, request: &BuildRequest) -> bool {
    let granted = permitted(extensions, &request.instance);
    granted.contains(Permission::Execute) || granted.contains(Permission::Admin)
}

fn is_own(extensions: &Extensions, request: &BuildRequest) -> bool {
    identity(extensions) == request.owner.identity
}

/// Identity of the caller, without groups: they may change while a build runs.
fn identity(extensions: &Extensions) -> Identity {
    let caller = extensions.get::<Caller>();
    let identity = caller.map_or_else(Identity::anonymous, |caller| (*caller.identity).clone());
    Identity {
        groups: vec![],
        ..identity
    }
}

fn shortened(mut target: String) -> String {
    let mut end = MAX_TARGET_BYTES.min(target.len());
    while !target.is_char_boundary(end) {
        end -= 1;
    }
    target.truncate(end);
    target
}
