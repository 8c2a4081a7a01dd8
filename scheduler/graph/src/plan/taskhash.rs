//! Computation of `BitBake`'s taskhash outside of `BitBake`.
//!
//! The walk computes the signatures of dependents again when a task that ran left the outputs of an earlier run (early
//! cut-off). The result must equal that of `SignatureGeneratorBasic.get_taskhash` (`bb/siggen.py`).

use bitzel_proto::graph::{FileChecksum, Task};
use faster_hex::hex_string;
use sha2::{Digest as _, Sha256};

/// Computes the taskhash of `task`. `unihash` gives the unihash of each dependency.
pub fn taskhash<'a>(task: &Task, unihash: impl Fn(u32) -> &'a str) -> String {
    let mut hash = Sha256::new();
    hash.update(&task.basehash);
    for dependency in &task.hash_dependencies {
        hash.update(unihash(*dependency));
    }
    for FileChecksum { path, checksum } in &task.file_checksums {
        // A file that does not exist is listed, so that its creation changes the hash, but adds nothing.
        if !checksum.is_empty() {
            // `split("/./")[1]`: the text between the first and the second marker, as BitBake takes it.
            if let Some(relative) = path.split("/./").nth(1) {
                hash.update("./");
                hash.update(relative);
            }
            hash.update(checksum);
        }
    }
    hash.update(task.taint.strip_prefix("nostamp:").unwrap_or(&task.taint));
    hex_string(&hash.finalize())
}

#[cfg(test)]
mod tests;
