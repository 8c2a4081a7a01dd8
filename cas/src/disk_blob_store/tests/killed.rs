//! A process that writes and is killed, again and again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

/// Where the child finds its store. Set only for the child.
const ROOT: &str = "BITZEL_TEST_KILLED_STORE";
const ACKNOWLEDGED: &str = "acknowledged ";
const ROUNDS: u64 = 12;
/// Small enough that the child evicts all the time.
const OPTIONS: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: 8 << 20,
    free_space_floor_bytes: 0,
    compress: false,
};

/// Blob `seed`: mostly small, some larger than one trip.
fn blob(seed: u64) -> Vec<u8> {
    let size = match seed % 10 {
        9 => (1 << 20) + 77,
        _ => 100 + usize::try_from(seed % 7).unwrap() * 3000,
    };
    noise(seed, size)
}

/// Not a test by itself: the child of the one below, which kills it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Ok(root) = std::env::var(ROOT) else {
        return;
    };
    let (root, first) = root.rsplit_once('@').unwrap();
    let store = DiskBlobStore::open(Path::new(root), OPTIONS).await.unwrap();
    let first: u64 = first.parse().unwrap();
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for seed in (first + writer..).step_by(4) {
                let blob = blob(seed);
                let digest = sha256(&blob);
                let chunks: Vec<_> = blob
                    .chunks(60_000)
                    .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                    .collect();
                store
                    .write(digest, futures::stream::iter(chunks).boxed())
                    .await
                    .unwrap();
                acknowledge(seed);
                if seed % 40 == 0 {
                    store.checkpoint().await.unwrap();
                }
            }
        })
    });
    futures::future::join_all(writers).await;
}

fn acknowledge(seed: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ACKNOWLEDGED}{seed}").unwrap();
    out.flush().unwrap();
}

/// The test harness may write something of its own before it on the same line. The last line may be cut off.
fn acknowledged(line: &str) -> Option<u64> {
    line.split_once(ACKNOWLEDGED)?.1.parse().ok()
}

fn start_child(root: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "disk_blob_store::tests::killed::child_that_writes_until_it_is_killed",
        ])
        .env(ROOT, format!("{}@{first}", root.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn every_acknowledged_blob_survives_kill_9_and_nothing_half_written_is_served() {
    let root = TempDir::new().unwrap();
    let mut all = 0;
    for round in 0..ROUNDS {
        let first = round * 1_000_000;
        let mut child = start_child(root.path(), first);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seeds: Vec<u64> = Vec::new();
        // Killed at another point in every round, with writes and checkpoints under way.
        let enough = 20 + usize::try_from(round).unwrap() * 13;
        while seeds.len() < enough {
            let line = lines
                .next()
                .expect("the child writes until it is killed")
                .unwrap();
            seeds.extend(acknowledged(&line));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was acknowledged while the signal was on its way, up to a line that was cut off.
        for line in lines {
            seeds.extend(acknowledged(&line.unwrap()));
        }

        let store = DiskBlobStore::open(root.path(), OPTIONS).await.unwrap();
        // The limit takes the oldest, never the last ones.
        for seed in seeds.iter().rev().take(10) {
            let blob = blob(*seed);
            assert_eq!(
                read_whole(&store, sha256(&blob)).await.unwrap(),
                blob,
                "blob {seed} of round {round}"
            );
        }
        let files = blob_files(&root);
        let bytes = bytes_on_disk(&root);
        let usage = store.usage();
        assert_eq!(usage.bytes, bytes, "index and disk agree");
        assert!(bytes <= OPTIONS.limit_bytes);
        assert_eq!(files_in(root.path().join("temporary")), Vec::<PathBuf>::new());
        for (path, size) in files {
            let name = path.file_name().unwrap().to_str().unwrap();
            let digest = sha256(&fs::read(&path).unwrap());
            assert_eq!(
                name,
                format!("{}-{size}", digest.hash_hex()),
                "every file is whole"
            );
        }
        assert_eq!(usage.corrupt_blobs, 0);
        all += seeds.len();
    }
    assert!(all > 1000, "{all} blobs are enough to meet every point");
}
