//! Builds that the server walks: whose they are, and when they are acknowledged.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_access::{
    AccessPolicy, AuthenticationMethod, Caller, Identity, Pattern, Permission, PermissionSet, Rule,
};
use bitzel_builds::hand_over::HandOver;
use bitzel_cas::{BlobSource, BlobStore, MemoryActionCache, MemoryBlobStore};
use bitzel_graph::plan::signature::{Environment, TaskRoot};
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::plan::tree::Directories;
use bitzel_graph::walk::{BuildFiles, BuildInputs};
use bitzel_proto::builds::attach_build_response::Message;
use bitzel_proto::builds::builds_server::Builds as _;
use bitzel_proto::builds::{
    AttachBuildRequest, AttachBuildResponse, Build, CancelBuildRequest, ListBuildsRequest, StartBuildRequest,
    build, build_event, task_finished,
};
use bitzel_proto::farm::GetFarmRequest;
use bitzel_proto::farm::farm_server::Farm as _;
use bitzel_proto::graph::{Recipe, Task, TaskGraph};
use bitzel_proto::{Digest, DigestFunction, reapi};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use super::durability::HeldJournal;
use super::farm::with_timeout;
use super::manual_clock::ManualClock;
use crate::{ExecutionConfig, ExecutionServer, Recovered};

/// Metadata of a client: an empty tree.
struct NoFiles;

#[async_trait]
impl BuildFiles for NoFiles {
    fn metadata(&self) -> Vec<(Digest, BlobSource)> {
        let (root, bytes) = metadata();
        vec![(root, BlobSource::Bytes(bytes.into()))]
    }

    fn snapshot(&self, _: Digest) -> BlobSource {
        panic!("the graph has no snapshots")
    }

    async fn download(&self, _: &str) -> io::Result<Option<(Digest, BlobSource)>> {
        Ok(None)
    }
}

fn metadata() -> (Digest, Vec<u8>) {
    let directory = reapi::Directory::default();
    (
        DigestFunction::Sha256.digest(&directory.encode_to_vec()),
        directory.encode_to_vec(),
    )
}

/// Uploads a build of one task.
async fn plan(store: &dyn BlobStore, task: &str) -> Digest {
    let graph = TaskGraph {
        recipes: vec![Recipe {
            package_name: "zlib".to_owned(),
            work_directory: "build/tmp/work/zlib".to_owned(),
            ..Recipe::default()
        }],
        tasks: vec![Task {
            name: task.to_owned(),
            taskhash: "hash".to_owned(),
            ..Task::default()
        }],
        targets: vec![0],
        ..TaskGraph::default()
    };
    let index = TaskIndex::new(graph).unwrap();
    let environment = Environment::of_graph(index.graph(), vec![], TaskRoot::OfWorker("root".to_owned()));
    let inputs = BuildInputs {
        shared_state: None,
        metadata: metadata().0,
        directories: Directories::new(),
        files: Arc::new(NoFiles),
    };
    let hand_over = HandOver {
        index: &index,
        inputs: &inputs,
        environment: &environment,
        keep_going: false,
        jobs: 0,
        would_run: &BTreeSet::new(),
    };
    hand_over.upload(store).await.unwrap().0
}

fn permissions(further: &[Permission]) -> PermissionSet {
    let common = [Permission::Execute, Permission::CasRead, Permission::CasWrite];
    let read = [Permission::ActionCacheRead];
    common.iter().chain(&read).chain(further).copied().collect()
}

fn rule(user: &str, instance: &str, allow: PermissionSet) -> Rule {
    Rule {
        identities: vec![Pattern::new(user)],
        instances: vec![Pattern::new(instance)],
        allow,
        ..Rule::default()
    }
}

/// Server without workers, so that Actions wait. Alice and Bob are one team, Carol is another one.
struct Site {
    server: ExecutionServer,
    store: Arc<MemoryBlobStore>,
    policy: Arc<AccessPolicy>,
}

impl Site {
    fn start() -> Self {
        let store = Arc::new(MemoryBlobStore::default());
        let blobs: Arc<dyn BlobStore> = store.clone();
        let server = ExecutionServer::new(
            blobs,
            Arc::new(MemoryActionCache::default()),
            ExecutionConfig::default(),
            Arc::new(ManualClock::default()),
        );
        let policy = AccessPolicy {
            rules: vec![
                rule("alice", "team", permissions(&[])),
                rule("bob", "team", permissions(&[])),
                rule("carol", "other", permissions(&[])),
                rule("operator", "*", Permission::Admin.into()),
            ],
            anonymous: PermissionSet::EMPTY,
        };
        Self {
            server,
            store,
            policy: Arc::new(policy),
        }
    }

    fn request<T>(&self, user: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Caller {
            identity: Arc::new(Identity {
                name: user.to_owned(),
                groups: vec!["a group".to_owned()],
                method: AuthenticationMethod::Token,
            }),
            policy: self.policy.clone(),
        });
        request
    }

    async fn start_build(&self, user: &str, instance: &str, task: &str) -> Result<Build, Status> {
        let request = StartBuildRequest {
            instance_name: instance.to_owned(),
            id: Uuid::new_v4().to_string(),
            plan: Some(plan(&*self.store, task).await.to_wire()),
            targets: vec!["zlib".to_owned()],
        };
        let request = self.request(user, request);
        let started = with_timeout(self.server.builds.start_build(request)).await?;
        Ok(started.into_inner().build.unwrap())
    }

    async fn list(&self, user: &str) -> Vec<Build> {
        let request = self.request(user, ListBuildsRequest {});
        let listed = self.server.builds.list_builds(request).await.unwrap();
        listed.into_inner().builds
    }

    async fn cancel(&self, user: &str, build: &str) -> Result<Build, Status> {
        let request = CancelBuildRequest {
            build: build.to_owned(),
        };
        let request = self.request(user, request);
        let cancelled = with_timeout(self.server.builds.cancel_build(request)).await?;
        Ok(cancelled.into_inner().build.unwrap())
    }

    async fn attach(&self, user: &str, build: &str) -> Result<Messages, Status> {
        let request = AttachBuildRequest {
            build: build.to_owned(),
            ..AttachBuildRequest::default()
        };
        let attached = self
            .server
            .builds
            .attach_build(self.request(user, request))
            .await?;
        Ok(attached.into_inner())
    }

    async fn builds_in_farm(&self, user: &str) -> usize {
        let request = self.request(user, GetFarmRequest {});
        let farm = self.server.farm.get_farm(request).await.unwrap();
        farm.into_inner().builds.len()
    }
}

type Messages = BoxStream<'static, Result<AttachBuildResponse, Status>>;

/// Reads a stream to the end of the build, and returns its other messages too.
async fn to_the_end(mut messages: Messages) -> (Build, Vec<Message>) {
    let mut before = vec![];
    loop {
        let message = with_timeout(messages.next()).await.unwrap().unwrap();
        match message.message.unwrap() {
            Message::Ended(build) => return (build, before),
            message => before.push(message),
        }
    }
}

#[tokio::test]
async fn other_tenants_see_nothing_of_a_build() {
    let site = Site::start();
    let build = site.start_build("alice", "team", "do_compile").await.unwrap();
    assert_eq!(build.state(), build::State::Running);
    assert!(build.own);

    assert_eq!(site.list("carol").await, []);
    assert_eq!(site.builds_in_farm("carol").await, 0);
    let refused = site.attach("carol", &build.id).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotFound);
    let refused = site.cancel("carol", &build.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(!refused.message().contains("alice"), "{refused}");

    // A colleague sees it, and cannot end it.
    let seen = site.list("bob").await;
    assert_eq!(seen[0].id, build.id);
    assert!(!seen[0].own);
    assert_eq!(site.builds_in_farm("bob").await, 1);
    let refused = site.cancel("bob", &build.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let none = site.attach("bob", "").await.err().unwrap();
    assert_eq!(none.code(), Code::NotFound, "without a name it is the own one");

    let attached = site.attach("alice", "").await.unwrap();
    let ended = site.cancel("operator", &build.id).await.unwrap();
    assert_eq!(ended.state(), build::State::Cancelled);
    assert_eq!(to_the_end(attached).await.0.state(), build::State::Cancelled);
}

#[tokio::test]
async fn owners_end_their_builds() {
    let site = Site::start();
    let build = site.start_build("alice", "team", "do_compile").await.unwrap();
    let ended = site.cancel("alice", &build.id[..6]).await.unwrap();
    assert_eq!(ended.state(), build::State::Cancelled);
    let again = site.cancel("alice", &build.id).await.unwrap();
    assert_eq!(again, ended, "an end is the last one");
}

#[tokio::test]
async fn a_build_needs_the_permissions_of_its_walk() {
    for missing in [
        Permission::Execute,
        Permission::CasRead,
        Permission::CasWrite,
        Permission::ActionCacheRead,
    ] {
        let mut site = Site::start();
        let all = Permission::ALL.into_iter();
        let allow = all.filter(|permission| *permission != missing).collect();
        site.policy = Arc::new(AccessPolicy {
            rules: vec![rule("alice", "team", allow)],
            anonymous: PermissionSet::EMPTY,
        });
        let refused = site.start_build("alice", "team", "do_compile").await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{missing}");
        assert_eq!(site.list("operator").await, []);
    }
}

/// `do_fetch` needs the network of the worker's machine, which Alice may not use.
#[tokio::test]
async fn the_walk_has_the_permissions_of_the_owner_only() {
    let site = Site::start();
    let build = site.start_build("alice", "team", "do_fetch").await.unwrap();
    let (ended, messages) = to_the_end(site.attach("alice", &build.id).await.unwrap()).await;
    assert_eq!(ended.state(), build::State::Failed);
    let failures: Vec<_> = messages
        .into_iter()
        .filter_map(|message| match message {
            Message::Event(event) => event.event,
            _ => None,
        })
        .filter_map(|event| match event {
            build_event::Event::Finished(finished) => Some(finished),
            _ => None,
        })
        .collect();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].outcome(), task_finished::Outcome::Failed);
    assert_eq!(failures[0].status, Some(Code::PermissionDenied as i32));
    assert!(failures[0].error().contains("network"), "{}", failures[0].error());
}

#[tokio::test]
async fn a_build_is_acknowledged_when_it_is_durable() {
    let store = Arc::new(MemoryBlobStore::default());
    let blobs: Arc<dyn BlobStore> = store.clone();
    let journal = HeldJournal::new();
    let server = ExecutionServer::with_journal(
        blobs,
        Arc::new(MemoryActionCache::default()),
        ExecutionConfig::default(),
        Arc::new(ManualClock::default()),
        journal.clone(),
        Recovered::default(),
    );
    let request = StartBuildRequest {
        id: Uuid::new_v4().to_string(),
        plan: Some(plan(&*store, "do_compile").await.to_wire()),
        ..StartBuildRequest::default()
    };
    let builds = server.builds.clone();
    let repeated = request.clone();
    let first = tokio::spawn(async move { builds.start_build(Request::new(request)).await });
    journal.appended(1).await;
    let builds = server.builds.clone();
    // A client that repeats its call waits for the same record.
    let second = tokio::spawn(async move { builds.start_build(Request::new(repeated)).await });
    let listed = server.builds.list_builds(Request::new(ListBuildsRequest {}));
    assert_eq!(listed.await.unwrap().into_inner().builds.len(), 1);
    assert!(!first.is_finished() && !second.is_finished());
    journal.write_all();
    let [first, second] = [first, second].map(with_timeout);
    let first = first.await.unwrap().unwrap().into_inner().build.unwrap();
    let second = second.await.unwrap().unwrap().into_inner().build.unwrap();
    assert_eq!(first.id, second.id);
}
