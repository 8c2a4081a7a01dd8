use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Sends bytes as they are and yields the status of the answer, if one comes.
async fn raw(server: &TestServer, request: &[u8]) -> Option<u16> {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok())
}

/// A page whose name was made to lead here sends that name, or its origin.
#[tokio::test]
async fn f21_web_pages_do_not_reach_an_open_server() {
    let status = async |server: &TestServer, target: &str, headers: &str| {
        let request = format!("PUT {target} HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n");
        raw(server, request.as_bytes()).await
    };
    let server = TestServer::start().await;
    for headers in [
        "host: evil.example\r\n",
        "host: evil.example:8980\r\n",
        "host: localhost.evil.example\r\n",
        "host: localhost\r\norigin: http://evil.example\r\n",
        "host: 127.0.0.1\r\norigin: null\r\n",
    ] {
        assert_eq!(status(&server, "/dav/a", headers).await, Some(403), "{headers}");
    }
    assert_eq!(
        status(&server, "http://evil.example/dav/a", "host: localhost\r\n").await,
        Some(403)
    );
    for headers in [
        "host: localhost:8980\r\n",
        "host: 127.0.0.1\r\n",
        "host: [::1]:8980\r\n",
    ] {
        assert_eq!(status(&server, "/dav/a", headers).await, Some(201), "{headers}");
    }
}

#[tokio::test]
async fn paths_that_name_nothing_are_400_with_a_reason() {
    let server = TestServer::start().await;
    let hash = sha256(b"x").hash_hex();
    let upper = hash.to_uppercase();
    let long = "a".repeat(60_000);
    for path in [
        "/".to_owned(),
        "/status".to_owned(),
        format!("/cas/{upper}"),
        format!("/cas/{hash}{hash}"),
        format!("/cas/{hash}/"),
        format!("/..%2fcas/{hash}"),
        format!("/a%00/cas/{hash}"),
        format!("/%ff/ac/{hash}"),
        format!("/uploads/cas/{hash}"),
        "/dav/%2e%2e/%2e%2e/etc/passwd".to_owned(),
        "/dav/a%2f%2e%2e%2fb".to_owned(),
        format!("/dav/{long}"),
    ] {
        for method in ["GET", "PUT"] {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(
                raw(&server, request.as_bytes()).await,
                Some(400),
                "{method} {path}"
            );
        }
    }
    let request = format!("GET /../../cas/{hash} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(raw(&server, request.as_bytes()).await, Some(400));
    let endless = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "a".repeat(10 << 20)
    );
    let address = server.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    // The server closes before it has read all of it.
    let _ = connection.write_all(endless.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    assert!(
        !answer.starts_with(b"HTTP/1.1 2"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn ten_gib_declared_and_one_kib_sent_stores_nothing() {
    let server = TestServer::start().await;
    for path in [cas(sha256(b"x")), ac(sha256(b"x")), "/dav/x".to_owned()] {
        let mut request =
            format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10737418240\r\n\r\n")
                .into_bytes();
        request.extend_from_slice(&noise(1, 1024));
        let status = raw(&server, &request).await;
        assert!(matches!(status, None | Some(400 | 413)), "{status:?}");
        server.get(&path).await.is(404);
    }
    // The other way: fewer are declared than sent.
    let digest = sha256(b"more than four");
    let request = format!(
        "PUT {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nmore than four",
        cas(digest)
    );
    assert_eq!(raw(&server, request.as_bytes()).await, Some(400));
    assert!(!server.has(digest).await);
}

#[tokio::test]
async fn decompression_bombs_end_at_the_size_or_the_limit() {
    let server = TestServer::start().await;
    let zeros = vec![0_u8; 256 << 20];
    let bomb = Bytes::from(zstd::encode_all(&zeros[..], 19).unwrap());
    assert!(bomb.len() < 64 << 10);
    let encoding = ("content-encoding", "zstd");
    for path in [cas(sha256(b"x")), ac(sha256(b"x")), "/dav/x".to_owned()] {
        let known = [encoding, ("x-digest-sizebytes", "1000")];
        server.put_with(&path, &known, bomb.clone()).await.is(400);
        let status = server.put_with(&path, &[encoding], bomb.clone()).await.status;
        assert!(matches!(status, 400 | 413), "{status}");
        let torn = bomb.slice(..bomb.len() - 3);
        let status = server.put_with(&path, &[encoding], torn).await.status;
        assert!(matches!(status, 400 | 413), "{status}");
        server.put_with(&path, &[encoding], "no zstd").await.is(400);
        server.get(&path).await.is(404);
    }
    let small = zstd::encode_all(&b"a value"[..], 3).unwrap();
    let torn = small[..small.len() - 2].to_vec();
    server.put_with("/dav/torn", &[encoding], torn).await.is(400);
    server.put_with("/dav/whole", &[encoding], small).await.is(201);
    assert_eq!(server.get("/dav/whole").await.is(200).body, "a value");
}

#[tokio::test]
async fn values_larger_than_the_spool_are_413_and_free_it() {
    let server = TestServer::start().await;
    let large = noise(1, usize::try_from(SPOOL_BYTES).unwrap() + 1);
    for _ in 0..3 {
        server.put("/dav/large", chunked(&large)).await.is(413);
    }
    server.put("/dav/fits", large[1..].to_vec()).await.is(201);
    assert!(server.get("/dav/fits").await.is(200).body == large[1..]);
    server.get("/dav/large").await.is(404);
}

#[tokio::test]
async fn other_methods_and_encodings_are_refused() {
    let server = TestServer::start().await;
    let path = cas(sha256(b"x"));
    for method in ["POST", "DELETE", "PATCH", "PROPFIND", "MKCOL"] {
        let answer = server.request(method, &path).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 405, "{method}");
        assert!(answer.headers().contains_key("allow"));
    }
    server
        .put_with(&path, &[("content-encoding", "gzip")], "x")
        .await
        .is(400);
    server
        .put_with(&path, &[("x-digest-sizebytes", "-1")], "x")
        .await
        .is(400);
    server
        .request("OPTIONS", &path)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
}

#[tokio::test]
async fn does_not_ask_for_a_body_that_it_refuses() {
    let server = TestServer::start().await;
    let digest = sha256(b"there");
    server.put(&cas(digest), "there").await.is(200);
    let address = server.url.strip_prefix("http://").unwrap();
    for (path, length, status) in [
        (cas(digest), 5, "200"),
        ("/dav/large".to_owned(), SPOOL_BYTES + 1, "413"),
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server closes: it cannot know whether the body will come.
        connection.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_arrives_before_the_body_is_read() {
    let server = TestServer::start().await;
    let blob = noise(7, 3 << 20);
    for _ in 0..5 {
        // On a connection that goes on after each of them.
        server
            .put_with(&cas(sha256(b"x")), &[("content-encoding", "gzip")], blob.clone())
            .await
            .is(400);
        server.put("/nothing", blob.clone()).await.is(400);
    }
}

#[tokio::test(start_paused = true)]
async fn closes_the_connection_of_a_silent_client() {
    let server = TestServer::start().await;
    for begin in ["", "GET /cas/0", "PRI * HTTP/2.0"] {
        let address = server.url.strip_prefix("http://").unwrap();
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(begin.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let closed = connection.read_to_end(&mut answer);
        let limit = std::time::Duration::from_mins(2);
        assert!(tokio::time::timeout(limit, closed).await.is_ok(), "{begin}");
    }
}

#[tokio::test]
async fn concurrent_uploads_are_right_in_memory_and_on_disk() {
    let server = TestServer::start().await;
    // More than stay in memory, and less than the spool takes.
    let values: Vec<Vec<u8>> = (0..200).map(|seed| noise(seed, 20_000)).collect();
    let puts = values.iter().enumerate().map(|(number, value)| {
        let server = &server;
        async move { server.put(&format!("/dav/{number}"), value.clone()).await.is(201) }
    });
    futures::future::join_all(puts).await;
    for (number, value) in values.iter().enumerate() {
        assert!(server.get(&format!("/dav/{number}")).await.is(200).body == *value);
    }
}
