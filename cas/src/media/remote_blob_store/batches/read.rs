//! Reads of small blobs in batches.

use backon::BackoffBuilder;
use bitzel_proto::reapi::BatchReadBlobsRequest;
use bitzel_proto::{Digest, DigestFunction, reapi};
use bytes::Bytes;
use futures::StreamExt;
use tonic::{Code, Status};

use super::{Answers, NO_ANSWER, all_failed, answered, to_result, transient_failures};
use crate::blob_store::verification::verify;
use crate::blob_store::{BlobRange, collect};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::remote_blob_store::{MAX_CONCURRENT_REQUESTS, RemoteBlobStore, by_function};
use crate::retry::pauses;

impl RemoteBlobStore {
    pub(in super::super) async fn read_batches(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let mut requests = Vec::new();
        let mut large = Vec::new();
        let mut refused = Answers::new();
        for (function, distinct) in by_function(digests) {
            if let Err(error) = self.capabilities.check_function(function) {
                refused.extend(all_failed(&distinct, &error.into()));
                continue;
            }
            let (small, rest): (Vec<_>, Vec<_>) = distinct.into_iter().partition(|digest| self.fits(*digest));
            large.extend(rest);
            for batch in self.divide(small, |digest| *digest) {
                requests.push((function, batch));
            }
        }
        let batches = futures::stream::iter(requests)
            .map(|(function, batch)| self.read_one_batch(function, batch))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .fold(Answers::new(), |mut all, answers| async move {
                all.extend(answers);
                all
            });
        let streams = futures::stream::iter(large)
            .map(|digest| async move { (digest, self.read_large(digest).await.map_err(Status::from)) })
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .collect::<Answers<Bytes>>();
        let (mut answers, streamed) = futures::join!(batches, streams);
        answers.extend(streamed);
        answers.extend(refused);
        let digests = digests.to_vec();
        // Hashing megabytes would block a thread of the runtime.
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

    /// Reads one blob that is too large for a batch, without a check.
    async fn read_large(&self, digest: Digest) -> Result<Bytes, Error> {
        collect(self.read_stream(digest, BlobRange::default()).await?).await
    }

    /// Reads a batch, and repeats the requests with transient failures.
    async fn read_one_batch(&self, function: DigestFunction, digests: Vec<Digest>) -> Answers<Bytes> {
        let mut answers = Answers::new();
        let mut left = digests;
        let mut pauses = pauses().build();
        loop {
            answers.extend(self.try_read_batch(function, &left).await);
            left = transient_failures(&answers);
            match pauses.next() {
                Some(pause) if !left.is_empty() => tokio::time::sleep(pause).await,
                _ => return answers,
            }
        }
    }

    async fn try_read_batch(&self, function: DigestFunction, digests: &[Digest]) -> Answers<Bytes> {
        let zstd = self.capabilities.zstd.then_some(reapi::compressor::Value::Zstd);
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
        if self.capabilities.zstd {
            run_blocking(read).await
        } else {
            read()
        }
    }
}

/// Decompresses the blob of an answer, which may not exceed the size in its digest.
fn unpacked(digest: Digest, compressor: i32, data: Vec<u8>) -> Result<Bytes, Status> {
    if compressor != i32::from(reapi::compressor::Value::Zstd) {
        return Ok(data.into());
    }
    let size = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
    let blob = zstd::bulk::decompress(&data, size).map(Bytes::from);
    blob.map_err(|error| Status::data_loss(format!("the store's zstd data cannot be decompressed: {error}")))
}

fn read_answer(digest: Digest, answer: Option<&Result<Bytes, Status>>) -> Result<Bytes, Error> {
    let status = match answer {
        Some(Ok(blob)) => return verify(digest, blob.clone()),
        Some(Err(status)) if status.code() == Code::NotFound => return Err(Error::NotFound(digest)),
        Some(Err(status)) => status.clone(),
        None => Status::internal(NO_ANSWER),
    };
    Err(Error::remote(format_args!(
        "cannot read blob {digest} from the store"
    ))(status))
}
