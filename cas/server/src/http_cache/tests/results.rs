use bitzel_proto::DigestFunction;
use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata, OutputFile};
use prost::Message as _;

use super::*;

async fn stored(server: &TestServer, blob: &'static [u8]) -> Digest {
    let digest = sha256(blob);
    server
        .store
        .write(digest, one_chunk(Bytes::from_static(blob)))
        .await
        .unwrap();
    digest
}

fn result(output: Digest) -> ActionResult {
    ActionResult {
        output_files: vec![OutputFile {
            path: "out".into(),
            digest: Some(output.to_wire()),
            ..OutputFile::default()
        }],
        stdout_raw: b"said".to_vec(),
        execution_metadata: Some(ExecutedActionMetadata {
            worker: "w".into(),
            ..ExecutedActionMetadata::default()
        }),
        ..ActionResult::default()
    }
}

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

#[tokio::test]
async fn results_are_shared_with_grpc_in_both_directions() {
    let server = TestServer::start().await;
    let (action, output) = (stored(&server, b"action").await, stored(&server, b"output").await);
    let bytes = result(output).encode_to_vec();
    server.get(&ac(action)).await.is(404);
    server
        .put(&format!("/team{}", ac(action)), bytes.clone())
        .await
        .is(200);
    let found = server.cache.get(&instance("team"), action).await.unwrap();
    assert_eq!(found, Some(result(output)));
    assert_eq!(
        server.get(&format!("/team{}", ac(action))).await.is(200).body,
        bytes
    );
    server.head(&format!("/team{}", ac(action))).await.is(200);
    server.get(&ac(action)).await.is(404);

    let other = stored(&server, b"another action").await;
    server
        .cache
        .put(&instance(""), other, result(output))
        .await
        .unwrap();
    assert_eq!(server.get(&ac(other)).await.is(200).body, bytes);
}

#[tokio::test]
async fn finds_a_result_before_and_after_its_action_is_stored() {
    let server = TestServer::start().await;
    let output = stored(&server, b"output").await;
    let bytes = result(output).encode_to_vec();
    let action = sha256(b"action");
    server.put(&ac(action), bytes.clone()).await.is(200);
    assert_eq!(server.get(&ac(action)).await.is(200).body, bytes);
    stored(&server, b"action").await;
    assert_eq!(server.get(&ac(action)).await.is(200).body, bytes);
}

#[tokio::test]
async fn a_result_whose_blobs_are_gone_is_no_hit() {
    let store = Arc::new(MemoryBlobStore::default());
    let server = TestServer::start_with(Arc::clone(&store) as Arc<dyn BlobStore>, ServerAccess::open()).await;
    let (action, output) = (stored(&server, b"action").await, stored(&server, b"output").await);
    server
        .put(&ac(action), result(output).encode_to_vec())
        .await
        .is(200);
    server.get(&ac(action)).await.is(200);
    store.remove(output);
    server.get(&ac(action)).await.is(404);
    server.head(&ac(action)).await.is(404);
}

#[tokio::test]
async fn other_values_come_back_and_are_no_results_for_grpc() {
    let server = TestServer::start().await;
    let action = stored(&server, b"action").await;
    let mut unknown_field = result(action).encode_to_vec();
    unknown_field.extend_from_slice(&[0xfa, 0x3f, 1, b'x']);
    let malformed = ActionResult {
        output_files: vec![OutputFile::default()],
        ..ActionResult::default()
    };
    for value in [
        b"cCrS opaque bytes".to_vec(),
        b"".to_vec(),
        unknown_field,
        malformed.encode_to_vec(),
        noise(1, 2_000_000),
    ] {
        server.put(&ac(action), value.clone()).await.is(200);
        assert!(server.get(&ac(action)).await.is(200).body == value);
        for digest in [action, Digest::new(DigestFunction::Sha256, *action.hash(), 0)] {
            assert_eq!(server.cache.get(&instance(""), digest).await.unwrap(), None);
        }
        server.get(&format!("/other{}", ac(action))).await.is(404);
    }
    // A result takes its place, and is not hidden again.
    server
        .put(&ac(action), result(action).encode_to_vec())
        .await
        .is(200);
    assert_eq!(
        server.get(&ac(action)).await.is(200).body,
        result(action).encode_to_vec()
    );
    server.put(&ac(action), "opaque").await.is(409);
}

#[tokio::test]
async fn keys_of_the_two_digest_functions_are_apart() {
    let server = TestServer::start().await;
    let hash = sha256(b"key").hash_hex();
    server.put(&format!("/ac/{hash}"), "sha256").await.is(200);
    server.put(&format!("/ac/blake3/{hash}"), "blake3").await.is(200);
    assert_eq!(server.get(&format!("/ac/{hash}")).await.is(200).body, "sha256");
    assert_eq!(
        server.get(&format!("/ac/blake3/{hash}")).await.is(200).body,
        "blake3"
    );
}
