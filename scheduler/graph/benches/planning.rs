//! Time of a build in which all results are found, and time of planning by the size of the graph.
//!
//! Prints one JSON object a line: name, value, unit, reference, `reference_value`, ratio.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{
    ActionCache, BlobSource, BlobStore, CompletenessCheckingActionCache, CountingBlobStore, DirectoryCache,
    DiskActionCache, DiskBlobStore, DiskBlobStoreOptions, RemoteActionCache, RemoteBlobStore,
};
use bitzel_cas_server::services::{
    ActionCacheService, ByteStreamService, CapabilitiesService, ContentAddressableStorageService,
};
use bitzel_graph::plan::signature::{Environment, TaskRoot, signature_key};
use bitzel_graph::plan::task_index::TaskIndex;
use bitzel_graph::plan::task_result::TaskResult;
use bitzel_graph::plan::taskhash::taskhash;
use bitzel_graph::walk::schedule::{Schedule, Step};
use bitzel_graph::walk::{
    BuildConfig, BuildFiles, BuildInputs, DIRECTORY_CACHE_BYTES, Driver, ExecutionRequest, Executions,
};
use bitzel_proto::graph::{Recipe, Task, TaskGraph};
use bitzel_proto::reapi::{ActionResult, ExecuteResponse, OutputFile};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_rpc::endpoint;
use bytes::Bytes;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Tasks of one recipe, as in openembedded-core: fetch to build with the parallel sysroot chain.
const CHAIN: usize = 16;

#[tokio::main]
async fn main() -> Result<()> {
    // Measured on openembedded-core: 5,445 tasks, 334 recipes, critical path 182.
    second_build(5_445, false).await?;
    second_build(5_445, true).await?;
    planning()?;
    Ok(())
}

/// Files of a build that executes nothing.
struct NoFiles;

#[async_trait::async_trait]
impl BuildFiles for NoFiles {
    fn metadata(&self) -> Vec<(Digest, BlobSource)> {
        vec![]
    }

    fn snapshot(&self, _: Digest) -> BlobSource {
        BlobSource::Bytes(Bytes::new())
    }

    async fn download(&self, _: &str) -> std::io::Result<Option<(Digest, BlobSource)>> {
        Ok(None)
    }
}

/// Executor that refuses every execution: all results are in the cache.
struct NoExecutions;

#[async_trait::async_trait]
impl Executions for NoExecutions {
    async fn execute(&self, request: ExecutionRequest<'_>) -> std::result::Result<ExecuteResponse, Status> {
        Err(Status::internal(format!("{} is not in the cache", request.task)))
    }
}

/// Graph with the shape of an image's graph: recipes with a chain of tasks, each dependent on some earlier recipes.
fn synthetic_graph(tasks: usize, all_are_targets: bool) -> TaskGraph {
    let mut graph = TaskGraph {
        format_version: 1,
        ..TaskGraph::default()
    };
    for number in 0..tasks {
        let (recipe, step) = (number / CHAIN, number % CHAIN);
        if step == 0 {
            graph.recipes.push(Recipe {
                key: format!("/work/layers/core/recipe-{recipe}.bb"),
                package_name: format!("recipe-{recipe}"),
                work_directory: format!("build/tmp/work/recipe-{recipe}"),
                ..Recipe::default()
            });
        }
        let mut dependencies = Vec::new();
        if step > 0 {
            dependencies.push(u32::try_from(number - 1).unwrap_or(0));
        }
        if step == 3 {
            // As DEPENDS are: a few recipes, near and far.
            for distance in [1, 2, 7, 40] {
                if let Some(other) = recipe.checked_sub(distance) {
                    dependencies.push(u32::try_from(other * CHAIN + CHAIN - 1).unwrap_or(0));
                }
            }
        }
        let mut task = Task {
            recipe: u32::try_from(recipe).unwrap_or(0),
            name: format!("do_step_{step}"),
            basehash: format!("base-{number}"),
            hash_dependencies: dependencies.clone(),
            dependencies,
            ..Task::default()
        };
        task.taskhash = taskhash(&task, |dependency| &graph.tasks[dependency as usize].taskhash);
        task.unihash.clone_from(&task.taskhash);
        graph.tasks.push(task);
    }
    let last = u32::try_from(tasks - 1).unwrap_or(0);
    graph.targets = if all_are_targets {
        (0..=last).collect()
    } else {
        vec![last]
    };
    graph
}

fn environment() -> Environment {
    Environment {
        platform: vec![("OSFamily".to_owned(), "linux".to_owned())],
        root: TaskRoot::OfWorker("debian-12-aa".to_owned()),
        runner_version: "bench".to_owned(),
        bitbake_version: "2.19.0".to_owned(),
    }
}

/// Measures a build whose signatures are all in the action cache of a server on a disk, over gRPC. With all tasks as
/// targets, all are looked up. With one target, as in a real build, the search ends at the top.
async fn second_build(tasks: usize, all_are_targets: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options = DiskBlobStoreOptions {
        limit_bytes: 1 << 30,
        free_space_floor_bytes: 0,
        compress: false,
    };
    let store: Arc<dyn BlobStore> =
        Arc::new(DiskBlobStore::open(&directory.path().join("cas"), options).await?);
    let disk = DiskActionCache::open(&directory.path().join("ac"), 1_000_000).await?;
    let cache: Arc<dyn ActionCache> = Arc::new(CompletenessCheckingActionCache::new(
        Arc::new(disk),
        Arc::clone(&store),
    ));
    let index = Arc::new(TaskIndex::new(synthetic_graph(tasks, all_are_targets))?);
    fill(&index, &*store, &*cache).await?;

    let socket = directory.path().join("socket");
    let router = endpoint::server()
        .add_service(CapabilitiesService::new().into_server())
        .add_service(ContentAddressableStorageService::new(Arc::clone(&store)).into_server())
        .add_service(ByteStreamService::new(Arc::clone(&store)).into_server())
        .add_service(ActionCacheService::new(cache, store).into_server());
    let server =
        tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(UnixListener::bind(&socket)?)));
    let channel = endpoint::connect(&format!("unix:{}", socket.display())).await?;
    let instance = InstanceName::default();
    let remote = RemoteBlobStore::connect(channel.clone(), instance.clone()).await?;
    let inputs = BuildInputs {
        metadata: DigestFunction::Sha256.digest(b""),
        directories: std::collections::HashMap::default(),
        files: Arc::new(NoFiles),
        shared_state: None,
    };
    let config = BuildConfig {
        dry_run: false,
        output: None,
        build_directory: None,
        instance,
        keep_going: false,
        jobs: 2,
        environment: environment(),
        directory_cache: DirectoryCache::new(DIRECTORY_CACHE_BYTES),
    };
    let (events, _receiver) = mpsc::unbounded_channel();
    let started = Instant::now();
    let driver = Driver::new(
        config,
        index,
        inputs,
        Arc::new(CountingBlobStore::new(Arc::new(remote))),
        Arc::new(RemoteActionCache::new(channel.clone())),
        Arc::new(NoExecutions),
        events,
    );
    let summary = driver.run().await?;
    let seconds = started.elapsed().as_secs_f64();
    server.abort();
    let expected = if all_are_targets { tasks } else { 1 };
    if summary.signature_hits != expected {
        return Err(format!("{expected} hits expected, got {summary:?}").into());
    }
    let what = if all_are_targets {
        "every task looked up"
    } else {
        "one target"
    };
    report(
        &format!("second build, {tasks} tasks, {what}"),
        seconds,
        "s",
        "goal",
        3.0,
    );
    let memory = f64::from(u32::try_from(peak_memory_kib()?)?) / 1024.0;
    report(
        &format!("second build, {tasks} tasks, {what}: peak memory"),
        memory,
        "MiB",
        "goal",
        500.0,
    );
    Ok(())
}

/// One result for each signature.
async fn fill(index: &TaskIndex, store: &dyn BlobStore, cache: &dyn ActionCache) -> Result<()> {
    let blob = Bytes::from_static(b"output");
    let digest = DigestFunction::Sha256.digest(&blob);
    store.write(digest, one_chunk(blob)).await?;
    for task in 0..u32::try_from(index.tasks().len())? {
        let (recipe, message) = (index.recipe(task), index.task(task));
        let file = OutputFile {
            path: "output".to_owned(),
            digest: Some(digest.to_wire()),
            ..OutputFile::default()
        };
        let executed = ActionResult {
            output_files: vec![file],
            ..ActionResult::default()
        };
        let result = TaskResult {
            unihash: message.taskhash.clone(),
            outputs: std::collections::BTreeMap::default(),
            before: std::collections::BTreeMap::default(),
            milliseconds: 0,
            restored: false,
        };
        let key = signature_key(&environment(), recipe, message, &message.taskhash);
        cache
            .put(&InstanceName::default(), key, result.to_action_result(&executed))
            .await?;
    }
    Ok(())
}

/// Measures the planning of all tasks of a cold build, without a store: ten times the tasks should take about ten times as
/// long.
fn planning() -> Result<()> {
    let mut times = Vec::new();
    for tasks in [8_000, 80_000] {
        let graph = synthetic_graph(tasks, false);
        let started = Instant::now();
        let index = Arc::new(TaskIndex::new(graph)?);
        let mut schedule = Schedule::new(Arc::clone(&index), false);
        let mut executed = 0;
        while let Some(step) = schedule.next_step(true) {
            match step {
                Step::LookUp { task, .. } => schedule.not_found(task),
                Step::Restore { task, .. } => schedule.not_restored(task),
                Step::Execute { task, taskhash } => {
                    executed += 1;
                    schedule.executed(task, taskhash);
                }
            }
        }
        if executed != tasks {
            return Err(format!("{executed} of {tasks} tasks were planned").into());
        }
        times.push(started.elapsed().as_secs_f64());
    }
    report(
        "planning 80,000 tasks",
        times[1],
        "s",
        "10 x planning 8,000 tasks",
        10.0 * times[0],
    );
    Ok(())
}

fn peak_memory_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is its output")]
fn report(name: &str, value: f64, unit: &str, reference: &str, reference_value: f64) {
    let ratio = value / reference_value;
    let line = json!({
        "name": name, "value": value, "unit": unit,
        "reference": reference, "reference_value": reference_value, "ratio": ratio,
    });
    println!("{line}");
}
