use bitzel_access::{AccessPolicy, AuthenticationMethod, Identity};

use super::*;

/// Request of a user.
fn request(user: &str) -> Extensions {
    let identity = Identity {
        name: user.to_owned(),
        groups: Vec::new(),
        method: AuthenticationMethod::Token,
    };
    let mut request = Extensions::new();
    request.insert(Caller {
        identity: Arc::new(identity),
        policy: Arc::new(AccessPolicy::open()),
    });
    request
}

#[test]
fn f21_uploads_of_one_identity_have_a_share() {
    let shares = UploadShares::of_store(800);
    let mut first = shares.begin(&request("busy"));
    let mut second = shares.begin(&request("busy"));
    first.grow(200).unwrap();
    second.grow(100).unwrap();
    let refused = second.grow(1).unwrap_err();
    assert!(matches!(refused, Error::Remote { .. }), "{refused}");
    assert!(first.grow(1).is_err());
    let mut other = shares.begin(&request("other"));
    other.grow(300).unwrap();
    drop(first);
    second.grow(200).unwrap();
    drop((second, other));
    assert!(shares.used.lock().is_empty());
}

#[test]
fn a_single_upload_may_be_large() {
    let shares = UploadShares::of_store(800);
    let mut lone = shares.begin(&request("one"));
    lone.grow(700).unwrap();
    assert!(shares.begin(&request("one")).grow(1).is_err());
}
