//! Traps of digests, batches, trees and streams.

use bitzel_proto::google::bytestream::QueryWriteStatusRequest;
use bitzel_proto::reapi::capabilities_client::CapabilitiesClient;
use bitzel_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, Directory, DirectoryNode, FindMissingBlobsRequest,
    GetCapabilitiesRequest, GetTreeRequest, GetTreeResponse, SpliceBlobRequest, batch_update_blobs_request,
    compressor, digest_function,
};
use bitzel_proto::{Digest, DigestFunction};
use tonic::{Code, Status};

use super::messages::{noise, request, shell, write_request as write, write_requests};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

const BLAKE3: DigestFunction = DigestFunction::Blake3;

async fn tree(server: &Server, request: GetTreeRequest) -> Result<Vec<GetTreeResponse>, Status> {
    let mut pages = server.blobs().get_tree(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(page) = pages.message().await? {
        all.push(page);
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_05_rejects_a_digest_of_the_wrong_size_or_case() {
    let server = Server::cache().await;
    let right = server.put(SHA256, b"right").await;
    for size in [4, 6] {
        let wrong = Digest::new(SHA256, *right.hash(), size);
        assert_eq!(server.missing(&[right, wrong]).await, [wrong]);
        assert_eq!(server.put_as(wrong, b"right").await, Code::InvalidArgument);
        let name = format!("uploads/u/blobs/{wrong}");
        let status = server
            .write(vec![write(&name, 0, b"right", true)])
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = server.read(&format!("blobs/{wrong}"), 0, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    let mut upper_case = right.to_wire();
    upper_case.hash.make_ascii_uppercase();
    let request = FindMissingBlobsRequest {
        blob_digests: vec![upper_case.clone()],
        ..Default::default()
    };
    let status = server.blobs().find_missing_blobs(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let name = format!("blobs/{}/5", upper_case.hash);
    let status = server.read(&name, 0, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_06_has_the_empty_blob_of_every_digest_function() {
    let server = Server::farm().await;
    for function in DigestFunction::ALL {
        let empty = function.digest(b"");
        assert_eq!(server.missing(&[empty]).await, []);
        assert_eq!(server.get(empty).await, b"");
        let request_of = BatchReadBlobsRequest {
            digests: vec![empty.to_wire()],
            digest_function: function.to_wire(),
            ..Default::default()
        };
        let read = server
            .blobs()
            .batch_read_blobs(request_of)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(read.responses[0].status.as_ref().unwrap().code, 0);
        // The input root of an Action without inputs is the empty blob too.
        let command = server
            .put(function, &prost::Message::encode_to_vec(&shell("true")))
            .await;
        let action = bitzel_proto::reapi::Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(empty.to_wire()),
            ..Default::default()
        };
        let action = server.put_message(function, &action).await;
        assert_eq!(server.respond(request(action)).await.result.unwrap().exit_code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_14_answers_batches_blob_by_blob_within_the_limit() {
    let server = Server::cache().await;
    let zeros = vec![0; 10_000];
    let update =
        |digest: Digest, data: &[u8], compressor: compressor::Value| batch_update_blobs_request::Request {
            digest: Some(digest.to_wire()),
            data: data.to_vec(),
            compressor: compressor.into(),
        };
    let zstd = zstd::bulk::compress(&zeros, 1).unwrap();
    let requests = vec![
        update(SHA256.digest(b"a"), b"a", compressor::Value::Identity),
        update(SHA256.digest(b"b"), b"not b", compressor::Value::Identity),
        update(SHA256.digest(&zeros), &zstd, compressor::Value::Zstd),
    ];
    let batch = BatchUpdateBlobsRequest {
        requests,
        ..Default::default()
    };
    let answer = server
        .blobs()
        .batch_update_blobs(batch)
        .await
        .unwrap()
        .into_inner();
    let codes: Vec<_> = answer
        .responses
        .iter()
        .map(|response| Code::from_i32(response.status.as_ref().unwrap().code))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::InvalidArgument, Code::Ok]);

    let limit = usize::try_from(max_batch(&server).await).unwrap();
    let halves = [noise(1, limit / 2), noise(2, limit - limit / 2)];
    let batch = |blobs: &[Vec<u8>]| BatchUpdateBlobsRequest {
        requests: blobs
            .iter()
            .map(|blob| update(SHA256.digest(blob), blob, compressor::Value::Identity))
            .collect(),
        ..Default::default()
    };
    let more = [&halves[..], &[noise(3, 1)]].concat();
    let status = server.blobs().batch_update_blobs(batch(&more)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    server.blobs().batch_update_blobs(batch(&halves)).await.unwrap();
    let read = |blobs: &[Vec<u8>]| BatchReadBlobsRequest {
        digests: blobs.iter().map(|blob| SHA256.digest(blob).to_wire()).collect(),
        ..Default::default()
    };
    let answer = server
        .blobs()
        .batch_read_blobs(read(&halves))
        .await
        .unwrap()
        .into_inner();
    assert!(
        answer
            .responses
            .iter()
            .zip(&halves)
            .all(|(answer, blob)| answer.data == *blob)
    );
    server.put(SHA256, &more[2]).await;
    let status = server.blobs().batch_read_blobs(read(&more)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

async fn max_batch(server: &Server) -> i64 {
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let capabilities = client
        .get_capabilities(GetCapabilitiesRequest::default())
        .await
        .unwrap();
    let cache = capabilities.into_inner().cache_capabilities.unwrap();
    cache.max_batch_total_size_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_14_reports_missing_subtrees_and_a_missing_root() {
    let server = Server::cache().await;
    let node = |name: &str, digest: Digest| DirectoryNode {
        name: name.to_owned(),
        digest: Some(digest.to_wire()),
    };
    for function in DigestFunction::ALL {
        let leaf = Directory {
            symlinks: vec![bitzel_proto::reapi::SymlinkNode {
                name: "s".to_owned(),
                target: "t".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let leaf_digest = server.put_message(function, &leaf).await;
        let gone = function.digest(b"gone");
        let root = Directory {
            directories: vec![node("a", leaf_digest), node("b", gone), node("c", leaf_digest)],
            ..Default::default()
        };
        let root_digest = server.put_message(function, &root).await;
        let of = |digest: Digest| GetTreeRequest {
            root_digest: Some(digest.to_wire()),
            digest_function: function.to_wire(),
            ..Default::default()
        };
        let pages = tree(&server, of(root_digest)).await.unwrap();
        assert_eq!(pages[0].directories, [root, leaf], "each once, the root first");
        let status = tree(&server, of(gone)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
}

/// Blobs too large for segments, in a store with room for two of three.
#[tokio::test(flavor = "multi_thread")]
async fn trap_14_find_missing_extends_the_lifetime_of_blobs() {
    let server = Server::configured(
        "[execution]\nenabled = false\n\
         [blobs.verifying.inner.disk]\ndirectory = \"{}/blobs\"\nsize = \"40MiB\"\n\
         [actions.disk]\ndirectory = \"{}/actions\"\n",
    )
    .await;
    let put = async |seed: u64| {
        let blob = noise(seed, 16 << 20);
        let digest = SHA256.digest(&blob);
        let name = format!("uploads/{seed}/blobs/{digest}");
        server.write(write_requests(&name, &blob)).await.unwrap();
        digest
    };
    let (first, second) = (put(1).await, put(2).await);
    assert_eq!(server.missing(&[first]).await, []);
    let third = put(3).await;
    assert_eq!(
        server.missing(&[first, second, third]).await,
        [second],
        "the least recently used, and it was asked for the first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_15_ends_a_write_of_an_existing_blob_early() {
    let server = Server::cache().await;
    let blob = noise(1, 100_000);
    let digest = server.put(SHA256, &blob).await;
    let name = format!("team/one/uploads/u/blobs/{digest}");
    let size = server
        .write(vec![write(&name, 0, &blob[..10], false)])
        .await
        .unwrap();
    assert_eq!(size, 100_000, "the full size");
    let name = format!("team/one/uploads/u/compressed-blobs/zstd/{digest}");
    let size = server.write(vec![write(&name, 0, b"abc", false)]).await.unwrap();
    assert_eq!(
        size, -1,
        "nobody knows how many compressed bytes it would have been"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_15_offsets_of_compressed_writes() {
    let server = Server::cache().await;
    let blob = [vec![7; 1 << 20], noise(2, 200_000)].concat();
    let digest = SHA256.digest(&blob);
    let name = format!("uploads/u/compressed-blobs/zstd/{digest}");
    let (head, tail) = blob.split_at(1_100_000);
    let compressed = [head, tail].map(|part| zstd::bulk::compress(part, 1).unwrap());
    server
        .write(vec![write(&name, 0, &compressed[0], false)])
        .await
        .unwrap();
    let query = QueryWriteStatusRequest {
        resource_name: name.clone(),
    };
    let status = server
        .streams()
        .query_write_status(query.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.committed_size, status.complete),
        (1_100_000, false),
        "uncompressed"
    );
    let (first, second) = compressed[1].split_at(1000);
    let uncompressed_all_the_way = vec![
        write(&name, head.len(), first, false),
        write(&name, head.len() + 90_000, second, true),
    ];
    let status = server.write(uncompressed_all_the_way).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // The bytes of that attempt count, so the client asks for the offset again.
    let status = server
        .streams()
        .query_write_status(query)
        .await
        .unwrap()
        .into_inner();
    let start = usize::try_from(status.committed_size).unwrap();
    let rest = zstd::bulk::compress(&blob[start..], 1).unwrap();
    let (first, second) = rest.split_at(1000);
    let requests = vec![
        write(&name, start, first, false),
        write(&name, start + 1000, second, true),
    ];
    server.write(requests).await.unwrap();
    assert!(server.get(digest).await == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_15_verifies_the_digest_of_the_decompressed_bytes() {
    let server = Server::cache().await;
    let digest = SHA256.digest(b"promised");
    let name = format!("uploads/u/compressed-blobs/zstd/{digest}");
    let wrong = zstd::bulk::compress(b"delivers", 1).unwrap();
    let status = server
        .write(vec![write(&name, 0, &wrong, true)])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(server.missing(&[digest]).await, [digest]);
    let right = zstd::bulk::compress(b"promised", 1).unwrap();
    server.write(vec![write(&name, 0, &right, true)]).await.unwrap();
    assert_eq!(server.get(digest).await, b"promised");
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_15_offsets_limits_and_instances_of_reads() {
    let server = Server::cache().await;
    let blob = noise(3, 3 << 20);
    let digest = SHA256.digest(&blob);
    let name = format!("a/b/c/uploads/u/blobs/{digest}/any/name.bin");
    server.write(write_requests(&name, &blob)).await.unwrap();
    let name = format!("a/b/c/blobs/{digest}");
    assert!(server.read(&name, 1 << 20, 1 << 20).await.unwrap() == blob[1 << 20..2 << 20]);
    let code = async |name: &str, offset, limit| server.read(name, offset, limit).await.unwrap_err().code();
    assert_eq!(code(&name, (3 << 20) + 1, 0).await, Code::OutOfRange);
    assert_eq!(code(&name, -1, 0).await, Code::OutOfRange);
    assert_eq!(code(&name, 0, -1).await, Code::InvalidArgument);
    let compressed = format!("a/b/c/compressed-blobs/zstd/{digest}");
    let data = server.read(&compressed, 1 << 20, 0).await.unwrap();
    assert!(zstd::stream::decode_all(data.as_slice()).unwrap() == blob[1 << 20..]);
    assert_eq!(code(&compressed, 0, 1).await, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn also_splice_blob_verifies_the_digest() {
    let server = Server::cache().await;
    let chunks = [server.put(SHA256, b"one").await, server.put(SHA256, b"two").await];
    let splice = |blob: &[u8]| SpliceBlobRequest {
        blob_digest: Some(SHA256.digest(blob).to_wire()),
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        ..Default::default()
    };
    let status = server.blobs().splice_blob(splice(b"twoone")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    server.blobs().splice_blob(splice(b"onetwo")).await.unwrap();
    assert_eq!(server.get(SHA256.digest(b"onetwo")).await, b"onetwo");
}

#[tokio::test(flavor = "multi_thread")]
async fn also_capabilities_of_execution_and_fastcdc() {
    let server = Server::cache().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let asked = GetCapabilitiesRequest {
        instance_name: "team/one".to_owned(),
    };
    let capabilities = client.get_capabilities(asked).await.unwrap().into_inner();
    let execution = capabilities.execution_capabilities.unwrap();
    assert_eq!(execution.digest_function(), digest_function::Value::Sha256);
    let functions: Vec<_> = execution.digest_functions().collect();
    assert_eq!(
        functions,
        [digest_function::Value::Sha256, digest_function::Value::Blake3]
    );
    let cache = capabilities.cache_capabilities.unwrap();
    let chunks = cache.fast_cdc_2020_params.unwrap();
    assert_eq!((chunks.avg_chunk_size_bytes, chunks.seed), (512 << 10, 0));
    assert_eq!(BLAKE3.to_wire(), i32::from(digest_function::Value::Blake3));
}
