//! Measures the assembly of input roots, and a sandboxed Action against bubblewrap alone.
//!
//! Prints one JSON object per line: `{name, value, unit, reference, reference_value, ratio}`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_cas::{DirectoryCache, fetch_directory_tree};
use bitzel_proto::Digest;
use bitzel_worker::file_cache::FileCache;
use bitzel_worker::input_root::InputRoots;
use bitzel_worker::worker_directories::{ActionDirectory, WorkerDirectories};
use tokio_util::sync::CancellationToken;

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::{Node, Run, Worker, directory, file};

const FILES: usize = 50_000;
const FILES_PER_DIRECTORY: usize = 50;
const ROUNDS: usize = 5;
const ACTIONS: usize = 20;

/// A tree in the shape of a sysroot: many directories with some dozen files each.
fn tree() -> Node {
    let mut directories = BTreeMap::new();
    for index in 0..FILES / FILES_PER_DIRECTORY {
        let files = (0..FILES_PER_DIRECTORY).map(|number| {
            let content = format!("{index} {number}");
            (format!("file-{number}.h"), Node::File(content.into_bytes(), None))
        });
        directories.insert(format!("package-{index}"), Node::Directory(files.collect(), None));
    }
    Node::Directory(directories, None)
}

fn report(name: &str, value: Duration, reference: &str, reference_value: Duration) {
    let ratio = value.as_secs_f64() / reference_value.as_secs_f64();
    let (value, reference_value) = (value.as_secs_f64() * 1e3, reference_value.as_secs_f64() * 1e3);
    let line = serde_json::json!({
        "name": name, "value": value, "unit": "ms",
        "reference": reference, "reference_value": reference_value, "ratio": ratio,
    });
    println!("{line}");
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// Runs `cp -al` of the tree and returns its time. The removal of the copy is not measured.
fn copy_links(source: &Path, target: &Path) -> Duration {
    let start = Instant::now();
    assert!(
        Process::new("cp")
            .arg("-al")
            .args([source, target])
            .status()
            .unwrap()
            .success()
    );
    let elapsed = start.elapsed();
    std::fs::remove_dir_all(target).unwrap();
    elapsed
}

fn bubblewrap() -> Duration {
    let start = Instant::now();
    let arguments = "--unshare-all --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 \
                     /lib64 --proc /proc --dev /dev --tmpfs /tmp --die-with-parent true";
    assert!(
        Process::new("bwrap")
            .args(arguments.split(' '))
            .status()
            .unwrap()
            .success()
    );
    start.elapsed()
}

#[tokio::main]
async fn main() {
    let worker = Worker::new().await;
    let node = tree();
    let directories = WorkerDirectories::open(&worker.directory.path().join("assembly"), None).unwrap();
    let files = FileCache::open(Arc::clone(&directories), u64::MAX).unwrap();
    let input_roots = InputRoots::new(Arc::clone(&directories), files, u64::MAX);
    let assemble = async |root: Digest| {
        let directory_cache = DirectoryCache::new(0);
        let tree = Arc::new(
            fetch_directory_tree(&*worker.store, root, &directory_cache)
                .await
                .unwrap(),
        );
        let action = ActionDirectory::create(&directories).unwrap();
        let start = Instant::now();
        let input_root = input_roots
            .assemble(
                &*worker.store,
                &tree,
                &action,
                true,
                &CancellationToken::new(),
                || Ok(()),
            )
            .await
            .unwrap();
        (start.elapsed(), input_root)
    };
    // Fills the file cache. The layer of this tree has another path than those that are measured.
    let root = worker.put_tree(&directory([("warm", node.clone())])).await;
    let (_, warm) = assemble(root).await;

    let mut assembled = vec![];
    let mut copied = vec![];
    let mut again = vec![];
    let source = directories.cache().join(&warm.lower[1]).join("warm");
    for round in 0..ROUNDS {
        copied.push(copy_links(&source, &worker.directory.path().join("copy")));
        let name = format!("round-{round}");
        let root = worker.put_tree(&directory([(name.as_str(), node.clone())])).await;
        assembled.push(assemble(root).await.0);
        let root = worker
            .put_tree(&directory([
                (name.as_str(), node.clone()),
                ("other", file("changed")),
            ]))
            .await;
        again.push(assemble(root).await.0);
    }
    let (assembled, copied, again) = (median(assembled), median(copied), median(again));
    report(
        "input root of 50,000 files assembled",
        assembled,
        "cp -al",
        copied,
    );
    report("the same subtree again in another root", again, "cp -al", copied);

    let root = worker
        .put_tree(&directory([
            ("round-0", node.clone()),
            ("other", file("changed")),
        ]))
        .await;
    let mut wrapped = vec![];
    let mut plain = vec![];
    for number in 0..ACTIONS {
        plain.push(bubblewrap());
        let script = format!(": {number}");
        let action = worker
            .action(
                root,
                &Run {
                    script: &script,
                    ..Run::default()
                },
            )
            .await;
        let start = Instant::now();
        let response = worker.execute(action).await;
        wrapped.push(start.elapsed());
        worker.succeeded(response).await;
    }
    let (wrapped, plain) = (median(wrapped), median(plain));
    report("no-op Action with these inputs", wrapped, "bwrap true", plain);
}
