//! Benchmark of the disk store: its index, small blobs in batches, and a large stream, each beside the file system alone
//! with the same bytes.
//!
//! Prints one JSON object a line: name, value, unit, reference, `reference_value`, ratio.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use bitzel_cas::{BlobRange, BlobStore, DiskBlobStore, DiskBlobStoreOptions};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const OPTIONS: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: 1 << 40,
    free_space_floor_bytes: 0,
    compress: false,
};
/// Blobs in the store whose index is measured.
const INDEXED_BLOBS: u64 = 2_000_000;
/// Small blobs that are written and read.
const SMALL_BLOBS: u64 = 100_000;
const SMALL_BLOB_BYTES: usize = 4096;
/// Blobs in one batch.
const BATCH_BLOBS: usize = 512;
/// Batches at the same time.
const CONCURRENT_BATCHES: usize = 4;
/// Digests in one call of `find_missing`.
const REQUESTED_DIGESTS: u64 = 20_000;
const LARGE_BLOB_BYTES: usize = 1 << 30;
const CHUNK_BYTES: usize = 1 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    // On the disk of the build, not in a file system in memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    small_blobs(directory.path()).await?;
    large_blob(directory.path()).await?;
    index(directory.path()).await
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is its output")]
fn report(name: &str, value: f64, unit: &str, reference: &str, reference_value: Option<f64>) {
    let line = json!({
        "name": name,
        "value": value,
        "unit": unit,
        "reference": reference,
        "reference_value": reference_value,
        "ratio": reference_value.map(|reference| value / reference),
    });
    println!("{line}");
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn rate(count: u64, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64()
}

fn blob(number: u64, size: usize) -> Bytes {
    let mut blob = vec![0x5a; size];
    blob[..8].copy_from_slice(&number.to_le_bytes());
    blob.into()
}

async fn small_blobs(directory: &Path) -> Result<()> {
    let blobs: Vec<(Digest, Bytes)> = (0..SMALL_BLOBS)
        .map(|number| {
            let blob = blob(number, SMALL_BLOB_BYTES);
            (DigestFunction::Sha256.digest(&blob), blob)
        })
        .collect();
    let floor = directory.join("floor");
    let started = Instant::now();
    let file = File::create(&floor)?;
    for batch in blobs.chunks(BATCH_BLOBS) {
        for (digest, blob) in batch {
            assert_eq!(DigestFunction::Sha256.digest(blob), *digest);
            (&file).write_all(blob)?;
        }
    }
    let floor_write = rate(SMALL_BLOBS, started);
    let started = Instant::now();
    let file = File::open(&floor)?;
    for (number, (digest, _)) in (0..).zip(&blobs) {
        let mut blob = vec![0; SMALL_BLOB_BYTES];
        file.read_exact_at(&mut blob, number * SMALL_BLOB_BYTES as u64)?;
        assert_eq!(DigestFunction::Sha256.digest(&blob), *digest);
    }
    let floor_read = rate(SMALL_BLOBS, started);
    fs::remove_file(&floor)?;

    let opened = DiskBlobStore::open(&directory.join("small"), OPTIONS).await?;
    let store = &opened;
    let reference = "hash and one file, one thread";
    let started = Instant::now();
    let batches: Vec<Vec<(Digest, Bytes)>> = blobs.chunks(BATCH_BLOBS).map(<[_]>::to_vec).collect();
    futures::stream::iter(batches)
        .map(|batch| async move {
            store
                .write_batch(batch)
                .await
                .into_iter()
                .collect::<std::result::Result<Vec<()>, _>>()
        })
        .buffer_unordered(CONCURRENT_BATCHES)
        .try_collect::<Vec<_>>()
        .await?;
    let written = rate(SMALL_BLOBS, started);
    report(
        "disk store, blobs of 4 KiB, write_batch",
        written,
        "blobs/s",
        reference,
        Some(floor_write),
    );
    let started = Instant::now();
    let batches: Vec<Vec<Digest>> = blobs
        .chunks(BATCH_BLOBS)
        .map(|batch| batch.iter().map(|(digest, _)| *digest).collect())
        .collect();
    futures::stream::iter(batches)
        .map(|batch| async move {
            store
                .read_batch(&batch)
                .await
                .into_iter()
                .collect::<std::result::Result<Vec<Bytes>, _>>()
        })
        .buffer_unordered(CONCURRENT_BATCHES)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let read = rate(SMALL_BLOBS, started);
    report(
        "disk store, blobs of 4 KiB, read_batch",
        read,
        "blobs/s",
        reference,
        Some(floor_read),
    );
    store.close().await?;
    Ok(())
}

async fn large_blob(directory: &Path) -> Result<()> {
    let chunk = blob(7, CHUNK_BYTES);
    let chunks = LARGE_BLOB_BYTES / CHUNK_BYTES;
    let floor = directory.join("floor");
    let started = Instant::now();
    let mut hasher = DigestFunction::Sha256.hasher();
    let mut file = File::create(&floor)?;
    for _ in 0..chunks {
        hasher.update(&chunk);
        file.write_all(&chunk)?;
    }
    let digest = hasher.finish();
    let floor_write = rate(chunks as u64, started);
    fs::remove_file(&floor)?;
    let store = DiskBlobStore::open(&directory.join("large"), OPTIONS).await?;
    let started = Instant::now();
    let stream = futures::stream::iter(vec![chunk; chunks]).map(Ok);
    store.write(digest, stream.boxed()).await?;
    let reference = "hash and one file, one thread";
    report(
        "disk store, 1 GiB, write",
        rate(chunks as u64, started),
        "MiB/s",
        reference,
        Some(floor_write),
    );
    let started = Instant::now();
    let mut stream = store.read(digest, BlobRange::default()).await?;
    let mut bytes = 0;
    while let Some(chunk) = stream.try_next().await? {
        bytes += chunk.len();
    }
    assert_eq!(bytes, LARGE_BLOB_BYTES);
    report(
        "disk store, 1 GiB, read",
        rate(chunks as u64, started),
        "MiB/s",
        "1 GiB, write",
        Some(floor_write),
    );
    store.close().await?;
    Ok(())
}

/// Measures the index, with blobs of eight bytes: it is the same for blobs of every size.
async fn index(directory: &Path) -> Result<()> {
    let root = directory.join("index");
    let opened = DiskBlobStore::open(&root, OPTIONS).await?;
    let store = &opened;
    let numbers: Vec<u64> = (0..INDEXED_BLOBS).collect();
    futures::stream::iter(numbers.chunks(8192).map(<[u64]>::to_vec))
        .map(|numbers| async move {
            let blobs = numbers.into_iter().map(|number| {
                let blob = blob(number, 8);
                (DigestFunction::Sha256.digest(&blob), blob)
            });
            store
                .write_batch(blobs.collect())
                .await
                .into_iter()
                .collect::<std::result::Result<Vec<()>, _>>()
        })
        .buffer_unordered(CONCURRENT_BATCHES)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    // Half of them are present.
    let asked = |start: u64| -> Vec<Digest> {
        let number = |number: u64| start + number * (INDEXED_BLOBS / REQUESTED_DIGESTS) * 2;
        let digest = |asked| DigestFunction::Sha256.digest(&blob(number(asked), 8));
        (0..REQUESTED_DIGESTS).map(digest).collect()
    };
    let calls: Vec<Vec<Digest>> = (0..50).map(asked).collect();
    let mut times = Vec::new();
    for call in &calls {
        let started = Instant::now();
        assert_eq!(
            store.find_missing(call).await?.len() as u64,
            REQUESTED_DIGESTS / 2
        );
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    report(
        "disk store of 2,000,000, find_missing of 20,000, median",
        times[25],
        "ms",
        "",
        None,
    );
    report(
        "disk store of 2,000,000, find_missing of 20,000, slowest of 50",
        times[49],
        "ms",
        "",
        None,
    );
    report(
        "disk store of 2,000,000, resident memory",
        resident()?,
        "MiB",
        "",
        None,
    );
    store.close().await?;
    drop(opened);
    let started = Instant::now();
    let store = DiskBlobStore::open(&root, OPTIONS).await?;
    let opened = started.elapsed().as_secs_f64();
    assert_eq!(store.usage().blobs, INDEXED_BLOBS);
    report(
        "disk store of 2,000,000, open",
        opened,
        "s",
        "limit of the issue",
        Some(2.0),
    );
    // As after `kill -9`: only the journal is new.
    let extra: Vec<(Digest, Bytes)> = (INDEXED_BLOBS..INDEXED_BLOBS + 8192)
        .map(|number| (DigestFunction::Sha256.digest(&blob(number, 8)), blob(number, 8)))
        .collect();
    store
        .write_batch(extra)
        .await
        .into_iter()
        .collect::<std::result::Result<Vec<()>, _>>()?;
    drop(store);
    let started = Instant::now();
    let store = DiskBlobStore::open(&root, OPTIONS).await?;
    let opened = started.elapsed().as_secs_f64();
    assert_eq!(store.usage().blobs, INDEXED_BLOBS + 8192);
    report(
        "disk store of 2,000,000, open after kill -9",
        opened,
        "s",
        "limit of the issue",
        Some(2.0),
    );
    Ok(())
}

fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
