use serde_json::json;

use super::*;
use crate::access::{AccessConfiguration, LimitsLayer};

#[tokio::test]
async fn values_are_apart_by_instance_and_name() {
    let server = TestServer::start().await;
    for (path, value) in [
        ("/dav/a/b", "one"),
        ("/dav/a", "two"),
        ("/x/dav/a", "three"),
        ("/dav/x/a", "four"),
    ] {
        server.get(path).await.is(404);
        server.put(path, value).await.is(201);
    }
    for (path, value) in [
        ("/dav/a/b", "one"),
        ("/dav//a", "two"),
        ("/x/dav/a", "three"),
        ("/dav/x/a", "four"),
    ] {
        assert_eq!(server.get(path).await.is(200).body, value);
    }
    server.put("/dav/a", "newer").await.is(201);
    let answer = server.get("/dav/a").await.is(200);
    assert_eq!(answer.body, "newer");
    assert!(httpdate::parse_http_date(answer.header("last-modified")).is_ok());
    server
        .request("DELETE", "/dav/a")
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    server.get("/dav/a").await.is(404);
    assert_eq!(server.get("/dav/a/b").await.is(200).body, "one");
}

#[tokio::test]
async fn a_value_whose_blob_is_gone_is_not_there() {
    let store = Arc::new(MemoryBlobStore::default());
    let server = TestServer::start_with(Arc::clone(&store) as Arc<dyn BlobStore>, ServerAccess::open()).await;
    server.put("/dav/a", "value").await.is(201);
    store.remove(sha256(b"value"));
    server.get("/dav/a").await.is(404);
    server.head("/dav/a").await.is(404);
}

#[tokio::test]
async fn programs_that_ask_as_of_a_web_dav_server_get_their_answers() {
    let server = TestServer::start().await;
    let ask = async |path: &str| Answer::of(server.request("PROPFIND", path).send().await.unwrap()).await;
    ask("/dav/a%20b/c&d").await.is(404);
    server
        .request("MKCOL", "/dav/a%20b/")
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    server.put("/dav/a%20b/c&d", "value").await.is(201);
    let text = ask("/dav/a%20b/c&d").await.is(207).text();
    assert!(text.contains("<D:href>/dav/a%20b/c%26d</D:href>"), "{text}");
    assert!(
        text.contains("<D:getcontentlength>5</D:getcontentlength>"),
        "{text}"
    );
    let text = ask("/dav/a%20b/").await.is(207).text();
    assert!(text.contains("<D:collection/>"), "{text}");
    assert!(text.contains("<D:getlastmodified>Thu, 01 Jan 1970"), "{text}");
}

/// `writer` and `reader` have the password `secret`.
async fn guarded(streams: usize) -> TestServer {
    let directory = tempfile::tempdir().unwrap();
    let hash = bcrypt::hash("secret", 4).unwrap();
    let passwords = ["writer", "reader", "other"]
        .map(|user| format!("{user}:{hash}\n"))
        .concat();
    std::fs::write(directory.path().join("passwords"), passwords).unwrap();
    let configuration: AccessConfiguration = serde_json::from_value(json!({
        "access": {"passwords": "passwords", "rules": [
            {"identities": ["writer"], "instances": ["team"], "allow": ["read", "cas-write", "ac-write"]},
            {"identities": ["reader"], "allow": ["read"]},
        ]},
    }))
    .unwrap();
    let mut access = configuration.open(directory.path()).await.unwrap();
    access.limits.streams_per_identity = streams;
    access.limits_layer = LimitsLayer::new(&access.limits);
    TestServer::start_with(Arc::new(MemoryBlobStore::default()), access).await
}

#[tokio::test]
async fn permissions_are_those_of_the_same_calls_by_grpc() {
    let server = guarded(100).await;
    let call = async |user: Option<&str>, method: &str, path: &str| {
        let mut request = server.request(method, path);
        if let Some(user) = user {
            request = request.basic_auth(user, Some("secret"));
        }
        if method == "PUT" {
            request = request.body("blob");
        }
        Answer::of(request.send().await.unwrap()).await
    };
    let (blob, key) = (cas(sha256(b"blob")), ac(sha256(b"key")));
    for path in [&blob, &key, "/dav/x"] {
        let answer = call(None, "GET", &format!("/team{path}")).await.is(401);
        assert!(answer.header("www-authenticate").contains("Basic"), "{path}");
        call(None, "PUT", &format!("/team{path}")).await.is(401);
        let answer = call(Some("reader"), "PUT", &format!("/team{path}")).await.is(403);
        assert!(
            answer.text().contains("write permission on instance \"team\""),
            "{}",
            answer.text()
        );
        call(Some("writer"), "PUT", path).await.is(403);
        assert!(call(Some("writer"), "PUT", &format!("/team{path}")).await.status < 300);
        assert_eq!(
            call(Some("reader"), "GET", &format!("/team{path}"))
                .await
                .is(200)
                .body,
            "blob"
        );
        call(Some("other"), "GET", &format!("/team{path}")).await.is(403);
    }
    for (method, path) in [("PROPFIND", "/team/dav/"), ("PROPFIND", "/team/dav/x")] {
        call(Some("reader"), method, path).await.is(207);
        call(Some("other"), method, path).await.is(403);
    }
    for (method, path) in [("DELETE", "/team/dav/x"), ("MKCOL", "/team/dav/x/")] {
        call(Some("reader"), method, path).await.is(403);
        assert!(call(Some("writer"), method, path).await.status < 300);
    }
    let wrong = server.request("GET", &blob).basic_auth("reader", Some("wrong"));
    assert_eq!(wrong.send().await.unwrap().status().as_u16(), 401);
}

#[tokio::test]
async fn one_identity_has_no_more_requests_open_than_it_may() {
    let server = guarded(1).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Error>>(1);
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let open = server
        .request("PUT", "/team/dav/slow")
        .basic_auth("writer", Some("secret"))
        .body(body);
    let open = tokio::spawn(open.send());
    let ask = async |user: &str| {
        let request = server
            .request("GET", "/team/dav/x")
            .basic_auth(user, Some("secret"));
        Answer::of(request.send().await.unwrap()).await
    };
    // Until the server has seen the first request.
    while ask("writer").await.status != 429 {}
    ask("reader").await.is(404);
    sender.send(Ok(Bytes::from_static(b"value"))).await.unwrap();
    drop(sender);
    assert_eq!(open.await.unwrap().unwrap().status().as_u16(), 201);
    ask("writer").await.is(404);
}
