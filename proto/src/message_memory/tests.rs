use proptest::prelude::*;

use super::*;
use crate::google::bytestream::WriteRequest;
use crate::reapi::{
    self, ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, FindMissingBlobsRequest,
    OutputFile, UpdateActionResultRequest, batch_update_blobs_request,
};
use crate::worker::WorkerMessage;

const CAS: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage";

fn scanned(path: &str, encoded: &[u8], chunk: usize) -> u64 {
    let mut scan = MethodRequests::of(path).unwrap().scan(encoded.len() as u64);
    for bytes in encoded.chunks(chunk) {
        scan.read(bytes);
    }
    scan.memory()
}

/// Checks that the count is at least the size of the elements in memory, and not many times as much.
fn check<T>(path: &str, message: &impl Message, elements: usize) {
    let memory = scanned(path, &message.encode_to_vec(), 100);
    let least = (size_of::<T>() * elements) as u64;
    assert!(
        (least..=least * 4).contains(&memory),
        "{path}: {memory} of {least}"
    );
}

#[test]
fn f17_empty_elements_count_as_what_they_take_in_memory() {
    const ELEMENTS: usize = 10_000;
    let find = FindMissingBlobsRequest {
        blob_digests: vec![Digest::default(); ELEMENTS],
        ..Default::default()
    };
    check::<Digest>(&format!("{CAS}/FindMissingBlobs"), &find, ELEMENTS);
    let update = BatchUpdateBlobsRequest {
        requests: vec![batch_update_blobs_request::Request::default(); ELEMENTS],
        ..Default::default()
    };
    check::<batch_update_blobs_request::Request>(&format!("{CAS}/BatchUpdateBlobs"), &update, ELEMENTS);
    let read = BatchReadBlobsRequest {
        acceptable_compressors: vec![1; ELEMENTS],
        ..Default::default()
    };
    let memory = scanned(&format!("{CAS}/BatchReadBlobs"), &read.encode_to_vec(), 7);
    assert!(memory >= 4 * ELEMENTS as u64, "{memory}");
    let result = UpdateActionResultRequest {
        action_result: Some(ActionResult {
            output_files: vec![OutputFile::default(); ELEMENTS],
            ..Default::default()
        }),
        ..Default::default()
    };
    let path = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
    check::<OutputFile>(path, &result, ELEMENTS);
}

#[test]
fn f17_directories_count_as_what_they_take_in_memory() {
    let directory = reapi::Directory {
        files: vec![reapi::FileNode::default(); 1000],
        ..Default::default()
    };
    let least = 1000 * size_of::<reapi::FileNode>() as u64;
    let memory = decoded_memory::<reapi::Directory>(&directory.encode_to_vec());
    assert!((least..least * 4).contains(&memory), "{memory}");
}

#[test]
fn f17_messages_of_workers_are_counted_too() {
    let requests = MethodRequests::of("/bitzel.worker.v1.WorkerQueue/Work").unwrap();
    assert!(requests.is_client_streaming && requests.is_server_streaming);
    let hello = WorkerMessage::default().encode_to_vec();
    assert_eq!(requests.scan(hello.len() as u64).memory(), 0);
}

#[test]
fn data_of_uploads_counts_as_its_bytes() {
    let write = WriteRequest {
        resource_name: "uploads/u/blobs/hash/1000000".to_owned(),
        data: vec![0x0a; 1_000_000],
        ..Default::default()
    };
    let encoded = write.encode_to_vec();
    for chunk in [1, 1000, encoded.len()] {
        let memory = scanned("/google.bytestream.ByteStream/Write", &encoded, chunk);
        assert!(memory < encoded.len() as u64 + 100, "{memory}");
    }
}

#[test]
fn other_methods_are_not_known() {
    assert_eq!(MethodRequests::of("/grpc.health.v1.Health/Check"), None);
    assert_eq!(MethodRequests::of(""), None);
}

/// A number of eight bytes in an `ActionResult` of five, and empty output files after it.
#[test]
fn a_value_that_is_too_long_ends_with_its_message() {
    let mut encoded = vec![3 << 3 | 2, 5, 1 << 3 | 1, 0, 0, 0, 0];
    encoded.extend([3 << 3 | 2, 4, 2 << 3 | 2, 0, 2 << 3 | 2, 0]);
    let path = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
    let whole = scanned(path, &encoded, encoded.len());
    assert!(whole >= 2 * size_of::<OutputFile>() as u64, "{whole}");
    assert_eq!(whole, scanned(path, &encoded, 1));
}

proptest! {
    #[test]
    fn hostile_bytes_count_the_same_however_they_arrive(
        bytes in prop::collection::vec(any::<u8>(), 0..400), chunk in 1_usize..50,
    ) {
        let path = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
        prop_assert_eq!(scanned(path, &bytes, chunk), scanned(path, &bytes, 400));
    }
}

#[test]
fn f24_messages_of_empty_elements_are_not_decoded() {
    let empty = reapi::Directory {
        files: vec![reapi::FileNode::default(); 100_000],
        ..Default::default()
    };
    let refused = decode_message::<reapi::Directory>(&empty.encode_to_vec());
    assert!(
        matches!(refused, Err(MessageError::TooMuchMemory { .. })),
        "{refused:?}"
    );

    let file = |number: usize| reapi::FileNode {
        name: number.to_string(),
        digest: Some(Digest {
            hash: "0".repeat(32),
            size_bytes: 0,
        }),
        ..Default::default()
    };
    let full = reapi::Directory {
        files: (0..100_000).map(file).collect(),
        ..Default::default()
    };
    assert_eq!(
        decode_message::<reapi::Directory>(&full.encode_to_vec()).unwrap(),
        full
    );
}
