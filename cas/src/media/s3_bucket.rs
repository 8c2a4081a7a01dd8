//! A part of a bucket of Amazon S3 or of a server that speaks its protocol.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::MetadataDirective;
use aws_smithy_http_client::tls;
use bytes::Bytes;
use futures::StreamExt;

use crate::blob_store::BlobStream;
use crate::error::{BackEndFailure, Error};

/// Tries of one request in all, with the SDK's exponential backoff and jitter in between.
const ATTEMPTS: u32 = 5;

/// What one copy in S3 takes; larger objects age, which the documentation of the store says.
const COPY_LIMIT: u64 = 5 << 30;

/// Who the client is to S3.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum S3Credentials {
    /// Whoever the environment says: variables, profiles, the identity of the machine or pod (the SDK's usual chain).
    #[default]
    FromEnvironment,
    /// These keys.
    Given {
        /// The access key's name.
        access_key_id: String,
        /// The key itself.
        secret_access_key: String,
        /// For temporary keys.
        session_token: Option<String>,
    },
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromEnvironment => formatter.write_str("FromEnvironment"),
            Self::Given { access_key_id, .. } => write!(formatter, "Given({access_key_id})"),
        }
    }
}

/// Where a bucket is and how to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket, which must exist.
    pub bucket: String,
    /// In front of every key, with a `/` in between. May be empty.
    pub prefix: String,
    /// The server, for others than Amazon's: `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// The region; with `None` that of the environment, or `us-east-1`.
    pub region: Option<String>,
    /// Puts the bucket into the path and not into the host name, as most servers other than Amazon's want it.
    pub force_path_style: bool,
    /// Who is asking.
    pub credentials: S3Credentials,
    /// S3 does not know when an object was last used; what expires there expires by the age of its last write. With
    /// this, an object that is asked for and older is copied onto itself, so that a lifecycle rule that deletes what
    /// is older than, say, twice as long removes only what nobody asks for. `None`: nothing is copied, and a rule
    /// may remove what a build was just told to be there.
    pub renew_after: Option<Duration>,
    /// For setting up a connection.
    pub connect_timeout: Duration,
    /// For an answer to begin, and the time for which its body may stand still.
    pub read_timeout: Duration,
}

impl S3Options {
    /// Amazon's S3 with the environment's credentials and the usual limits.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            force_path_style: false,
            credentials: S3Credentials::FromEnvironment,
            renew_after: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_mins(1),
        }
    }
}

/// One bucket; shared by an [`crate::S3BlobStore`] and an [`crate::S3ActionCache`].
///
/// The credentials need `s3:GetObject`, `s3:PutObject`, `s3:AbortMultipartUpload`, and `s3:ListBucket`, without which
/// S3 does not tell a missing object from a forbidden one.
#[derive(Debug)]
pub struct S3Bucket {
    client: Client,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    renew_after: Option<Duration>,
}

/// What a bucket says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<SystemTime>,
}

impl S3Bucket {
    /// Sets up a client and asks whether the bucket is there.
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

    /// The full key of `name`.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What is known about an object, `None` if it is not there.
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

    /// `length` bytes from `offset` on, `None` if the object is not there; all of it with `None`.
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

    /// One page of the objects whose keys begin with `prefix` and come after `after`, in the order of their keys, and
    /// whether there are more.
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

    /// Whether an object is to be renewed now that it was asked for.
    pub(crate) fn is_old(&self, object: &Object) -> bool {
        let (Some(limit), Some(modified)) = (self.renew_after, object.modified) else {
            return false;
        };
        object.size <= COPY_LIMIT
            && SystemTime::now()
                .duration_since(modified)
                .is_ok_and(|age| age > limit)
    }

    /// Copies an object onto itself, so that its age starts again. Says whether it was there.
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

async fn configuration(options: &S3Options) -> aws_sdk_s3::Config {
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let http: SharedHttpClient = aws_smithy_http_client::Builder::new()
        .tls_provider(tls)
        .build_https();
    let region = options.region.clone().map(Region::new);
    let builder = match &options.credentials {
        S3Credentials::Given {
            access_key_id,
            secret_access_key,
            session_token,
        } => {
            let token = session_token.clone();
            let keys = Credentials::new(access_key_id, secret_access_key, token, None, "configuration");
            let region = region.unwrap_or_else(|| Region::from_static("us-east-1"));
            Builder::new()
                .behavior_version(BehaviorVersion::latest())
                .region(region)
                .credentials_provider(keys)
                .http_client(http)
        }
        S3Credentials::FromEnvironment => {
            let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
            let loader = match region {
                Some(region) => loader.region(region),
                None => loader.region(
                    aws_config::meta::region::RegionProviderChain::default_provider().or_else("us-east-1"),
                ),
            };
            Builder::from(&loader.load().await)
        }
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        .build();
    let stalls = StalledStreamProtectionConfig::enabled()
        .grace_period(options.read_timeout)
        .build();
    let builder = builder
        .force_path_style(options.force_path_style)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts)
        .stalled_stream_protection(stalls)
        // Digests are checked here, over the whole way; and servers other than Amazon's know few of the checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    match &options.endpoint {
        Some(endpoint) => builder.endpoint_url(endpoint).build(),
        None => builder.build(),
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
            let context = format!("the answer of S3 for {key} broke in the middle");
            Error::back_end(context, BackEndFailure::Unavailable)(error)
        })?;
        Ok(chunk.map(|chunk| (chunk, (body, key))))
    })
    .boxed()
}

/// Whether an object is not there. A bucket that is not there is another matter, as far as the answer tells.
fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    status == Some(404) && error.code() != Some("NoSuchBucket")
}

/// The error of a request after all its tries.
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
    // The code says more than the chain of sources, which ends in "service error".
    let context = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{context}: {code}: {message}"),
        (Some(code), None) => format!("{context}: {code}"),
        _ => context,
    };
    Error::back_end(context, failure)(error)
}

#[cfg(test)]
pub(crate) mod tests;
