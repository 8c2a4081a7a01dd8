//! Remote cache that shares results with other machines: `--remote-cache`.

use std::sync::Arc;

use bitzel_cas::{
    ActionCache, BlobStore, CircuitBreaker, DeadlineBlobStore, DeadlineOptions, Error, HttpActionCache,
    HttpBlobStore, HttpCache, HttpCacheOptions, HttpCredentials, RemoteActionCache, RemoteBlobStore,
    S3ActionCache, S3BlobStore, S3Bucket, S3Options, VerifyingBlobStore,
};
use bitzel_cas_server::SharedCache;
use bitzel_proto::InstanceName;
use bitzel_rpc::endpoint::{self, ClientCredentials};
use url::Url;

use crate::arguments::RemoteArguments;
use crate::command_error::CommandError;
use crate::console;

/// Remote store and remote action cache, without decorators.
type BackEnd = (Arc<dyn BlobStore>, Arc<dyn ActionCache>);

/// Connects to the cache of `--remote-cache`, if given. A cache that cannot be reached is a warning: a cache makes builds
/// faster, it must not make them fail. A malformed address is an error.
pub(crate) async fn open(arguments: &RemoteArguments) -> Result<Option<SharedCache>, CommandError> {
    let Some(address) = &arguments.remote_cache else {
        return Ok(None);
    };
    let url = Url::parse(address).map_err(|error| malformed(address, &error.to_string()))?;
    let credentials = arguments.credentials.credentials()?;
    let opened = match url.scheme() {
        "grpc" | "grpcs" | "unix" => grpc(address, &arguments.instance, &credentials).await?,
        "http" | "https" => Ok(http(address, &credentials)?),
        "s3" => s3(&url, address).await?,
        scheme => return Err(malformed(address, &format!("unknown scheme {scheme}"))),
    };
    let (blobs, results) = match opened {
        Ok(back_end) => back_end,
        Err(error) => {
            let reason = bitzel_proto::with_causes(&error);
            console::warn(&format!(
                "the remote cache {address} cannot be used, the build goes on without it: {reason}"
            ));
            return Ok(None);
        }
    };
    let blobs = DeadlineBlobStore::new(blobs, DeadlineOptions::default());
    Ok(Some(SharedCache {
        blobs: Arc::new(blobs),
        results,
        circuit_breaker: Arc::new(CircuitBreaker::new(address)),
        is_written: !arguments.remote_cache_read_only,
    }))
}

fn malformed(address: &str, reason: &str) -> CommandError {
    CommandError::new(format!("--remote-cache {address}: {reason}")).hint(
        "write grpc://host:port, grpcs://host:port, http://host:port/path, https://…, or \
         s3://bucket/prefix?endpoint=https://host:port&region=…",
    )
}

async fn grpc(
    address: &str,
    instance: &str,
    credentials: &ClientCredentials,
) -> Result<Result<BackEnd, Error>, CommandError> {
    let instance = InstanceName::new(instance.to_owned())?;
    let channel = match endpoint::connect_with(address, credentials).await {
        Ok(channel) => channel,
        Err(error @ bitzel_rpc::Error::InvalidArgument(_)) => return Err(error.into()),
        Err(error) => return Ok(Err(error.into())),
    };
    let blobs = RemoteBlobStore::connect(channel.clone(), instance).await;
    Ok(blobs.map(|blobs| -> BackEnd {
        // Unlike the other remote stores, this one verifies only reads.
        let blobs = VerifyingBlobStore::new(Arc::new(blobs));
        (Arc::new(blobs), Arc::new(RemoteActionCache::new(channel)))
    }))
}

fn http(address: &str, credentials: &ClientCredentials) -> Result<BackEnd, CommandError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| CommandError::from(error).context(format!("cannot read {}", path.display())))
    };
    let mut options = HttpCacheOptions::new(address);
    options.ca_certificates = credentials.ca.as_deref().map(read).transpose()?;
    options.credentials = match (&credentials.token_file, &credentials.password) {
        (Some(path), _) => {
            let token = String::from_utf8(read(path)?)?;
            HttpCredentials::Bearer(token.trim().to_owned())
        }
        (None, Some((user, password))) => HttpCredentials::Basic {
            user: user.clone(),
            password: password.expose().to_owned(),
        },
        (None, None) => HttpCredentials::None,
    };
    let cache = HttpCache::new(options)?;
    Ok((
        Arc::new(HttpBlobStore::new(Arc::clone(&cache))),
        Arc::new(HttpActionCache::new(cache)),
    ))
}

/// Opens a bucket: the host of the URL is its name, the path the prefix of the keys. An endpoint means a server other than
/// Amazon's, and those expect the bucket in the path.
async fn s3(url: &Url, address: &str) -> Result<Result<BackEnd, Error>, CommandError> {
    let bucket = url.host_str().filter(|host| !host.is_empty());
    let bucket = bucket.ok_or_else(|| malformed(address, "the bucket is missing"))?;
    let mut options = S3Options::new(bucket);
    url.path().trim_matches('/').clone_into(&mut options.prefix);
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "endpoint" => {
                options.endpoint = Some(value.into_owned());
                options.force_path_style = true;
            }
            "region" => options.region = Some(value.into_owned()),
            name => return Err(malformed(address, &format!("unknown parameter {name}"))),
        }
    }
    let bucket = S3Bucket::open(options).await;
    Ok(bucket.map(|bucket| -> BackEnd {
        (
            Arc::new(S3BlobStore::new(Arc::clone(&bucket))),
            Arc::new(S3ActionCache::new(bucket)),
        )
    }))
}
