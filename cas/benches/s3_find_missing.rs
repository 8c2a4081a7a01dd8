//! Benchmark of the look-up of 10,000 blobs in a bucket: the store's lists beside the usual way of S3 clients, a HEAD for
//! each blob, 128 at the same time. The server is s3s-fs in this process, with checks of signatures. It walks the whole
//! directory for a list and has no latency, so the saved requests are exact and the saved time is only rough.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::Request;
use bitzel_cas::{BlobStore, S3BlobStore, S3Bucket, S3Credentials, S3Options};
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

const DIGESTS: u32 = 10_000;
const CONCURRENT_HEADS: usize = 128;

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("bench")).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory.path()).unwrap());
    builder.set_auth(SimpleAuth::from_single("bench", "secret"));
    let service = builder.build();
    let requests = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&requests);
    let app = axum::Router::new().fallback(move |request: Request| {
        count.fetch_add(1, Ordering::Relaxed);
        let service = service.clone();
        async move {
            let request = request.map(s3s::Body::http_body_unsync);
            service.call(request).await.unwrap().map(axum::body::Body::new)
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let store = store(endpoint).await;

    let blobs: Vec<(Digest, Bytes)> = (0..DIGESTS)
        .map(|number| Bytes::copy_from_slice(&number.to_le_bytes()))
        .map(|blob| (DigestFunction::Sha256.digest(&blob), blob))
        .collect();
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let half = blobs.len() / 2;
    let written = store.write_batch(blobs[..half].to_vec()).await;
    assert!(written.iter().all(Result::is_ok));

    // Fewer than twenty digests are looked up with a HEAD each, so calls with a single one are the usual way.
    let naive = async || {
        let asked = futures::stream::iter(digests.clone())
            .map(|digest| {
                let store = &store;
                async move { store.find_missing(&[digest]).await.unwrap().len() }
            })
            .buffer_unordered(CONCURRENT_HEADS);
        asked.fold(0, |sum, missing| async move { sum + missing }).await
    };
    for round in ["warm-up", "measured"] {
        let (listed, list_requests) = measure(&requests, async || {
            assert_eq!(store.find_missing(&digests).await.unwrap().len(), half);
        })
        .await;
        let (asked, head_requests) = measure(&requests, async || assert_eq!(naive().await, half)).await;
        if round == "measured" {
            print(
                "S3 FindMissing, 10,000 digests, 5,000 objects: time",
                listed,
                asked,
                "ms",
            );
            print(
                "S3 FindMissing, 10,000 digests, 5,000 objects: requests",
                list_requests,
                head_requests,
                "requests",
            );
        }
    }
}

async fn store(endpoint: String) -> S3BlobStore {
    let options = S3Options {
        endpoint: Some(endpoint),
        force_path_style: true,
        credentials: S3Credentials::Given {
            access_key_id: "bench".into(),
            secret_access_key: "secret".into(),
            session_token: None,
        },
        ..S3Options::new("bench")
    };
    S3BlobStore::new(S3Bucket::open(options).await.unwrap())
}

/// Milliseconds and number of requests that some work takes.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
async fn measure(requests: &AtomicU64, work: impl AsyncFnOnce()) -> (f64, f64) {
    let before = requests.load(Ordering::Relaxed);
    let start = Instant::now();
    work().await;
    let milliseconds = start.elapsed().as_secs_f64() * 1000.0;
    (milliseconds, (requests.load(Ordering::Relaxed) - before) as f64)
}

fn print(name: &str, value: f64, reference: f64, unit: &str) {
    println!(
        r#"{{"name": "{name}", "value": {value:.1}, "unit": "{unit}", "reference": "a HEAD for each, 128 at once", "reference_value": {reference:.1}, "ratio": {:.4}}}"#,
        value / reference
    );
}
