//! Malicious clients: each gets a clear status, memory stays bounded, and none of their data is stored.

use bitzel_proto::google::bytestream::WriteRequest;
use bitzel_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest, GetActionResultRequest,
    GetTreeRequest, batch_update_blobs_request, compressor,
};
use bitzel_proto::{Digest, DigestFunction, reapi};
use tonic::{Code, Status};

use super::messages::{noise, write_request as write};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

const MIB: u64 = 1 << 20;

const GIB: u64 = 1 << 30;

/// Limit of the memory that an attack adds to the server, in bytes: less than a store holds back for one large message.
const MAX_ADDED_MEMORY: u64 = 96 * MIB;

/// Server whose store has a limit of 1 GiB.
async fn small_server() -> Server {
    Server::configured(
        "[execution]\nenabled = false\n\
         [blobs.verifying.inner.disk]\ndirectory = \"{}/blobs\"\nsize = \"1GiB\"\n\
         [actions.disk]\ndirectory = \"{}/actions\"\n",
    )
    .await
}

/// A frame of `size` zeros, four bytes for each 128 KiB, that makes a decoder remember 2 to the power of `window`.
pub(crate) fn bomb(size: u64, window: u8) -> Vec<u8> {
    const BLOCK: u64 = 128 << 10;
    const REPEATED_BYTE: u64 = 1;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3];
    let blocks = size / BLOCK;
    for number in 0..blocks {
        let is_last = u64::from(number + 1 == blocks);
        let header = is_last | REPEATED_BYTE << 1 | BLOCK << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

fn refusal(result: Result<i64, Status>) -> Status {
    match result {
        Ok(size) => panic!("taken, with {size} bytes"),
        Err(status) => status,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_a_compression_bomb_in_a_stream_at_its_size() {
    let server = small_server().await;
    let before = server.peak_memory();
    let frame = bomb(10 * GIB, 20);
    assert!(frame.len() < 400_000, "{}", frame.len());
    assert_eq!(
        zstd::stream::decode_all(bomb(MIB, 20).as_slice()).unwrap(),
        vec![0; 1 << 20]
    );
    let compressed = |digest: Digest| format!("uploads/u/compressed-blobs/zstd/{digest}");
    for declared in [1, 5, MIB, 64 * MIB] {
        let digest = Digest::new(SHA256, [7; 32], declared);
        let name = compressed(digest);
        let status = refusal(server.write(vec![write(&name, 0, &frame, true)]).await);
        assert_eq!(status.code(), Code::InvalidArgument, "{declared}: {status}");
        assert_eq!(server.missing(&[digest]).await, [digest]);
    }
    // A bomb with its true size does not fit into the store, which is known before it is unpacked.
    let honest = Digest::new(SHA256, [7; 32], 10 * GIB);
    let name = compressed(honest);
    let status = refusal(server.write(vec![write(&name, 0, &frame, true)]).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
    server.has_on_disk_less_than(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_frames_with_a_huge_window() {
    let server = small_server().await;
    let before = server.peak_memory();
    let digest = SHA256.digest(&vec![0; 256 << 20]);
    let writes = (0..16).map(|number| {
        let name = format!("uploads/{number}/compressed-blobs/zstd/{digest}");
        let frame = bomb(256 * MIB, 27);
        server.write(vec![write(&name, 0, &frame, true)])
    });
    for result in futures::future::join_all(writes).await {
        let status = refusal(result);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("8 MiB"), "{status}");
    }
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
    // The window of all ordinary compression levels is accepted.
    let name = format!("uploads/u/compressed-blobs/zstd/{digest}");
    server
        .write(vec![write(&name, 0, &bomb(256 * MIB, 23), true)])
        .await
        .unwrap();
    assert_eq!(server.missing(&[digest]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_a_compression_bomb_in_a_batch_at_its_size() {
    let server = small_server().await;
    let before = server.peak_memory();
    let frame = bomb(10 * GIB, 20);
    let entry = |declared: u64| batch_update_blobs_request::Request {
        digest: Some(Digest::new(SHA256, [7; 32], declared).to_wire()),
        data: frame.clone(),
        compressor: compressor::Value::Zstd.into(),
    };
    let batch = BatchUpdateBlobsRequest {
        requests: vec![entry(0), entry(5), entry(MIB)],
        ..Default::default()
    };
    let answer = server
        .blobs()
        .batch_update_blobs(batch)
        .await
        .unwrap()
        .into_inner();
    for response in answer.responses {
        let status = response.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
    }
    for declared in [10 * GIB, u64::MAX >> 1] {
        let batch = BatchUpdateBlobsRequest {
            requests: vec![entry(declared)],
            ..Default::default()
        };
        let status = server.blobs().batch_update_blobs(batch).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
    server.has_on_disk_less_than(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserves_nothing_for_a_declared_size() {
    let server = Server::cache().await;
    let kept = server.put(SHA256, &noise(1, 2 << 20)).await;
    let (before, disk) = (server.peak_memory(), server.bytes_on_disk());
    let digest = Digest::new(SHA256, [7; 32], 10 * GIB);
    let kibibyte = noise(2, 1 << 10);
    for (number, finish) in [(0, true), (1, true), (2, false), (3, false)] {
        let name = format!("uploads/{number}/blobs/{digest}");
        let sent = server.write(vec![write(&name, 0, &kibibyte, finish)]).await;
        if finish {
            let status = refusal(sent);
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        } else {
            assert_eq!(sent.unwrap(), 1 << 10, "it is told how much of it is there");
        }
    }
    // In compressed form, and in a batch.
    let name = format!("uploads/4/compressed-blobs/zstd/{digest}");
    let data = zstd::bulk::compress(&kibibyte, 1).unwrap();
    let status = refusal(server.write(vec![write(&name, 0, &data, true)]).await);
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(server.missing(&[digest, kept]).await, [digest]);
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
    server.has_on_disk_less_than(disk + MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enforces_limits_without_access_rules() {
    let server =
        Server::configured("[execution]\nenabled = false\n[limits]\nstreams_per_identity = 1\n").await;
    let find = async || {
        let request = FindMissingBlobsRequest::default();
        server.blobs().find_missing_blobs(request).await
    };
    // Either of two calls at once may be the one that is refused, so until it is not the one that stays open.
    let refusal = loop {
        let (_sender, receiver) = tokio::sync::mpsc::channel::<WriteRequest>(1);
        let mut streams = server.streams();
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let open = tokio::spawn(async move { streams.write(requests).await });
        let refused = loop {
            match find().await {
                Ok(_) if open.is_finished() => break None,
                Ok(_) => {}
                Err(status) => break Some(status),
            }
        };
        open.abort();
        if let Some(status) = refused {
            break status;
        }
    };
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(
        refusal.message().contains("1 calls open, which is the limit"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_impossible_digests_in_every_call() {
    let server = Server::cache().await;
    let digest = |hash: &str, size_bytes: i64| {
        Some(reapi::Digest {
            hash: hash.to_owned(),
            size_bytes,
        })
    };
    let right = SHA256.digest(b"x").hash_hex();
    let wrong = [
        digest(&right, -1),
        digest(&right, i64::MIN),
        digest(&right[1..], 1),
        digest(&format!("{right}0"), 1),
        digest(&format!("../{}", &right[3..]), 1),
        digest(&format!("\u{0}{}", &right[1..]), 1),
        digest("", 0),
        digest(&"0".repeat(1 << 20), 1),
    ];
    for wrong in wrong {
        let short = format!("{wrong:?}").chars().take(120).collect::<String>();
        let find = FindMissingBlobsRequest {
            blob_digests: wrong.clone().into_iter().collect(),
            ..Default::default()
        };
        let tree = GetTreeRequest {
            root_digest: wrong.clone(),
            ..Default::default()
        };
        let get = GetActionResultRequest {
            action_digest: wrong.clone(),
            ..Default::default()
        };
        let refusals = [
            server.blobs().find_missing_blobs(find).await.err(),
            server.blobs().get_tree(tree).await.err(),
            server.results().get_action_result(get).await.err(),
        ];
        for refusal in refusals {
            let refusal = refusal.unwrap();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{short}: {refusal}");
            assert!(
                refusal.message().len() < 1000,
                "{short}: {}",
                refusal.message().len()
            );
        }
        let read = BatchReadBlobsRequest {
            digests: wrong.into_iter().collect(),
            ..Default::default()
        };
        let answer = server.blobs().batch_read_blobs(read).await.unwrap().into_inner();
        let status = answer.responses[0].status.as_ref().unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{short}");
    }
    for name in [
        format!("blobs/{right}/-1"),
        format!("blobs/{right}/99999999999999999999999"),
        format!("blobs/{right}/+1"),
        format!("blobs/../{right}/1"),
        format!("blobs/{right}/1/../2"),
        format!("/blobs/{right}/1"),
        "blobs".to_owned(),
        "\u{0}".to_owned(),
        "x/".repeat(100_000),
    ] {
        let status = server.read(&name, 0, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = refusal(server.write(vec![write(&name, 0, b"x", true)]).await);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // The largest size that a digest can have.
    let largest = Digest::new(SHA256, [7; 32], u64::MAX >> 1);
    assert_eq!(server.missing(&[largest]).await, [largest]);
    let name = format!("uploads/u/blobs/{largest}");
    let status = refusal(
        server
            .write(vec![write(&name, 0, &noise(1, 2 << 20), true)])
            .await,
    );
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}
