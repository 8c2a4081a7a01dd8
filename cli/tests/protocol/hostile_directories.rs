//! Directories and trees of malicious clients.

use bitzel_proto::reapi::{
    ActionResult, Directory, DirectoryNode, FileNode, GetActionResultRequest, GetTreeRequest,
    OutputDirectory, SymlinkNode, UpdateActionResultRequest,
};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message as _;
use tonic::Code;

use super::messages::{request, shell};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

const MIB: u64 = 1 << 20;

/// Limit of the memory that an attack adds to the server, in bytes: less than a store holds back for one large message.
const MAX_ADDED_MEMORY: u64 = 96 * MIB;

/// Directories that cannot be laid out, with the reason.
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
    // Field 1, a FileNode, whose field 1, the name, is not UTF-8.
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
async fn never_lays_out_directories_that_lead_elsewhere() {
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
async fn ignores_results_with_invalid_directories() {
    let server = Server::cache().await;
    let content = server.put(SHA256, b"content").await;
    for (directory, reason) in bad_directories(content) {
        let root = server.put(SHA256, &directory).await;
        assert!(!is_hit(&server, with_root(root)).await, "{reason}");
    }
    let fine = server.put_message(SHA256, &Directory::default()).await;
    assert!(is_hit(&server, with_root(fine)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_a_directory_of_a_million_entries_as_a_blob() {
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
    let root = server.upload(SHA256, &million.encode_to_vec()).await;
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
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_read_many_large_directories_at_once() {
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
        let digest = server.upload(SHA256, &large.encode_to_vec()).await;
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
    // 165 MB of messages, which the server sends a few at a time.
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
    assert!(for_tree < MAX_ADDED_MEMORY, "{} MiB", for_tree / MIB);
    // Laying them out, or checking that all of them exist, would need all of them in memory.
    let action = server
        .action(SHA256, &shell("true"), |action| {
            action.input_root_digest = Some(root.to_wire());
        })
        .await;
    let status = server.respond(request(action)).await.status.unwrap();
    assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
    assert!(status.message.contains("bytes together"), "{}", status.message);
    assert!(!is_hit(&server, with_root(root)).await);
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_trees_that_are_too_deep_or_unfold_without_end() {
    let server = Server::farm().await;
    // A cycle would need a digest that is known before its content. The closest thing: each level names the one
    // below `width` times.
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
        // A list with each directory once is harmless.
        let tree = GetTreeRequest {
            root_digest: Some(root.to_wire()),
            ..Default::default()
        };
        let mut pages = server.blobs().get_tree(tree).await.unwrap().into_inner();
        let page = pages.message().await.unwrap().unwrap();
        assert_eq!(page.directories.len(), height);
    }
    assert!(server.peak_memory() - before < MAX_ADDED_MEMORY);
}
