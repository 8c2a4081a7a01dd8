use super::*;

#[test]
fn sha256_of_nothing_is_the_well_known_empty_blob() {
    let empty = DigestFunction::Sha256.digest(b"");
    assert_eq!(
        empty.to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/0"
    );
    assert!(empty.is_empty_blob());
}

#[test]
fn a_digest_on_the_wire_reads_back() {
    for function in DigestFunction::ALL {
        let digest = function.digest(b"hello");
        assert_eq!(Digest::from_wire(function, &digest.to_wire()), Ok(digest));
    }
}

#[test]
fn malformed_hashes_and_sizes_are_refused() {
    let hash = DigestFunction::Sha256.digest(b"x").hash_hex();
    let refused = |hash: &str, size| Digest::from_parts(DigestFunction::Sha256, hash, size).unwrap_err();
    assert_eq!(
        refused(&hash.to_uppercase(), 1),
        InvalidDigest::Hash(hash.to_uppercase())
    );
    assert_eq!(refused(&hash[1..], 1), InvalidDigest::Hash(hash[1..].to_owned()));
    assert_eq!(
        refused("../../../etc/passwd", 1),
        InvalidDigest::Hash("../../../etc/passwd".to_owned())
    );
    assert_eq!(refused(&hash, -1), InvalidDigest::Size(-1));
}
