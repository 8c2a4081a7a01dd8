//! Layers of input roots, and their limits.

use std::sync::Arc;

use tonic::Code;

use crate::harness::*;

/// A tree with a layer of symlinks, another one for each `number`. No file is in it, so the file cache stays empty.
fn symlinks(number: usize, count: usize) -> Node {
    let links = (0..count).map(|index| (format!("l{index}"), symlink(&format!("target-{number}"))));
    directory([("d", Node::Directory(links.collect(), None))])
}

const TRUE: Run = Run {
    script: "test $(ls d | wc -l) -gt 300",
    outputs: &[],
    properties: &[],
    platform: &[],
    environment: &[],
    working_directory: "",
    timeout: None,
};

#[tokio::test]
async fn f23_evicts_layers_by_their_entries() {
    let worker = Worker::with(|config| config.max_layer_entries = 1000).await;
    for number in 0..6 {
        worker.run(&symlinks(number, 400), TRUE).await;
    }
    let layers = std::fs::read_dir(worker.cache().join("layers")).unwrap().count();
    // Two have 802 entries. One more was in use when the limit was last enforced.
    assert!(layers <= 3, "{layers} layers are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_layers_leave_no_disk_full() {
    let Some(small) = SmallFileSystem::mount("nr_inodes=6000") else {
        println!("SKIPPED: f23_layers_leave_no_disk_full: this user may not mount");
        return;
    };
    let cache = small.path().join("cache");
    let worker = Worker::on(Arc::default(), |config| config.cache_directory = cache).await;
    for number in 0..12 {
        let root = worker.put_tree(&symlinks(number, 1000)).await;
        let action = worker.action(root, &TRUE).await;
        let mut response = worker.execute(action).await;
        let status = response.status.clone().unwrap();
        if status.code != Code::Ok as i32 {
            assert_eq!(status.code, Code::Aborted as i32, "{}", status.message);
            // The disk was full, and has space for the next attempt.
            response = worker.execute(action).await;
        }
        worker.succeeded(response).await;
    }
}
