//! Tenants: blobs are found, read and used only in instances that have them (F12 of `docs/threat-model.md`).
//!
//! Each test asks for everything that one tenant has from an instance of another one. Without the table `[tenants]`, all
//! of them fail.

mod derived;
mod execution;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bitzel_proto::google::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use bitzel_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, FindMissingBlobsRequest, batch_update_blobs_request,
};
use bitzel_proto::{Digest, DigestFunction};
use prost::Message;
use tonic::{Code, Status};

use super::messages::{noise, write_request, write_requests};
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;

/// Two instances of one team, and others by themselves.
const TENANTS: &str = "\
[tenants]
[[tenants.groups]]
name = \"team\"
instances = [\"team/*\"]
";

/// Client that uses one instance of a server.
#[derive(Clone, Copy)]
struct Client<'server> {
    server: &'server Server,
    instance: &'server str,
}

impl<'server> Client<'server> {
    /// Clients of the owner of the blobs, of another instance of the same tenant, and of another tenant.
    fn all(server: &'server Server) -> [Self; 3] {
        ["team/one", "team/two", "other"].map(|instance| Self { server, instance })
    }

    async fn put(&self, blob: &[u8]) -> Digest {
        let digest = SHA256.digest(blob);
        assert_eq!(self.put_as(digest, blob).await, Code::Ok);
        digest
    }

    async fn put_message(&self, message: &impl Message) -> Digest {
        self.put(&message.encode_to_vec()).await
    }

    async fn put_as(&self, digest: Digest, blob: &[u8]) -> Code {
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.to_owned(),
            digest_function: SHA256.to_wire(),
            requests: vec![batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data: blob.to_vec(),
                ..Default::default()
            }],
        };
        let response = self.server.blobs().batch_update_blobs(request).await.unwrap();
        let status = response.into_inner().responses.remove(0).status.unwrap();
        Code::from_i32(status.code)
    }

    /// Reads in a batch.
    async fn batch(&self, digest: Digest) -> Result<Vec<u8>, Code> {
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.to_owned(),
            digest_function: SHA256.to_wire(),
            digests: vec![digest.to_wire()],
            ..Default::default()
        };
        let response = self.server.blobs().batch_read_blobs(request).await.unwrap();
        let blob = response.into_inner().responses.remove(0);
        match Code::from_i32(blob.status.unwrap_or_default().code) {
            Code::Ok => Ok(blob.data),
            code => Err(code),
        }
    }

    async fn stream(&self, digest: Digest, offset: i64) -> Result<Vec<u8>, Status> {
        let request = ReadRequest {
            resource_name: format!("{}/blobs/{digest}", self.instance),
            read_offset: offset,
            read_limit: 0,
        };
        let mut messages = self.server.streams().read(request).await?.into_inner();
        let mut blob = Vec::new();
        while let Some(message) = messages.message().await? {
            blob.extend_from_slice(&message.data);
        }
        Ok(blob)
    }

    async fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance.to_owned(),
            digest_function: SHA256.to_wire(),
            blob_digests: digests.iter().map(Digest::to_wire).collect(),
        };
        let response = self.server.blobs().find_missing_blobs(request).await.unwrap();
        let missing = response.into_inner().missing_blob_digests.into_iter();
        missing
            .map(|digest| Digest::from_wire(SHA256, &digest).unwrap())
            .collect()
    }

    /// True if the blob is there, by every way to ask for it.
    async fn has(&self, digest: Digest) -> bool {
        let found = self.missing(&[digest]).await.is_empty();
        let batch = self.batch(digest).await;
        let stream = self.stream(digest, 0).await;
        let http = self.http("GET", &format!("cas/{}", digest.hash_hex()), b"").0;
        let head = self.http("HEAD", &format!("cas/{}", digest.hash_hex()), b"").0;
        assert_eq!(found, batch.is_ok(), "BatchReadBlobs");
        assert_eq!(found, stream.is_ok(), "ByteStream");
        assert!(found || batch == Err(Code::NotFound));
        assert!(found || stream.is_err_and(|status| status.code() == Code::NotFound));
        assert_eq!([http, head], if found { [200; 2] } else { [404; 2] }, "HTTP");
        found
    }

    fn write_name(&self, digest: Digest) -> String {
        format!("{}/uploads/u/blobs/{digest}", self.instance)
    }

    async fn write(&self, requests: Vec<WriteRequest>) -> Result<i64, Status> {
        self.server.write(requests).await
    }

    async fn is_written(&self, digest: Digest) -> bool {
        let request = QueryWriteStatusRequest {
            resource_name: self.write_name(digest),
        };
        let status = self.server.streams().query_write_status(request).await;
        status.is_ok_and(|status| status.into_inner().complete)
    }

    /// Status and body of a request to the HTTP cache.
    fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut connection = TcpStream::connect(self.server.http.as_ref().unwrap()).unwrap();
        let (instance, length) = (self.instance, body.len());
        let head = format!(
            "{method} /{instance}/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(body).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer.split_off(end + 4))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_blobs_are_found_by_their_tenant_only() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, colleague, stranger] = Client::all(&server);
    let nameless = Client {
        server: &server,
        instance: "",
    };
    let small = owner.put(b"a secret of the team").await;
    let blob = noise(1, 3 << 20);
    let large = SHA256.digest(&blob);
    let requests = write_requests(&owner.write_name(large), &blob);
    owner.write(requests).await.unwrap();

    for digest in [small, large] {
        assert!(owner.has(digest).await);
        assert!(colleague.has(digest).await);
        assert!(!stranger.has(digest).await);
        assert_eq!(nameless.missing(&[digest]).await, [digest]);
    }
    assert!(owner.is_written(large).await);
    assert!(!stranger.is_written(large).await);
    let beyond = i64::try_from(blob.len()).unwrap() + 1;
    let answer = stranger.stream(large, beyond).await.unwrap_err();
    assert_eq!(answer.code(), Code::NotFound, "not that it is shorter");
    assert!(stranger.missing(&[SHA256.digest(b"")]).await.is_empty());
    // Two tenants have one blob.
    stranger.put(b"a secret of the team").await;
    assert!(stranger.has(small).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_uploads_of_existing_blobs_are_checked_whole() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, _, stranger] = Client::all(&server);
    let blob = noise(2, 3 << 20);
    let digest = SHA256.digest(&blob);
    let requests = write_requests(&owner.write_name(digest), &blob);
    owner.write(requests).await.unwrap();
    let small = owner.put(b"small").await;

    let name = stranger.write_name(digest);
    // Nothing at all, the first half, and the right size with one wrong bit at the end.
    let nothing = vec![write_request(&name, 0, &[], true)];
    let half = vec![write_request(&name, 0, &blob[..blob.len() / 2], true)];
    let mut wrong = blob.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let wrong_end = write_requests(&name, &wrong);
    for (what, requests) in [("nothing", nothing), ("half", half), ("wrong", wrong_end)] {
        let refused = stranger.write(requests).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}");
        assert!(!stranger.has(digest).await, "{what}");
    }
    // A stream that ends without `finish_write`.
    let unfinished = vec![write_request(&name, 0, &blob[..1 << 20], false)];
    let committed = stranger.write(unfinished).await.unwrap();
    assert_eq!(committed, 1 << 20);
    assert!(!stranger.is_written(digest).await);
    assert!(!stranger.has(digest).await);
    // Compressed data of another blob.
    let compressed = zstd::bulk::compress(&wrong, 1).unwrap();
    let name = format!("other/uploads/z/compressed-blobs/zstd/{digest}");
    let refused = stranger.write(write_requests(&name, &compressed)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    // Batches and HTTP.
    assert_eq!(stranger.put_as(small, b"other").await, Code::InvalidArgument);
    let path = format!("cas/{}", small.hash_hex());
    assert_eq!(stranger.http("PUT", &path, b"other").0, 400);
    for digest in [digest, small] {
        assert!(!stranger.has(digest).await);
    }

    let name = stranger.write_name(digest);
    let all = stranger.write(write_requests(&name, &blob)).await.unwrap();
    assert_eq!(usize::try_from(all), Ok(blob.len()));
    assert_eq!(stranger.http("PUT", &path, b"small").0, 200);
    for digest in [digest, small] {
        assert!(stranger.has(digest).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_http_values_and_results_stay_with_their_tenant() {
    let server = Server::http_cache_with(TENANTS).await;
    let [owner, colleague, stranger] = Client::all(&server);
    // A value that is no result, under a hash and under a name.
    let key = format!("ac/{}", SHA256.digest(b"key").hash_hex());
    for path in [key.as_str(), "dav/a/value"] {
        let status = owner.http("PUT", path, b"a value").0;
        assert!([200, 201].contains(&status), "{path}: {status}");
        assert_eq!(owner.http("GET", path, b""), (200, b"a value".to_vec()));
        assert_eq!(stranger.http("GET", path, b"").0, 404, "{path}");
    }
    let value = SHA256.digest(b"a value");
    assert!(owner.has(value).await);
    assert!(colleague.has(value).await);
    assert!(!stranger.has(value).await, "the blob of the value");
    // The same key and the same value of another tenant.
    assert_eq!(stranger.http("PUT", "dav/a/value", b"a value").0, 201);
    assert!(stranger.has(value).await);
    assert_eq!(stranger.http("DELETE", "dav/a/value", b"").0, 204);
    assert_eq!(owner.http("GET", "dav/a/value", b"").0, 200);
    assert_eq!(stranger.http("PROPFIND", "dav/a/value", b"").0, 404);
}
