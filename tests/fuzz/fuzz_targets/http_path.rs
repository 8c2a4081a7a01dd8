//! Paths of the HTTP cache: an accepted path is equal after formatting and parsing, and no name in it leads out of its
//! directory.

#![no_main]

use bitzel_proto::{CacheEntry, CachePath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let Ok(parsed) = CachePath::parse(path) else {
        return;
    };
    let (CacheEntry::Value(name) | CacheEntry::Collection(name)) = &parsed.entry else {
        assert_eq!(CachePath::parse(&parsed.to_string()), Ok(parsed));
        return;
    };
    let is_plain = |segment: &str| segment != "." && segment != ".." && !segment.contains(char::is_control);
    assert!(name.split('/').chain(parsed.instance.as_str().split('/')).all(is_plain));
    assert_eq!(CachePath::parse(&parsed.to_string()), Ok(parsed));
});
