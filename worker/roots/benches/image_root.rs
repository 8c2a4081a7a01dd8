//! Measures an image root on a worker: import, first fetch, the next Action, and the rate of no-op Actions against those
//! on the machine's own root.
//!
//! `BITZEL_BENCH_ROOT` names the directory or archive to import, `BITZEL_BENCH_COMMAND` another command than `true`, with
//! spaces between its arguments. Prints one JSON object per line:
//! `{name, value, unit, reference, reference_value, ratio}`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, DiskBlobStore, DiskBlobStoreOptions};
use bitzel_proto::platform_property::ROOT_IMAGE;
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{Action, Command, Directory, Platform};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_roots::import;
use bitzel_worker::{ActionExecutor, ActionRequest, ExecutorConfig, compose_executor};
use prost::Message;
use tokio_util::sync::CancellationToken;

const ACTIONS: u32 = 600;
const OPTIONS: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: u64::MAX,
    free_space_floor_bytes: 0,
    compress: false,
};

struct Farm {
    store: Arc<dyn BlobStore>,
    executor: Arc<dyn ActionExecutor>,
    command: String,
}

impl Farm {
    async fn put(&self, message: &impl Message) -> Digest {
        let (digest, bytes) = Digest::of_message(DigestFunction::Sha256, message);
        self.store.write(digest, one_chunk(bytes.into())).await.unwrap();
        digest
    }

    /// Time of one Action.
    async fn run(&self, root: Option<Digest>) -> Duration {
        let command = Command {
            arguments: self.command.split(' ').map(str::to_owned).collect(),
            ..Command::default()
        };
        let property = |root: Digest| Property {
            name: ROOT_IMAGE.to_owned(),
            value: root.to_string(),
        };
        let action = Action {
            command_digest: Some(self.put(&command).await.to_wire()),
            input_root_digest: Some(self.put(&Directory::default()).await.to_wire()),
            platform: Some(Platform {
                properties: root.map(property).into_iter().collect(),
            }),
            ..Action::default()
        };
        let request = ActionRequest {
            instance: InstanceName::default(),
            action: self.put(&action).await,
            queued: None,
            stages: None,
            cancellation: CancellationToken::new(),
        };
        let start = Instant::now();
        let response = self.executor.execute(request).await;
        let elapsed = start.elapsed();
        let status = response.status.unwrap();
        assert_eq!(status.code, 0, "{}", status.message);
        assert_eq!(response.result.unwrap().exit_code, 0);
        elapsed
    }
}

fn report(name: &str, value: Duration, reference: &str, reference_value: Duration) {
    let ratio = value.as_secs_f64() / reference_value.as_secs_f64();
    let (value, reference_value) = (value.as_secs_f64() * 1e3, reference_value.as_secs_f64() * 1e3);
    println!(
        "{{\"name\": {name:?}, \"value\": {value:.3}, \"unit\": \"ms\", \"reference\": {reference:?}, \
         \"reference_value\": {reference_value:.3}, \"ratio\": {ratio:.3}}}"
    );
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

#[tokio::main]
async fn main() {
    let Some(path) = std::env::var_os("BITZEL_BENCH_ROOT") else {
        println!("{{\"skipped\": \"BITZEL_BENCH_ROOT does not name a root\"}}");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let store = DiskBlobStore::open(&directory.path().join("store"), OPTIONS).await;
    let store: Arc<dyn BlobStore> = Arc::new(store.unwrap());
    let start = Instant::now();
    let imported = import(path.as_ref(), directory.path()).unwrap();
    let read = start.elapsed();
    let root = imported.root.digest;
    println!(
        "{{\"files\": {}, \"directories\": {}, \"bytes\": {}}}",
        imported.root.file_count, imported.root.directory_count, imported.root.bytes
    );
    let start = Instant::now();
    imported.upload(&*store).await.unwrap();
    report("import: files read and hashed", read, "uploaded", start.elapsed());

    let config = ExecutorConfig::new(directory.path().join("worker"));
    let executor = compose_executor(config.clone(), Arc::new(Arc::clone(&store)))
        .await
        .unwrap();
    let command = std::env::var("BITZEL_BENCH_COMMAND").unwrap_or_else(|_| "true".to_owned());
    let mut farm = Farm {
        store,
        executor,
        command,
    };
    farm.run(None).await;
    let first = farm.run(Some(root)).await;
    let second = farm.run(Some(root)).await;
    report(
        "first Action in the root, which fetches it",
        first,
        "second Action",
        second,
    );
    // Files of an earlier worker are hashed again, and its layers are removed.
    let Farm {
        store,
        executor,
        command,
    } = farm;
    drop(executor);
    let executor = compose_executor(config, Arc::new(Arc::clone(&store)))
        .await
        .unwrap();
    farm = Farm {
        store,
        executor,
        command,
    };
    let again = farm.run(Some(root)).await;
    report(
        "first Action of a restarted worker",
        again,
        "second Action",
        second,
    );

    let (mut with, mut without) = (vec![], vec![]);
    for _ in 0..ACTIONS {
        without.push(farm.run(None).await);
        with.push(farm.run(Some(root)).await);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    println!("{{\"peak memory\": {peak:?}}}");
    let rate = |durations: &[Duration]| durations.iter().sum::<Duration>() / ACTIONS;
    report(
        "Action in the root, mean",
        rate(&with),
        "on the machine's root",
        rate(&without),
    );
    report(
        "Action in the root, median",
        median(with),
        "on the machine's root",
        median(without),
    );
}
