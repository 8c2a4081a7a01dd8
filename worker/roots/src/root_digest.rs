//! Text form of the digest of a root.

use bitzel_proto::{Digest, DigestFunction};

/// Digest function of roots, the one of all trees of bitzel's builds.
pub const ROOT_DIGEST_FUNCTION: DigestFunction = DigestFunction::Sha256;

/// Reads a digest in the form `HASH/SIZE`. `None` if the text is something else.
pub fn parse_root_digest(text: &str) -> Option<Digest> {
    let (hash, size) = text.split_once('/')?;
    Digest::from_parts(ROOT_DIGEST_FUNCTION, hash, size.parse().ok()?).ok()
}

/// Name of files and directories that belong to a root.
pub(crate) fn file_name(digest: Digest) -> String {
    format!("{}-{}", digest.hash_hex(), digest.size_bytes())
}

/// Reads a [`file_name`].
pub(crate) fn parse_file_name(name: &str) -> Option<Digest> {
    parse_root_digest(&name.replacen('-', "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let digest = ROOT_DIGEST_FUNCTION.digest(b"root");
        assert_eq!(parse_root_digest(&digest.to_string()), Some(digest));
        assert_eq!(parse_file_name(&file_name(digest)), Some(digest));
        for wrong in ["", "debian", "a/b", "00/1", &digest.hash_hex()] {
            assert_eq!(parse_root_digest(wrong), None, "{wrong}");
        }
    }
}
