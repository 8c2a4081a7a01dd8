use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use proptest::prelude::*;

use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::failing_blob_store::SwitchedBlobStore;
use crate::testing::model;
use crate::testing::{noise, sha256};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let open = async |open: Option<MeteredBlobStore>| {
            open.unwrap_or_else(|| MeteredBlobStore::new("model", Arc::new(MemoryBlobStore::default())))
        };
        runtime.block_on(model::run(steps, open));
    }
}

/// Runs `work` with a recorder of its own and returns every metric as `name{label=value,…}`.
pub(crate) fn recorded(work: impl Future<Output = ()>) -> BTreeMap<String, u64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(work));
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let named = metrics.map(|(key, _, _, value)| {
        let labels: Vec<String> = key
            .key()
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let value = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Histogram(samples) => samples.len() as u64,
            DebugValue::Gauge(_) => panic!("no gauges here"),
        };
        (format!("{}{{{}}}", key.key().name(), labels.join(",")), value)
    });
    named.collect()
}

#[test]
fn everything_is_counted_by_outcome() {
    let metrics = recorded(async {
        let switch = SwitchedBlobStore::new(Arc::new(MemoryBlobStore::default()));
        let store = MeteredBlobStore::new("disk", Arc::clone(&switch) as Arc<dyn BlobStore>);
        let blob = Bytes::from(noise(1, 3000));
        let digest = sha256(&blob);
        let absent = sha256(b"absent");
        store.write(digest, one_chunk(blob.clone())).await.unwrap();
        assert!(store.write_batch(vec![(absent, blob)]).await.remove(0).is_err());
        store.find_missing(&[digest, absent]).await.unwrap();
        read_whole(&store, digest).await.unwrap();
        assert!(read_whole(&store, absent).await.is_err());
        store.read_batch(&[digest, absent]).await;
        drop(store.read(digest, BlobRange::default()).await.unwrap());
        switch.break_streams();
        assert!(read_whole(&store, digest).await.is_err());
        switch.set_down(true);
        assert!(store.find_missing(&[digest]).await.is_err());
    });
    let expected = [
        ("bytes_total{store=disk,operation=read}", 3000 + 1500),
        ("bytes_total{store=disk,operation=read_batch}", 3000),
        ("bytes_total{store=disk,operation=write}", 3000),
        ("bytes_total{store=disk,operation=write_batch}", 3000),
        (
            "blobs_total{store=disk,operation=find_missing,outcome=not_found}",
            1,
        ),
        ("blobs_total{store=disk,operation=find_missing,outcome=ok}", 1),
        ("blobs_total{store=disk,operation=read,outcome=error}", 1),
        ("blobs_total{store=disk,operation=read,outcome=not_found}", 1),
        ("blobs_total{store=disk,operation=read,outcome=ok}", 1),
        (
            "blobs_total{store=disk,operation=read_batch,outcome=not_found}",
            1,
        ),
        ("blobs_total{store=disk,operation=read_batch,outcome=ok}", 1),
        ("blobs_total{store=disk,operation=write,outcome=ok}", 1),
        ("blobs_total{store=disk,operation=write_batch,outcome=error}", 1),
        ("duration_seconds{store=disk,operation=find_missing}", 2),
        ("duration_seconds{store=disk,operation=read}", 4),
        ("duration_seconds{store=disk,operation=read_batch}", 1),
        ("duration_seconds{store=disk,operation=write}", 1),
        ("duration_seconds{store=disk,operation=write_batch}", 1),
        (
            "requests_total{store=disk,operation=find_missing,outcome=error}",
            1,
        ),
        ("requests_total{store=disk,operation=find_missing,outcome=ok}", 1),
        ("requests_total{store=disk,operation=read,outcome=abandoned}", 1),
        ("requests_total{store=disk,operation=read,outcome=error}", 1),
        ("requests_total{store=disk,operation=read,outcome=not_found}", 1),
        ("requests_total{store=disk,operation=read,outcome=ok}", 1),
        (
            "requests_total{store=disk,operation=read_batch,outcome=not_found}",
            1,
        ),
        ("requests_total{store=disk,operation=write,outcome=ok}", 1),
        (
            "requests_total{store=disk,operation=write_batch,outcome=error}",
            1,
        ),
    ];
    let expected: BTreeMap<String, u64> = expected
        .into_iter()
        .map(|(name, count)| (format!("bitzel_blob_store_{name}"), count))
        .collect();
    assert_eq!(metrics, expected);
}
