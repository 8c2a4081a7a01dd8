use std::io;

use bitzel_proto::{Digest, DigestFunction, InvalidDigest, InvalidDirectory};

use super::*;

fn digest() -> Digest {
    DigestFunction::Sha256.digest(b"blob")
}

#[test]
fn each_error_has_the_code_that_a_client_acts_on() {
    let decode = <bitzel_proto::reapi::Directory as prost::Message>::decode(&b"\xff"[..]).unwrap_err();
    let cases = [
        (Error::NotFound(digest()), Code::NotFound),
        (
            Error::DigestMismatch {
                expected: digest(),
                actual: digest(),
            },
            Code::InvalidArgument,
        ),
        (
            Error::OffsetOutOfRange {
                digest: digest(),
                offset: 9,
            },
            Code::OutOfRange,
        ),
        (
            Error::NoSpace {
                digest: digest(),
                reason: "full".into(),
            },
            Code::ResourceExhausted,
        ),
        (Error::InvalidArgument("bad".into()), Code::InvalidArgument),
        (
            Error::InvalidDirectory {
                digest: digest(),
                source: InvalidDirectory::Duplicate("a".into()),
            },
            Code::InvalidArgument,
        ),
        (
            Error::TreeTooLarge {
                root: digest(),
                what: "everything".into(),
            },
            Code::InvalidArgument,
        ),
        (
            Error::io("cannot read x")(io::Error::other("rot")),
            Code::Internal,
        ),
        (
            Error::remote("call")(Status::unavailable("down")),
            Code::Unavailable,
        ),
        (
            Error::Decode {
                context: "blob".into(),
                source: decode.into(),
            },
            Code::InvalidArgument,
        ),
    ];
    for (error, code) in cases {
        let text = error.to_string();
        let status = Status::from(error);
        assert_eq!(status.code(), code, "{text}");
        assert!(status.message().starts_with(&text), "{}", status.message());
    }
}

#[test]
fn message_contains_the_causes() {
    let status = Status::from(Error::io("cannot read /x")(io::Error::other("rot")));
    assert_eq!(status.message(), "cannot read /x: rot");
    let status = Status::from(Error::remote("cannot ask")(Status::internal("tilt")));
    assert_eq!(status.message(), "cannot ask: tilt");
    let source = InvalidDirectory::Digest {
        name: "a".into(),
        source: InvalidDigest::Size(-1),
    };
    let status = Status::from(Error::InvalidDirectory {
        digest: digest(),
        source,
    });
    assert!(
        status.message().ends_with("digest size -1 is negative"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn unreachable_server_is_unavailable() {
    let error = bitzel_rpc::endpoint::connect("unix:/nowhere/at/all")
        .await
        .unwrap_err();
    assert_eq!(Status::from(Error::from(error)).code(), Code::Unavailable);
}

/// hyper calls a request that it had not sent yet "canceled". A client that gets `CANCELLED` need not try again.
#[tokio::test]
async fn a_broken_connection_to_the_store_is_an_outage() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let channel = tonic::transport::Endpoint::from_shared(url)
        .unwrap()
        .connect_lazy();
    let mut cache = bitzel_proto::reapi::action_cache_client::ActionCacheClient::new(channel);
    let request = bitzel_proto::reapi::GetActionResultRequest::default();
    let broken = cache.get_action_result(request).await.unwrap_err();
    assert_ne!(broken.code(), Code::Unavailable, "{broken:?}");
    assert_eq!(Error::remote("call")(broken).code(), Code::Unavailable);
    closing.abort();

    let answered = Status::cancelled("by the store");
    assert_eq!(Error::remote("call")(answered).code(), Code::Cancelled);
}
