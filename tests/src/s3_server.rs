//! Caches of others, for `bitzel build --remote-cache`.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::peers::free_port;

/// Only a program that hangs reaches it.
const START: Duration = Duration::from_mins(1);
/// What the S3 server lets in: (name of the key, key). Signatures are checked.
pub const S3_KEYS: (&str, &str) = ("AKIATEST", "not-so-secret");
const BUCKET: &str = "builds";

/// A running cache server with an empty store, gone when it is dropped.
pub struct CacheServer {
    process: Child,
    _directory: TempDir,
}

impl CacheServer {
    /// Starts `program` with what `arguments` adds, given a directory, and waits until it listens at `address`.
    pub fn start(program: &Path, address: SocketAddr, arguments: impl FnOnce(&mut Command, &Path)) -> Self {
        let directory = TempDir::with_prefix("bitzel-cache-").expect("a temporary directory");
        let mut command = Command::new(program);
        arguments(&mut command, directory.path());
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = process.try_wait().expect("a status");
            assert_eq!(ended, None, "{} ended at once", program.display());
            assert!(started.elapsed() < START, "{} does not listen", program.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            process,
            _directory: directory,
        }
    }
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        // Nothing that it holds is needed any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port of this machine that is free.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A real S3 server (s3s-fs) on a directory, with one bucket, in this process.
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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
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

    /// What a build gets as `--remote-cache`.
    pub fn url(&self) -> String {
        format!(
            "s3://{BUCKET}/some/prefix?endpoint=http://{}&region=us-east-1",
            self.address
        )
    }
}
