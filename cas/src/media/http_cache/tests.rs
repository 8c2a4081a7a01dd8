use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body as ServerBody;
use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::blob_store::collect;
use crate::testing::sha256;

/// Files of a test server by path, and the requests that it received.
#[derive(Default)]
pub(crate) struct TestServerState {
    pub(crate) files: Mutex<HashMap<String, Bytes>>,
    pub(crate) requests: Mutex<Vec<String>>,
}

/// Cache server that checks nothing, like nginx with `WebDAV`.
pub(crate) struct TestHttpServer {
    pub(crate) url: String,
    pub(crate) state: Arc<TestServerState>,
    _server: AbortOnDropHandle<()>,
}

impl TestHttpServer {
    /// Starts a server that supports ranges if `ranges`, and requires this `Authorization` header of requests.
    pub(crate) async fn start(ranges: bool, authorization: Option<&'static str>) -> Self {
        let state = Arc::new(TestServerState::default());
        let handler_state = Arc::clone(&state);
        let app = axum::Router::new().fallback(move |request: Request| {
            let state = Arc::clone(&handler_state);
            async move { serve(&state, request, ranges, authorization).await }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pre/fix/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            state,
            _server: AbortOnDropHandle::new(server),
        }
    }

    pub(crate) fn cache(&self) -> Arc<HttpCache> {
        HttpCache::new(HttpCacheOptions::new(&self.url)).unwrap()
    }
}

async fn serve(
    state: &TestServerState,
    request: Request,
    ranges: bool,
    authorization: Option<&str>,
) -> axum::http::Response<ServerBody> {
    let answer = |status: u16, body: Bytes| {
        let response = axum::http::Response::builder().status(status);
        response.body(ServerBody::from(body)).unwrap()
    };
    let (request, body) = request.into_parts();
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    state
        .requests
        .lock()
        .push(format!("{} {}", request.method, request.uri.path()));
    if header(AUTHORIZATION) != authorization {
        return answer(401, "who are you?".into());
    }
    let path = request.uri.path().to_owned();
    if request.method == "PUT" {
        let length = header(CONTENT_LENGTH).map(str::to_owned);
        let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
            return answer(400, "torn".into());
        };
        assert_eq!(length, Some(body.len().to_string()), "sent with its length");
        state.files.lock().insert(path, body);
        return answer(201, Bytes::new());
    }
    let Some(file) = state.files.lock().get(&path).cloned() else {
        return answer(404, "not here".into());
    };
    match header(RANGE).filter(|_| ranges) {
        None => answer(200, file),
        Some(range) => {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let total = file.len();
            let mut response = answer(206, file.slice(first..=last.min(total - 1)));
            let value = format!("bytes {first}-{last}/{total}").parse().unwrap();
            response.headers_mut().insert(CONTENT_RANGE, value);
            response
        }
    }
}

/// Server that answers each connection with the next of some fixed responses, and further ones with the last of them.
pub(crate) struct ScriptedServer {
    pub(crate) url: String,
    pub(crate) connections: Arc<AtomicUsize>,
    _server: AbortOnDropHandle<()>,
}

impl ScriptedServer {
    /// Starts a server. If it `hangs`, it keeps the connection open after a response and sends nothing more.
    pub(crate) async fn start(answers: &[&str], hangs: bool) -> Self {
        let answers: Vec<String> = answers.iter().map(|&answer| answer.into()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let answer = answers[number.min(answers.len() - 1)].clone();
                open.spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    // The client may have closed the connection.
                    let _left = socket.write_all(answer.as_bytes()).await;
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self {
            url,
            connections,
            _server: AbortOnDropHandle::new(server),
        }
    }

    pub(crate) fn cache(&self, read_timeout: Duration) -> Arc<HttpCache> {
        HttpCache::new(HttpCacheOptions {
            read_timeout,
            ..HttpCacheOptions::new(&self.url)
        })
        .unwrap()
    }
}

#[tokio::test]
async fn paths_contain_the_prefix_and_the_instance() {
    let cache = HttpCache::new(HttpCacheOptions::new("http://host:1/pre/fix/")).unwrap();
    let digest = sha256(b"x");
    let hash = digest.hash_hex();
    assert_eq!(
        cache.blob(digest).as_str(),
        format!("http://host:1/pre/fix/cas/{hash}")
    );
    let instance = InstanceName::new("team/one").unwrap();
    let result = cache.result(&instance, digest).unwrap();
    assert_eq!(
        result.as_str(),
        format!("http://host:1/pre/fix/team/one/ac/{hash}")
    );
    let bare = HttpCache::new(HttpCacheOptions::new("https://host")).unwrap();
    let result = bare.result(&InstanceName::default(), digest).unwrap();
    assert_eq!(result.as_str(), format!("https://host/ac/{hash}"));
}

#[test]
fn f12_names_that_urls_change_are_refused() {
    let cache = HttpCache::new(HttpCacheOptions::new("http://host:1/pre/fix/")).unwrap();
    // The purposes of reserved names are not checked before.
    for purpose in ["b/../a", "b/./a", "a\t", "b/.\t./a", "a\r\n"] {
        let refused = cache.result(&InstanceName::reserved(purpose), sha256(b"x"));
        assert!(
            matches!(refused, Err(Error::InvalidArgument(_))),
            "{purpose:?}: {refused:?}"
        );
    }
    for purpose in ["a", "a b/%2e%2e/\u{e9}?#", "a..b"] {
        cache
            .result(&InstanceName::reserved(purpose), sha256(b"x"))
            .unwrap();
    }
}

#[test]
fn invalid_urls_are_refused_without_their_secrets() {
    for (url, reason) in [
        ("host:80", "unknown scheme"),
        ("nonsense", "is not a URL"),
        ("ftp://host", "unknown scheme"),
        ("http://user:secret@host", "configure them separately"),
        ("http://user:secret@host:port", "is not a URL"),
        ("user:secret@host", "unknown scheme"),
        ("http://host/?token=secret", "query"),
    ] {
        let error = HttpCache::new(HttpCacheOptions::new(url)).unwrap_err();
        let text = bitzel_proto::with_causes(&error);
        assert!(text.contains(reason), "{text}");
        assert!(!format!("{text} {error:?}").contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn credentials_are_sent_and_never_printed() {
    let basic = HttpCredentials::Basic {
        user: "me".into(),
        password: "hunter2".into(),
    };
    let bearer = HttpCredentials::Bearer("hunter2".into());
    for (credentials, header) in [(basic, "Basic bWU6aHVudGVyMg=="), (bearer, "Bearer hunter2")] {
        let server = TestHttpServer::start(true, Some(header)).await;
        let options = HttpCacheOptions {
            credentials,
            ..HttpCacheOptions::new(&server.url)
        };
        assert!(!format!("{options:?}").contains("hunter2"));
        let cache = HttpCache::new(options).unwrap();
        assert_eq!(cache.head(cache.blob(sha256(b"x"))).await.unwrap(), None);
        let error = server.cache().head(cache.blob(sha256(b"x"))).await.unwrap_err();
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
    }
}

#[tokio::test]
async fn refusals_contain_the_text_of_the_server() {
    let answer = "HTTP/1.1 507 Full\r\nContent-Length: 9\r\nConnection: close\r\n\r\ndisk full";
    let server = ScriptedServer::start(&[answer], false).await;
    let cache = server.cache(Duration::from_secs(10));
    let error = cache.get(cache.blob(sha256(b"x")), None).await.err().unwrap();
    let text = bitzel_proto::with_causes(&error);
    assert!(text.contains("507") && text.contains("disk full"), "{text}");
    assert!(matches!(
        error,
        Error::BackEnd {
            failure: BackEndFailure::Full,
            ..
        }
    ));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = TestHttpServer::start(true, None).await;
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        elsewhere.url
    );
    let server = ScriptedServer::start(&[&answer], false).await;
    let cache = server.cache(Duration::from_secs(10));
    assert!(cache.get(cache.blob(sha256(b"x")), None).await.is_err());
    assert!(elsewhere.state.requests.lock().is_empty());
}

#[tokio::test]
async fn get_reads_a_part_or_all() {
    let server = TestHttpServer::start(true, None).await;
    let cache = server.cache();
    let url = cache.blob(sha256(b"hello"));
    cache.put(url.clone(), 5, Body::from("hello")).await.unwrap();
    let answer = cache.get(url.clone(), None).await.unwrap().unwrap();
    assert_eq!((answer.start, answer.length), (0, Some(5)));
    assert_eq!(collect(answer.body).await.unwrap(), "hello");
    let answer = cache.get(url.clone(), Some((1, 3))).await.unwrap().unwrap();
    assert_eq!((answer.start, answer.length), (1, Some(3)));
    assert_eq!(collect(answer.body).await.unwrap(), "ell");
    assert_eq!(cache.head(url).await.unwrap(), Some(Some(5)));
}
