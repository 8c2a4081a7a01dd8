//! Connections to the servers that a configuration names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_rpc::endpoint::{self, Channel, ClientCredentials};

use crate::composition::store_configuration::{GrpcTable, HttpTable, S3Table};
use crate::error::Error;
use crate::{HttpCache, HttpCacheOptions, HttpCredentials, S3Bucket, S3Options};

/// Connects to a server of the Remote Execution API. Files are relative to `base`.
pub(super) async fn channel(table: &GrpcTable, base: &Path) -> Result<Channel, Error> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| base.join(path));
    let credentials = ClientCredentials {
        ca: path(&table.tls_ca),
        certificate: path(&table.tls_certificate).zip(path(&table.tls_key)),
        token_file: path(&table.token_file),
        password: None,
    };
    Ok(endpoint::connect_with(table.endpoint.get_ref(), &credentials).await?)
}

/// Opens a client of an HTTP cache. Files are relative to `base`.
pub(super) fn http_cache(table: &HttpTable, base: &Path) -> Result<Arc<HttpCache>, Error> {
    let mut options = HttpCacheOptions::new(table.url.get_ref());
    if let Some(path) = &table.token_file {
        let path = base.join(path);
        let token = std::fs::read_to_string(&path).map_err(Error::io(format_args!(
            "cannot read the token in {}",
            path.display()
        )))?;
        options.credentials = HttpCredentials::Bearer(token.trim().to_owned());
    }
    HttpCache::new(options)
}

/// Opens a client of an S3 bucket.
pub(super) async fn bucket(table: &S3Table) -> Result<Arc<S3Bucket>, Error> {
    let endpoint = table.endpoint.as_ref().map(|endpoint| endpoint.get_ref().clone());
    S3Bucket::open(S3Options {
        prefix: table.prefix.clone(),
        // Servers other than Amazon's want the bucket in the path.
        force_path_style: endpoint.is_some(),
        endpoint,
        region: table.region.clone(),
        renew_after: table.renew_after,
        ..S3Options::new(&table.bucket)
    })
    .await
}
