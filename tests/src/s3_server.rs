//! An S3 server for `bitzel build --remote-cache`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
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
    directory: TempDir,
    address: SocketAddr,
    /// Names of objects that the server lists, but does not deliver.
    vanished: Arc<Mutex<HashSet<String>>>,
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
        let vanished = Arc::new(Mutex::new(HashSet::new()));
        let names = Arc::clone(&vanished);
        let app = axum::Router::new().fallback(move |request: Request| {
            let service = service.clone();
            let name = request.uri().path().rsplit('/').next().unwrap_or_default();
            let has_vanished = request.method() == Method::GET
                && names
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains(name);
            async move {
                if has_vanished {
                    return axum::response::IntoResponse::into_response(StatusCode::NOT_FOUND);
                }
                let request = request.map(s3s::Body::http_body_unsync);
                service.call(request).await.expect("an answer").map(Body::new)
            }
        });
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            _runtime: runtime,
            directory,
            address,
            vanished,
        }
    }

    /// Replaces all objects with this content by others of the same size. Returns their number.
    pub fn corrupt(&self, content: &[u8]) -> usize {
        let objects = self.objects(content);
        for object in &objects {
            std::fs::write(object, vec![b'?'; content.len()]).expect("an object");
        }
        objects.len()
    }

    /// Lists objects with this content from now on without delivering them. Returns their number.
    pub fn vanish(&self, content: &[u8]) -> usize {
        let objects = self.objects(content);
        let names = objects
            .iter()
            .filter_map(|object| Some(object.file_name()?.to_str()?.to_owned()));
        let mut vanished = self.vanished.lock().unwrap_or_else(PoisonError::into_inner);
        vanished.extend(names);
        objects.len()
    }

    /// Files of objects with this content.
    fn objects(&self, content: &[u8]) -> Vec<PathBuf> {
        let mut directories = vec![self.directory.path().to_owned()];
        let mut found = vec![];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory of the server") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                } else if std::fs::read(&path).expect("an object") == content {
                    found.push(path);
                }
            }
        }
        found
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
