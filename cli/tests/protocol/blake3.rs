//! BLAKE3 beside SHA-256. Their hashes look alike, so the server never guesses: a request without a digest function means
//! SHA-256.

use bitzel_proto::reapi::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Command, Directory, DirectoryNode,
    FindMissingBlobsRequest, GetActionResultRequest, GetTreeRequest, OutputFile, SpliceBlobRequest,
    SplitBlobRequest, Tree, UpdateActionResultRequest, batch_update_blobs_request,
};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message as _;
use tonic::{Code, Status};

use super::messages::{noise, request, shell, write_requests};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;
const BLAKE3: DigestFunction = DigestFunction::Blake3;
const UNSET: i32 = 0;

async fn write(server: &Server, name: &str, data: &[u8]) -> Result<i64, Status> {
    server.write(write_requests(name, data)).await
}

async fn find(server: &Server, action: Digest, digest_function: i32) -> Result<ActionResult, Status> {
    let request = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        digest_function,
        ..Default::default()
    };
    let result = server.results().get_action_result(request).await?;
    Ok(result.into_inner())
}

async fn record(
    server: &Server,
    action: Digest,
    result: &ActionResult,
    digest_function: i32,
) -> Result<(), Status> {
    let request = UpdateActionResultRequest {
        action_digest: Some(action.to_wire()),
        action_result: Some(result.clone()),
        digest_function,
        ..Default::default()
    };
    server.results().update_action_result(request).await?;
    Ok(())
}

fn with_output(digest: Digest) -> ActionResult {
    ActionResult {
        output_files: vec![OutputFile {
            path: "out".to_owned(),
            digest: Some(digest.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trips_blobs_by_batch_and_stream_and_compressed() {
    let server = Server::cache().await;
    let (small, large) = (b"small".as_slice(), noise(1, 3 << 20));
    let in_batch = server.put(BLAKE3, small).await;
    let digest = BLAKE3.digest(&large);
    let name = format!("team/one/uploads/u/blobs/blake3/{digest}");
    assert_eq!(write(&server, &name, &large).await.unwrap(), 3 << 20);
    let other = BLAKE3.digest(&large[1..]);
    let name = format!("uploads/u/compressed-blobs/zstd/blake3/{other}");
    let data = zstd::bulk::compress(&large[1..], 1).unwrap();
    write(&server, &name, &data).await.unwrap();

    assert_eq!(server.missing(&[in_batch, digest, other]).await, []);
    assert!(server.get(digest).await == large);
    let name = format!("compressed-blobs/zstd/blake3/{other}");
    let data = server.read(&name, 0, 0).await.unwrap();
    assert!(zstd::stream::decode_all(data.as_slice()).unwrap() == large[1..]);
    let batch = BatchReadBlobsRequest {
        digests: vec![in_batch.to_wire()],
        digest_function: BLAKE3.to_wire(),
        ..Default::default()
    };
    let read = server.blobs().batch_read_blobs(batch).await.unwrap().into_inner();
    assert_eq!(read.responses[0].data, small);
    // The same bytes are another blob under the other digest function.
    assert_eq!(
        server.missing(&[SHA256.digest(small)]).await,
        [SHA256.digest(small)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_a_hash_without_a_function_as_sha256() {
    let server = Server::cache().await;
    let digest = server.put(BLAKE3, b"blob").await;
    let wire = digest.to_wire();
    let looked_for = FindMissingBlobsRequest {
        blob_digests: vec![wire.clone()],
        digest_function: UNSET,
        ..Default::default()
    };
    let missing = server
        .blobs()
        .find_missing_blobs(looked_for)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(missing.missing_blob_digests, std::slice::from_ref(&wire));
    let upload = BatchUpdateBlobsRequest {
        requests: vec![batch_update_blobs_request::Request {
            digest: Some(wire),
            data: b"blob".to_vec(),
            ..Default::default()
        }],
        digest_function: UNSET,
        ..Default::default()
    };
    let answer = server
        .blobs()
        .batch_update_blobs(upload)
        .await
        .unwrap()
        .into_inner();
    let status = answer.responses[0].status.as_ref().unwrap();
    assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
    let status = server.read(&format!("blobs/{digest}"), 0, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = write(&server, &format!("uploads/u/blobs/{digest}"), b"blob")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // The refusal names digest functions that the server does not have.
    for function in [2, 8, 99] {
        let other = FindMissingBlobsRequest {
            digest_function: function,
            ..Default::default()
        };
        let status = server.blobs().find_missing_blobs(other).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("use SHA256 or BLAKE3"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn separates_results_by_digest_function() {
    let server = Server::cache().await;
    let output = server.put(BLAKE3, b"output").await;
    let action = BLAKE3.digest(b"action");
    record(&server, action, &with_output(output), BLAKE3.to_wire())
        .await
        .unwrap();
    assert_eq!(
        find(&server, action, BLAKE3.to_wire()).await.unwrap(),
        with_output(output)
    );
    for function in [UNSET, SHA256.to_wire()] {
        let status = find(&server, action, function).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    // The same hash of SHA-256 is another Action, with SHA-256 outputs.
    let sha256 = server.put(SHA256, b"output").await;
    record(&server, action, &with_output(sha256), UNSET)
        .await
        .unwrap();
    assert_eq!(find(&server, action, UNSET).await.unwrap(), with_output(sha256));
    assert_eq!(
        find(&server, action, BLAKE3.to_wire()).await.unwrap(),
        with_output(output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_completeness_with_the_digest_function_of_the_action() {
    let server = Server::cache().await;
    let action = BLAKE3.digest(b"action");
    // The content exists under its SHA-256 digest, which is not the digest in the result.
    server.put(SHA256, b"output").await;
    let output = BLAKE3.digest(b"output");
    record(&server, action, &with_output(output), BLAKE3.to_wire())
        .await
        .unwrap();
    let status = find(&server, action, BLAKE3.to_wire()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    server.put(BLAKE3, b"output").await;
    let inline = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        digest_function: BLAKE3.to_wire(),
        inline_output_files: vec!["out".to_owned()],
        ..Default::default()
    };
    let found = server
        .results()
        .get_action_result(inline)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.output_files[0].contents, b"output");
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_the_digest_function_of_the_root_for_trees_and_chunks() {
    let server = Server::cache().await;
    let leaf = Directory {
        directories: vec![],
        ..Default::default()
    };
    let child = server.put_message(BLAKE3, &leaf).await;
    let root = Directory {
        directories: vec![DirectoryNode {
            name: "child".to_owned(),
            digest: Some(child.to_wire()),
        }],
        ..Default::default()
    };
    let root_digest = server.put_message(BLAKE3, &root).await;
    let asked = GetTreeRequest {
        root_digest: Some(root_digest.to_wire()),
        digest_function: BLAKE3.to_wire(),
        ..Default::default()
    };
    let mut pages = server.blobs().get_tree(asked).await.unwrap().into_inner();
    assert_eq!(pages.message().await.unwrap().unwrap().directories, [root, leaf]);

    let blob = noise(2, 5 << 20);
    let digest = BLAKE3.digest(&blob);
    let name = format!("uploads/u/blobs/blake3/{digest}");
    write(&server, &name, &blob).await.unwrap();
    let split = SplitBlobRequest {
        blob_digest: Some(digest.to_wire()),
        digest_function: BLAKE3.to_wire(),
        ..Default::default()
    };
    let chunks = server
        .blobs()
        .split_blob(split)
        .await
        .unwrap()
        .into_inner()
        .chunk_digests;
    assert!(chunks.len() > 2, "{} chunks", chunks.len());
    let mut whole = Vec::new();
    for chunk in &chunks {
        whole.extend(server.get(Digest::from_wire(BLAKE3, chunk).unwrap()).await);
    }
    assert!(whole == blob);
    let last = Digest::from_wire(BLAKE3, chunks.last().unwrap()).unwrap();
    let shorter = &blob[..blob.len() - usize::try_from(last.size_bytes()).unwrap()];
    let splice = SpliceBlobRequest {
        blob_digest: Some(BLAKE3.digest(shorter).to_wire()),
        chunk_digests: chunks[..chunks.len() - 1].to_vec(),
        digest_function: BLAKE3.to_wire(),
        ..Default::default()
    };
    server.blobs().splice_blob(splice).await.unwrap();
    assert!(server.get(BLAKE3.digest(shorter)).await == shorter);
}

#[tokio::test(flavor = "multi_thread")]
async fn returns_blake3_results_for_a_blake3_action() {
    let server = Server::farm().await;
    let command = Command {
        output_paths: vec!["dir".to_owned()],
        ..shell("mkdir dir; echo content > dir/file; echo out")
    };
    let action = server.action(BLAKE3, &command, |_| {}).await;
    let first = server.respond(request(action)).await.result.unwrap();
    let digest = |named: Option<&_>| Digest::from_wire_field(BLAKE3, named).unwrap();
    assert_eq!(digest(first.stdout_digest.as_ref()), BLAKE3.digest(b"out\n"));
    let tree = digest(first.output_directories[0].tree_digest.as_ref());
    let tree = Tree::decode(server.get(tree).await.as_slice()).unwrap();
    let file = digest(tree.root.unwrap().files[0].digest.as_ref());
    assert_eq!(file, BLAKE3.digest(b"content\n"));
    assert_eq!(server.get(file).await, b"content\n");
    let again = server.respond(request(action)).await;
    assert!(again.cached_result);
    assert_eq!(again.result, Some(first));
}
