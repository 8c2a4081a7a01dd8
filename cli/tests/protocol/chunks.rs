//! Large blobs in chunks, for clients that cut blobs themselves and for those that do not.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use bitzel_proto::reapi::capabilities_client::CapabilitiesClient;
use bitzel_proto::reapi::chunking_function::Value as ChunkingFunction;
use bitzel_proto::reapi::{
    GetCapabilitiesRequest, GetChunkMappingRequest, RegisterChunkMappingRequest, SplitBlobRequest,
};
use bitzel_proto::{Digest, DigestFunction};
use fastcdc::v2020::{FastCDC, Normalization};
use tonic::{Code, Status};

use super::messages::noise;
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

/// Cuts a blob as the server's capabilities tell clients to.
async fn cut(server: &Server, blob: &[u8]) -> Vec<(Digest, std::ops::Range<usize>)> {
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let capabilities = client
        .get_capabilities(GetCapabilitiesRequest::default())
        .await
        .unwrap();
    let cache = capabilities.into_inner().cache_capabilities.unwrap();
    assert!(cache.split_blob_support && cache.splice_blob_support);
    let average = cache.fast_cdc_2020_params.unwrap().avg_chunk_size_bytes;
    let average = usize::try_from(average).unwrap();
    FastCDC::with_level(blob, average / 4, average, average * 4, Normalization::Level2)
        .map(|chunk| {
            let range = chunk.offset..chunk.offset + chunk.length;
            (SHA256.digest(&blob[range.clone()]), range)
        })
        .collect()
}

async fn mapping(server: &Server, blob: Digest) -> Result<Vec<Digest>, Status> {
    let request = GetChunkMappingRequest {
        blob_digest: Some(blob.to_wire()),
        digest_function: blob.function().to_wire(),
        ..Default::default()
    };
    let mut pages = server.blobs().get_chunk_mapping(request).await?.into_inner();
    let mut chunks = Vec::new();
    let mut is_first = true;
    while let Some(page) = pages.message().await? {
        if std::mem::take(&mut is_first) {
            assert_eq!(page.chunking_function(), ChunkingFunction::FastCdc2020);
        }
        let page = page.chunk_digests.iter();
        chunks.extend(page.map(|chunk| Digest::from_wire(blob.function(), chunk).unwrap()));
    }
    Ok(chunks)
}

/// Registers chunks, one message per slice.
async fn register(server: &Server, blob: Digest, slices: &[&[Digest]]) -> Result<(), Status> {
    let requests: Vec<_> = slices
        .iter()
        .enumerate()
        .map(|(number, slice)| RegisterChunkMappingRequest {
            // Only the first one counts.
            blob_digest: (number == 0).then(|| blob.to_wire()),
            chunk_digests: slice.iter().map(Digest::to_wire).collect(),
            digest_function: if number == 0 {
                blob.function().to_wire()
            } else {
                77
            },
            chunking_function: if number == 0 {
                ChunkingFunction::FastCdc2020.into()
            } else {
                0
            },
            ..Default::default()
        })
        .collect();
    let requests = tokio_stream::iter(requests);
    let response = server
        .blobs()
        .register_chunk_mapping(requests)
        .await?
        .into_inner();
    assert_eq!(response.blob_digest, Some(blob.to_wire()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_a_blob_to_the_chunks_that_a_client_would_cut() {
    let server = Server::cache().await;
    let blob = noise(1, 8 << 20);
    let digest = server.upload(SHA256, &blob).await;
    let chunks = mapping(&server, digest).await.unwrap();
    let by_client = cut(&server, &blob).await;
    assert_eq!(
        chunks,
        by_client.iter().map(|(digest, _)| *digest).collect::<Vec<_>>()
    );
    assert_eq!(server.missing(&chunks).await, []);
    let split = SplitBlobRequest {
        blob_digest: Some(digest.to_wire()),
        ..Default::default()
    };
    let split = server.blobs().split_blob(split).await.unwrap().into_inner();
    assert_eq!(
        split.chunk_digests,
        chunks.iter().map(Digest::to_wire).collect::<Vec<_>>()
    );

    let small = server.put(SHA256, b"small").await;
    assert_eq!(mapping(&server, small).await.unwrap(), [small]);
    assert_eq!(mapping(&server, SHA256.digest(b"")).await.unwrap(), []);
    let status = mapping(&server, SHA256.digest(b"gone")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn assembles_a_blob_from_a_registered_mapping() {
    let server = Server::cache().await;
    let blob = noise(2, 8 << 20);
    let digest = SHA256.digest(&blob);
    let cut = cut(&server, &blob).await;
    for (_, range) in &cut {
        server.upload(SHA256, &blob[range.clone()]).await;
    }
    let chunks: Vec<_> = cut.into_iter().map(|(digest, _)| digest).collect();
    let (first, rest) = chunks.split_at(2);
    register(&server, digest, &[first, &[], rest]).await.unwrap();
    assert!(server.get(digest).await == blob);
    assert_eq!(mapping(&server, digest).await.unwrap(), chunks);
    // A repetition is not an error, although the blob exists.
    register(&server, digest, &[&chunks]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_mapping_that_makes_another_blob() {
    let server = Server::cache().await;
    let (one, two) = (server.put(SHA256, b"one").await, server.put(SHA256, b"two").await);
    let gone = SHA256.digest(b"six");
    let onetwo = SHA256.digest(b"onetwo");
    let cases: [(&[&[Digest]], Code); 6] = [
        (&[&[two, one]], Code::InvalidArgument),
        (&[&[one]], Code::InvalidArgument),
        (&[&[one], &[two, two]], Code::InvalidArgument),
        (&[&[]], Code::InvalidArgument),
        (&[], Code::InvalidArgument),
        (&[&[one], &[gone]], Code::NotFound),
    ];
    for (slices, code) in cases {
        let status = register(&server, onetwo, slices).await.unwrap_err();
        assert_eq!(status.code(), code, "{slices:?}: {status}");
        assert_eq!(server.missing(&[onetwo]).await, [onetwo]);
    }
    register(&server, onetwo, &[&[one], &[two]]).await.unwrap();
    assert_eq!(server.get(onetwo).await, b"onetwo");
}

/// Tar files of two versions of one source: those of `BITZEL_TEST_TARBALLS`, separated by `:`, or those of a crate that
/// cargo's cache has twice.
fn two_versions() -> Option<[PathBuf; 2]> {
    if let Some(named) = std::env::var_os("BITZEL_TEST_TARBALLS") {
        let [old, new] = std::env::split_paths(&named)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        return Some([old, new]);
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registry = std::fs::read_dir(home.join("registry/cache"))
        .ok()?
        .next()?
        .ok()?
        .path();
    for prefix in ["syn-2.0.", "rustix-1.1.", "libc-0.2.", "windows-sys-0."] {
        let mut versions: Vec<_> = std::fs::read_dir(&registry)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .collect();
        versions.sort();
        if let [old, new, ..] = &versions[..] {
            return Some([old.clone(), new.clone()]);
        }
    }
    None
}

/// Uncompressed content of a tar file.
fn unpacked(path: &Path) -> Vec<u8> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("bz2") => "bzip2",
        Some("tar") => return std::fs::read(path).unwrap(),
        _ => "gzip",
    };
    let output = Program::new(program).arg("-dc").arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{program} -dc {}: {output:?}",
        path.display()
    );
    output.stdout
}

/// Upload: a client that cuts like the server sends the chunks that the server lacks. Download: a client with the old
/// version asks for the chunks of the new one, and fetches those that it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn transfers_only_new_chunks_of_a_new_tarball() {
    let Some([old_path, new_path]) = two_versions() else {
        println!(
            "SKIPPED: transfers_only_new_chunks_of_a_new_tarball: no crate is in cargo's cache twice; name \
             two tar files in BITZEL_TEST_TARBALLS"
        );
        return;
    };
    let (old, new) = (unpacked(&old_path), unpacked(&new_path));
    println!("{} after {}:", new_path.display(), old_path.display());
    for size in ["512KiB", "16KiB"] {
        let server = Server::configured(&format!(
            "[execution]\nenabled = false\n[chunks]\naverage_size = \"{size}\"\n"
        ))
        .await;
        let [up, down] = travelling(&server, &old, &new).await;
        let percent = |part: usize| part * 100 / new.len();
        println!(
            "  chunks of {size}: of {} bytes, {up} went up ({} %) and {down} came down ({} %)",
            new.len(),
            percent(up),
            percent(down),
        );
        assert!(up <= new.len() && down <= new.len());
    }
}

/// Bytes of chunks that are uploaded and downloaded for `new` if `old` exists.
async fn travelling(server: &Server, old: &[u8], new: &[u8]) -> [usize; 2] {
    let old_digest = server.upload(SHA256, old).await;
    mapping(server, old_digest).await.unwrap();

    let digest = SHA256.digest(new);
    let cut_new = cut(server, new).await;
    let chunks: Vec<Digest> = cut_new.iter().map(|(digest, _)| *digest).collect();
    let mut missing: HashSet<Digest> = server.missing(&chunks).await.into_iter().collect();
    let mut up = 0;
    for (chunk, range) in &cut_new {
        if missing.remove(chunk) {
            server.upload(SHA256, &new[range.clone()]).await;
            up += range.len();
        }
    }
    register(server, digest, &[&chunks]).await.unwrap();
    assert!(server.get(digest).await == new);

    let at_hand = cut(server, old).await;
    let mut down = 0;
    let mut whole = Vec::with_capacity(new.len());
    for chunk in mapping(server, digest).await.unwrap() {
        match at_hand.iter().find(|(known, _)| *known == chunk) {
            Some((_, range)) => whole.extend_from_slice(&old[range.clone()]),
            None => {
                whole.extend(server.get(chunk).await);
                down += usize::try_from(chunk.size_bytes()).unwrap();
            }
        }
    }
    assert!(whole == new);
    [up, down]
}
