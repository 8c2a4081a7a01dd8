use proptest::prelude::*;

use super::*;

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(path: &str) -> (String, CacheEntry) {
    let parsed = CachePath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    (parsed.instance.to_string(), parsed.entry)
}

fn hash() -> [u8; 32] {
    *DigestFunction::Sha256.digest(b"").hash()
}

#[test]
fn blobs_and_results_have_instances_with_slashes() {
    let blob = CacheEntry::Blob(DigestFunction::Sha256, hash());
    let result = CacheEntry::Result(DigestFunction::Sha256, hash());
    assert_eq!(parse(&format!("/cas/{HASH}")), (String::new(), blob.clone()));
    assert_eq!(parse(&format!("/ac/{HASH}")), (String::new(), result.clone()));
    assert_eq!(parse(&format!("/a/b/cas/{HASH}")), ("a/b".into(), blob.clone()));
    assert_eq!(parse(&format!("/cas/ac/{HASH}")), ("cas".into(), result));
    assert_eq!(parse(&format!("//a//cas/{HASH}")), ("a".into(), blob));
    assert_eq!(
        parse(&format!("/a/cas/blake3/{HASH}")),
        ("a".into(), CacheEntry::Blob(DigestFunction::Blake3, hash()))
    );
}

#[test]
fn values_have_names_that_the_client_chose() {
    let value = |name: &str| CacheEntry::Value(name.into());
    assert_eq!(parse("/dav/ab/cdef"), (String::new(), value("ab/cdef")));
    assert_eq!(
        parse("/team/x/dav/.sccache_check"),
        ("team/x".into(), value(".sccache_check"))
    );
    assert_eq!(parse("/dav/a%20b"), (String::new(), value("a b")));
    assert_eq!(
        parse(&format!("/dav/ac/{HASH}")),
        (String::new(), value(&format!("ac/{HASH}")))
    );
    assert_eq!(
        parse("/dav"),
        (String::new(), CacheEntry::Collection(String::new()))
    );
    assert_eq!(
        parse("/dav/a/b/"),
        (String::new(), CacheEntry::Collection("a/b".into()))
    );
}

#[test]
fn hostile_paths_are_refused() {
    let long = "a".repeat(MAX_NAME_BYTES + 1);
    let upper = HASH.to_uppercase();
    for path in [
        "",
        "/",
        "*",
        "/cas",
        "/cas/",
        "cas/e3b0c442",
        "/status",
        &format!("/{HASH}"),
        &format!("/cas/{upper}"),
        &format!("/cas/{HASH}0"),
        &format!("/cas/{HASH}/"),
        &format!("/cas/blake2/{HASH}"),
        &format!("/cas/{}", &HASH[1..]),
        &format!("/../cas/{HASH}"),
        &format!("/%2e%2e/cas/{HASH}"),
        &format!("/a%2fb/cas/{HASH}"),
        &format!("/a%00/cas/{HASH}"),
        &format!("/%ff/cas/{HASH}"),
        &format!("/blobs/cas/{HASH}"),
        "/dav/../secret",
        "/dav/%2e%2E/secret",
        "/dav/a%2f..%2fb",
        "/dav/nul%00",
        "/dav/%c3%28",
        &format!("/{long}/dav/x"),
        &format!("/dav/{long}"),
    ] {
        assert!(CachePath::parse(path).is_err(), "{path}");
    }
    let message = CachePath::parse(&format!("/cas/{upper}"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("64 lower-case hexadecimal digits"), "{message}");
}

proptest! {
    #[test]
    fn a_formatted_path_parses_to_the_same_value(path in "(/[a%2ef/.c\\PC]{0,6}){0,4}/(dav|cas|ac)(/[a-c%. \\PC]{0,8}){0,3}/?") {
        if let Ok(parsed) = CachePath::parse(&path) {
            prop_assert_eq!(CachePath::parse(&parsed.to_string()), Ok(parsed));
        }
    }
}
