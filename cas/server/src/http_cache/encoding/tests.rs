use super::*;

fn headers(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
}

#[test]
fn sends_zstd_to_clients_that_accept_it() {
    for (value, takes) in [
        ("zstd", true),
        ("gzip, br, ZSTD", true),
        ("gzip;q=1.0, zstd;q=0.5", true),
        ("zstd; q=0.000, gzip", false),
        ("gzip", false),
        ("zstdx", false),
        ("*", false),
    ] {
        assert_eq!(accepts_zstd(&headers("accept-encoding", value)), takes, "{value}");
    }
    assert!(!accepts_zstd(&HeaderMap::new()));
}

#[test]
fn parts_end_with_the_blob() {
    let bytes = |offset, length| RequestedPart::Bytes { offset, length };
    for (value, part) in [
        ("bytes=0-9", bytes(0, 10)),
        ("bytes=3-3", bytes(3, 1)),
        ("bytes=3-", bytes(3, 7)),
        ("bytes=3-99", bytes(3, 7)),
        ("bytes=-4", bytes(6, 4)),
        ("bytes=-40", bytes(0, 10)),
        ("bytes=2-99999999999999999999999", bytes(2, 8)),
        ("bytes=10-", RequestedPart::Beyond),
        ("bytes=99999999999999999999999-", RequestedPart::Beyond),
        ("bytes=-0", RequestedPart::Beyond),
        ("bytes=5-4", RequestedPart::Whole),
        ("bytes=0-1,3-4", RequestedPart::Whole),
        ("bytes=+1-2", RequestedPart::Whole),
        ("bytes=-", RequestedPart::Whole),
        ("lines=1-2", RequestedPart::Whole),
    ] {
        assert_eq!(RequestedPart::of(&headers("range", value), 10), part, "{value}");
    }
    assert_eq!(
        RequestedPart::of(&headers("range", "bytes=0-"), 0),
        RequestedPart::Beyond
    );
}

#[test]
fn reads_the_size_of_the_blob_not_of_the_transfer() {
    let mut request = headers("content-length", "7");
    let upload = |headers: &HeaderMap| UploadEncoding::of(headers).unwrap();
    assert_eq!(
        upload(&request),
        UploadEncoding {
            is_zstd: false,
            size: Some(7)
        }
    );
    request.insert("content-encoding", "zstd".parse().unwrap());
    assert_eq!(
        upload(&request),
        UploadEncoding {
            is_zstd: true,
            size: None
        }
    );
    request.insert("x-digest-sizebytes", "700".parse().unwrap());
    assert_eq!(
        upload(&request),
        UploadEncoding {
            is_zstd: true,
            size: Some(700)
        }
    );
    for (name, value) in [
        ("x-digest-sizebytes", "-1"),
        ("x-digest-sizebytes", "9223372036854775808"),
        ("x-digest-sizebytes", "many"),
        ("content-encoding", "gzip"),
        ("content-encoding", "zstd, zstd"),
    ] {
        assert!(
            UploadEncoding::of(&headers(name, value)).is_err(),
            "{name}: {value}"
        );
    }
}
