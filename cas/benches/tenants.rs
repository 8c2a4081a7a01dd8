//! Benchmark of tenants: a disk store that all instances share beside the view of one tenant of an equal store, call by
//! call in turn.
//!
//! Prints one JSON object a line: name, value, unit, reference, `reference_value`, ratio.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bitzel_cas::{BlobStore, DiskBlobStore, DiskBlobStoreOptions, IsolatedBlobStore, PossessionKey};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const OPTIONS: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: 1 << 40,
    free_space_floor_bytes: 0,
    compress: false,
};
const BLOBS: u64 = 200_000;
const BLOB_BYTES: usize = 3000;
/// Blobs in one batch.
const BATCH_BLOBS: usize = 512;
/// Digests in one call of `find_missing`, one half of them present.
const REQUESTED_DIGESTS: u64 = 20_000;
const CALLS: usize = 50;
const LARGE_BLOB_BYTES: usize = 256 << 20;

/// A store, and the disk store below it.
struct Measured {
    store: Arc<dyn BlobStore>,
    disk: DiskBlobStore,
}

#[tokio::main]
async fn main() -> Result<()> {
    // On the disk of the build, not in a file system in memory.
    let directory = tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("."))?;
    let shared = open(&directory.path().join("shared"), false).await?;
    let isolated = open(&directory.path().join("isolated"), true).await?;
    small_blobs([&shared, &isolated]).await?;
    find_missing([&shared, &isolated]).await?;
    large_blob([&shared, &isolated]).await
}

async fn open(root: &Path, is_isolated: bool) -> Result<Measured> {
    let disk = DiskBlobStore::open(root, OPTIONS).await?;
    let mut store: Arc<dyn BlobStore> = Arc::new(disk.clone());
    if is_isolated {
        let key = PossessionKey::new(b"benchmark").of_tenant("tenant");
        store = Arc::new(IsolatedBlobStore::new(store, key, Arc::default()));
    }
    Ok(Measured { store, disk })
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is its output")]
fn report(name: &str, unit: &str, [shared, isolated]: [f64; 2]) {
    let line = json!({
        "name": name,
        "value": isolated,
        "unit": unit,
        "reference": "shared by all instances",
        "reference_value": shared,
        "ratio": isolated / shared,
    });
    println!("{line}");
}

fn blob(number: u64) -> (Digest, Bytes) {
    let mut blob = vec![0x5a; BLOB_BYTES];
    blob[..8].copy_from_slice(&number.to_le_bytes());
    (DigestFunction::Sha256.digest(&blob), blob.into())
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
async fn small_blobs(stores: [&Measured; 2]) -> Result<()> {
    let mut seconds = [0.0; 2];
    for first in (0..BLOBS).step_by(BATCH_BLOBS) {
        let batch: Vec<_> = (first..(first + BATCH_BLOBS as u64).min(BLOBS))
            .map(blob)
            .collect();
        for (measured, seconds) in stores.iter().zip(&mut seconds) {
            let started = Instant::now();
            let written = measured.store.write_batch(batch.clone()).await;
            *seconds += started.elapsed().as_secs_f64();
            written.into_iter().collect::<std::result::Result<Vec<()>, _>>()?;
        }
    }
    report(
        "write_batch of 512 blobs of 3 KB",
        "blobs/s",
        seconds.map(|seconds| BLOBS as f64 / seconds),
    );
    let usages = stores.map(|measured| measured.disk.usage().bytes as f64 / BLOBS as f64);
    report("space of a blob of 3 KB on disk", "bytes", usages);
    Ok(())
}

async fn find_missing(stores: [&Measured; 2]) -> Result<()> {
    let mut times = [vec![], vec![]];
    for call in 0..CALLS as u64 {
        let first = call * 1000;
        let present = first..first + REQUESTED_DIGESTS / 2;
        let absent = BLOBS + first..BLOBS + first + REQUESTED_DIGESTS / 2;
        let digests: Vec<Digest> = present.chain(absent).map(|number| blob(number).0).collect();
        for (measured, times) in stores.iter().zip(&mut times) {
            let started = Instant::now();
            let missing = measured.store.find_missing(&digests).await?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            assert_eq!(missing.len() as u64, REQUESTED_DIGESTS / 2);
        }
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    let at = |index: usize| [times[0][index], times[1][index]];
    report("find_missing of 20,000, median", "ms", at(CALLS / 2));
    report("find_missing of 20,000, fastest of 50", "ms", at(0));
    Ok(())
}

async fn large_blob(stores: [&Measured; 2]) -> Result<()> {
    let blob = Bytes::from(vec![0x5a; LARGE_BLOB_BYTES]);
    let digest = DigestFunction::Sha256.digest(&blob);
    let write = async |measured: &Measured| {
        let chunks: Vec<_> = (0..LARGE_BLOB_BYTES)
            .step_by(1 << 20)
            .map(|start| Ok(blob.slice(start..start + (1 << 20))))
            .collect();
        let started = Instant::now();
        let stream = futures::stream::iter(chunks).boxed();
        measured.store.write(digest, stream).await?;
        Ok::<_, bitzel_cas::Error>(started.elapsed().as_secs_f64() * 1e3)
    };
    for name in [
        "write of a new blob of 256 MiB",
        "write of an existing blob of 256 MiB",
    ] {
        report(name, "ms", [write(stores[0]).await?, write(stores[1]).await?]);
    }
    Ok(())
}
