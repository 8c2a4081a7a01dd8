//! Options of a bucket, and the configuration of its client.

use std::fmt;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls;

/// Attempts of one request in all, with the SDK's exponential back-off and jitter between them.
const MAX_ATTEMPTS: u32 = 5;

/// Credentials of the client.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum S3Credentials {
    /// Credentials of the environment: variables, profiles, the identity of the machine or pod (the SDK's usual chain).
    #[default]
    FromEnvironment,
    /// Access key.
    Given {
        /// Name of the access key.
        access_key_id: String,
        /// Secret of the access key.
        secret_access_key: String,
        /// Token of a temporary access key.
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

/// Address of a bucket, credentials, timeouts and the renewal of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// Name of the bucket, which must exist.
    pub bucket: String,
    /// Prefix of every key, before a `/`. May be empty.
    pub prefix: String,
    /// Address of a server other than Amazon's: `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// Region; with `None` that of the environment, or `us-east-1`.
    pub region: Option<String>,
    /// Puts the bucket into the path and not into the host name, as most servers other than Amazon's require.
    pub force_path_style: bool,
    /// Credentials of the client.
    pub credentials: S3Credentials,
    /// Age at which an object is copied onto itself when it is looked up. S3 does not record the last use of an object,
    /// and a lifecycle rule deletes objects by the age of their last write. With this, a rule that deletes objects of,
    /// say, twice this age deletes only objects that are not used. With `None` nothing is copied, and a rule may delete
    /// a blob that a build was just told to be present.
    pub renew_after: Option<Duration>,
    /// Limit for setting up a connection.
    pub connect_timeout: Duration,
    /// Limit for the start of a response, and for each pause in its body.
    pub read_timeout: Duration,
}

impl S3Options {
    /// Options for Amazon's S3 with the credentials of the environment and the usual limits.
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

/// Configuration of the client.
pub(super) async fn configuration(options: &S3Options) -> aws_sdk_s3::Config {
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
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .timeout_config(timeouts)
        .stalled_stream_protection(stalls)
        // Digests are checked here, from end to end, and servers other than Amazon's support few of the checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    match &options.endpoint {
        Some(endpoint) => builder.endpoint_url(endpoint).build(),
        None => builder.build(),
    }
}
