//! Bucket of Amazon S3 or of a server with the same protocol, or a part of one.

mod options;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::MetadataDirective;
use bytes::Bytes;
use futures::StreamExt;

use self::options::configuration;
use crate::blob_store::BlobStream;
use crate::error::{BackEndFailure, Error};

pub use self::options::{S3Credentials, S3Options};

/// Largest object that S3 copies with one request. Larger objects are not renewed, which the documentation of the store
/// says.
const MAX_COPY_BYTES: u64 = 5 << 30;

/// Client of one bucket, shared by an [`crate::S3BlobStore`] and an [`crate::S3ActionCache`].
///
/// The credentials need `s3:GetObject`, `s3:PutObject`, `s3:AbortMultipartUpload`, and `s3:ListBucket`, without which
/// S3 does not distinguish a missing object from a forbidden one.
#[derive(Debug)]
pub struct S3Bucket {
    client: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    renew_after: Option<Duration>,
}

/// Key, size and age of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<SystemTime>,
}

impl S3Bucket {
    /// Sets up a client and checks that the bucket exists.
    pub async fn open(options: S3Options) -> Result<Arc<Self>, Error> {
        let prefix = options.prefix.trim_matches('/');
        let bucket = Self {
            client: Client::from_conf(configuration(&options).await),
            bucket: options.bucket,
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            },
            renew_after: options.renew_after,
        };
        let head = bucket.client.head_bucket().bucket(&bucket.bucket).send().await;
        head.map_err(|error| failed(format!("cannot use the S3 bucket {}", bucket.bucket), error))?;
        Ok(Arc::new(bucket))
    }

    /// Full key of `name`.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Looks up an object. `None` if it is absent.
    pub(crate) async fn head(&self, key: String) -> Result<Option<Object>, Error> {
        let head = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(&key)
            .send()
            .await;
        match head {
            Ok(head) => Ok(Some(Object {
                size: size(head.content_length()),
                modified: head.last_modified().and_then(time),
                key,
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(format!("cannot look up {key} in S3"), error)),
        }
    }

    /// Reads a part of an object (offset and length), or all of it. Returns the number of bytes that S3 announces, and the
    /// bytes. `None` if the object is absent.
    pub(crate) async fn get(
        &self,
        key: &str,
        part: Option<(u64, u64)>,
    ) -> Result<Option<(Option<u64>, BlobStream)>, Error> {
        let range = part.map(|(offset, length)| format!("bytes={offset}-{}", offset + length.max(1) - 1));
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        match get.set_range(range).send().await {
            Ok(object) => {
                let length = object
                    .content_length()
                    .and_then(|length| u64::try_from(length).ok());
                Ok(Some((length, body(key, object.body))))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(format!("cannot read {key} from S3"), error)),
        }
    }

    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        let put = put.body(ByteStream::from(bytes)).send().await;
        put.map_err(|error| failed(format!("cannot write {key} to S3"), error))?;
        Ok(())
    }

    /// Lists one page of the objects whose keys begin with `prefix` and come after `after`, in the order of their keys.
    /// The flag is true if there are more.
    pub(crate) async fn list(&self, prefix: &str, after: &str) -> Result<(Vec<Object>, bool), Error> {
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let page = list.start_after(after).send().await;
        let page = page.map_err(|error| failed(format!("cannot list {prefix} in S3"), error))?;
        let object = |object: &aws_sdk_s3::types::Object| Object {
            key: object.key().unwrap_or_default().to_owned(),
            size: size(object.size()),
            modified: object.last_modified().and_then(time),
        };
        let more = page.is_truncated().unwrap_or(false);
        Ok((page.contents().iter().map(object).collect(), more))
    }

    /// True if an object is to be renewed when it is looked up.
    pub(crate) fn is_old(&self, object: &Object) -> bool {
        let (Some(limit), Some(modified)) = (self.renew_after, object.modified) else {
            return false;
        };
        object.size <= MAX_COPY_BYTES
            && SystemTime::now()
                .duration_since(modified)
                .is_ok_and(|age| age > limit)
    }

    /// Copies an object onto itself, so that its age starts again. `false` if it is absent.
    pub(crate) async fn renew(&self, key: &str) -> Result<bool, Error> {
        let copy = self.client.copy_object().bucket(&self.bucket).key(key);
        // S3 copies an object onto itself only if something changes.
        let copy = copy
            .copy_source(format!("{}/{key}", self.bucket))
            .metadata_directive(MetadataDirective::Replace);
        match copy.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(failed(format!("cannot renew {key} in S3"), error)),
        }
    }
}

fn size(size: Option<i64>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

fn time(time: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*time).ok()
}

fn body(key: &str, body: ByteStream) -> BlobStream {
    let key = key.to_owned();
    let state = (body, key);
    futures::stream::try_unfold(state, |(mut body, key)| async move {
        let chunk = body.try_next().await.map_err(|error| {
            let context = format_args!("the response of S3 for {key} broke in the middle");
            Error::back_end(context, BackEndFailure::Unavailable)(error)
        })?;
        Ok(chunk.map(|chunk| (chunk, (body, key))))
    })
    .boxed()
}

/// True if the object is absent. A missing bucket is an error instead, if the response says so.
fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    status == Some(404) && error.code() != Some("NoSuchBucket")
}

/// Error of a request after all its attempts.
pub(crate) fn failed<E>(context: String, error: SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let failure = match error.raw_response().map(|response| response.status().as_u16()) {
        Some(401 | 403) => BackEndFailure::Denied,
        Some(507) => BackEndFailure::Full,
        Some(408 | 429 | 500..) => BackEndFailure::Unavailable,
        Some(_) => BackEndFailure::Faulty,
        None => match &error {
            SdkError::ConstructionFailure(_) => BackEndFailure::Denied,
            _ => BackEndFailure::Unavailable,
        },
    };
    // The code is more useful than the chain of sources, which ends in "service error".
    let context = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{context}: {code}: {message}"),
        (Some(code), None) => format!("{context}: {code}"),
        _ => context,
    };
    Error::back_end(context, failure)(error)
}

#[cfg(test)]
pub(crate) mod tests;
