//! Bound of the size of results.
//!
//! A result is one message to the scheduler. One that the scheduler refuses would break the stream again and again, with
//! all Actions of the worker on it.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use bitzel_proto::missing_blobs::to_rpc_status;
use bitzel_proto::reapi::{ActionResult, ExecuteResponse};
use bitzel_proto::with_causes;
use prost::Message as _;

use crate::error::Error;
use crate::grpc_status::grpc_status;

/// Limit of the outputs in a result, in bytes of their encoding. Contents do not count, but paths and targets of symlinks
/// do. The scheduler takes 64 MiB.
pub(crate) const MAX_RESULT_BYTES: usize = 16 << 20;
/// Limit of a whole response, with error messages and details.
const MAX_RESPONSE_BYTES: usize = MAX_RESULT_BYTES + (1 << 20);
/// Number of outputs that an error names.
const MAX_NAMED_OUTPUTS: usize = 3;
/// Number of characters of a path in an error.
const MAX_NAMED_CHARACTERS: usize = 100;

/// Size of the outputs of a result so far, with the largest of them.
#[derive(Debug, Default)]
pub(crate) struct ResultSize<'path> {
    bytes: usize,
    largest: Vec<(usize, &'path str)>,
}

impl<'path> ResultSize<'path> {
    /// Counts an output. Fails if the result becomes too large.
    pub(crate) fn add(&mut self, path: &'path str, bytes: usize) -> Result<(), Error> {
        self.count(path, bytes);
        if self.bytes > MAX_RESULT_BYTES {
            return Err(self.error(MAX_RESULT_BYTES));
        }
        Ok(())
    }

    fn count(&mut self, path: &'path str, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        let smaller = self.largest.iter().position(|(size, _)| *size < bytes);
        self.largest
            .insert(smaller.unwrap_or(self.largest.len()), (bytes, path));
        self.largest.truncate(MAX_NAMED_OUTPUTS);
    }

    /// The error of a result of `bytes` or more.
    fn error(&self, bytes: usize) -> Error {
        let name = |(_, path): &(usize, &str)| path.chars().take(MAX_NAMED_CHARACTERS).collect();
        Error::ResultTooLarge {
            bytes: bytes as u64,
            outputs: self.largest.iter().map(name).collect(),
        }
    }
}

/// The outputs of a result with the sizes of their messages.
fn outputs(result: &ActionResult) -> impl Iterator<Item = (&str, usize)> {
    let symlinks = [
        &result.output_symlinks,
        &result.output_file_symlinks,
        &result.output_directory_symlinks,
    ];
    let files = result.output_files.iter();
    let directories = result.output_directories.iter();
    files
        .map(|file| (file.path.as_str(), file.encoded_len()))
        .chain(directories.map(|directory| (directory.path.as_str(), directory.encoded_len())))
        .chain(
            symlinks
                .into_iter()
                .flatten()
                .map(|symlink| (symlink.path.as_str(), symlink.encoded_len())),
        )
}

/// Fails if the outputs of a result take too many bytes.
pub(crate) fn check_result_size(result: &ActionResult) -> Result<(), Error> {
    let mut size = ResultSize::default();
    outputs(result).try_for_each(|(path, bytes)| size.add(path, bytes))
}

/// The response itself, or an error in its place if it is too large for a message.
pub(crate) fn bounded_response(response: ExecuteResponse) -> ExecuteResponse {
    if response.encoded_len() <= MAX_RESPONSE_BYTES {
        return response;
    }
    refused_response(&response)
}

/// The error in place of a response that is too large for a message.
pub(crate) fn refused_response(response: &ExecuteResponse) -> ExecuteResponse {
    let mut size = ResultSize::default();
    for (path, bytes) in response.result.iter().flat_map(outputs) {
        size.count(path, bytes);
    }
    let error = size.error(response.encoded_len());
    ExecuteResponse {
        status: Some(to_rpc_status(&grpc_status(&error))),
        message: with_causes(&error),
        ..ExecuteResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::reapi::OutputSymlink;
    use tonic::Code;

    use super::*;

    #[test]
    fn f22_a_response_too_large_for_a_message_becomes_an_error() {
        let small = ExecuteResponse {
            message: "x".repeat(MAX_RESULT_BYTES),
            ..ExecuteResponse::default()
        };
        assert_eq!(bounded_response(small.clone()), small);
        let link = |path: &str, bytes| OutputSymlink {
            path: path.to_owned(),
            target: "x".repeat(bytes),
            ..OutputSymlink::default()
        };
        let large = ExecuteResponse {
            result: Some(ActionResult {
                output_symlinks: vec![link("a", 1), link("b", MAX_RESULT_BYTES), link("c", 2 << 20)],
                ..ActionResult::default()
            }),
            ..ExecuteResponse::default()
        };
        let error = bounded_response(large);
        assert_eq!(error.result, None);
        let status = error.status.unwrap();
        assert_eq!(status.code, Code::FailedPrecondition as i32);
        let named = "its largest outputs are \"b\", \"c\", \"a\"; declare a directory";
        assert!(status.message.contains(named), "{}", status.message);
    }
}
