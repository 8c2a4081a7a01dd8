use futures::stream;
use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::blob_store::{Lease, collect, one_chunk};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::model;
use crate::testing::{noise, sha256};

const OPTIONS: DeadlineOptions = DeadlineOptions {
    call: Duration::from_secs(10),
    progress: Duration::from_secs(30),
    progress_bytes: 1000,
};

/// Takes and gives one chunk in `pause`; never answers anything else.
struct SlowBlobStore {
    pause: Duration,
    chunk: usize,
}

#[async_trait]
impl BlobStore for SlowBlobStore {
    async fn find_missing(&self, _: &[Digest]) -> Result<Vec<Digest>, Error> {
        std::future::pending().await
    }

    async fn read(&self, digest: Digest, _: BlobRange) -> Result<BlobStream, Error> {
        let Self { pause, chunk } = *self;
        let chunks = usize::try_from(digest.size_bytes()).unwrap() / chunk;
        Ok(stream::iter(0..chunks)
            .then(move |_| async move {
                sleep(pause).await;
                Ok(Bytes::from(vec![0; chunk]))
            })
            .boxed())
    }

    async fn write(&self, _: Digest, mut blob: BlobStream) -> Result<(), Error> {
        while let Some(chunk) = blob.next().await {
            chunk?;
            sleep(self.pause).await;
        }
        Ok(())
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        std::future::pending().await
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        std::future::pending().await
    }
}

fn slow(seconds: u64, chunk: usize) -> DeadlineBlobStore {
    let pause = Duration::from_secs(seconds);
    DeadlineBlobStore::new(Arc::new(SlowBlobStore { pause, chunk }), OPTIONS)
}

fn large() -> Digest {
    Digest::new(bitzel_proto::DigestFunction::Sha256, [1; 32], 100_000)
}

fn source(chunks: usize, pause: Duration) -> BlobStream {
    stream::iter(0..chunks)
        .then(move |_| async move {
            sleep(pause).await;
            Ok(Bytes::from(vec![0; 1000]))
        })
        .boxed()
}

fn is_deadline<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Deadline { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let open = async |open: Option<DeadlineBlobStore>| {
            open.unwrap_or_else(|| {
                DeadlineBlobStore::new(Arc::new(MemoryBlobStore::default()), DeadlineOptions::default())
            })
        };
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up_on() {
    let store = slow(3600, 1000);
    let start = Instant::now();
    assert!(is_deadline(&store.find_missing(&[large()]).await));
    assert!(start.elapsed() < OPTIONS.call * 2);
    let batch = store.read_batch(&[large(), large()]).await;
    assert!(batch.len() == 2 && batch.iter().all(is_deadline));
    let batch = store
        .write_batch(vec![(large(), Bytes::new()), (large(), "x".into())])
        .await;
    assert!(batch.iter().any(is_deadline), "{batch:?}");
}

#[tokio::test(start_paused = true)]
async fn a_large_blob_may_take_hours_as_long_as_it_moves() {
    let store = slow(25, 1000);
    let start = Instant::now();
    let stream = store.read(large(), BlobRange::default()).await.unwrap();
    assert_eq!(collect(stream).await.unwrap().len(), 100_000);
    store.write(large(), source(100, Duration::ZERO)).await.unwrap();
    assert!(start.elapsed() > Duration::from_mins(80));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stops_is_given_up_on() {
    let store = slow(31, 1000);
    let stream = store.read(large(), BlobRange::default()).await.unwrap();
    assert!(is_deadline(&collect(stream).await));
    let start = Instant::now();
    assert!(is_deadline(
        &store.write(large(), source(100, Duration::ZERO)).await
    ));
    assert!(start.elapsed() < OPTIONS.progress * 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_trickles_is_given_up_on() {
    // Ten bytes every second are 300 where 1000 are asked for.
    let store = slow(1, 10);
    let stream = store.read(large(), BlobRange::default()).await.unwrap();
    assert!(is_deadline(&collect(stream).await));
}

#[tokio::test(start_paused = true)]
async fn a_slow_source_or_reader_is_not_the_stores_fault() {
    let store = slow(1, 1000);
    store
        .write(large(), source(5, Duration::from_hours(1)))
        .await
        .unwrap();
    let mut stream = store.read(large(), BlobRange::default()).await.unwrap();
    for _ in 0..3 {
        sleep(Duration::from_hours(1)).await;
        stream.next().await.unwrap().unwrap();
    }
    let blob = Bytes::from(noise(1, 10));
    let memory = DeadlineBlobStore::new(Arc::new(MemoryBlobStore::default()), OPTIONS);
    memory.write(sha256(&blob), one_chunk(blob)).await.unwrap();
}
