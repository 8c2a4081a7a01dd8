use super::*;

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
async fn answers_clients_of_web_dav_servers() {
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
