use proptest::prelude::*;

use super::*;

fn digest() -> Digest {
    DigestFunction::Sha256.digest(b"hello")
}

#[test]
fn instance_names_may_contain_slashes() {
    let name = format!("a/b/c/uploads/u-1/blobs/{}/ignored/by/us", digest());
    let parsed = ResourceName::parse_write(&name).unwrap();
    assert_eq!(parsed.instance.as_str(), "a/b/c");
    assert_eq!(parsed.upload.as_deref(), Some("u-1"));
    assert_eq!(parsed.digest, digest());
}

#[test]
fn blake3_needs_its_segment_and_sha256_must_not_have_one() {
    let blake3 = DigestFunction::Blake3.digest(b"hello");
    let name = ResourceName::read(InstanceName::default(), blake3).to_string();
    assert_eq!(name, format!("blobs/blake3/{blake3}"));
    assert_eq!(ResourceName::parse_read(&name).unwrap().digest, blake3);
    assert!(ResourceName::parse_read(&format!("blobs/sha256/{}", digest())).is_err());
}

#[test]
fn malformed_names_are_refused() {
    let hash = digest().hash_hex();
    for name in [
        String::new(),
        "blobs".into(),
        format!("blobs/{hash}"),
        format!("blobs/{hash}/-5"),
        format!("blobs/{hash}/+5"),
        format!("blobs/{hash}/5/more"),
        format!("/blobs/{hash}/5"),
        format!("a//b/blobs/{hash}/5"),
        format!("compressed-blobs/brotli/{hash}/5"),
        format!("blobs/{}/5", hash.to_uppercase()),
        format!("uploads/u/blobs/{hash}/5"),
    ] {
        assert!(ResourceName::parse_read(&name).is_err(), "{name}");
    }
    assert!(ResourceName::parse_write(&format!("uploads//blobs/{hash}/5")).is_err());
}

proptest! {
    #[test]
    fn a_formatted_name_parses_to_the_same_value(
        instance in "([a-z]{1,4}(/[a-z]{1,4}){0,2})?",
        upload in proptest::option::of("[a-z0-9-]{1,8}"),
        zstd: bool,
        blake3: bool,
        content: Vec<u8>,
    ) {
        let function = if blake3 { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
        let name = ResourceName {
            instance: InstanceName::new(instance).unwrap(),
            upload,
            compressor: if zstd { Compressor::Zstd } else { Compressor::Identity },
            digest: function.digest(&content),
        };
        let text = name.to_string();
        let parsed = if name.upload.is_some() { ResourceName::parse_write(&text) } else { ResourceName::parse_read(&text) };
        prop_assert_eq!(parsed.unwrap(), name);
    }

    #[test]
    fn parsing_never_panics(name in ".{0,200}") {
        let _ = ResourceName::parse_read(&name);
        let _ = ResourceName::parse_write(&name);
    }
}
