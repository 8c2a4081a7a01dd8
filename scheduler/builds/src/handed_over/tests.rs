use std::io;

use async_trait::async_trait;
use bitzel_cas::{BlobSource, MemoryBlobStore, upload_missing};
use bitzel_graph::plan::tree::Directories;
use bitzel_graph::walk::BuildFiles;
use bitzel_proto::graph::{Recipe, Snapshot, Source, Task};
use bitzel_proto::message_memory::MessageError;
use bitzel_proto::reapi::{Directory, FileNode};
use tonic::{Code, Status};

use super::*;
use crate::hand_over::HandOver;

const MAX_GRAPH_BYTES: u64 = 1 << 20;
const SNAPSHOT: &[u8] = b"{}";
const SOURCE: &[u8] = b"source";
const LAYER_FILE: &[u8] = b"layer";

/// Files of a client: one layer file, one snapshot, one source.
struct ClientFiles;

#[async_trait]
impl BuildFiles for ClientFiles {
    fn metadata(&self) -> Vec<(Digest, BlobSource)> {
        let (root, bytes) = metadata();
        let file = DIGEST_FUNCTION.digest(LAYER_FILE);
        vec![
            (root, BlobSource::Bytes(bytes.into())),
            (file, BlobSource::Bytes(LAYER_FILE.into())),
        ]
    }

    fn snapshot(&self, _: Digest) -> BlobSource {
        BlobSource::Bytes(SNAPSHOT.into())
    }

    async fn download(&self, name: &str) -> io::Result<Option<(Digest, BlobSource)>> {
        let source = (DIGEST_FUNCTION.digest(SOURCE), BlobSource::Bytes(SOURCE.into()));
        Ok((name == "source.tar").then_some(source))
    }
}

fn metadata() -> (Digest, Vec<u8>) {
    let file = FileNode {
        name: "file".to_owned(),
        digest: Some(DIGEST_FUNCTION.digest(LAYER_FILE).to_wire()),
        ..FileNode::default()
    };
    let directory = Directory {
        files: vec![file],
        ..Directory::default()
    };
    Digest::of_message(DIGEST_FUNCTION, &directory)
}

fn graph() -> TaskGraph {
    let snapshot = DIGEST_FUNCTION.digest(SNAPSHOT);
    let task = |name: &str, dependencies: &[u32]| Task {
        name: name.to_owned(),
        taskhash: name.to_owned(),
        dependencies: dependencies.to_vec(),
        ..Task::default()
    };
    TaskGraph {
        recipes: vec![Recipe {
            package_name: "zlib".to_owned(),
            snapshot: Some(Snapshot {
                sha256: snapshot.hash_hex(),
                size_bytes: SNAPSHOT.len() as u64,
                ..Snapshot::default()
            }),
            sources: vec![Source {
                download_name: "source.tar".to_owned(),
                present: true,
            }],
            ..Recipe::default()
        }],
        tasks: vec![task("do_fetch", &[]), task("do_unpack", &[0])],
        targets: vec![1],
        ..TaskGraph::default()
    }
}

/// Uploads a graph as a client does, with a result of `do_fetch` or without.
async fn hand_over(graph: TaskGraph, has_fetched: bool) -> (Arc<MemoryBlobStore>, Digest) {
    let store = Arc::new(MemoryBlobStore::default());
    let index = TaskIndex::new(graph).unwrap();
    let environment = Environment::of_graph(
        index.graph(),
        vec![("ISA".to_owned(), "x86-64".to_owned())],
        TaskRoot::OfWorker("debian-13".to_owned()),
    );
    let inputs = BuildInputs {
        shared_state: None,
        metadata: metadata().0,
        directories: Directories::new(),
        files: Arc::new(ClientFiles),
    };
    let would_run = if has_fetched {
        BTreeSet::new()
    } else {
        BTreeSet::from(["zlib:do_fetch".to_owned()])
    };
    let hand_over = HandOver {
        index: &index,
        inputs: &inputs,
        environment: &environment,
        keep_going: true,
        jobs: 7,
        would_run: &would_run,
    };
    let (plan, _) = hand_over.upload(&*store).await.unwrap();
    (store, plan)
}

async fn load(store: &Arc<MemoryBlobStore>, plan: Digest) -> Result<HandedOver, BuildsError> {
    let store: Arc<dyn BlobStore> = store.clone();
    HandedOver::load(store, plan, MAX_GRAPH_BYTES, &DirectoryCache::new(0)).await
}

/// Error of a plan after a change.
async fn refused(graph: TaskGraph, change: impl FnOnce(&mut BuildPlan)) -> Status {
    let (store, plan) = hand_over(graph, false).await;
    let mut changed: BuildPlan = read(&*store, "plan", plan, MAX_PLAN_BYTES).await.unwrap();
    change(&mut changed);
    let plan = put(&store, &changed).await;
    load(&store, plan).await.err().expect("it is refused").into()
}

async fn put(store: &MemoryBlobStore, message: &impl Message) -> Digest {
    let (digest, bytes) = Digest::of_message(DIGEST_FUNCTION, message);
    let blob = (digest, BlobSource::Bytes(bytes.into()));
    upload_missing(store, [blob]).await.unwrap();
    digest
}

#[tokio::test]
async fn a_plan_arrives_as_it_was_handed_over() {
    let (store, plan) = hand_over(graph(), false).await;
    let handed_over = load(&store, plan).await.unwrap();
    assert_eq!(*handed_over.index.graph(), graph());
    assert_eq!(
        handed_over.environment.platform,
        [("ISA".to_owned(), "x86-64".to_owned())]
    );
    assert_eq!(
        handed_over.environment.root,
        TaskRoot::OfWorker("debian-13".to_owned())
    );
    assert!(handed_over.keep_going);
    assert_eq!(handed_over.jobs, 7);
    let download = handed_over.inputs.files.download("source.tar").await.unwrap();
    assert_eq!(download.unwrap().0, DIGEST_FUNCTION.digest(SOURCE));
}

#[tokio::test]
async fn sources_of_fetched_recipes_stay_with_the_client() {
    let (store, plan) = hand_over(graph(), true).await;
    let source = DIGEST_FUNCTION.digest(SOURCE);
    assert_eq!(store.find_missing(&[source]).await.unwrap(), [source]);
    let handed_over = load(&store, plan).await.unwrap();
    let download = handed_over.inputs.files.download("source.tar").await.unwrap();
    assert!(download.is_none());
}

#[tokio::test]
async fn missing_files_are_named() {
    for absent in [LAYER_FILE, SNAPSHOT, SOURCE] {
        let (store, plan) = hand_over(graph(), false).await;
        let absent = DIGEST_FUNCTION.digest(absent);
        let incomplete = MemoryBlobStore::default();
        let mut present = vec![plan];
        let message: BuildPlan = read(&*store, "plan", plan, MAX_PLAN_BYTES).await.unwrap();
        for wire in [&message.graph, &message.metadata] {
            present.push(digest("digest", wire.as_ref()).unwrap());
        }
        present.extend([LAYER_FILE, SNAPSHOT, SOURCE].map(|bytes| DIGEST_FUNCTION.digest(bytes)));
        present.retain(|digest| *digest != absent);
        let from: Arc<dyn BlobStore> = store;
        let blobs = present
            .into_iter()
            .map(|digest| (digest, BlobSource::Store(from.clone())));
        upload_missing(&incomplete, blobs).await.unwrap();
        let error = load(&Arc::new(incomplete), plan).await.err().unwrap();
        assert!(
            matches!(&error, BuildsError::MissingBlobs(missing) if *missing == [absent]),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn plans_that_a_server_cannot_walk_are_refused() {
    let mut interactive = graph();
    interactive.tasks[1].interactive = true;
    let status = refused(interactive, |_| {}).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("zlib:do_unpack opens a terminal"),
        "{status}"
    );

    let without_targets = TaskGraph {
        targets: vec![],
        ..graph()
    };
    let status = refused(without_targets, |_| {}).await;
    assert_eq!(status.code(), Code::FailedPrecondition);

    let status = refused(graph(), |plan| plan.format_version = 2).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = refused(graph(), |plan| plan.root = None).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = refused(graph(), |plan| plan.metadata = None).await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn hostile_graphs_are_refused() {
    let (store, plan) = hand_over(graph(), false).await;
    let plan: BuildPlan = read(&*store, "plan", plan, MAX_PLAN_BYTES).await.unwrap();
    let mut cycle = graph();
    cycle.tasks[0].dependencies = vec![1];
    let mut outside = graph();
    outside.tasks[0].recipe = 5;
    for graph in [cycle, outside] {
        let plan = BuildPlan {
            graph: Some(put(&store, &graph).await.to_wire()),
            ..plan.clone()
        };
        let plan = put(&store, &plan).await;
        let status: Status = load(&store, plan).await.err().unwrap().into();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let large = reapi::Digest {
        size_bytes: i64::try_from(MAX_GRAPH_BYTES).unwrap() + 1,
        ..plan.graph.clone().unwrap()
    };
    let plan = BuildPlan {
        graph: Some(large),
        ..plan
    };
    let plan = put(&store, &plan).await;
    let error = load(&store, plan).await.err().unwrap();
    assert!(matches!(error, BuildsError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn f24_a_graph_is_refused_by_the_memory_that_it_takes() {
    let (store, plan) = hand_over(graph(), false).await;
    // Two bytes each.
    let graph = TaskGraph {
        tasks: vec![Task::default(); 100_000],
        ..graph()
    };
    assert!((graph.encoded_len() as u64) < MAX_GRAPH_BYTES);
    let plan: BuildPlan = read(&*store, "plan", plan, MAX_PLAN_BYTES).await.unwrap();
    let plan = BuildPlan {
        graph: Some(put(&store, &graph).await.to_wire()),
        ..plan
    };
    let plan = put(&store, &plan).await;
    let error = load(&store, plan).await.err().unwrap();
    let BuildsError::Malformed { source, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(source, MessageError::TooMuchMemory { .. }), "{source:?}");
}

#[tokio::test]
async fn f24_a_graph_with_a_long_name_is_refused() {
    let mut graph = graph();
    graph.recipes[0].package_name = "n".repeat(MAX_NAME_BYTES + 1);
    let status = refused(graph, |_| {}).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("256 bytes"), "{status}");
}
