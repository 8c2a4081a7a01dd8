//! The file cache keeps exactly the hashed bytes of outputs, even if a process still has the output files open.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bitzel_cas::{DiskBlobStore, DiskBlobStoreOptions};
use bitzel_proto::Digest;

use crate::harness::*;

/// Checks that every cached file has the content of its name.
fn assert_intact(worker: &Worker) {
    for (path, content) in contents(&worker.cache().join("files")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.contains(&*FUNCTION.digest(&content).hash_hex()), "{name}");
    }
}

/// The only cached file with this content.
fn cached(worker: &Worker, content: &[u8]) -> PathBuf {
    let files = worker.cache().join("files");
    let mut found = contents(&files).into_iter().filter(|(_, kept)| kept == content);
    let path = files.join(found.next().expect("the file is kept").0);
    assert!(found.next().is_none(), "the file is kept once");
    path
}

/// Overwrites a file of the cache. Its mode allows that only to root, so the mode is changed first.
fn overwrite(path: &Path, content: &[u8]) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(content, 0)
        .unwrap();
}

#[tokio::test]
async fn f1_a_late_write_to_an_output_spares_the_cache() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    // A descriptor of this process stands for anything that outlives a command, such as a transfer of io_uring.
    let run = Run {
        script: "printf good > out; mkfifo go; cat go > /dev/null; rm go",
        outputs: &["out"],
        ..Run::default()
    };
    let (request, mut stages) = Worker::observed_request(worker.action(root, &run).await);
    let (response, writer) = tokio::join!(worker.executor().execute(request), async {
        stages.recv().await.unwrap();
        let go = created_by_command(&worker, "go").await;
        let out = go.with_file_name("out");
        let writer = OpenOptions::new().read(true).write(true).open(out).unwrap();
        tokio::task::spawn_blocking(move || File::options().write(true).open(go).unwrap())
            .await
            .unwrap()
            .write_all(b"go")
            .unwrap();
        writer
    });
    worker.succeeded(response).await;
    cached(&worker, b"good");
    writer.write_all_at(b"evil", 0).unwrap();
    assert_intact(&worker);
    let run = Run {
        script: "cat in",
        ..Run::default()
    };
    let result = worker.run(&directory([("in", plain_file("good"))]), run).await;
    // The command read the kept copy.
    assert_eq!(worker.store.reads_of(b"good"), 0);
    assert_eq!(worker.stdout(&result).await, "good");
}

/// Program that queues direct reads of a large file, which keep the disk busy, and behind them a read of other bytes into
/// a page of the output. It ends before the kernel serves that read.
const LATE_TRANSFER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
enum { READS = 128, LENGTH = 2 << 20, PAGE = 4096 };
int main(void) {
    struct io_uring_params parameters = {0};
    int ring = syscall(SYS_io_uring_setup, READS + 1, &parameters);
    if (ring < 0) { perror("io_uring_setup"); return 0; }
    char *queue = mmap(0, parameters.sq_off.array + (READS + 1) * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                       IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(0, parameters.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED,
                                        ring, IORING_OFF_SQES);
    int bulk = open("bulk", O_RDONLY | O_DIRECT), evil = open("evil", O_RDONLY | O_DIRECT), out = open("out", O_RDWR);
    char *page = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
    char *buffer = mmap(0, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bulk < 0 || evil < 0 || page == MAP_FAILED || buffer == MAP_FAILED) { perror("prepare"); return 1; }
    memset(buffer, 1, LENGTH);
    memset(page, 'g', PAGE);
    unsigned *array = (unsigned *)(queue + parameters.sq_off.array);
    for (int i = 0; i <= READS; i++) {
        int last = i == READS;
        entries[i] = (struct io_uring_sqe){.opcode = IORING_OP_READ, .fd = last ? evil : bulk,
            .addr = (unsigned long)(last ? page : buffer), .len = last ? PAGE : LENGTH, .off = last ? 0 : (long)i * LENGTH};
        array[i] = i;
    }
    __atomic_store_n((unsigned *)(queue + parameters.sq_off.tail), READS + 1, __ATOMIC_RELEASE);
    syscall(SYS_io_uring_enter, ring, READS + 1, 0, 0, 0, 0);
    printf("queued\n");
    fflush(stdout);
    _exit(0);
}
"#;

#[tokio::test]
async fn f1_a_late_transfer_spares_the_cache() {
    let worker = Worker::new().await;
    let tree = directory([("dma.c", file(LATE_TRANSFER))]);
    let good = "g".repeat(4096);
    for number in 0..5 {
        let script = format!(
            "gcc -o dma dma.c
            dd if=/dev/zero of=bulk bs=2M count=128 status=none
            head -c 4096 /dev/zero | tr '\\0' e > evil
            head -c 4096 /dev/zero | tr '\\0' g > out
            sync bulk evil out
            ./dma # {number}"
        );
        let run = Run {
            script: &script,
            outputs: &["out"],
            properties: EXACT,
            ..Run::default()
        };
        let response = worker.respond(&tree, run).await;
        let result = response.result.unwrap();
        assert_eq!(result.exit_code, 0, "{}", worker.stderr(&result).await);
        let stderr = worker.stderr(&result).await;
        if number == 0 && stderr.contains("io_uring_setup") {
            println!(
                "SKIPPED: f1_a_late_transfer_spares_the_cache: no late transfer, {}",
                stderr.trim_end()
            );
        }
        // The bytes may arrive before or during the hashing: then they belong to the output.
        assert_intact(&worker);
        let run = Run {
            script: &format!("# {number}\ncat in"),
            ..Run::default()
        };
        let result = worker.run(&directory([("in", plain_file(&good))]), run).await;
        assert_eq!(worker.stdout(&result).await, good);
    }
}

#[tokio::test]
async fn f1_verifies_files_of_an_earlier_worker() {
    let mut worker = Worker::new().await;
    let tree = directory([("in", plain_file("good")), ("kept", plain_file("kept"))]);
    let run = |script| Run {
        script,
        ..Run::default()
    };
    worker.run(&tree, run("true")).await;
    let kept = fs::metadata(cached(&worker, b"kept")).unwrap().ino();
    worker.stop();
    overwrite(&cached(&worker, b"good"), b"evil");
    worker.restart().await;
    let result = worker.run(&tree, run("cat in kept")).await;
    assert_eq!(worker.stdout(&result).await, "goodkept");
    assert_intact(&worker);
    assert_eq!(worker.store.reads_of(b"good"), 2);
    // The other file was intact and is still the same.
    assert_eq!(worker.store.reads_of(b"kept"), 1);
    assert_eq!(fs::metadata(cached(&worker, b"kept")).unwrap().ino(), kept);
}

#[tokio::test]
async fn f1_verifies_the_source_of_a_copy_for_another_mode() {
    let worker = Worker::new().await;
    let tree = directory([("in", plain_file("good"))]);
    let run = |script| Run {
        script,
        ..Run::default()
    };
    worker.run(&tree, run("true")).await;
    overwrite(&cached(&worker, b"good"), b"evil");
    let tree = directory([("in", Node::Executable(b"good".to_vec()))]);
    let result = worker.run(&tree, run("cat in")).await;
    assert_eq!(worker.stdout(&result).await, "good");
    assert_intact(&worker);
}

#[tokio::test]
async fn f4_a_kept_output_takes_no_more_space_than_its_bytes() {
    let worker = Worker::new().await;
    let run = Run {
        script: "printf small > out; fallocate -n -l 64M out; printf x > sparse; truncate -s 64M sparse",
        outputs: &["out", "sparse"],
        ..Run::default()
    };
    let result = worker.run(&directory([]), run).await;
    assert_eq!(worker.output(&result, "out").await, "small");
    let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    assert!(blocks(cached(&worker, b"small")) <= 4096);
    let mut sparse = vec![0; 64 << 20];
    sparse[0] = b'x';
    assert!(blocks(cached(&worker, &sparse)) <= 1 << 20);
    assert_intact(&worker);
}

/// Processor time of this process, user and system.
#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Prints the time of an Action with many outputs, and of one with a large output.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, run by hand"]
#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
async fn measures_the_cost_of_kept_outputs() {
    let blobs = tempfile::tempdir().unwrap();
    let options = DiskBlobStoreOptions {
        limit_bytes: 64 << 30,
        free_space_floor_bytes: 0,
        compress: false,
    };
    let store = DiskBlobStore::open(blobs.path(), options).await.unwrap();
    let worker = Worker::on(Arc::new(WatchedBlobStore::around(Arc::new(store))), |_| {}).await;
    let root: Digest = worker.put_tree(&directory([])).await;
    let many = "
import os, random
os.mkdir('out')
random.seed(SEED)
for number in range(10000):
    if number % 100 == 0: os.mkdir(f'out/{number // 100}')
    with open(f'out/{number // 100}/{number}', 'wb') as file: file.write(random.randbytes(10240))
";
    let large = "
import os, random
os.mkdir('out')
random.seed(SEED)
with open('out/large', 'wb') as file:
    for _ in range(1024): file.write(random.randbytes(1 << 20))
";
    for (name, script) in [("10,000 of 10 KiB", many), ("1 GiB", large)] {
        for round in 0..5 {
            let script = script.replace("SEED", &format!("'{name} {round}'"));
            let script = format!("exec /usr/bin/python3 -c \"{script}\"");
            let run = Run {
                script: &script,
                outputs: &["out"],
                properties: EXACT,
                ..Run::default()
            };
            let action = worker.action(root, &run).await;
            let (start, processor_start) = (Instant::now(), processor_seconds());
            let response = worker.execute(action).await;
            let processor = processor_seconds() - processor_start;
            let whole = start.elapsed().as_secs_f64();
            let result = worker.succeeded(response).await;
            let times = result.execution_metadata.unwrap();
            let between = |from: &Option<bitzel_proto::google::protobuf::Timestamp>, to: &Option<_>| {
                let seconds = |time: &Option<bitzel_proto::google::protobuf::Timestamp>| {
                    let time = time.unwrap();
                    time.seconds as f64 + f64::from(time.nanos) / 1e9
                };
                seconds(to) - seconds(from)
            };
            println!(
                "{name}: {whole:.2} s, of which the command {:.2} s, hashing and upload {:.2} s, the rest {:.2} s; worker and \
                 store {processor:.2} s of the processors",
                between(
                    &times.execution_start_timestamp,
                    &times.execution_completed_timestamp
                ),
                between(
                    &times.output_upload_start_timestamp,
                    &times.output_upload_completed_timestamp
                ),
                between(
                    &times.output_upload_completed_timestamp,
                    &times.worker_completed_timestamp
                ),
            );
        }
    }
}
