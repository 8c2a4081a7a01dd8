use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::body::Body as ServerBody;
use axum::extract::Request;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const KEY: &str = "AKIATEST";
const SECRET: &str = "not-so-secret";
pub(crate) const BUCKET: &str = "some-bucket";

/// S3 server on a directory, which checks signatures.
pub(crate) struct TestS3Server {
    endpoint: String,
    pub(crate) directory: TempDir,
    pub(crate) state: Arc<TestS3State>,
    _server: AbortOnDropHandle<()>,
}

/// Requests that a test server received, and the failures that it is to simulate.
#[derive(Default)]
pub(crate) struct TestS3State {
    pub(crate) requests: Mutex<Vec<String>>,
    /// Notified after each request.
    received: Notify,
    /// Number of the next requests that are answered with 503.
    pub(crate) busy: AtomicUsize,
    /// Text in the URL of requests that are refused with 400.
    pub(crate) refused: Mutex<Option<&'static str>>,
    /// Number of bytes after which responses to GETs are cut off.
    pub(crate) cut: Mutex<Option<usize>>,
    /// True if these responses hang instead of being cut off.
    pub(crate) hangs: AtomicBool,
}

impl TestS3State {
    /// Waits until `count` of the requests fulfil the condition.
    pub(crate) async fn wait_for(&self, count: usize, condition: impl Fn(&str) -> bool) {
        loop {
            let received = self.received.notified();
            let requests = self.requests.lock().clone();
            if requests.iter().filter(|request| condition(request)).count() >= count {
                return;
            }
            received.await;
        }
    }

    /// Number of requests that began with `start` since the last call. Forgets all requests.
    pub(crate) fn take(&self, start: &str) -> usize {
        let requests = std::mem::take(&mut *self.requests.lock());
        requests
            .iter()
            .filter(|request| request.starts_with(start))
            .count()
    }
}

impl TestS3Server {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let state = Arc::new(TestS3State::default());
        let handler_state = Arc::clone(&state);
        let app = axum::Router::new().fallback(move |request: Request| {
            let (service, state) = (service.clone(), Arc::clone(&handler_state));
            async move { serve(service, &state, request).await }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            endpoint,
            directory,
            state,
            _server: AbortOnDropHandle::new(server),
        }
    }

    pub(crate) fn options(&self) -> S3Options {
        S3Options {
            prefix: "/some/prefix/".into(),
            endpoint: Some(self.endpoint.clone()),
            force_path_style: true,
            credentials: S3Credentials::Given {
                access_key_id: KEY.into(),
                secret_access_key: SECRET.into(),
                session_token: None,
            },
            ..S3Options::new(BUCKET)
        }
    }

    pub(crate) async fn bucket(&self) -> Arc<S3Bucket> {
        S3Bucket::open(self.options()).await.unwrap()
    }
}

async fn serve(
    service: S3Service,
    state: &TestS3State,
    request: Request,
) -> axum::http::Response<ServerBody> {
    let answer = |status: u16| {
        let response = axum::http::Response::builder().status(status);
        response.body(ServerBody::empty()).unwrap()
    };
    let what = format!("{} {}", request.method(), request.uri());
    let refused = state.refused.lock().is_some_and(|part| what.contains(part));
    let is_get = what.starts_with("GET") && !what.contains("list-type");
    state.requests.lock().push(what);
    state.received.notify_waiters();
    if refused {
        return answer(400);
    }
    let busy = state
        .busy
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |busy| busy.checked_sub(1));
    if busy.is_ok() {
        return answer(503);
    }
    let request = request.map(s3s::Body::http_body_unsync);
    let response = service.call(request).await.unwrap();
    let response = response.map(ServerBody::new);
    let cut = *state.cut.lock();
    let hangs = state.hangs.load(Ordering::SeqCst);
    match cut {
        Some(cut) if is_get && response.status().is_success() => response.map(|body| {
            let whole = body.into_data_stream();
            let cut = whole.scan(cut, move |left, chunk| {
                let chunk = chunk.unwrap();
                let now = chunk.len().min(*left);
                *left -= now;
                let part = chunk.slice(..now);
                async move {
                    if !part.is_empty() {
                        return Some(Ok(part));
                    }
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    // Not ready once: the server flushes the bytes before, which it would drop with the connection.
                    tokio::task::yield_now().await;
                    Some(Err(std::io::Error::other("the power went out")))
                }
            });
            ServerBody::from_stream(cut)
        }),
        _ => response,
    }
}

#[tokio::test]
async fn wrong_keys_are_denied_and_never_printed() {
    let server = TestS3Server::start().await;
    let credentials = S3Credentials::Given {
        access_key_id: KEY.into(),
        secret_access_key: "guessed".into(),
        session_token: None,
    };
    assert!(!format!("{credentials:?}").contains("guessed"));
    let error = S3Bucket::open(S3Options {
        credentials,
        ..server.options()
    })
    .await
    .unwrap_err();
    assert!(
        matches!(
            &error,
            Error::BackEnd {
                failure: BackEndFailure::Denied,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains(BUCKET), "{error}");
}

#[tokio::test]
async fn error_of_a_missing_bucket_contains_its_name() {
    let server = TestS3Server::start().await;
    let options = S3Options {
        bucket: "other-bucket".into(),
        ..server.options()
    };
    let error = S3Bucket::open(options).await.unwrap_err().to_string();
    assert!(error.contains("other-bucket"), "{error}");
}

#[tokio::test]
async fn list_begins_after_the_given_key() {
    let server = TestS3Server::start().await;
    let bucket = server.bucket().await;
    for name in ["a", "b", "c"] {
        bucket.put(&bucket.key(name), name.into()).await.unwrap();
    }
    let (page, more) = bucket.list(&bucket.key(""), &bucket.key("a")).await.unwrap();
    let keys: Vec<&str> = page.iter().map(|object| object.key.as_str()).collect();
    assert_eq!((keys, more), (vec!["some/prefix/b", "some/prefix/c"], false));
    assert!(
        page.iter()
            .all(|object| object.size == 1 && object.modified.is_some())
    );
}
