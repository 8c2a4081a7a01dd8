//! Layers and services behind a real server, called by real clients.

use std::path::PathBuf;

use bitzel_access::testing::{SigningKey, claims};
use bitzel_cas::testing::{noise, sha256};
use bitzel_cas::{Error, RemoteActionCache, RemoteBlobStore};
use bitzel_proto::asset::fetch_client::FetchClient;
use bitzel_proto::asset::push_client::PushClient;
use bitzel_proto::asset::{FetchBlobRequest, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest};
use bitzel_proto::google::bytestream::ReadRequest;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::{
    ActionResult, FindMissingBlobsRequest, GetChunkMappingRequest, RegisterChunkMappingRequest,
    SpliceBlobRequest, SplitBlobRequest,
};
use bitzel_rpc::endpoint::{self, ClientCredentials};
use bitzel_rpc::{Secret, WatchedFiles};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::services::health::{self, ServingStatusSwitch};
use crate::services::tests::routes;

/// Server with all services of this crate behind access control.
pub(super) struct Guarded {
    pub(super) port: u16,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) cache: Arc<dyn ActionCache>,
    _server: AbortOnDropHandle<()>,
    _serving_status: ServingStatusSwitch,
}

impl Guarded {
    pub(super) async fn start(access: ServerAccess) -> Self {
        let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
        let cache: Arc<dyn ActionCache> = Arc::new(MemoryActionCache::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = incoming(listener, access.tls.clone(), &access.limits);
        let (serving_status, health) = health::service();
        let server = endpoint::server()
            .max_concurrent_streams(access.limits.streams_per_connection)
            .layer(access.layer)
            .layer(access.limits_layer)
            .add_routes(routes(&store, &cache).add_service(health));
        let server = tokio::spawn(async move { server.serve_with_incoming(connections).await.unwrap() });
        Self {
            _serving_status: serving_status,
            port,
            store,
            cache,
            _server: AbortOnDropHandle::new(server),
        }
    }
}

/// Directory with a key set, in which users get tokens.
struct Site {
    directory: TempDir,
    key: SigningKey,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::ed();
        std::fs::write(
            directory.path().join("keys.json"),
            json!({"keys": [key.jwk("k")]}).to_string(),
        )
        .unwrap();
        Self { directory, key }
    }

    async fn access(&self, anonymous: &[&str], rules: Value) -> ServerAccess {
        let tokens = json!({"keys": "keys.json", "issuer": "issuer", "audiences": ["bitzel"]});
        let access = json!({"anonymous": anonymous, "tokens": tokens, "rules": rules});
        let configuration: AccessConfiguration = serde_json::from_value(json!({"access": access})).unwrap();
        configuration.open(self.directory.path()).await.unwrap()
    }

    fn token_file(&self, user: &str) -> PathBuf {
        let mut claims = claims();
        claims["sub"] = user.into();
        claims["groups"] = json!([]);
        let path = self.directory.path().join(user);
        std::fs::write(&path, self.key.token("k", &claims)).unwrap();
        path
    }

    fn credentials(&self, user: &str) -> ClientCredentials {
        ClientCredentials {
            token_file: Some(self.token_file(user)),
            ..ClientCredentials::default()
        }
    }
}

async fn connect(server: &Guarded, credentials: &ClientCredentials) -> endpoint::Channel {
    let endpoint = format!("grpc://127.0.0.1:{}", server.port);
    endpoint::connect_with(&endpoint, credentials).await.unwrap()
}

fn status(error: Error) -> Status {
    match error {
        Error::Remote { source, .. } => *source,
        other => panic!("{other}"),
    }
}

async fn write_result(channel: &endpoint::Channel, name: &str) -> Result<(), Status> {
    let cache = RemoteActionCache::new(channel.clone());
    cache
        .put(&instance(name), sha256(b"action"), ActionResult::default())
        .await
        .map_err(status)
}

async fn write_blob(channel: &endpoint::Channel, name: &str) -> Result<(), Status> {
    let store = RemoteBlobStore::connect(channel.clone(), instance(name))
        .await
        .map_err(status)?;
    let blob = bytes::Bytes::from_static(b"blob");
    let written = store.write_batch(vec![(sha256(&blob), blob)]).await;
    written.into_iter().collect::<Result<(), _>>().map_err(status)
}

#[tokio::test]
async fn a_developer_cannot_write_results() {
    let site = Site::new();
    let rules = json!([
        {"identities": ["*"], "allow": ["read", "cas-write", "execute"]},
        {"identities": ["ci"], "instances": ["team/*"], "allow": ["ac-write"]},
    ]);
    let server = Guarded::start(site.access(&[], rules).await).await;
    let developer = connect(&server, &site.credentials("dev")).await;
    write_blob(&developer, "team/a").await.unwrap();
    let refusal = write_result(&developer, "team/a").await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert!(
        refusal
            .message()
            .contains("dev (token) may not do this: it has no ac-write permission"),
        "{refusal}"
    );
    let key = sha256(b"action");
    assert_eq!(server.cache.get(&instance("team/a"), key).await.unwrap(), None);
    let ci = connect(&server, &site.credentials("ci")).await;
    write_result(&ci, "team/a").await.unwrap();
    assert!(
        server
            .cache
            .get(&instance("team/a"), key)
            .await
            .unwrap()
            .is_some()
    );
    // On another instance the same caller may not.
    let refusal = write_result(&ci, "other").await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert!(refusal.message().contains("instance \"other\""), "{refusal}");
    let cache = RemoteActionCache::new(developer);
    assert!(cache.get(&instance("team/a"), key).await.unwrap().is_some());
}

#[tokio::test]
async fn rules_by_instance_apply_to_every_call() {
    let site = Site::new();
    let rules = json!([{"identities": ["*"], "instances": ["own"], "allow": ["all"]}]);
    let server = Guarded::start(site.access(&[], rules).await).await;
    let channel = connect(&server, &site.credentials("dev")).await;
    let mut blobs = ContentAddressableStorageClient::new(channel.clone());
    let mut fetch = FetchClient::new(channel.clone());
    let mut push = PushClient::new(channel);
    let (uris, wanted) = (vec!["urn:asset".to_owned()], Some(sha256(b"blob").to_wire()));
    for (name, is_refused) in [("other", true), ("own", false)] {
        let instance_name = name.to_owned();
        let split = SplitBlobRequest {
            instance_name: instance_name.clone(),
            blob_digest: wanted.clone(),
            ..SplitBlobRequest::default()
        };
        let mapping = GetChunkMappingRequest {
            instance_name: instance_name.clone(),
            blob_digest: wanted.clone(),
            ..GetChunkMappingRequest::default()
        };
        let splice = SpliceBlobRequest {
            instance_name: instance_name.clone(),
            blob_digest: wanted.clone(),
            chunk_digests: wanted.clone().into_iter().collect(),
            ..SpliceBlobRequest::default()
        };
        let register = RegisterChunkMappingRequest {
            instance_name: instance_name.clone(),
            blob_digest: wanted.clone(),
            chunk_digests: wanted.clone().into_iter().collect(),
            ..RegisterChunkMappingRequest::default()
        };
        let fetch_blob = FetchBlobRequest {
            instance_name: instance_name.clone(),
            uris: uris.clone(),
            ..FetchBlobRequest::default()
        };
        let fetch_directory = FetchDirectoryRequest {
            instance_name: instance_name.clone(),
            uris: uris.clone(),
            ..FetchDirectoryRequest::default()
        };
        let push_blob = PushBlobRequest {
            instance_name: instance_name.clone(),
            uris: uris.clone(),
            blob_digest: wanted.clone(),
            ..PushBlobRequest::default()
        };
        let push_directory = PushDirectoryRequest {
            instance_name: instance_name.clone(),
            uris: uris.clone(),
            root_directory_digest: wanted.clone(),
            ..PushDirectoryRequest::default()
        };
        let answers = [
            ("SplitBlob", blobs.split_blob(split).await.err()),
            ("GetChunkMapping", blobs.get_chunk_mapping(mapping).await.err()),
            ("SpliceBlob", blobs.splice_blob(splice).await.err()),
            (
                "RegisterChunkMapping",
                blobs
                    .register_chunk_mapping(tokio_stream::iter([register]))
                    .await
                    .err(),
            ),
            ("FetchBlob", fetch.fetch_blob(fetch_blob).await.err()),
            (
                "FetchDirectory",
                fetch.fetch_directory(fetch_directory).await.err(),
            ),
            ("PushBlob", push.push_blob(push_blob).await.err()),
            ("PushDirectory", push.push_directory(push_directory).await.err()),
        ];
        for (call, error) in answers {
            // There is nothing on the server, so every call fails; the question is why.
            let error = error.unwrap_or_else(|| panic!("{call} found something"));
            assert_eq!(
                error.code() == Code::PermissionDenied,
                is_refused,
                "{call} on {name}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn anonymous_callers_read_if_allowed_and_never_write() {
    let site = Site::new();
    let rules = json!([{"identities": ["*"], "allow": ["all"]}]);
    let server = Guarded::start(site.access(&["read"], rules).await).await;
    let nobody = connect(&server, &ClientCredentials::default()).await;
    let cache = RemoteActionCache::new(nobody.clone());
    assert_eq!(cache.get(&instance(""), sha256(b"x")).await.unwrap(), None);
    for refusal in [
        write_blob(&nobody, "").await.unwrap_err(),
        write_result(&nobody, "").await.unwrap_err(),
    ] {
        assert_eq!(refusal.code(), Code::Unauthenticated);
        assert!(refusal.message().contains("-write on"), "{refusal}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_not_anonymous_access() {
    let site = Site::new();
    let server = Guarded::start(
        site.access(&["read"], json!([{"identities": ["*"], "allow": ["all"]}]))
            .await,
    )
    .await;
    let path = site.directory.path().join("wrong");
    std::fs::write(&path, SigningKey::ed().token("k", &claims())).unwrap();
    let wrong = ClientCredentials {
        token_file: Some(path),
        ..ClientCredentials::default()
    };
    let channel = connect(&server, &wrong).await;
    let refusal = RemoteActionCache::new(channel)
        .get(&instance(""), sha256(b"x"))
        .await
        .unwrap_err();
    let refusal = status(refusal);
    assert_eq!(refusal.code(), Code::Unauthenticated);
    assert!(refusal.message().contains("signature is wrong"), "{refusal}");
    let password = ClientCredentials {
        password: Some(("alice".into(), Secret::new("x"))),
        ..ClientCredentials::default()
    };
    let channel = connect(&server, &password).await;
    let refusal = write_result(&channel, "").await.unwrap_err();
    assert!(refusal.message().contains("takes no passwords"), "{refusal}");
}

#[tokio::test]
async fn open_connections_use_a_renewed_token() {
    let site = Site::new();
    let rules = json!([{"identities": ["ci"], "allow": ["all"]}]);
    let server = Guarded::start(site.access(&[], rules).await).await;
    let credentials = site.credentials("dev");
    let channel = connect(&server, &credentials).await;
    assert!(write_result(&channel, "").await.is_err());
    let renewed = site.token_file("ci");
    std::fs::rename(renewed, credentials.token_file.unwrap()).unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    write_result(&channel, "").await.unwrap();
}

#[tokio::test]
async fn limits_the_open_calls_of_one_identity_only() {
    let site = Site::new();
    let mut access = site
        .access(&["all"], json!([{"identities": ["*"], "allow": ["all"]}]))
        .await;
    access.limits.streams_per_identity = 1;
    access.limits_layer = LimitsLayer::new(&access.limits);
    let server = Guarded::start(access).await;
    let busy = connect(&server, &site.credentials("busy")).await;
    // Larger than the flow control window of the client, so the call stays open until the client reads on.
    let blob = bytes::Bytes::from(noise(1, 40 << 20));
    let digest = sha256(&blob);
    let written = server.store.write_batch(vec![(digest, blob)]).await;
    written.into_iter().collect::<Result<(), _>>().unwrap();
    let read = ReadRequest {
        resource_name: format!("blobs/{digest}"),
        ..ReadRequest::default()
    };
    let open = ByteStreamClient::new(busy.clone()).read(read).await;
    let mut open = open.unwrap().into_inner();
    let find = async |channel: endpoint::Channel| {
        let request = FindMissingBlobsRequest::default();
        ContentAddressableStorageClient::new(channel)
            .find_missing_blobs(request)
            .await
    };
    let refusal = find(busy.clone()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(
        refusal.message().contains("busy (token) has 1 calls open"),
        "{refusal}"
    );
    find(connect(&server, &site.credentials("other")).await)
        .await
        .unwrap();
    while open.message().await.unwrap().is_some() {}
    find(busy).await.unwrap();
}

#[tokio::test]
async fn f21_watches_of_the_health_count_for_their_connection() {
    let site = Site::new();
    let mut access = site
        .access(&[], json!([{"identities": ["*"], "allow": ["all"]}]))
        .await;
    access.limits.streams_per_identity = 3;
    access.limits_layer = LimitsLayer::new(&access.limits);
    let server = Guarded::start(access).await;
    let connection = async || HealthClient::new(connect(&server, &ClientCredentials::default()).await);
    let mut busy = connection().await;
    let mut watches = Vec::new();
    for _ in 0..4 {
        let watch = busy.watch(HealthCheckRequest::default()).await.unwrap();
        let mut watch = watch.into_inner();
        watch.message().await.unwrap().unwrap();
        watches.push(watch);
    }
    let refusal = busy.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(
        refusal.message().contains("this connection has 4 calls open"),
        "{refusal}"
    );
    let check = connection().await.check(HealthCheckRequest::default()).await;
    check.unwrap();
    let long = HealthCheckRequest {
        service: "x".repeat(5_000),
    };
    let refusal = connection().await.check(long).await.unwrap_err();
    assert_eq!(refusal.code(), Code::OutOfRange);
}

#[tokio::test]
async fn accepts_a_blob_larger_than_the_bytes_in_flight() {
    let site = Site::new();
    let mut access = site.access(&["all"], json!([])).await;
    access.limits.bytes_in_flight_per_identity = 64 << 10;
    access.limits_layer = LimitsLayer::new(&access.limits);
    let server = Guarded::start(access).await;
    let channel = connect(&server, &ClientCredentials::default()).await;
    let store = RemoteBlobStore::connect(channel, instance("")).await.unwrap();
    let blobs: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, 5 << 20)).collect();
    let writes = blobs.iter().map(|blob| {
        let digest = sha256(blob);
        let chunks = blob
            .chunks(1 << 20)
            .map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk)));
        let stream = futures::stream::iter(chunks.collect::<Vec<_>>());
        store.write(digest, Box::pin(stream))
    });
    futures::future::try_join_all(writes).await.unwrap();
    let digests: Vec<_> = blobs.iter().map(|blob| sha256(blob)).collect();
    assert!(store.find_missing(&digests).await.unwrap().is_empty());
}
