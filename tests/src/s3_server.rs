//! An S3 server for `bitzel build --remote-cache`.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Request;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Name and text of the only access key. The server checks signatures.
pub const S3_KEYS: (&str, &str) = ("AKIATEST", "not-so-secret");
const BUCKET: &str = "builds";

/// A real S3 server (s3s-fs) on a directory with one bucket, in this process.
pub struct S3Server {
    _runtime: Runtime,
    _directory: TempDir,
    address: SocketAddr,
}

impl S3Server {
    /// Starts on a free port of this machine.
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("bitzel-s3-").expect("a temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(directory.path()).expect("an S3 server on a directory");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(S3_KEYS.0, S3_KEYS.1));
        let service = builder.build();
        let runtime = single_worker_runtime();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let app = axum::Router::new().fallback(move |request: Request| {
            let service = service.clone();
            async move {
                let request = request.map(s3s::Body::http_body_unsync);
                service.call(request).await.expect("an answer").map(Body::new)
            }
        });
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            _runtime: runtime,
            _directory: directory,
            address,
        }
    }

    /// The value of `--remote-cache` for a build.
    pub fn url(&self) -> String {
        format!(
            "s3://{BUCKET}/some/prefix?endpoint=http://{}&region=us-east-1",
            self.address
        )
    }
}

/// A runtime for a server beside a synchronous test.
pub(crate) fn single_worker_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}
