use bitzel_cas::blob_store::read_whole;
use bitzel_cas::testing::noise;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteRequest,
};
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;

type Client = ByteStreamClient<Channel>;

async fn setup() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = Client::new(server.channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE);
    (server, client)
}

fn write_name(digest: Digest) -> String {
    format!("some/instance/uploads/7d8a1b3e/blobs/{digest}")
}

fn compressed_write_name(digest: Digest) -> String {
    format!("uploads/7d8a1b3e/compressed-blobs/zstd/{digest}")
}

fn request(name: &str, offset: usize, data: &[u8], finish: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.into(),
        write_offset: offset.try_into().unwrap(),
        finish_write: finish,
        data: data.to_vec(),
    }
}

async fn write(client: &mut Client, requests: Vec<WriteRequest>) -> Result<i64, Status> {
    let response = client.write(futures::stream::iter(requests)).await?;
    Ok(response.into_inner().committed_size)
}

async fn query(client: &mut Client, name: &str) -> Result<QueryWriteStatusResponse, Status> {
    let request = QueryWriteStatusRequest {
        resource_name: name.into(),
    };
    client
        .query_write_status(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn read(client: &mut Client, name: String, offset: i64, limit: i64) -> Result<Vec<u8>, Status> {
    let request = ReadRequest {
        resource_name: name,
        read_offset: offset,
        read_limit: limit,
    };
    let mut messages = client.read(request).await?.into_inner();
    let mut blob = Vec::new();
    while let Some(message) = messages.message().await? {
        blob.extend_from_slice(&message.data);
    }
    Ok(blob)
}

#[tokio::test]
async fn a_large_blob_goes_in_and_comes_out() {
    let (server, mut client) = setup().await;
    let blob = noise(1, 5 << 20);
    let digest = sha256(&blob);
    let name = write_name(digest);
    let (first, second) = blob.split_at(2 << 20);
    // Only the first request needs the name.
    let requests = vec![
        request(&name, 0, first, false),
        request("", first.len(), second, true),
    ];
    assert_eq!(write(&mut client, requests).await.unwrap(), 5 << 20);
    assert_eq!(read_whole(&*server.store, digest).await.unwrap(), blob);
    assert_eq!(
        read(&mut client, format!("some/instance/blobs/{digest}"), 0, 0)
            .await
            .unwrap(),
        blob
    );
}

#[tokio::test]
async fn read_offset_and_limit_cut_and_are_checked() {
    let (server, mut client) = setup().await;
    let digest = server.add(b"0123456789").await;
    let name = format!("blobs/{digest}");
    assert_eq!(read(&mut client, name.clone(), 3, 4).await.unwrap(), b"3456");
    assert_eq!(read(&mut client, name.clone(), 7, 0).await.unwrap(), b"789");
    assert_eq!(read(&mut client, name.clone(), 7, 100).await.unwrap(), b"789");
    assert_eq!(read(&mut client, name.clone(), 10, 0).await.unwrap(), b"");
    let code = |result: Result<_, Status>| result.unwrap_err().code();
    assert_eq!(
        code(read(&mut client, name.clone(), 11, 0).await),
        Code::OutOfRange
    );
    assert_eq!(
        code(read(&mut client, name.clone(), -1, 0).await),
        Code::OutOfRange
    );
    assert_eq!(code(read(&mut client, name, 0, -1).await), Code::InvalidArgument);
    let absent = format!("blobs/{}", sha256(b"absent"));
    assert_eq!(code(read(&mut client, absent, 0, 0).await), Code::NotFound);
    assert_eq!(
        code(read(&mut client, "nonsense".into(), 0, 0).await),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn the_empty_blob_can_be_read_and_written() {
    let (_server, mut client) = setup().await;
    let empty = sha256(b"");
    assert_eq!(
        read(&mut client, format!("blobs/{empty}"), 0, 0).await.unwrap(),
        b""
    );
    let requests = vec![request(&write_name(empty), 0, b"", true)];
    assert_eq!(write(&mut client, requests).await.unwrap(), 0);
}

#[tokio::test]
async fn a_write_of_an_existing_blob_ends_early_with_its_size() {
    let (server, mut client) = setup().await;
    let blob = noise(2, 1000);
    let digest = server.add(&blob).await;
    let requests = vec![request(&write_name(digest), 0, &blob[..10], false)];
    assert_eq!(write(&mut client, requests).await.unwrap(), 1000);
    let requests = vec![request(&compressed_write_name(digest), 0, b"abc", false)];
    assert_eq!(
        write(&mut client, requests).await.unwrap(),
        -1,
        "compressed: the size is not known"
    );
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_is_stored() {
    let (server, mut client) = setup().await;
    let digest = sha256(b"promised");
    let name = write_name(digest);
    let wrong = [
        vec![request(&name, 0, b"delivery", true)],
        vec![request(&name, 0, b"promise", true)],
        vec![request(&name, 0, b"promised and more", true)],
        vec![
            request(&name, 0, b"promised", false),
            request(&name, 8, b"!", true),
        ],
        vec![request(&name, 0, b"pro", false), request(&name, 4, b"ised", true)],
        vec![
            request(&name, 0, b"pro", false),
            request("blobs/other", 3, b"mised", true),
        ],
        vec![request(&name, 253, b"promised", true)],
        vec![request(&format!("blobs/{digest}"), 0, b"promised", true)],
        vec![],
    ];
    for requests in wrong {
        let status = write(&mut client, requests.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{requests:?}: {status}");
        assert_eq!(server.store.find_missing(&[digest]).await.unwrap(), [digest]);
    }
    assert_eq!(
        write(&mut client, vec![request(&name, 0, b"promised", true)])
            .await
            .unwrap(),
        8
    );
}

#[tokio::test]
async fn a_broken_write_is_resumed_from_the_committed_size() {
    let (server, mut client) = setup().await;
    let blob = noise(3, 300_000);
    let digest = sha256(&blob);
    let name = write_name(digest);
    assert_eq!(
        query(&mut client, &name).await.unwrap_err().code(),
        Code::NotFound
    );

    // The call breaks in the middle of its stream.
    let (sender, receiver) = mpsc::channel(1);
    let mut torn = client.clone();
    let call = tokio::spawn(async move { torn.write(ReceiverStream::new(receiver)).await });
    sender
        .send(request(&name, 0, &blob[..100_000], false))
        .await
        .unwrap();
    // A request with a wrong offset ends the call with an error, after the server has processed the one before.
    sender.send(request(&name, 1, b"", false)).await.unwrap();
    let broken = call.await.unwrap().unwrap_err();
    assert_eq!(broken.code(), Code::InvalidArgument);
    let status = query(&mut client, &name).await.unwrap();
    assert_eq!((status.committed_size, status.complete), (100_000, false));

    let rest = vec![request(&name, 100_000, &blob[100_000..], true)];
    assert_eq!(write(&mut client, rest).await.unwrap(), 300_000);
    let status = query(&mut client, &name).await.unwrap();
    assert_eq!((status.committed_size, status.complete), (300_000, true));
    assert_eq!(read_whole(&*server.store, digest).await.unwrap(), blob);
}

#[tokio::test]
async fn refuses_wrong_offsets_and_restarts_at_offset_zero() {
    let (_server, mut client) = setup().await;
    let digest = sha256(b"0123456789");
    let name = write_name(digest);
    // Closed without finish_write: the server says how much it has.
    assert_eq!(
        write(&mut client, vec![request(&name, 0, b"0123", false)])
            .await
            .unwrap(),
        4
    );
    let ahead = write(&mut client, vec![request(&name, 6, b"6789", true)])
        .await
        .unwrap_err();
    assert_eq!(ahead.code(), Code::InvalidArgument);
    assert_eq!(
        write(&mut client, vec![request(&name, 4, b"45", false)])
            .await
            .unwrap(),
        6
    );
    assert_eq!(
        write(&mut client, vec![request(&name, 0, b"0123456789", true)])
            .await
            .unwrap(),
        10
    );
}

#[tokio::test]
async fn decompresses_verifies_and_resumes_zstd_writes() {
    let (server, mut client) = setup().await;
    let blob = [vec![7; 3 << 20], noise(4, 100_000)].concat();
    let digest = sha256(&blob);
    let data = zstd::bulk::compress(&blob, 3).unwrap();
    let name = compressed_write_name(digest);
    let requests = vec![
        request(&name, 0, &data[..50], false),
        request("", 50, &data[50..], true),
    ];
    // What was processed is counted as it was transferred.
    assert_eq!(
        write(&mut client, requests).await.unwrap(),
        i64::try_from(data.len()).unwrap()
    );
    assert_eq!(read_whole(&*server.store, digest).await.unwrap(), blob);

    let other = noise(5, 200_000);
    let name = compressed_write_name(sha256(&other));
    let head = zstd::bulk::compress(&other[..120_000], 1).unwrap();
    write(&mut client, vec![request(&name, 0, &head, false)])
        .await
        .unwrap();
    assert_eq!(
        query(&mut client, &name).await.unwrap().committed_size,
        120_000,
        "uncompressed"
    );
    let tail = zstd::bulk::compress(&other[120_000..], 1).unwrap();
    let (first, second) = tail.split_at(1000);
    let requests = vec![
        request(&name, 120_000, first, false),
        request(&name, 121_000, second, true),
    ];
    write(&mut client, requests).await.unwrap();
    assert_eq!(read_whole(&*server.store, sha256(&other)).await.unwrap(), other);
}

#[tokio::test]
async fn zstd_garbage_and_bombs_are_refused() {
    let (server, mut client) = setup().await;
    let digest = sha256(b"small");
    let name = compressed_write_name(digest);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let truncated = zstd::bulk::compress(b"small", 1).unwrap();
    let wrong = zstd::bulk::compress(b"wrong", 1).unwrap();
    for data in [
        &b"no zstd at all"[..],
        &bomb,
        &truncated[..truncated.len() - 1],
        &wrong,
    ] {
        let status = write(&mut client, vec![request(&name, 0, data, true)])
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_eq!(server.store.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test]
async fn zstd_reads_take_an_uncompressed_offset_and_no_limit() {
    let (server, mut client) = setup().await;
    let blob = [vec![1; 2 << 20], noise(6, 50_000)].concat();
    let digest = server.add(&blob).await;
    let name = format!("compressed-blobs/zstd/{digest}");
    let data = read(&mut client, name.clone(), 0, 0).await.unwrap();
    assert!(data.len() < 100_000);
    assert_eq!(zstd::stream::decode_all(&data[..]).unwrap(), blob);
    let data = read(&mut client, name.clone(), 2 << 20, 0).await.unwrap();
    assert_eq!(zstd::stream::decode_all(&data[..]).unwrap(), blob[2 << 20..]);
    let status = read(&mut client, name, 0, 10).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn blake3_is_a_segment_of_the_resource_name() {
    let (server, mut client) = setup().await;
    let digest = DigestFunction::Blake3.digest(b"hello");
    let requests = vec![request(
        &format!("uploads/u/blobs/blake3/{digest}"),
        0,
        b"hello",
        true,
    )];
    assert_eq!(write(&mut client, requests).await.unwrap(), 5);
    assert_eq!(server.store.find_missing(&[digest]).await.unwrap(), []);
    assert_eq!(
        read(&mut client, format!("blobs/blake3/{digest}"), 0, 0)
            .await
            .unwrap(),
        b"hello"
    );
}
