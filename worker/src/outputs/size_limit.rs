//! Limit of the size of outputs.

use crate::error::Error;

/// Limit of the bytes of all outputs of one Action: far more than any build produces, and some minutes to hash.
const MAX_OUTPUT_BYTES: u64 = 1 << 40;

/// Refuses outputs that would take hours to hash. A sparse file of any size takes a moment to create and no disk space.
/// `bytes` includes the outputs before the one at `path`.
pub(crate) fn check_size(path: &str, bytes: u64) -> Result<(), Error> {
    if bytes > MAX_OUTPUT_BYTES {
        return Err(Error::InvalidOutput {
            path: path.into(),
            reason: format!("is, with the outputs before it, larger than {MAX_OUTPUT_BYTES} bytes"),
        });
    }
    Ok(())
}
