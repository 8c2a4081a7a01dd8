//! `GetTree`, page by page.

use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode, GetTreeRequest, GetTreeResponse};
use bitzel_proto::{Digest, DigestFunction};
use tonic::{Code, Status};

use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

fn directory(children: &[(&str, Digest)], file: &str) -> Directory {
    Directory {
        directories: children
            .iter()
            .map(|(name, digest)| DirectoryNode {
                name: (*name).to_owned(),
                digest: Some(digest.to_wire()),
            })
            .collect(),
        files: vec![FileNode {
            name: file.to_owned(),
            digest: Some(SHA256.digest(file.as_bytes()).to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn of(root: Digest, page_size: i32, page_token: &str) -> GetTreeRequest {
    GetTreeRequest {
        root_digest: Some(root.to_wire()),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    }
}

async fn pages(server: &Server, request: GetTreeRequest) -> Result<Vec<GetTreeResponse>, Status> {
    let mut stream = server.blobs().get_tree(request).await?.into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await? {
        pages.push(page);
    }
    Ok(pages)
}

/// Four directories: the last one is named three times, the second one twice.
async fn put(server: &Server) -> (Digest, Vec<Directory>) {
    let shared = directory(&[], "shared");
    let shared_digest = server.put_message(SHA256, &shared).await;
    let one = directory(&[("x", shared_digest)], "one");
    let one_digest = server.put_message(SHA256, &one).await;
    let two = directory(&[("x", shared_digest), ("y", one_digest)], "two");
    let two_digest = server.put_message(SHA256, &two).await;
    let root = directory(
        &[("a", one_digest), ("b", two_digest), ("c", shared_digest)],
        "root",
    );
    let root_digest = server.put_message(SHA256, &root).await;
    (root_digest, vec![root, one, two, shared])
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_every_directory_once() {
    let server = Server::cache().await;
    let (root, all) = put(&server).await;
    let pages = pages(&server, of(root, 0, "")).await.unwrap();
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].directories, all);
    assert_eq!(pages[0].next_page_token, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn continues_a_directory_listing_at_each_page_token() {
    let server = Server::cache().await;
    let (root, all) = put(&server).await;
    let whole = pages(&server, of(root, 1, "")).await.unwrap();
    let one_by_one: Vec<_> = whole.iter().flat_map(|page| page.directories.clone()).collect();
    assert_eq!(one_by_one, all);
    assert!(whole.iter().all(|page| page.directories.len() == 1));
    for (number, page) in whole.iter().enumerate() {
        let is_last = number + 1 == whole.len();
        assert_eq!(page.next_page_token.is_empty(), is_last);
        if !is_last {
            let rest = pages(&server, of(root, 1, &page.next_page_token)).await.unwrap();
            assert_eq!(rest, whole[number + 1..]);
            // Also with another page size.
            let rest = pages(&server, of(root, 100, &page.next_page_token))
                .await
                .unwrap();
            assert_eq!(rest[0].directories, all[number + 1..]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_forged_tokens_and_sizes() {
    let server = Server::cache().await;
    let (root, _) = put(&server).await;
    for token in [
        "4",
        "5",
        "-1",
        "1e3",
        "99999999999999999999999",
        "x",
        "../1",
        "1\u{0}",
    ] {
        let status = pages(&server, of(root, 1, token)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{token:?}: {status}");
        assert!(status.message().contains("page token"), "{status}");
    }
    let status = pages(&server, of(root, -1, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // A page size above the number of directories is not an error.
    assert_eq!(pages(&server, of(root, i32::MAX, "")).await.unwrap().len(), 1);
}
