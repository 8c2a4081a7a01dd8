use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitzel_access::{AccessConfiguration, LimitsLayer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

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
async fn permissions_are_the_same_as_over_grpc() {
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
async fn limits_the_open_requests_of_one_identity() {
    let server = guarded(1).await;
    let ask = async |user: &str| {
        let request = server.request("GET", "/team/dav/x");
        Answer::of(request.basic_auth(user, Some("secret")).send().await.unwrap()).await
    };
    let mut open = TcpStream::connect(server.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = format!(
        "PUT /team/dav/slow HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic {}\r\nexpect: 100-continue\r\n\
         connection: close\r\ncontent-length: 5\r\n\r\n",
        BASE64_STANDARD.encode("writer:secret")
    );
    open.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body when it begins to read it.
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut answer = [0; 25];
    open.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, go_on);
    let refusal = ask("writer").await.is(429);
    assert!(
        refusal.text().contains("writer (password) has 1 calls open"),
        "{}",
        refusal.text()
    );
    ask("reader").await.is(404);
    open.write_all(b"value").await.unwrap();
    // The server closes the connection after it has ended the request.
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 201"));
    ask("writer").await.is(404);
}

#[tokio::test]
async fn bytes_of_one_identity_wait_for_the_limit_and_arrive() {
    let mut access = ServerAccess::open();
    access.limits.bytes_in_flight_per_identity = 64 << 10;
    access.limits_layer = LimitsLayer::new(&access.limits);
    let server = TestServer::start_with(Arc::new(MemoryBlobStore::default()), access).await;
    let blobs: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, 3 << 20)).collect();
    let puts = blobs
        .iter()
        .map(async |blob| server.put(&cas(sha256(blob)), blob.clone()).await.is(200));
    futures::future::join_all(puts).await;
    for blob in &blobs {
        assert!(server.has(sha256(blob)).await);
    }
}

#[tokio::test]
async fn a_client_certificate_is_an_identity() {
    let directory = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap().pem();
        let key = key.serialize_pem();
        std::fs::write(directory.path().join(format!("{name}.pem")), &certificate).unwrap();
        std::fs::write(directory.path().join(format!("{name}.key")), &key).unwrap();
        reqwest::Identity::from_pem((certificate + &key).as_bytes()).unwrap()
    };
    issue("server");
    let writer = issue("writer");
    std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
    let configuration: AccessConfiguration = serde_json::from_value(json!({
        "tls": {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"},
        "access": {"anonymous": ["read"], "rules": [{"identities": ["writer"], "allow": ["all"]}]},
    }))
    .unwrap();
    let access = configuration.open(directory.path()).await.unwrap();
    let mut server = TestServer::start_with(Arc::new(MemoryBlobStore::default()), access).await;
    let client = || {
        let authority = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        Client::builder().tls_certs_only([authority])
    };
    server.client = client().build().unwrap();
    server.put("/dav/x", "value").await.is(401);
    server.get("/dav/x").await.is(404);
    server.client = client().identity(writer).build().unwrap();
    server.put("/dav/x", "value").await.is(201);
    assert_eq!(server.get("/dav/x").await.is(200).body, "value");
}
