//! Metrics of a blob store, for operators.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use bitzel_proto::Digest;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use metrics::{SharedString, counter, histogram};

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Records metrics of the inner store, through the `metrics` facade, each labelled with the `store`'s name and the
/// `operation` (`find_missing`, `read`, `write`, `read_batch`, `write_batch`):
///
/// - `bitzel_blob_store_requests_total`, also by `outcome`: `ok`, `not_found`, `error`, or `abandoned` by the caller.
///   A batch is one request, and an error as soon as one of its blobs is.
/// - `bitzel_blob_store_blobs_total`, also by `outcome`: single blobs, those in batches and questions included.
/// - `bitzel_blob_store_duration_seconds`: of a read, until its stream has ended.
/// - `bitzel_blob_store_bytes_total`: bytes of blobs that were read (`read…`) or written (`write…`).
///
/// Put one around each level of a composed store to see which level answers.
pub struct MeteredBlobStore {
    inner: Arc<dyn BlobStore>,
    name: SharedString,
}

impl MeteredBlobStore {
    /// Metrics of `inner` under the name `name`.
    pub fn new(name: impl Into<String>, inner: Arc<dyn BlobStore>) -> Self {
        let name: Arc<str> = Arc::from(name.into());
        Self {
            inner,
            name: SharedString::from(name),
        }
    }

    fn measure(&self, operation: &'static str) -> Measurement {
        Measurement {
            store: self.name.clone(),
            operation,
            start: Instant::now(),
            outcome: Some("abandoned"),
        }
    }
}

/// The value of the label `outcome`.
fn outcome<T>(result: &Result<T, Error>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::NotFound(_)) => "not_found",
        Err(_) => "error",
    }
}

/// The worst of several outcomes.
fn batch_outcome<T>(results: &[Result<T, Error>]) -> &'static str {
    let worst = results.iter().map(outcome).max_by_key(|outcome| match *outcome {
        "ok" => 0,
        "not_found" => 1,
        _ => 2,
    });
    worst.unwrap_or("ok")
}

/// One request, recorded when this is dropped.
struct Measurement {
    store: SharedString,
    operation: &'static str,
    start: Instant,
    outcome: Option<&'static str>,
}

impl Measurement {
    fn bytes(&self, bytes: usize) {
        counter!("bitzel_blob_store_bytes_total", "store" => self.store.clone(), "operation" => self.operation)
            .increment(bytes as u64);
    }

    fn blobs(&self, outcome: &'static str, blobs: usize) {
        if blobs > 0 {
            counter!("bitzel_blob_store_blobs_total",
                "store" => self.store.clone(), "operation" => self.operation, "outcome" => outcome)
            .increment(blobs as u64);
        }
    }

    fn each_blob<T>(&self, results: &[Result<T, Error>]) {
        for kind in ["ok", "not_found", "error"] {
            self.blobs(
                kind,
                results.iter().filter(|result| outcome(result) == kind).count(),
            );
        }
    }

    fn end(mut self, outcome: &'static str) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Measurement {
    fn drop(&mut self) {
        let Some(outcome) = self.outcome.take() else {
            return;
        };
        counter!("bitzel_blob_store_requests_total",
            "store" => self.store.clone(), "operation" => self.operation, "outcome" => outcome)
        .increment(1);
        histogram!("bitzel_blob_store_duration_seconds", "store" => self.store.clone(), "operation" => self.operation)
            .record(self.start.elapsed().as_secs_f64());
    }
}

/// The stream of a read, which is part of it.
struct MeteredStream {
    inner: BlobStream,
    measurement: Option<Measurement>,
    /// Bytes until the blob or the range is complete: many readers do not read up to the end of the stream.
    left: u64,
}

impl MeteredStream {
    fn end(&mut self, outcome: &'static str) {
        if let Some(measurement) = self.measurement.take() {
            measurement.blobs(outcome, 1);
            measurement.end(outcome);
        }
    }
}

impl Stream for MeteredStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.inner.poll_next_unpin(context));
        match &item {
            Some(Ok(chunk)) => {
                if let Some(measurement) = &self.measurement {
                    measurement.bytes(chunk.len());
                }
                self.left = self.left.saturating_sub(chunk.len() as u64);
                if self.left == 0 {
                    self.end("ok");
                }
            }
            Some(failed @ Err(_)) => self.end(outcome(failed)),
            None => self.end("ok"),
        }
        Poll::Ready(item)
    }
}

#[async_trait]
impl BlobStore for MeteredBlobStore {
    forward_blob_store!(inner: lease, resolve);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let measurement = self.measure("find_missing");
        let missing = self.inner.find_missing(digests).await;
        if let Ok(missing) = &missing {
            measurement.blobs("not_found", missing.len());
            measurement.blobs("ok", digests.len().saturating_sub(missing.len()));
        }
        measurement.end(outcome(&missing));
        missing
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let measurement = self.measure("read");
        let stream = self.inner.read(digest, range).await;
        match stream {
            Ok(inner) => {
                let rest = digest.size_bytes().saturating_sub(range.offset);
                let stream = MeteredStream {
                    inner,
                    measurement: Some(measurement),
                    left: range.limit.map_or(rest, |limit| limit.min(rest)),
                };
                Ok(stream.boxed())
            }
            Err(_) => {
                measurement.blobs(outcome(&stream), 1);
                measurement.end(outcome(&stream));
                stream
            }
        }
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let measurement = self.measure("write");
        let (store, operation) = (self.name.clone(), measurement.operation);
        let counted = blob.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                counter!("bitzel_blob_store_bytes_total", "store" => store.clone(), "operation" => operation)
                    .increment(chunk.len() as u64);
            }
        });
        let written = self.inner.write(digest, counted.boxed()).await;
        measurement.blobs(outcome(&written), 1);
        measurement.end(outcome(&written));
        written
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let measurement = self.measure("read_batch");
        let blobs = self.inner.read_batch(digests).await;
        measurement.bytes(blobs.iter().flatten().map(Bytes::len).sum());
        measurement.each_blob(&blobs);
        measurement.end(batch_outcome(&blobs));
        blobs
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let measurement = self.measure("write_batch");
        measurement.bytes(blobs.iter().map(|(_, blob)| blob.len()).sum());
        let written = self.inner.write_batch(blobs).await;
        measurement.each_blob(&written);
        measurement.end(batch_outcome(&written));
        written
    }
}

#[cfg(test)]
pub(crate) mod tests;
