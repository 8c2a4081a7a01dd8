//! The Remote Asset API, through a real server.

use bitzel_proto::asset::fetch_client::FetchClient;
use bitzel_proto::asset::push_client::PushClient;
use bitzel_proto::asset::{
    FetchBlobRequest, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest, Qualifier,
};
use bitzel_proto::google::protobuf::Timestamp;
use bitzel_proto::reapi::{Directory, FileNode};
use prost::Message;
use tonic::Code;

use super::*;

const URI: &str = "urn:fdc:example:2020:v1:project/element/0123";

fn qualifier(name: &str, value: &str) -> Qualifier {
    Qualifier {
        name: name.into(),
        value: value.into(),
    }
}

fn fetch(server: &TestServer) -> FetchClient<Channel> {
    FetchClient::new(server.channel.clone())
}

fn push(server: &TestServer) -> PushClient<Channel> {
    PushClient::new(server.channel.clone())
}

fn wanted() -> FetchBlobRequest {
    FetchBlobRequest {
        instance_name: "team/one".into(),
        uris: vec!["urn:other".into(), URI.into()],
        ..FetchBlobRequest::default()
    }
}

fn pushed(blob: Digest) -> PushBlobRequest {
    PushBlobRequest {
        instance_name: "team/one".into(),
        uris: vec![URI.into()],
        blob_digest: Some(blob.to_wire()),
        ..PushBlobRequest::default()
    }
}

#[tokio::test]
async fn fetches_a_pushed_blob_by_uri_and_instance() {
    let server = TestServer::start().await;
    let blob = server.add(b"an artifact").await;
    let missing = fetch(&server).fetch_blob(wanted()).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    push(&server).push_blob(pushed(blob)).await.unwrap();
    let found = fetch(&server).fetch_blob(wanted()).await.unwrap().into_inner();
    assert_eq!(found.blob_digest, Some(blob.to_wire()));
    assert_eq!(found.uri, URI);
    assert_eq!(found.status.unwrap().code, 0);
    let elsewhere = FetchBlobRequest {
        instance_name: "team/two".into(),
        ..wanted()
    };
    let status = fetch(&server).fetch_blob(elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn qualifiers_count_and_their_order_does_not() {
    let server = TestServer::start().await;
    let blob = server.add(b"a commit").await;
    let (one, two) = (qualifier("vcs.commit", "abc"), qualifier("vcs.branch", "main"));
    let mut asset = pushed(blob);
    asset.qualifiers = vec![one.clone(), two.clone()];
    push(&server).push_blob(asset).await.unwrap();
    let mut request = wanted();
    request.qualifiers = vec![two, one.clone()];
    fetch(&server).fetch_blob(request).await.unwrap();
    let mut request = wanted();
    request.qualifiers = vec![one];
    let status = fetch(&server).fetch_blob(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn an_asset_ends_with_its_expiry_or_one_of_its_blobs() {
    let store = Arc::new(MemoryBlobStore::default());
    let server = TestServer::start_with(Arc::<MemoryBlobStore>::clone(&store)).await;
    let (blob, referenced) = (server.add(b"index").await, server.add(b"content").await);
    let mut expired = pushed(blob);
    expired.expire_at = Some(Timestamp { seconds: 1, nanos: 0 });
    push(&server).push_blob(expired).await.unwrap();
    let status = fetch(&server).fetch_blob(wanted()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "expired");

    let mut asset = pushed(blob);
    asset.references_blobs = vec![referenced.to_wire()];
    let far = Timestamp {
        seconds: 1 << 33,
        nanos: 0,
    };
    asset.expire_at = Some(far);
    push(&server).push_blob(asset).await.unwrap();
    let found = fetch(&server).fetch_blob(wanted()).await.unwrap().into_inner();
    assert_eq!(found.expires_at, Some(far));
    let mut newer = wanted();
    newer.oldest_content_accepted = Some(far);
    let status = fetch(&server).fetch_blob(newer).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "too old");
    store.remove(referenced);
    let status = fetch(&server).fetch_blob(wanted()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "incomplete");
}

#[tokio::test]
async fn fetches_a_directory_while_all_its_files_exist() {
    let store = Arc::new(MemoryBlobStore::default());
    let server = TestServer::start_with(Arc::<MemoryBlobStore>::clone(&store)).await;
    let file = server.add(b"file").await;
    let directory = Directory {
        files: vec![FileNode {
            name: "file".into(),
            digest: Some(file.to_wire()),
            ..FileNode::default()
        }],
        ..Directory::default()
    };
    let root = server.add(&directory.encode_to_vec()).await;
    let request = PushDirectoryRequest {
        uris: vec![URI.into()],
        root_directory_digest: Some(root.to_wire()),
        ..PushDirectoryRequest::default()
    };
    push(&server).push_directory(request).await.unwrap();
    let request = FetchDirectoryRequest {
        uris: vec![URI.into()],
        ..FetchDirectoryRequest::default()
    };
    let found = fetch(&server)
        .fetch_directory(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.root_directory_digest, Some(root.to_wire()));
    store.remove(file);
    let status = fetch(&server).fetch_directory(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn refuses_requests_without_uri_and_absent_blobs() {
    let server = TestServer::start().await;
    let status = fetch(&server)
        .fetch_blob(FetchBlobRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let absent = sha256(b"never uploaded");
    let mut without = pushed(absent);
    without.uris.clear();
    let status = push(&server).push_blob(without).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = push(&server).push_blob(pushed(absent)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}
