//! Many small blobs at once, over `BatchReadBlobs` and `BatchUpdateBlobs`.

use std::collections::{HashMap, HashSet};

use backon::BackoffBuilder;
use bitzel_proto::google::rpc;
use bitzel_proto::reapi::{BatchReadBlobsRequest, BatchUpdateBlobsRequest, batch_update_blobs_request};
use bitzel_proto::{Digest, DigestFunction, reapi};
use bytes::Bytes;
use futures::StreamExt;
use tonic::{Code, Status};

use super::{CONCURRENCY, DIGEST_OVERHEAD, RemoteBlobStore, by_function};
use crate::blob_store::{BlobRange, collect, one_chunk};
use crate::blocking::run_blocking;
use crate::decorators::verifying_blob_store::verify;
use crate::error::{Error, is_transient};
use crate::retry::pauses;

/// Compression while somebody waits: the fastest level.
const ZSTD_LEVEL: i32 = 1;
/// A server answers for every blob of a batch (`remote_execution.proto`).
const LEFT_OUT: &str = "the store's answer leaves this blob out";

/// What became of the blobs of some requests. The status is kept instead of an error because one blob may be
/// asked for twice and errors cannot be cloned.
type Answers<T> = HashMap<Digest, Result<T, Status>>;

impl RemoteBlobStore {
    pub(super) async fn read_batches(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let mut requests = Vec::new();
        let mut large = Vec::new();
        let mut refused = Answers::new();
        for (function, distinct) in by_function(digests) {
            if let Err(error) = self.abilities.check_function(function) {
                refused.extend(all_failed(&distinct, &error.into()));
                continue;
            }
            let (small, rest): (Vec<_>, Vec<_>) = distinct.into_iter().partition(|digest| self.fits(*digest));
            large.extend(rest);
            for batch in self.cut(small, |digest| *digest) {
                requests.push((function, batch));
            }
        }
        let batches = futures::stream::iter(requests)
            .map(|(function, batch)| self.read_one_batch(function, batch))
            .buffer_unordered(CONCURRENCY)
            .fold(Answers::new(), |mut all, answers| async move {
                all.extend(answers);
                all
            });
        let streams = futures::stream::iter(large)
            .map(|digest| async move { (digest, self.read_large(digest).await.map_err(Status::from)) })
            .buffer_unordered(CONCURRENCY)
            .collect::<Answers<Bytes>>();
        let (mut answers, streamed) = futures::join!(batches, streams);
        answers.extend(streamed);
        answers.extend(refused);
        let digests = digests.to_vec();
        // Hashing megabytes has no place on a thread of the runtime.
        run_blocking(move || {
            let results = digests.into_iter().map(|digest| {
                if digest.is_empty_blob() {
                    Ok(Bytes::new())
                } else {
                    read_answer(digest, answers.get(&digest))
                }
            });
            results.collect()
        })
        .await
    }

    /// Reads one blob that is too large for a batch, unchecked.
    async fn read_large(&self, digest: Digest) -> Result<Bytes, Error> {
        collect(self.read_stream(digest, BlobRange::default()).await?).await
    }

    /// Reads a batch, and again what failed for now.
    async fn read_one_batch(&self, function: DigestFunction, digests: Vec<Digest>) -> Answers<Bytes> {
        let mut answers = Answers::new();
        let mut left = digests;
        let mut pauses = pauses().build();
        loop {
            answers.extend(self.try_read_batch(function, &left).await);
            left = failed_for_now(&answers);
            match pauses.next() {
                Some(pause) if !left.is_empty() => tokio::time::sleep(pause).await,
                _ => return answers,
            }
        }
    }

    async fn try_read_batch(&self, function: DigestFunction, digests: &[Digest]) -> Answers<Bytes> {
        let zstd = self.abilities.zstd.then_some(reapi::compressor::Value::Zstd);
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.to_string(),
            digests: digests.iter().map(Digest::to_wire).collect(),
            acceptable_compressors: zstd.into_iter().map(i32::from).collect(),
            digest_function: function.to_wire(),
        };
        let response = match self.storage.clone().batch_read_blobs(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return all_failed(digests, &status),
        };
        let read = move || {
            let answers = response.responses.into_iter().filter_map(|response| {
                let digest = answered(function, response.digest.as_ref())?;
                let blob = to_result(response.status);
                let blob = blob.and_then(|()| unpacked(digest, response.compressor, response.data));
                Some((digest, blob))
            });
            answers.collect()
        };
        if self.abilities.zstd {
            run_blocking(read).await
        } else {
            read()
        }
    }

    pub(super) async fn write_batches(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let order: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let (wrong, mut right) = run_blocking(move || tell_apart(blobs)).await;
        let distinct: Vec<Digest> = right.keys().copied().collect();
        let mut requests = Vec::new();
        let mut large = Vec::new();
        let mut refused = Answers::new();
        for (function, group) in by_function(&distinct) {
            if let Err(error) = self.abilities.check_function(function) {
                refused.extend(all_failed(&group, &error.into()));
                continue;
            }
            let mut small = Vec::new();
            for digest in group {
                let Some(blob) = right.remove(&digest) else {
                    continue;
                };
                if self.fits(digest) {
                    small.push((digest, blob));
                } else {
                    large.push((digest, blob));
                }
            }
            for batch in self.cut(small, |(digest, _)| *digest) {
                requests.push((function, batch));
            }
        }
        let batches = futures::stream::iter(requests)
            .map(|(function, batch)| self.write_one_batch(function, batch))
            .buffer_unordered(CONCURRENCY)
            .fold(Answers::new(), |mut all, answers| async move {
                all.extend(answers);
                all
            });
        let streams = futures::stream::iter(large)
            .map(|(digest, blob)| async move {
                let written = self.write_stream(digest, one_chunk(blob)).await;
                (digest, written.map_err(Status::from))
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<Answers<()>>();
        let (mut answers, streamed) = futures::join!(batches, streams);
        answers.extend(streamed);
        answers.extend(refused);
        let results = order.into_iter().zip(wrong).map(|(digest, wrong)| match wrong {
            Some(error) => Err(error),
            None if digest.is_empty_blob() => Ok(()),
            None => write_answer(digest, answers.get(&digest)),
        });
        results.collect()
    }

    /// Writes a batch, and again what failed for now.
    async fn write_one_batch(&self, function: DigestFunction, blobs: Vec<(Digest, Bytes)>) -> Answers<()> {
        let mut answers = Answers::new();
        let mut left = blobs;
        let mut pauses = pauses().build();
        loop {
            answers.extend(self.try_write_batch(function, &left).await);
            let again: HashSet<Digest> = failed_for_now(&answers).into_iter().collect();
            left.retain(|(digest, _)| again.contains(digest));
            match pauses.next() {
                Some(pause) if !left.is_empty() => tokio::time::sleep(pause).await,
                _ => return answers,
            }
        }
    }

    async fn try_write_batch(&self, function: DigestFunction, blobs: &[(Digest, Bytes)]) -> Answers<()> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let requests = if self.abilities.zstd_batch_update {
            let blobs = blobs.to_vec();
            run_blocking(move || blobs.iter().map(packed).collect()).await
        } else {
            blobs.iter().map(as_it_is).collect()
        };
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.to_string(),
            requests,
            digest_function: function.to_wire(),
        };
        let response = match self.storage.clone().batch_update_blobs(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return all_failed(&digests, &status),
        };
        let answers = response.responses.into_iter().filter_map(|response| {
            let digest = answered(function, response.digest.as_ref())?;
            Some((digest, to_result(response.status)))
        });
        answers.collect()
    }

    /// Whether a blob may travel in a batch.
    fn fits(&self, digest: Digest) -> bool {
        digest.size_bytes().saturating_add(DIGEST_OVERHEAD) <= self.abilities.batch_limit
    }

    /// Cuts blobs, each of which fits, into batches.
    fn cut<T>(&self, blobs: Vec<T>, digest: impl Fn(&T) -> Digest) -> Vec<Vec<T>> {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut total = 0;
        for blob in blobs {
            let size = digest(&blob).size_bytes() + DIGEST_OVERHEAD;
            if total + size > self.abilities.batch_limit && !batch.is_empty() {
                batches.push(std::mem::take(&mut batch));
                total = 0;
            }
            total += size;
            batch.push(blob);
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }
}

/// Blobs of one digest but other bytes must not shadow each other, so wrong ones are found before they are sent:
/// for each blob what is wrong with it, and the right ones.
fn tell_apart(blobs: Vec<(Digest, Bytes)>) -> (Vec<Option<Error>>, HashMap<Digest, Bytes>) {
    let mut wrong = Vec::with_capacity(blobs.len());
    let mut right = HashMap::with_capacity(blobs.len());
    for (digest, blob) in blobs {
        wrong.push(match verify(digest, blob) {
            Ok(blob) => {
                right.insert(digest, blob);
                None
            }
            Err(error) => Some(error),
        });
    }
    (wrong, right)
}

/// The digest that a response is about. One that is malformed answers nothing that was asked.
fn answered(function: DigestFunction, digest: Option<&reapi::Digest>) -> Option<Digest> {
    Digest::from_wire_field(function, digest).ok()
}

fn to_result(status: Option<rpc::Status>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => Err(Status::new(Code::from_i32(status.code), status.message)),
        _ => Ok(()),
    }
}

/// A blob for a batch.
fn as_it_is((digest, blob): &(Digest, Bytes)) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request {
        digest: Some(digest.to_wire()),
        data: blob.clone().into(),
        compressor: reapi::compressor::Value::Identity.into(),
    }
}

/// A blob for a batch, compressed if that makes it smaller.
fn packed(blob: &(Digest, Bytes)) -> batch_update_blobs_request::Request {
    match zstd::bulk::compress(&blob.1, ZSTD_LEVEL) {
        Ok(data) if data.len() < blob.1.len() => batch_update_blobs_request::Request {
            digest: Some(blob.0.to_wire()),
            data,
            compressor: reapi::compressor::Value::Zstd.into(),
        },
        _ => as_it_is(blob),
    }
}

/// The blob of an answer, which cannot become larger than its digest says.
fn unpacked(digest: Digest, compressor: i32, data: Vec<u8>) -> Result<Bytes, Status> {
    if compressor != i32::from(reapi::compressor::Value::Zstd) {
        return Ok(data.into());
    }
    let size = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
    let blob = zstd::bulk::decompress(&data, size).map(Bytes::from);
    blob.map_err(|error| Status::data_loss(format!("the store's zstd data cannot be decompressed: {error}")))
}

/// The blobs that it may help to ask for again.
fn failed_for_now<T>(answers: &Answers<T>) -> Vec<Digest> {
    let failed = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().err().is_some_and(is_transient));
    failed.map(|(digest, _)| *digest).collect()
}

fn all_failed<T>(digests: &[Digest], status: &Status) -> Answers<T> {
    digests
        .iter()
        .map(|digest| (*digest, Err(status.clone())))
        .collect()
}

fn read_answer(digest: Digest, answer: Option<&Result<Bytes, Status>>) -> Result<Bytes, Error> {
    let status = match answer {
        Some(Ok(blob)) => return verify(digest, blob.clone()),
        Some(Err(status)) if status.code() == Code::NotFound => return Err(Error::NotFound(digest)),
        Some(Err(status)) => status.clone(),
        None => Status::internal(LEFT_OUT),
    };
    Err(Error::remote(format!("cannot read blob {digest} from the store"))(status))
}

fn write_answer(digest: Digest, answer: Option<&Result<(), Status>>) -> Result<(), Error> {
    let status = match answer {
        Some(Ok(())) => return Ok(()),
        Some(Err(status)) => status.clone(),
        None => Status::internal(LEFT_OUT),
    };
    Err(Error::remote(format!("cannot write blob {digest} to the store"))(
        status,
    ))
}
