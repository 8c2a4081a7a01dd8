//! Resource names: an accepted name is equal after formatting and parsing.

#![no_main]

use bitzel_proto::ResourceName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| {
    if let Ok(parsed) = ResourceName::parse_read(name) {
        assert!(parsed.upload.is_none());
        assert_eq!(ResourceName::parse_read(&parsed.to_string()), Ok(parsed));
    }
    if let Ok(parsed) = ResourceName::parse_write(name) {
        assert!(parsed.upload.is_some());
        assert_eq!(ResourceName::parse_write(&parsed.to_string()), Ok(parsed));
    }
});
