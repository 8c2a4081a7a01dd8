//! Death of a process with a write-back queue.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Environment variable with the directory of the child's stores.
const ROOT: &str = "BITZEL_TEST_KILLED_WRITE_BACK";
const ACKNOWLEDGED: &str = "acknowledged ";
const CHILD: &str = concat!(module_path!(), "::child_that_writes_until_it_is_killed");

fn blob(seed: u64) -> (Digest, Bytes) {
    let blob = Bytes::from(noise(seed, 3000));
    (sha256(&blob), blob)
}

/// The child of the test below, which kills it. Its slow store is down all the time.
#[tokio::test]
#[ignore = "the child process of acknowledged_blobs_survive_kill_9, which starts it by name"]
async fn child_that_writes_until_it_is_killed() {
    let root = std::env::var_os(ROOT).expect("the parent sets the directory");
    let root = Path::new(&root);
    let fast = disk(&root.join("fast")).await;
    let options = WriteBackOptions {
        max_blobs: 2000,
        max_bytes: 12 << 20,
        ..options(&root.join("queue"))
    };
    let store = TieredBlobStore::write_back(fast, Arc::new(FailingBlobStore), options)
        .await
        .unwrap();
    for seed in 0..2000 {
        let (digest, blob) = blob(seed);
        store.write(digest, one_chunk(blob)).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{ACKNOWLEDGED}{seed}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn acknowledged_blobs_survive_kill_9() {
    for round in 1..=5 {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                // The names of tests are without that of the crate.
                CHILD.split_once("::").unwrap().1,
            ])
            .env(ROOT, root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0_u64;
        for line in lines {
            // The test harness may write something of its own before it on the same line.
            acknowledged += u64::from(line.unwrap().contains(ACKNOWLEDGED));
            if acknowledged == round * 50 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!((round * 50..2000).contains(&acknowledged), "{acknowledged}");
        let fast = disk(&root.join("fast")).await;
        let memory = memory();
        let slow = SwitchedBlobStore::new(Arc::clone(&memory) as _);
        let store = TieredBlobStore::write_back(fast, slow, options(&root.join("queue")))
            .await
            .unwrap();
        store.settled().await;
        assert_eq!(store.write_back_status().lost_blobs, 0);
        // The last line may have been cut off.
        for seed in 0..acknowledged - 1 {
            assert!(
                has(memory.as_ref(), blob(seed).0).await,
                "blob {seed} of {acknowledged}"
            );
        }
    }
}
