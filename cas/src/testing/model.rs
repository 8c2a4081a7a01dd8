//! Contract of every blob store, as a model that stores are compared with.

use std::collections::HashSet;
use std::sync::LazyLock;

use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;

use crate::blob_store::{BlobRange, BlobStore, collect};
use crate::error::Error;
use crate::testing::noise;

/// Number of different blobs in the steps: few, so that steps meet on one blob.
const BLOB_COUNT: usize = 8;

/// One call to a store.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "calls and their arguments, named as in the trait")]
pub enum Step {
    /// Writes a blob in chunks of `chunk` bytes, or under its digest something else.
    Write {
        blob: usize,
        wrong: bool,
        chunk: usize,
    },
    /// Starts to write and fails half-way.
    TornWrite {
        blob: usize,
    },
    WriteBatch {
        blobs: Vec<(usize, bool)>,
    },
    Read {
        blob: usize,
        offset: u64,
        limit: Option<u64>,
    },
    ReadBatch {
        blobs: Vec<usize>,
    },
    FindMissing {
        blobs: Vec<usize>,
    },
    /// Only for stores that outlive their process.
    Reopen,
}

/// Strategy for any call.
pub fn step() -> impl Strategy<Value = Step> {
    let blob = 0..BLOB_COUNT;
    let limit = prop_oneof![Just(None), (0..3_000_000_u64).prop_map(Some)];
    let chunk = prop_oneof![1_000..5_000_usize, Just(3 << 20)];
    prop_oneof![
        3 => (blob.clone(), prop::bool::weighted(0.2), chunk)
            .prop_map(|(blob, wrong, chunk)| Step::Write { blob, wrong, chunk }),
        1 => blob.clone().prop_map(|blob| Step::TornWrite { blob }),
        2 => prop::collection::vec((blob.clone(), prop::bool::weighted(0.2)), 0..6)
            .prop_map(|blobs| Step::WriteBatch { blobs }),
        3 => (blob.clone(), 0..3_000_000_u64, limit)
            .prop_map(|(blob, offset, limit)| Step::Read { blob, offset, limit }),
        1 => blob.clone().prop_map(|blob| Step::Read { blob, offset: 0, limit: None }),
        2 => prop::collection::vec(blob.clone(), 0..8).prop_map(|blobs| Step::ReadBatch { blobs }),
        2 => prop::collection::vec(blob, 0..8).prop_map(|blobs| Step::FindMissing { blobs }),
        1 => Just(Step::Reopen),
    ]
}

/// Blobs of all kinds of sizes under both functions; the first is the empty one.
pub fn blob(index: usize) -> (Digest, Bytes) {
    const SIZES: [usize; BLOB_COUNT] = [0, 1, 4096, 4097, 70_000, 1 << 20, (1 << 20) + 1, 2_500_000];
    static MADE: LazyLock<Vec<(Digest, Bytes)>> = LazyLock::new(|| {
        let make = |(index, size): (usize, usize)| {
            let blob = Bytes::from(noise(index as u64, size));
            (DigestFunction::ALL[index % 2].digest(&blob), blob)
        };
        SIZES.into_iter().enumerate().map(make).collect()
    });
    MADE[index].clone()
}

fn wrong_bytes(index: usize) -> Bytes {
    let (_, right) = blob(index);
    match right.len() {
        0 => Bytes::from_static(b"!"),
        size => {
            let mut wrong = right.to_vec();
            wrong[size / 2] ^= 1;
            wrong.into()
        }
    }
}

fn chunks(blob: &Bytes, size: usize) -> Vec<Result<Bytes, Error>> {
    blob.chunks(size)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect()
}

/// Runs the steps and panics where the store answers otherwise than the model. `reopen` returns the store, closed and
/// opened again where that is possible. The store must be large enough never to evict.
pub async fn run<S: BlobStore>(steps: Vec<Step>, mut reopen: impl AsyncFnMut(Option<S>) -> S) {
    let mut present: HashSet<usize> = HashSet::from([0]);
    let mut store = reopen(None).await;
    for step in steps {
        match &step {
            Step::Write {
                blob: index,
                wrong,
                chunk,
            } => {
                let (digest, right) = blob(*index);
                let bytes = if *wrong { wrong_bytes(*index) } else { right };
                let stream = futures::stream::iter(chunks(&bytes, *chunk)).boxed();
                let result = store.write(digest, stream).await;
                check_write(&step, &mut present, *index, *wrong, &result);
            }
            Step::TornWrite { blob: index } => {
                let (digest, right) = blob(*index);
                let mut torn = chunks(&right.slice(..right.len() / 2), 1 << 19);
                torn.push(Err(Error::InvalidArgument("torn".into())));
                let result = store.write(digest, futures::stream::iter(torn).boxed()).await;
                assert!(result.is_err() || present.contains(index), "{step:?}: {result:?}");
            }
            Step::WriteBatch { blobs } => {
                let bytes = |(index, wrong): &(usize, bool)| {
                    let (digest, right) = blob(*index);
                    (digest, if *wrong { wrong_bytes(*index) } else { right })
                };
                let results = store.write_batch(blobs.iter().map(bytes).collect()).await;
                assert_eq!(results.len(), blobs.len());
                // Right ones first: they may be stored before the wrong ones of the same digest are looked at.
                present.extend(blobs.iter().filter(|(_, wrong)| !wrong).map(|(index, _)| index));
                for ((index, wrong), result) in blobs.iter().zip(&results) {
                    check_write(&step, &mut present, *index, *wrong, result);
                }
            }
            Step::Read {
                blob: index,
                offset,
                limit,
            } => {
                let (digest, right) = blob(*index);
                let range = BlobRange {
                    offset: *offset,
                    limit: *limit,
                };
                let result = match store.read(digest, range).await {
                    Ok(stream) => collect(stream).await,
                    Err(error) => Err(error),
                };
                check_read(&step, &right, present.contains(index), range, result);
            }
            Step::ReadBatch { blobs } => {
                let digests: Vec<Digest> = blobs.iter().map(|index| blob(*index).0).collect();
                let results = store.read_batch(&digests).await;
                assert_eq!(results.len(), blobs.len());
                for (index, result) in blobs.iter().zip(results) {
                    let (_, right) = blob(*index);
                    check_read(
                        &step,
                        &right,
                        present.contains(index),
                        BlobRange::default(),
                        result,
                    );
                }
            }
            Step::FindMissing { blobs } => {
                let digests: Vec<Digest> = blobs.iter().map(|index| blob(*index).0).collect();
                let missing = store.find_missing(&digests).await.unwrap();
                let distinct: HashSet<Digest> = missing.iter().copied().collect();
                assert_eq!(distinct.len(), missing.len(), "{step:?}: each once");
                let absent = blobs.iter().filter(|index| !present.contains(index));
                assert_eq!(distinct, absent.map(|index| blob(*index).0).collect(), "{step:?}");
                for (index, digest) in blobs.iter().zip(digests) {
                    // Not every store can tell, and none needs to hold the empty blob.
                    let resolved = store.resolve(digest.function(), *digest.hash()).await.unwrap();
                    let is_right = resolved == Some(digest) && present.contains(index);
                    assert!(resolved.is_none() || is_right, "{step:?}: {resolved:?}");
                }
            }
            Step::Reopen => store = reopen(Some(store)).await,
        }
    }
}

fn check_write(
    step: &Step,
    present: &mut HashSet<usize>,
    index: usize,
    wrong: bool,
    result: &Result<(), Error>,
) {
    match result {
        Ok(()) if !wrong => {
            present.insert(index);
        }
        // A store need not check the bytes of a blob that it has already.
        Ok(()) if present.contains(&index) => {}
        Err(Error::DigestMismatch { expected, .. }) if wrong => assert_eq!(*expected, blob(index).0),
        // A remote store reports its server's refusal.
        Err(Error::Remote { source, .. }) if wrong => assert_eq!(source.code(), tonic::Code::InvalidArgument),
        other => panic!("{step:?}: {other:?}"),
    }
}

fn at(offset: u64) -> usize {
    offset.try_into().unwrap()
}

fn check_read(step: &Step, right: &Bytes, present: bool, range: BlobRange, result: Result<Bytes, Error>) {
    let size = right.len() as u64;
    match result {
        Ok(bytes) => {
            assert!(
                present && range.offset <= size,
                "{step:?} yields {} bytes",
                bytes.len()
            );
            let end = range.limit.map_or(size, |limit| size.min(range.offset + limit));
            assert!(
                bytes == right.slice(at(range.offset)..at(end)),
                "{step:?}: wrong bytes"
            );
        }
        Err(Error::NotFound(_)) => assert!(!present, "{step:?}"),
        Err(Error::OffsetOutOfRange { .. }) => assert!(range.offset > size, "{step:?}"),
        Err(error) => panic!("{step:?}: {error:?}"),
    }
}
