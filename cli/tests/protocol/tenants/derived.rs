//! Calls that derive something from blobs: trees, chunks, assets and results.

use bitzel_proto::asset::fetch_client::FetchClient;
use bitzel_proto::asset::push_client::PushClient;
use bitzel_proto::asset::{FetchBlobRequest, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest};
use bitzel_proto::reapi::{
    ActionResult, Directory, DirectoryNode, GetActionResultRequest, GetChunkMappingRequest, GetTreeRequest,
    OutputDirectory, OutputFile, RegisterChunkMappingRequest, SpliceBlobRequest, SplitBlobRequest,
    UpdateActionResultRequest,
};

use super::*;
use crate::protocol::messages::{file, of_files};

impl Client<'_> {
    async fn tree(&self, root: Digest) -> Result<Vec<Directory>, Status> {
        let request = GetTreeRequest {
            instance_name: self.instance.to_owned(),
            root_digest: Some(root.to_wire()),
            ..Default::default()
        };
        let mut pages = self.server.blobs().get_tree(request).await?.into_inner();
        let mut directories = Vec::new();
        while let Some(page) = pages.message().await? {
            directories.extend(page.directories);
        }
        Ok(directories)
    }

    /// Chunks by `SplitBlob`, which are those by `GetChunkMapping`.
    async fn split(&self, blob: Digest) -> Result<Vec<Digest>, Status> {
        let request = SplitBlobRequest {
            instance_name: self.instance.to_owned(),
            blob_digest: Some(blob.to_wire()),
            digest_function: SHA256.to_wire(),
            ..Default::default()
        };
        let split = self.server.blobs().split_blob(request).await;
        let request = GetChunkMappingRequest {
            instance_name: self.instance.to_owned(),
            blob_digest: Some(blob.to_wire()),
            digest_function: SHA256.to_wire(),
            ..Default::default()
        };
        let mapping = self.server.blobs().get_chunk_mapping(request).await;
        assert_eq!(
            split.as_ref().err().map(Status::code),
            mapping.as_ref().err().map(Status::code)
        );
        let chunks = split?.into_inner().chunk_digests;
        let page = mapping?.into_inner().message().await?.unwrap();
        assert_eq!(chunks, page.chunk_digests);
        let parsed = chunks
            .iter()
            .map(|chunk| Digest::from_wire(SHA256, chunk).unwrap());
        Ok(parsed.collect())
    }

    /// Makes a blob from chunks by `SpliceBlob`, then by `RegisterChunkMapping`, with the same answer.
    async fn splice(&self, blob: Digest, chunks: &[Digest]) -> Result<(), Code> {
        let chunks: Vec<_> = chunks.iter().map(Digest::to_wire).collect();
        let register = RegisterChunkMappingRequest {
            instance_name: self.instance.to_owned(),
            blob_digest: Some(blob.to_wire()),
            chunk_digests: chunks.clone(),
            digest_function: SHA256.to_wire(),
            ..Default::default()
        };
        let register = tokio_stream::iter([register]);
        let registered = self.server.blobs().register_chunk_mapping(register).await;
        let splice = SpliceBlobRequest {
            instance_name: self.instance.to_owned(),
            blob_digest: Some(blob.to_wire()),
            chunk_digests: chunks,
            digest_function: SHA256.to_wire(),
            ..Default::default()
        };
        let spliced = self.server.blobs().splice_blob(splice).await;
        let code = spliced.err().map(|status| status.code());
        assert_eq!(code, registered.err().map(|status| status.code()));
        code.map_or(Ok(()), Err)
    }

    async fn update_result(&self, action: Digest, result: &ActionResult) {
        let request = UpdateActionResultRequest {
            instance_name: self.instance.to_owned(),
            action_digest: Some(action.to_wire()),
            action_result: Some(result.clone()),
            digest_function: SHA256.to_wire(),
            ..Default::default()
        };
        self.server.results().update_action_result(request).await.unwrap();
    }

    async fn result(&self, action: Digest) -> Result<ActionResult, Code> {
        let request = GetActionResultRequest {
            instance_name: self.instance.to_owned(),
            action_digest: Some(action.to_wire()),
            digest_function: SHA256.to_wire(),
            inline_stdout: true,
            ..Default::default()
        };
        let result = self.server.results().get_action_result(request).await;
        result
            .map(tonic::Response::into_inner)
            .map_err(|status| status.code())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_tree_holds_own_directories_only() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, colleague, stranger] = Client::all(&server);
    let below = of_files(vec![file("secret", SHA256.digest(b"x"))]);
    let root = Directory {
        directories: vec![DirectoryNode {
            name: "below".to_owned(),
            digest: Some(owner.put_message(&below).await.to_wire()),
        }],
        ..Default::default()
    };
    let digest = owner.put_message(&root).await;
    for client in [owner, colleague] {
        assert_eq!(client.tree(digest).await.unwrap(), [root.clone(), below.clone()]);
    }
    assert_eq!(stranger.tree(digest).await.unwrap_err().code(), Code::NotFound);
    // It may know the digest of a directory, and name it in one of its own.
    stranger.put_message(&root).await;
    assert_eq!(stranger.tree(digest).await.unwrap(), [root]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_chunks_of_another_tenant_are_of_no_use() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, colleague, stranger] = Client::all(&server);
    let blob = noise(3, 9 << 20);
    let digest = SHA256.digest(&blob);
    let requests = write_requests(&owner.write_name(digest), &blob);
    owner.write(requests).await.unwrap();
    let chunks = owner.split(digest).await.unwrap();
    assert!(chunks.len() > 4);
    assert_eq!(colleague.split(digest).await.unwrap(), chunks);

    assert_eq!(stranger.split(digest).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(stranger.splice(digest, &chunks).await, Err(Code::NotFound));
    assert_eq!(stranger.missing(&chunks).await, chunks);
    // All chunks but one.
    let mut start = 0;
    for chunk in &chunks[..chunks.len() - 1] {
        let end = start + usize::try_from(chunk.size_bytes()).unwrap();
        let bytes = &blob[start..end];
        stranger
            .write(write_requests(&stranger.write_name(*chunk), bytes))
            .await
            .unwrap();
        start = end;
    }
    assert_eq!(stranger.splice(digest, &chunks).await, Err(Code::NotFound));
    assert_eq!(stranger.missing(&[digest]).await, [digest]);
    // The last chunk with other bytes of the same size.
    let other = stranger.put(&noise(4, blob.len() - start)).await;
    let mut wrong = chunks.clone();
    *wrong.last_mut().unwrap() = other;
    assert_eq!(stranger.splice(digest, &wrong).await, Err(Code::InvalidArgument));
    assert_eq!(stranger.missing(&[digest]).await, [digest]);
    // All of them.
    stranger.put(&blob[start..]).await;
    assert_eq!(stranger.splice(digest, &chunks).await, Ok(()));
    assert_eq!(stranger.missing(&[digest]).await, []);
    assert_eq!(stranger.stream(digest, 0).await.unwrap(), blob);
    assert_eq!(stranger.split(digest).await.unwrap(), chunks);
}

/// What another tenant remembers about the chunks of a blob does not give them to one that has the blob.
#[tokio::test(flavor = "multi_thread")]
async fn f12_a_split_gives_the_chunks_to_the_tenant() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, _, stranger] = Client::all(&server);
    let blob = noise(5, 9 << 20);
    let digest = SHA256.digest(&blob);
    for client in [owner, stranger] {
        let requests = write_requests(&client.write_name(digest), &blob);
        client.write(requests).await.unwrap();
    }
    let chunks = owner.split(digest).await.unwrap();
    assert_eq!(stranger.missing(&chunks).await, chunks);
    assert_eq!(stranger.split(digest).await.unwrap(), chunks);
    assert_eq!(stranger.missing(&chunks).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_assets_are_made_of_own_blobs() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, _, stranger] = Client::all(&server);
    let uri = "https://example.org/source.tar".to_owned();
    let blob = owner.put(b"source").await;
    let root = owner.put_message(&of_files(vec![file("f", blob)])).await;
    let push_blob = |client: Client<'_>| {
        let request = PushBlobRequest {
            instance_name: client.instance.to_owned(),
            uris: vec![uri.clone()],
            blob_digest: Some(blob.to_wire()),
            ..Default::default()
        };
        let mut assets = PushClient::new(server.channel.clone());
        async move { assets.push_blob(request).await }
    };
    let push_directory = |client: Client<'_>| {
        let request = PushDirectoryRequest {
            instance_name: client.instance.to_owned(),
            uris: vec![uri.clone()],
            root_directory_digest: Some(root.to_wire()),
            ..Default::default()
        };
        let mut assets = PushClient::new(server.channel.clone());
        async move { assets.push_directory(request).await }
    };
    let fetched = |client: Client<'_>| {
        let mut assets = FetchClient::new(server.channel.clone());
        let blob = FetchBlobRequest {
            instance_name: client.instance.to_owned(),
            uris: vec![uri.clone()],
            ..Default::default()
        };
        let directory = FetchDirectoryRequest {
            instance_name: client.instance.to_owned(),
            uris: vec![uri.clone()],
            ..Default::default()
        };
        async move {
            let blob = assets.fetch_blob(blob).await.is_ok();
            [blob, assets.fetch_directory(directory).await.is_ok()]
        }
    };
    push_blob(owner).await.unwrap();
    push_directory(owner).await.unwrap();
    assert_eq!(fetched(owner).await, [true, true]);
    assert_eq!(fetched(stranger).await, [false, false]);
    let refused = push_blob(stranger).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(push_directory(stranger).await.is_err());
    // A root of its own with the file of the other tenant: it is stored, and never complete.
    stranger.put_message(&of_files(vec![file("f", blob)])).await;
    push_directory(stranger).await.unwrap();
    assert_eq!(fetched(stranger).await, [false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_result_is_complete_for_its_tenant_only() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, _, stranger] = Client::all(&server);
    let output = owner.put(b"an output").await;
    let root = owner.put_message(&of_files(vec![file("f", output)])).await;
    let of_file = ActionResult {
        output_files: vec![OutputFile {
            path: "o".to_owned(),
            digest: Some(output.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let of_directory = ActionResult {
        output_directories: vec![OutputDirectory {
            path: "d".to_owned(),
            root_directory_digest: Some(root.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let of_log = ActionResult {
        stdout_digest: Some(output.to_wire()),
        ..Default::default()
    };
    let results = [
        (SHA256.digest(b"1"), of_file),
        (SHA256.digest(b"2"), of_directory),
        (SHA256.digest(b"3"), of_log),
    ];
    for (action, result) in &results {
        owner.update_result(*action, result).await;
        assert!(owner.result(*action).await.is_ok());
        assert_eq!(stranger.result(*action).await, Err(Code::NotFound));
        // The server has read the directories of the result before, for the owner.
        stranger.update_result(*action, result).await;
        assert_eq!(stranger.result(*action).await, Err(Code::NotFound));
        let path = format!("ac/{}", action.hash_hex());
        assert_eq!(stranger.http("GET", &path, b"").0, 404);
    }
    stranger.put(b"an output").await;
    let found = [0, 1, 2].map(|index| results[index].0);
    assert!(stranger.result(found[0]).await.is_ok());
    assert_eq!(
        stranger.result(found[1]).await,
        Err(Code::NotFound),
        "its directory"
    );
    let log = stranger.result(found[2]).await.unwrap();
    assert_eq!(log.stdout_raw, b"an output");
}
