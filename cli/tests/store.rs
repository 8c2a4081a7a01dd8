//! `bitzel store` on a store on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, DiskBlobStore, DiskBlobStoreOptions};
use bitzel_proto::{Digest, DigestFunction};
use serde_json::Value;
use tempfile::TempDir;

/// Options of the stores in these tests.
const STORE_OPTIONS: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: 1 << 30,
    free_space_floor_bytes: 0,
    compress: false,
};

struct Site {
    root: TempDir,
}

impl Site {
    /// Store with blobs of these sizes. The first one was used last.
    async fn with_blobs(sizes: &[usize]) -> (Self, Vec<Digest>) {
        let site = Self {
            root: TempDir::new().unwrap(),
        };
        let store = site.open().await;
        let mut digests = Vec::new();
        for size in sizes {
            let blob = vec![u8::try_from(size % 251).unwrap(); *size];
            let digest = DigestFunction::Sha256.digest(&blob);
            store.write(digest, one_chunk(blob.into())).await.unwrap();
            digests.push(digest);
        }
        store.find_missing(&digests[..1]).await.unwrap();
        store.close().await.unwrap();
        (site, digests)
    }

    fn store(&self) -> PathBuf {
        self.root.path().join("server").join("cas")
    }

    async fn open(&self) -> DiskBlobStore {
        DiskBlobStore::open(&self.store(), STORE_OPTIONS).await.unwrap()
    }

    async fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        self.open().await.find_missing(digests).await.unwrap()
    }

    fn bitzel(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bitzel"))
            .arg("--cache-dir")
            .arg(self.root.path())
            .arg("store")
            .args(arguments)
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn only_file_in(directory: &Path) -> PathBuf {
    let mut files = fs::read_dir(directory).unwrap();
    files.next().unwrap().unwrap().path()
}

#[tokio::test]
async fn prints_stats_as_text_and_as_json() {
    let (site, _) = Site::with_blobs(&[100, 5000, 2 << 20]).await;
    let json = site.bitzel(&["stats", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["blobs"], 3);
    assert_eq!(json["disk_bytes"], 4096 + 8192 + (2 << 20));
    assert_eq!(json["in_segments"]["logical_bytes"], 5100);
    assert_eq!(json["in_files"]["blobs"], 1);
    assert!(json["oldest_use_unix_seconds"].as_u64().unwrap() > 1_700_000_000);
    let people = text(&site.bitzel(&["stats"]).stdout);
    assert!(
        people.contains("2 blobs of 4.98 KiB, 12.00 KiB on disk"),
        "{people}"
    );
}

#[tokio::test]
async fn verify_names_the_blob_with_a_flipped_bit() {
    let (site, digests) = Site::with_blobs(&[100, 5000, 2 << 20]).await;
    let right = site.bitzel(&["verify"]);
    assert!(right.status.success());
    assert!(
        text(&right.stdout).contains("3 blobs of 2.00 MiB are intact"),
        "{right:?}"
    );
    let segment = only_file_in(&site.store().join("segments"));
    let mut bytes = fs::read(&segment).unwrap();
    // The second blob starts in the second block.
    bytes[4096 + 4000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let wrong = site.bitzel(&["verify"]);
    assert_eq!(wrong.status.code(), Some(1));
    let output = text(&wrong.stdout);
    assert!(output.contains(&format!("corrupt: {}", digests[1])), "{output}");
    assert!(output.contains("1 of 3 blobs were corrupt"), "{output}");
    assert_eq!(site.missing(&digests).await, digests[1..2]);
    let again = site.bitzel(&["verify"]);
    assert!(text(&again.stdout).contains("2 blobs"), "{again:?}");
}

#[tokio::test]
async fn gc_evicts_the_least_recently_used_blobs_first() {
    let (site, digests) = Site::with_blobs(&[100, 5000, 2 << 20]).await;
    let young = site.bitzel(&["gc", "--max-age", "1h"]);
    assert!(text(&young.stdout).starts_with("evicted 0 blobs"), "{young:?}");
    let small = site.bitzel(&["gc", "--size", "8K"]);
    assert!(text(&small.stdout).starts_with("evicted 2 blobs"), "{small:?}");
    assert_eq!(site.missing(&digests).await, digests[1..]);
    let neither = site.bitzel(&["gc"]);
    assert!(text(&neither.stderr).contains("--max-age"), "{neither:?}");
}

#[tokio::test]
async fn refuses_a_store_in_use_and_a_missing_one() {
    let (site, _) = Site::with_blobs(&[100]).await;
    let store = site.open().await;
    let locked = site.bitzel(&["stats"]);
    assert_eq!(locked.status.code(), Some(1));
    let message = text(&locked.stderr);
    assert!(message.contains("another process uses this store"), "{message}");
    assert!(message.contains("stop `bitzel serve`"), "{message}");
    drop(store);
    let nowhere = site.root.path().join("nowhere");
    let missing = site.bitzel(&["verify", "--store", nowhere.to_str().unwrap()]);
    assert!(
        text(&missing.stderr).contains("there is no store in"),
        "{missing:?}"
    );
    assert!(!nowhere.exists());
}
