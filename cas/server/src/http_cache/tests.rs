//! The HTTP cache over real connections.

mod access;
mod blobs;
mod hostile;
mod model;
mod results;
mod values;

use std::sync::Arc;

use bitzel_access::{ServerAccess, incoming};
use bitzel_cas::blob_store::{one_chunk, read_whole};
use bitzel_cas::decorators::completeness_checking_action_cache::CompletenessCheckingActionCache;
use bitzel_cas::error::Error;
use bitzel_cas::media::memory_action_cache::MemoryActionCache;
use bitzel_cas::media::memory_blob_store::MemoryBlobStore;
use bitzel_cas::testing::{noise, sha256};
use bitzel_proto::Digest;
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, RequestBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Largest upload that the spool takes.
const SPOOL_BYTES: u64 = 4 << 20;

/// Server that ends with this value.
struct TestServer {
    url: String,
    store: Arc<dyn BlobStore>,
    cache: Arc<dyn ActionCache>,
    spool: TempDir,
    client: Client,
    _server: AbortOnDropHandle<()>,
}

impl TestServer {
    async fn start() -> Self {
        Self::start_with(Arc::new(MemoryBlobStore::default()), ServerAccess::open()).await
    }

    async fn start_with(store: Arc<dyn BlobStore>, access: ServerAccess) -> Self {
        // Only the first provider of a process counts; every part of bitzel takes this one.
        bitzel_rpc::crypto_provider::install();
        let spool = tempfile::tempdir().unwrap();
        let cache: Arc<dyn ActionCache> = Arc::new(CompletenessCheckingActionCache::new(
            Arc::new(MemoryActionCache::default()),
            Arc::clone(&store),
        ));
        let service = HttpCacheService::new(
            Arc::clone(&cache),
            Arc::clone(&store),
            Spool::new(spool.path(), 2 * SPOOL_BYTES, 0),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if access.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let connections = incoming(listener, access.tls.clone(), &access.limits);
        let server = tokio::spawn(serve(service, access, connections, CancellationToken::new()));
        Self {
            url,
            store,
            cache,
            spool,
            client: Client::builder().build().unwrap(),
            _server: AbortOnDropHandle::new(server),
        }
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.url))
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path).send().await.unwrap()).await
    }

    async fn head(&self, path: &str) -> Answer {
        Answer::of(self.request("HEAD", path).send().await.unwrap()).await
    }

    async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        Answer::of(self.request("PUT", path).body(body).send().await.unwrap()).await
    }

    /// With these headers.
    async fn put_with(&self, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("PUT", path).headers(header_map(headers)).body(body);
        Answer::of(request.send().await.unwrap()).await
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.request("GET", path).headers(header_map(headers));
        Answer::of(request.send().await.unwrap()).await
    }

    async fn has(&self, digest: Digest) -> bool {
        self.store.find_missing(&[digest]).await.unwrap().is_empty()
    }
}

fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    headers.iter().map(header).collect()
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn of(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap(),
        }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

fn cas(digest: Digest) -> String {
    format!("/cas/{}", digest.hash_hex())
}

fn ac(digest: Digest) -> String {
    format!("/ac/{}", digest.hash_hex())
}

/// A body without a length.
fn chunked(blob: &[u8]) -> reqwest::Body {
    let chunks: Vec<_> = blob
        .chunks(70_000)
        .map(|chunk| Ok::<_, Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    reqwest::Body::wrap_stream(futures::stream::iter(chunks))
}
