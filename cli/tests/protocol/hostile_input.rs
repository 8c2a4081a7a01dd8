//! Clients that mean harm: each gets a clear status, memory stays bounded, and nothing of theirs is stored.

use bitzel_proto::google::bytestream::WriteRequest;
use bitzel_proto::reapi::{
    ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Directory, DirectoryNode, FileNode,
    FindMissingBlobsRequest, GetActionResultRequest, GetTreeRequest, OutputDirectory, SymlinkNode,
    UpdateActionResultRequest, batch_update_blobs_request, compressor,
};
use bitzel_proto::{Digest, DigestFunction, reapi};
use prost::Message as _;
use tonic::{Code, Status};

use super::server::{Server, noise, request, shell};

const SHA256: DigestFunction = DigestFunction::Sha256;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What an attack may cost the server, above what it has at the start. Less than a store holds back for one large message.
const MOST_MEMORY: u64 = 96 * MIB;

/// A server whose store has room for one GiB.
async fn small_server() -> Server {
    Server::configured(
        "[execution]\nenabled = false\n\
         [blobs.verifying.inner.disk]\ndirectory = \"{}/blobs\"\nsize = \"1GiB\"\n\
         [actions.disk]\ndirectory = \"{}/actions\"\n",
    )
    .await
}

fn write(name: &str, offset: usize, data: &[u8], finish_write: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.to_owned(),
        write_offset: offset.try_into().unwrap(),
        finish_write,
        data: data.to_vec(),
    }
}

/// A frame of `size` zeros, four bytes for each 128 KiB, that makes a decoder remember 2 to the power of `window`.
fn bomb(size: u64, window: u8) -> Vec<u8> {
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
async fn a_bomb_in_a_stream_is_stopped_at_the_size_that_was_declared() {
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
    // One that is honest about its size does not fit into the store, which is known before it is unpacked.
    let honest = Digest::new(SHA256, [7; 32], 10 * GIB);
    let name = compressed(honest);
    let status = refusal(server.write(vec![write(&name, 0, &frame, true)]).await);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(server.peak_memory() - before < MOST_MEMORY);
    server.has_on_disk_less_than(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_would_make_the_server_remember_much_are_refused() {
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
    assert!(server.peak_memory() - before < MOST_MEMORY);
    // What all ordinary levels ask for is fine.
    let name = format!("uploads/u/compressed-blobs/zstd/{digest}");
    server
        .write(vec![write(&name, 0, &bomb(256 * MIB, 23), true)])
        .await
        .unwrap();
    assert_eq!(server.missing(&[digest]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_in_a_batch_is_stopped_at_the_size_that_was_declared() {
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
    assert!(server.peak_memory() - before < MOST_MEMORY);
    server.has_on_disk_less_than(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_declares_10_gib_and_sends_1_kib_costs_nobody_anything() {
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
    assert!(server.peak_memory() - before < MOST_MEMORY);
    server.has_on_disk_less_than(disk + MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_digests_are_refused_in_every_call() {
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
    // As large as a digest can say.
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

/// Directories that nobody could lay out, and what is wrong with them.
fn bad_directories(content: Digest) -> Vec<(Vec<u8>, &'static str)> {
    let file = |name: &str| FileNode {
        name: name.to_owned(),
        digest: Some(content.to_wire()),
        ..Default::default()
    };
    let of_files = |names: &[&str]| {
        let directory = Directory {
            files: names.iter().map(|&name| file(name)).collect(),
            ..Default::default()
        };
        directory.encode_to_vec()
    };
    let link = |name: &str, target: &str| {
        let directory = Directory {
            symlinks: vec![SymlinkNode {
                name: name.to_owned(),
                target: target.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        directory.encode_to_vec()
    };
    let both_kinds = Directory {
        files: vec![file("same")],
        symlinks: vec![SymlinkNode {
            name: "same".to_owned(),
            target: "x".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let without_digest = Directory {
        files: vec![FileNode {
            name: "a".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    // Field 1, a FileNode, whose field 1, the name, is no UTF-8.
    let not_utf8 = vec![0x0a, 4, 0x0a, 2, 0xff, 0xfe];
    vec![
        (of_files(&[".."]), "is not the name of an entry"),
        (of_files(&["."]), "is not the name of an entry"),
        (of_files(&[""]), "is empty"),
        (of_files(&["/etc/passwd"]), "contains a slash"),
        (of_files(&["../../etc"]), "contains a slash"),
        (of_files(&["a\u{0}b"]), "contains NUL"),
        (of_files(&[&"n".repeat(256)]), "is longer than 255 bytes"),
        (of_files(&["a", "a"]), "occurs twice"),
        (both_kinds.encode_to_vec(), "occurs twice"),
        (of_files(&["b", "a"]), "not sorted"),
        (link("a", ""), "is empty"),
        (link("a", "x\u{0}y"), "contains NUL"),
        (link("..", "x"), "is not the name of an entry"),
        (without_digest.encode_to_vec(), "is malformed"),
        (not_utf8, "is not a Directory"),
        (b"\xff\xff\xff\xff".to_vec(), "is not a Directory"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_lead_elsewhere_are_never_laid_out() {
    let server = Server::farm().await;
    let content = server.put(SHA256, b"content").await;
    for (directory, reason) in bad_directories(content) {
        let inner = server.put(SHA256, &directory).await;
        // As the root, and one level down, where only the worker finds it.
        let outer = Directory {
            directories: vec![DirectoryNode {
                name: "inner".to_owned(),
                digest: Some(inner.to_wire()),
            }],
            ..Default::default()
        };
        let outer = server.put_message(SHA256, &outer).await;
        for root in [inner, outer] {
            let action = server
                .action(SHA256, &shell("true"), |action| {
                    action.input_root_digest = Some(root.to_wire());
                })
                .await;
            let status = server.respond(request(action)).await.status.unwrap();
            assert_eq!(status.code, Code::InvalidArgument as i32, "{reason}: {status:?}");
            assert!(status.message.contains(reason), "{reason}: {}", status.message);
            assert!(
                status.message.contains("the input root cannot be used"),
                "{}",
                status.message
            );
        }
    }
}

async fn is_hit(server: &Server, result: ActionResult) -> bool {
    let action = SHA256.digest(&result.encode_to_vec());
    let update = UpdateActionResultRequest {
        action_digest: Some(action.to_wire()),
        action_result: Some(result),
        ..Default::default()
    };
    server.results().update_action_result(update).await.unwrap();
    let get = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        ..Default::default()
    };
    match server.results().get_action_result(get).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::NotFound => false,
        Err(status) => panic!("{status}"),
    }
}

fn with_root(root: Digest) -> ActionResult {
    ActionResult {
        output_directories: vec![OutputDirectory {
            path: "out".to_owned(),
            root_directory_digest: Some(root.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_with_such_directories_are_never_hits() {
    let server = Server::cache().await;
    let content = server.put(SHA256, b"content").await;
    for (directory, reason) in bad_directories(content) {
        let root = server.put(SHA256, &directory).await;
        assert!(!is_hit(&server, with_root(root)).await, "{reason}");
    }
    let fine = server.put_message(SHA256, &Directory::default()).await;
    assert!(is_hit(&server, with_root(fine)).await);
}

/// Uploads a blob of any size.
async fn upload(server: &Server, blob: &[u8]) -> Digest {
    let digest = SHA256.digest(blob);
    let name = format!("uploads/u/blobs/{digest}");
    let count = blob.len().div_ceil(1 << 20);
    let pieces = blob.chunks(1 << 20).enumerate();
    let requests = pieces.map(|(number, piece)| write(&name, number << 20, piece, number + 1 == count));
    server.write(requests.collect()).await.unwrap();
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_million_entries_is_a_blob_and_nothing_more() {
    let server = Server::farm().await;
    let content = server.put(SHA256, b"content").await;
    let million = Directory {
        files: (0..1_000_000)
            .map(|number| FileNode {
                name: format!("{number:07}"),
                digest: Some(content.to_wire()),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let root = upload(&server, &million.encode_to_vec()).await;
    drop(million);
    let before = server.peak_memory();
    let tree = GetTreeRequest {
        root_digest: Some(root.to_wire()),
        ..Default::default()
    };
    let status = server.blobs().get_tree(tree).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("larger than a message"), "{status}");
    let action = server
        .action(SHA256, &shell("true"), |action| {
            action.input_root_digest = Some(root.to_wire());
        })
        .await;
    let status = server.respond(request(action)).await.status.unwrap();
    assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
    assert!(status.message.contains("the tree of"), "{}", status.message);
    assert!(!is_hit(&server, with_root(root)).await);
    assert!(server.peak_memory() - before < MOST_MEMORY);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_directories_are_not_read_all_at_once() {
    let server = Server::farm().await;
    let content = server.put(SHA256, b"content").await;
    let mut children = Vec::new();
    for number in 0..50 {
        let large = Directory {
            files: (0..40_000)
                .map(|file| FileNode {
                    name: format!("{number:02}-{file:05}"),
                    digest: Some(content.to_wire()),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let digest = upload(&server, &large.encode_to_vec()).await;
        assert!(digest.size_bytes() < 7 * MIB / 2);
        children.push(DirectoryNode {
            name: format!("{number:02}"),
            digest: Some(digest.to_wire()),
        });
    }
    let root = Directory {
        directories: children,
        ..Default::default()
    };
    let root = server.put_message(SHA256, &root).await;
    let before = server.peak_memory();
    // 165 MB of messages, which are sent, some at a time.
    let tree = GetTreeRequest {
        root_digest: Some(root.to_wire()),
        ..Default::default()
    };
    let mut pages = server.blobs().get_tree(tree).await.unwrap().into_inner();
    let mut directories = 0;
    while let Some(page) = pages.message().await.unwrap() {
        directories += page.directories.len();
    }
    assert_eq!(directories, 51);
    let for_tree = server.peak_memory() - before;
    assert!(for_tree < MOST_MEMORY, "{} MiB", for_tree / MIB);
    // To lay them out, or to look whether all of it is there, all of them would have to be in memory.
    let action = server
        .action(SHA256, &shell("true"), |action| {
            action.input_root_digest = Some(root.to_wire());
        })
        .await;
    let status = server.respond(request(action)).await.status.unwrap();
    assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
    assert!(status.message.contains("bytes together"), "{}", status.message);
    assert!(!is_hit(&server, with_root(root)).await);
    assert!(server.peak_memory() - before < MOST_MEMORY);
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_too_deep_or_unfold_without_end_are_refused() {
    let server = Server::farm().await;
    // A cycle would need a digest that is known before its content. What comes closest: each level names the one
    // below, `width` times.
    let tower = async |height: usize, width: usize| {
        let mut digest = server.put_message(SHA256, &Directory::default()).await;
        for _ in 1..height {
            let directory = Directory {
                directories: (0..width)
                    .map(|number| DirectoryNode {
                        name: number.to_string(),
                        digest: Some(digest.to_wire()),
                    })
                    .collect(),
                ..Default::default()
            };
            digest = server.put_message(SHA256, &directory).await;
        }
        digest
    };
    let before = server.peak_memory();
    for (height, width, reason) in [(513, 1, "levels deep"), (64, 2, "repeated ones counted")] {
        let root = tower(height, width).await;
        let action = server
            .action(SHA256, &shell("true"), |action| {
                action.input_root_digest = Some(root.to_wire());
            })
            .await;
        let status = server.respond(request(action)).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
        assert!(status.message.contains(reason), "{}", status.message);
        assert!(!is_hit(&server, with_root(root)).await);
        // To be told of each directory once is harmless.
        let tree = GetTreeRequest {
            root_digest: Some(root.to_wire()),
            ..Default::default()
        };
        let mut pages = server.blobs().get_tree(tree).await.unwrap().into_inner();
        let page = pages.message().await.unwrap().unwrap();
        assert_eq!(page.directories.len(), height);
    }
    assert!(server.peak_memory() - before < MOST_MEMORY);
}
