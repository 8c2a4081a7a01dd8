use bitzel_cas::testing::noise;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::{
    BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest, Directory, DirectoryNode,
    FindMissingBlobsRequest, GetTreeRequest, GetTreeResponse, batch_update_blobs_request, compressor,
};
use futures::TryStreamExt;
use prost::Message;
use tonic::Code;

use super::*;

type Client = ContentAddressableStorageClient<Channel>;

async fn setup() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = Client::new(server.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE);
    (server, client)
}

fn identity(digest: impl Into<reapi::Digest>, data: &[u8]) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request {
        digest: Some(digest.into()),
        data: data.to_vec(),
        compressor: compressor::Value::Identity.into(),
    }
}

fn zstd(digest: Digest, data: &[u8]) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request {
        digest: Some(digest.into()),
        data: zstd::bulk::compress(data, 1).unwrap(),
        compressor: compressor::Value::Zstd.into(),
    }
}

/// The status codes, blob by blob.
async fn batch_update(client: &mut Client, requests: Vec<batch_update_blobs_request::Request>) -> Vec<Code> {
    let request = BatchUpdateBlobsRequest {
        requests,
        ..BatchUpdateBlobsRequest::default()
    };
    let response = client.batch_update_blobs(request).await.unwrap().into_inner();
    let codes = response
        .responses
        .iter()
        .map(|response| response.status.as_ref().unwrap().code);
    codes.map(Code::from_i32).collect()
}

async fn batch_read(
    client: &mut Client,
    digests: Vec<reapi::Digest>,
    compressors: Vec<i32>,
) -> Result<BatchReadBlobsResponse, Status> {
    let request = BatchReadBlobsRequest {
        digests,
        acceptable_compressors: compressors,
        ..BatchReadBlobsRequest::default()
    };
    client
        .batch_read_blobs(request)
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn the_empty_blob_is_there_without_having_been_uploaded() {
    let (_server, mut client) = setup().await;
    for function in DigestFunction::ALL {
        let empty = function.digest(b"");
        let request = FindMissingBlobsRequest {
            blob_digests: vec![empty.to_wire()],
            digest_function: function.to_wire(),
            ..FindMissingBlobsRequest::default()
        };
        let response = client.find_missing_blobs(request).await.unwrap().into_inner();
        assert_eq!(response.missing_blob_digests, []);
        let request = BatchReadBlobsRequest {
            digests: vec![empty.to_wire()],
            digest_function: function.to_wire(),
            ..BatchReadBlobsRequest::default()
        };
        let response = client.batch_read_blobs(request).await.unwrap().into_inner();
        assert_eq!(response.responses[0].status.as_ref().unwrap().code, 0);
    }
}

#[tokio::test]
async fn size_zero_with_another_hash_is_not_the_empty_blob() {
    let (_server, mut client) = setup().await;
    let wrong = Digest::new(DigestFunction::Sha256, [7; 32], 0);
    let request = FindMissingBlobsRequest {
        blob_digests: vec![wrong.to_wire()],
        ..FindMissingBlobsRequest::default()
    };
    let response = client.find_missing_blobs(request).await.unwrap().into_inner();
    assert_eq!(response.missing_blob_digests, [wrong.to_wire()]);
    let codes = batch_update(&mut client, vec![identity(wrong, b"")]).await;
    assert_eq!(codes, [Code::InvalidArgument]);
}

#[tokio::test]
async fn find_missing_lists_each_blob_once() {
    let (server, mut client) = setup().await;
    let present = server.add(b"present").await;
    let absent = sha256(b"absent");
    let mut request = FindMissingBlobsRequest {
        blob_digests: vec![absent.to_wire(), present.to_wire(), absent.to_wire()],
        ..FindMissingBlobsRequest::default()
    };
    let response = client
        .find_missing_blobs(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.missing_blob_digests, [absent.to_wire()]);
    request.blob_digests[0].hash.make_ascii_uppercase();
    let status = client.find_missing_blobs(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_digest_with_the_wrong_size_is_another_blob() {
    let (server, mut client) = setup().await;
    let right = server.add(b"right").await;
    let wrong = Digest::new(DigestFunction::Sha256, *right.hash(), 4);
    let response = batch_read(&mut client, vec![wrong.to_wire()], vec![])
        .await
        .unwrap();
    let code = response.responses[0].status.as_ref().unwrap().code;
    assert_eq!(Code::from_i32(code), Code::NotFound);
    let codes = batch_update(&mut client, vec![identity(wrong, b"right")]).await;
    assert_eq!(codes, [Code::InvalidArgument]);
}

#[tokio::test]
async fn batch_update_answers_blob_by_blob() {
    let (server, mut client) = setup().await;
    let mut malformed = sha256(b"x").to_wire();
    malformed.hash.truncate(10);
    let zeros = vec![0; 5000];
    let requests = vec![
        identity(sha256(b"good"), b"good"),
        identity(sha256(b"promised"), b"delivered"),
        identity(malformed, b"x"),
        zstd(sha256(&zeros), &zeros),
        zstd(sha256(b"short"), &zeros),
        batch_update_blobs_request::Request {
            compressor: compressor::Value::Brotli.into(),
            ..identity(sha256(b"brotli"), b"brotli")
        },
        identity(sha256(b"last"), b"last"),
    ];
    let codes = batch_update(&mut client, requests).await;
    let bad = Code::InvalidArgument;
    assert_eq!(codes, [Code::Ok, bad, bad, Code::Ok, bad, bad, Code::Ok]);
    let uploaded = [sha256(b"good"), sha256(&zeros), sha256(b"last")];
    assert_eq!(server.store.find_missing(&uploaded).await.unwrap(), []);
    let refused = [sha256(b"promised"), sha256(b"delivered"), sha256(b"brotli")];
    assert_eq!(server.store.find_missing(&refused).await.unwrap(), refused);
}

#[tokio::test]
async fn batch_read_answers_blob_by_blob_in_order() {
    let (server, mut client) = setup().await;
    let first = server.add(b"first").await;
    let second = server.add(b"second").await;
    let absent = sha256(b"absent");
    let mut malformed = absent.to_wire();
    malformed.hash.clear();
    let digests = vec![
        second.into(),
        absent.into(),
        malformed,
        first.into(),
        second.into(),
    ];
    let response = batch_read(&mut client, digests.clone(), vec![]).await.unwrap();
    let answers = response
        .responses
        .into_iter()
        .zip(digests)
        .map(|(answer, asked)| {
            assert_eq!(answer.digest, Some(asked));
            (answer.data, Code::from_i32(answer.status.unwrap().code))
        });
    let expected = [
        (b"second".to_vec(), Code::Ok),
        (vec![], Code::NotFound),
        (vec![], Code::InvalidArgument),
        (b"first".to_vec(), Code::Ok),
        (b"second".to_vec(), Code::Ok),
    ];
    assert_eq!(answers.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn batch_read_compresses_only_for_clients_that_accept_it() {
    let (server, mut client) = setup().await;
    let zeros = vec![0; 100_000];
    let digest = server.add(&zeros).await;
    let accepted = vec![compressor::Value::Zstd.into()];
    let response = batch_read(&mut client, vec![digest.into()], accepted)
        .await
        .unwrap();
    let answer = &response.responses[0];
    assert_eq!(answer.compressor(), compressor::Value::Zstd);
    assert_eq!(zstd::bulk::decompress(&answer.data, zeros.len()).unwrap(), zeros);
    let response = batch_read(&mut client, vec![digest.into()], vec![])
        .await
        .unwrap();
    assert_eq!(response.responses[0].compressor(), compressor::Value::Identity);
    assert_eq!(response.responses[0].data, zeros);
}

#[tokio::test]
async fn a_batch_over_the_total_limit_is_an_invalid_argument() {
    let (server, mut client) = setup().await;
    let half = usize::try_from(MAX_BATCH_TOTAL_SIZE / 2).unwrap();
    let blobs = [noise(1, half), noise(2, half), noise(3, 1)];
    let requests = blobs.iter().map(|blob| identity(sha256(blob), blob)).collect();
    let request = BatchUpdateBlobsRequest {
        requests,
        ..BatchUpdateBlobsRequest::default()
    };
    let status = client.batch_update_blobs(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut digests = Vec::new();
    for blob in &blobs {
        digests.push(server.add(blob).await.to_wire());
    }
    let status = batch_read(&mut client, digests.clone(), vec![])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    digests.pop();
    let response = batch_read(&mut client, digests, vec![]).await.unwrap();
    assert_eq!(
        response.responses[1].data, blobs[1],
        "the limit itself is allowed"
    );
}

#[tokio::test]
async fn f16_a_batch_of_very_many_empty_names_is_refused() {
    let (_server, mut client) = setup().await;
    let names = vec![bitzel_proto::reapi::Digest::default(); (1 << 16) + 1];
    let status = batch_read(&mut client, names, vec![]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().starts_with("the batch names 65537 blobs"),
        "{status}"
    );
}

#[tokio::test]
async fn compressed_blobs_count_with_what_they_announce() {
    let (_server, mut client) = setup().await;
    let zeros = vec![0; usize::try_from(MAX_BATCH_TOTAL_SIZE).unwrap() + 1];
    let request = BatchUpdateBlobsRequest {
        requests: vec![zstd(sha256(&zeros), &zeros)],
        ..BatchUpdateBlobsRequest::default()
    };
    let status = client.batch_update_blobs(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

fn directory(children: &[(&str, Digest)]) -> Directory {
    let node = |(name, digest): &(&str, Digest)| DirectoryNode {
        name: (*name).into(),
        digest: Some(digest.to_wire()),
    };
    Directory {
        directories: children.iter().map(node).collect(),
        ..Directory::default()
    }
}

async fn get_tree(client: &mut Client, request: GetTreeRequest) -> Result<Vec<GetTreeResponse>, Status> {
    client.get_tree(request).await?.into_inner().try_collect().await
}

fn tree_of(root: Digest) -> GetTreeRequest {
    GetTreeRequest {
        root_digest: Some(root.to_wire()),
        ..GetTreeRequest::default()
    }
}

/// A diamond: both children of the root name the same grandchild; plus one child that is nowhere.
async fn add_diamond(server: &TestServer) -> (Digest, [Directory; 4]) {
    let bottom = directory(&[]);
    let bottom = Directory {
        symlinks: vec![reapi::SymlinkNode {
            name: "s".into(),
            target: "t".into(),
            node_properties: None,
        }],
        ..bottom
    };
    let bottom_digest = server.add(&bottom.encode_to_vec()).await;
    let left = directory(&[("bottom", bottom_digest)]);
    let left_digest = server.add(&left.encode_to_vec()).await;
    let right = directory(&[("bottom", bottom_digest), ("gone", sha256(b"gone"))]);
    let right_digest = server.add(&right.encode_to_vec()).await;
    let root = directory(&[("left", left_digest), ("right", right_digest)]);
    let root_digest = server.add(&root.encode_to_vec()).await;
    (root_digest, [root, left, right, bottom])
}

#[tokio::test]
async fn get_tree_sends_each_existing_directory_once() {
    let (server, mut client) = setup().await;
    let (root, expected) = add_diamond(&server).await;
    let pages = get_tree(&mut client, tree_of(root)).await.unwrap();
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].directories, expected);
    assert_eq!(pages[0].next_page_token, "");
}

#[tokio::test]
async fn get_tree_pages_and_goes_on_from_a_token() {
    let (server, mut client) = setup().await;
    let (root, expected) = add_diamond(&server).await;
    let request = GetTreeRequest {
        page_size: 3,
        ..tree_of(root)
    };
    let pages = get_tree(&mut client, request.clone()).await.unwrap();
    let sizes: Vec<_> = pages.iter().map(|page| page.directories.len()).collect();
    assert_eq!(sizes, [3, 1]);
    assert_eq!(pages[1].next_page_token, "");
    let rest = GetTreeRequest {
        page_token: pages[0].next_page_token.clone(),
        ..request.clone()
    };
    let rest = get_tree(&mut client, rest).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].directories, expected[3..]);
    for token in ["nonsense", "99"] {
        let request = GetTreeRequest {
            page_token: token.into(),
            ..request.clone()
        };
        let status = get_tree(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn get_tree_needs_the_root() {
    let (_server, mut client) = setup().await;
    let status = get_tree(&mut client, tree_of(sha256(b"gone"))).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let pages = get_tree(&mut client, tree_of(sha256(b""))).await.unwrap();
    assert_eq!(pages[0].directories, [Directory::default()]);
}

#[tokio::test]
async fn get_tree_of_something_else_is_an_invalid_argument() {
    let (server, mut client) = setup().await;
    let text = server.add(b"\xff\xffno directory").await;
    let status = get_tree(&mut client, tree_of(text)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let negative = GetTreeRequest {
        page_size: -1,
        ..tree_of(text)
    };
    let status = get_tree(&mut client, negative).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn f17_get_tree_refuses_directories_of_empty_entries() {
    let (server, mut client) = setup().await;
    // The field `files`, with nothing in it, 3 MiB of it.
    let empty = server.add(&[0x0a, 0].repeat(3 << 19)).await;
    let status = get_tree(&mut client, tree_of(empty)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("entries are almost empty"), "{status}");
}
