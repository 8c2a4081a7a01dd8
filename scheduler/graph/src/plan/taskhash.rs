//! `BitBake`'s taskhash, computed outside `BitBake`.
//!
//! The build recomputes the signatures of dependents when a task that ran again gave an old result (early
//! cut-off), so it needs exactly what `SignatureGeneratorBasic.get_taskhash` (`bb/siggen.py`) computes.

use bitzel_proto::graph::{FileChecksum, Task};
use faster_hex::hex_string;
use sha2::{Digest as _, Sha256};

/// The taskhash of `task`, with `unihash` giving the hash by which each dependency is known.
pub fn taskhash<'a>(task: &Task, unihash: impl Fn(u32) -> &'a str) -> String {
    let mut hash = Sha256::new();
    hash.update(&task.basehash);
    for dependency in &task.hash_dependencies {
        hash.update(unihash(*dependency));
    }
    for FileChecksum { path, checksum } in &task.file_checksums {
        // A file that does not exist is listed, so that its appearance changes the hash, but adds nothing.
        if !checksum.is_empty() {
            // `split("/./")[1]`: what lies between the first and the second marker, as BitBake takes it.
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
