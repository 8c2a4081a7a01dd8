//! Messages of clients.

use bitzel_proto::Digest;
use bitzel_proto::google::bytestream::WriteRequest;
use bitzel_proto::google::longrunning::{Operation, operation};
use bitzel_proto::reapi::{ActionResult, Command, Directory, ExecuteRequest, ExecuteResponse, FileNode};
use prost::Message as _;

/// Request to execute an Action.
pub(crate) fn request(action: Digest) -> ExecuteRequest {
    ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: action.function().to_wire(),
        ..Default::default()
    }
}

/// Response of a finished operation. Panics if the operation has an `error`: errors belong into the response.
pub(crate) fn response(operation: &Operation) -> ExecuteResponse {
    match &operation.result {
        Some(operation::Result::Response(response)) => {
            ExecuteResponse::decode(response.value.as_slice()).unwrap()
        }
        other => panic!("not a response: {other:?}"),
    }
}

/// A shell script as a Command.
pub(crate) fn shell(script: &str) -> Command {
    Command {
        arguments: ["sh", "-euc", script].map(str::to_owned).into(),
        ..Default::default()
    }
}

/// Incompressible bytes.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}

/// Converts to owned strings.
pub(crate) fn paths(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|&path| path.to_owned()).collect()
}

/// A node of a Directory.
pub(crate) fn file(name: &str, digest: Digest) -> FileNode {
    FileNode {
        name: name.to_owned(),
        digest: Some(digest.to_wire()),
        ..Default::default()
    }
}

/// A Directory.
pub(crate) fn of_files(files: Vec<FileNode>) -> Directory {
    Directory {
        files,
        ..Default::default()
    }
}

/// Result of a successful execution.
pub(crate) fn succeeded(response: ExecuteResponse) -> ActionResult {
    let status = response.status.unwrap_or_default();
    assert_eq!(status.code, 0, "{}", status.message);
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 0);
    result
}

/// Request of a write.
pub(crate) fn write_request(name: &str, offset: usize, data: &[u8], finish_write: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.to_owned(),
        write_offset: offset.try_into().unwrap(),
        finish_write,
        data: data.to_vec(),
    }
}

/// All requests of a write.
pub(crate) fn write_requests(name: &str, data: &[u8]) -> Vec<WriteRequest> {
    const PIECE: usize = 1 << 20;
    let count = data.len().div_ceil(PIECE);
    let pieces = data.chunks(PIECE).enumerate();
    let request = |(number, piece)| write_request(name, number * PIECE, piece, number + 1 == count);
    pieces.map(request).collect()
}
